import itertools
import json
import os
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image, ImageOps

from facemae.data.alignment import detect
from facemae.data.alignment.detect import MtcnnDetector, mtcnn_version
from facemae.data.alignment.warp import similarity, template, warp
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


@pytest.fixture(scope="module")
def thorough():
    return MtcnnDetector(thorough=True)


@pytest.fixture(scope="module")
def photos():
    return [open_image(photo.path) for photo in orl_photos()[::50]]


def scene(size, *pasted, colour="grey"):
    """A plain picture with faces of given widths at given places."""
    image = Image.new("RGB", size, colour)
    for photo, width, place in pasted:
        height = round(photo.height * width / photo.width)
        image.paste(photo.resize((width, height), Image.Resampling.LANCZOS), place)
    return image


def equal(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a.box, b.box) and np.array_equal(a.landmarks, b.landmarks) and a.score == b.score
        for a, b in zip(first, second, strict=True)
    )


def test_every_face_is_found_with_sane_landmarks(detector, photos):
    for image, faces in zip(photos, detector.detect(photos), strict=True):
        assert len(faces) == 1
        face = faces[0]
        assert face.score > 0.9
        assert face.box.shape == (4,)
        assert face.box.dtype == face.landmarks.dtype == np.float32
        assert face.landmarks.shape == (5, 2)
        assert (face.landmarks > 0).all()
        assert (face.landmarks < image.size).all()
        left, right, nose, mouth_left, mouth_right = face.landmarks
        assert left[0] < nose[0] < right[0]
        assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_result_does_not_depend_on_the_images_beside_it_by_a_bit(detector, photos, batch, monkeypatch):
    rng = np.random.default_rng(0)
    mixed = [
        photos[0],
        Image.new("RGB", (92, 112)),
        photos[1].resize((184, 224)),
        Image.new("RGB", (20, 20), "white"),
        scene((300, 200), (photos[2], 35, (100, 50))),  # found by the thorough search only
        Image.fromarray(rng.integers(0, 256, (112, 92, 3), dtype=np.uint8)),
        Image.new("RGB", (20, 3000), "grey"),
        photos[3],
    ]
    with monkeypatch.context() as patched:
        patched.setattr(detect, "BATCH", batch)
        together = detector.detect(mixed)
    assert [len(faces) for faces in together] == [1, 0, 1, 0, 1, 0, 0, 1]
    for image, faces in zip(mixed, together, strict=True):
        assert equal(detector.detect([image])[0], faces)


def test_no_images(detector):
    assert detector.detect([]) == []


def test_several_faces_come_largest_first(detector, photos):
    image = scene((500, 300), (photos[0], 92, (20, 20)), (photos[1], 184, (250, 40)))
    large, small = detector.detect([image])[0]
    assert large.box[0] > 240
    assert small.box[2] < 120


def test_what_the_border_cuts_off_does_not_make_a_face_the_largest():
    rows = np.zeros((3, 15), np.float32)
    rows[:, :5] = [(-60, 0, 60, 120, 0.9), (70, 20, 170, 120, 0.8), (180, 0, 260, 80, 0.7)]
    rows[:, 5:10] = np.arange(5)
    faces = [face.scaled(np.array([2.0, 3.0])) for face in detect._faces(rows, (220, 150), 0)]
    # 60 x 120, 100 x 100 and 40 x 80 pixels are in view.
    assert [face.score for face in faces] == pytest.approx([0.8, 0.9, 0.7])
    assert faces[1].box.tolist() == [-120, 0, 120, 360]
    assert faces[0].landmarks.tolist() == [[0, 0], [2, 0], [4, 0], [6, 0], [8, 0]]


@pytest.mark.parametrize(("turns", "how"), detect._LEFT.items())
def test_a_picture_on_its_side_or_head_is_read_as_if_it_were_upright(detector, photos, turns, how):
    scenes = [scene((300, 260), (photo, 110, (120, 60))) for photo in photos]
    sure = [face.score > detect._SURE_TURNED for (face,) in detector.detect(scenes)]
    assert sum(sure) >= 6  # the others are not turned, but rejected with the advice to turn them
    upright = list(itertools.compress(scenes, sure))
    lying = [image.transpose(how) for image in upright]
    for image, (face,), (turned,) in zip(
        upright, detector.detect(upright), detector.detect(lying), strict=True
    ):
        assert (face.turn, turned.turn) == (0, 4 - turns)
        for points, moved in ((face.landmarks, turned.landmarks), (face.box.reshape(2, 2), turned.box)):
            where = points
            for step in range(turns):  # a quarter turn to the left takes (x, y) to (y, width - x)
                where = np.column_stack([where[:, 1], image.size[step % 2] - where[:, 0]])
            corners = where.min(0).tolist() + where.max(0).tolist() if moved.ndim == 1 else where
            assert np.abs(corners - moved).max() < 0.01
        assert face.width == pytest.approx(turned.width, abs=0.01)


def test_the_coarse_search_finds_the_largest_face_and_the_thorough_one_all(detector, thorough, photos):
    image = scene((500, 300), (photos[0], 40, (20, 20)), (photos[1], 184, (250, 40)))
    (large,) = detector.detect([image])[0]
    both = thorough.detect([image])[0]
    assert [round(float(face.box[0]), -2) for face in both] == [300, 0]
    assert np.abs(large.landmarks - both[0].landmarks).max() < 3


def test_small_faces_are_found_once_the_coarse_search_has_failed(detector, photos):
    image = scene((400, 300), (photos[0], 30, (200, 100)))
    assert detect.COARSE.smallest > 30
    (face,) = detector.detect([image])[0]
    assert np.abs(face.landmarks.mean(0) - (215, 124)).max() < 2


def test_landmarks_are_those_of_upstream(thorough, photos):
    upstream = MTCNN(keep_all=True)
    for photo in photos:
        image = scene((300, 300), (photo, 92, (100, 90)))
        boxes, scores, landmarks = upstream.detect(image, landmarks=True)
        faces = thorough.detect([image])[0]
        assert len(faces) == len(boxes)
        assert faces[0].score == pytest.approx(scores[0], abs=0.05)
        assert np.linalg.norm(faces[0].landmarks - landmarks[0].astype(float), axis=1).mean() < 3
        assert np.abs(faces[0].box - boxes[0].astype(float)).max() < 10


@pytest.mark.parametrize("sides", [(1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 1)])
def test_a_face_cut_by_the_border_keeps_its_landmarks(detector, photos, sides):
    """Upstream stretches what is left of it, and is off by a tenth of the face."""
    errors = []
    for photo in photos:
        whole = detector.detect([scene((300, 300), (photo, 92, (100, 90)))])[0][0]
        width = whole.box[2] - whole.box[0]
        inside = whole.box + 0.12 * width * np.array((1, 1, -1, -1))
        cut = np.where(sides, inside, (0, 0, 300, 300)).round().astype(int)
        picture = scene((300, 300), (photo, 92, (100, 90))).crop(cut.tolist())
        face = detector.detect([picture])[0][0]
        errors.append(np.linalg.norm(face.landmarks + cut[:2] - whole.landmarks, axis=1).mean() / width)
    assert np.median(errors) < 0.03


def test_large_photos_are_shrunk_and_mapped_back(detector, photos):
    image = scene((2500, 1500), (photos[0], 920, (1300, 100)))
    face = detector.detect([image])[0][0]
    reference = detector.detect([photos[0]])[0][0]
    assert np.abs((face.landmarks - (1300, 100)) / 10 - reference.landmarks).max() < 2
    assert np.abs((face.box - (1300, 100, 1300, 100)) / 10 - reference.box).max() < 5


def test_shrinking_leaves_the_detector_enough_to_see():
    assert detect._fit(Image.new("RGB", (40, 4000))).size == (20, 2000)
    assert detect._fit(Image.new("RGB", (3000, 2000))).size == (1024, 683)
    assert detect._fit(Image.new("RGB", (1024, 700))).size == (1024, 700)


def test_landmarks_are_measured_from_the_image_corner(detector):
    images = [open_image(photo.path) for photo in orl_photos()[::10]]
    faces = detector.detect(images)
    mirrored = detector.detect([ImageOps.mirror(image) for image in images])
    sums = [
        a[0].landmarks[:, 0] + b[0].landmarks[[1, 0, 2, 4, 3], 0]
        for a, b in zip(faces, mirrored, strict=True)
    ]
    assert np.median(sums) == pytest.approx(92, abs=0.2)  # pixel centres at whole numbers would give 91


def test_running_out_of_memory_is_not_a_photo_without_faces(photos, monkeypatch):
    detector = MtcnnDetector()

    def exhausted(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(detector, "_run", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        detector.detect(photos[:2])


@pytest.mark.filterwarnings("error")
def test_loading_and_running_warn_of_nothing(photos):
    assert MtcnnDetector().detect(photos[:1])[0]


def random_pictures(photos, count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        image = Image.fromarray(rng.integers(0, 256, (*rng.integers(1, 150, 2), 3), dtype=np.uint8))
        if rng.random() < 0.7:
            image.paste(photos[rng.integers(8)], tuple(rng.integers(-60, 60, 2).tolist()))
        yield image


def test_random_pictures_never_raise(detector, photos):
    pictures = list(random_pictures(photos, 300))
    found = detector.detect(pictures)
    assert len(found) == 300
    assert 20 < sum(map(bool, found)) < 200
    for image, faces in zip(pictures, found, strict=True):
        for face in faces:
            assert np.isfinite(face.landmarks).all()
            assert (face.box[:2] < image.size).all()
            assert (face.box[2:] > 0).all()


def test_networks_gone_mad_cannot_make_a_crop_that_raises():
    """Boxes of any size, sign and place, as a candidate that is pushed about may end."""
    rng = np.random.default_rng(2)
    image = Image.new("RGB", (37, 23), "white")
    boxes = (rng.normal(0, 1, (2000, 4)) * 10 ** rng.uniform(-3, 6, (2000, 1))).astype(np.float32)
    for square in detect._squares(boxes).tolist():
        crop = np.full((24, 24, 3), 127, np.uint8)
        detect._draw(crop, image, square)
        assert set(np.unique(crop)) <= {127, 255}


def test_a_crop_shows_the_square_and_grey_beyond_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    crop = np.full((10, 10, 3), 127, np.uint8)
    detect._draw(crop, image, (5.0, 6.0, 15.0, 16.0))
    assert np.array_equal(crop, pixels[6:16, 5:15])
    crop[:] = 127
    detect._draw(crop, image, (-4.0, 26.0, 6.0, 36.0))  # four columns left of it, six rows below
    assert (crop[:, :4] == 127).all()
    assert (crop[4:] == 127).all()
    assert np.array_equal(crop[:4, 4:], pixels[26:, :6])
    crop[:] = 127
    detect._draw(crop, image, (50.0, 50.0, 60.0, 60.0))
    assert (crop == 127).all()


def test_squares_have_the_centre_and_the_longer_side():
    rows = np.array([(10, 20, 30, 30, 0.5), (5, 5, 5, 5, 0.5), (9, 0, 1, 2, 0.5)], np.float32)
    assert detect._squares(rows).tolist() == [[10, 15, 30, 35], [4.5, 4.5, 5.5, 5.5], [4, 0, 6, 2]]


def test_overlapping_and_nested_candidates_leave_the_best():
    rows = np.array(
        [(0, 0, 10, 10, 0.8), (1, 0, 11, 10, 0.9), (20, 0, 30, 10, 0.7), (22, 2, 28, 8, 0.6)], np.float32
    )
    assert detect._apart(rows, 0.7)[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.6])  # 90 of 110 shared
    assert detect._apart(rows, 0.85)[:, 4].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    rows = np.pad(rows, ((0, 0), (0, 10)))
    assert detect._not_nested(rows, 0.7)[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert detect._not_nested(rows, 0.95)[:, 4].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(detect._not_nested(rows[:0], 0.7)) == 0


def test_the_name_of_the_results_changes_with_what_changes_them(monkeypatch):
    names = {mtcnn_version(), mtcnn_version(thorough=True)}
    monkeypatch.setattr(detect, "_MAX_SIDE", 512)
    names.add(mtcnn_version())
    monkeypatch.setattr(detect, "COARSE", detect.COARSE._replace(smallest=50))
    names.add(mtcnn_version())
    monkeypatch.setattr(detect, "metadata", types.SimpleNamespace(version=lambda package: "9.9"))
    names.add(mtcnn_version())
    assert len(names) == 5
    assert "facenet-pytorch 9.9" in mtcnn_version()


def test_the_name_of_a_detector_is_known_without_loading_it():
    code = (
        "import sys, facemae.data.alignment.detect as d; d.mtcnn_version(); "
        "assert not {'torch', 'facenet_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_aligned_faces_have_their_landmarks_on_the_template(detector):
    photos = [open_image(photo.path) for photo in orl_photos()[::10]]
    margin = 20  # the detector wants to see a little more than the aligned face
    aligned = []
    for image, faces in zip(photos, detector.detect(photos), strict=True):
        matrix = similarity(faces[0].landmarks, template(112) + margin)
        aligned.append(Image.fromarray(warp(image, matrix, 112 + 2 * margin)))
    again = np.array([faces[0].landmarks - margin for faces in detector.detect(aligned)])
    offsets = again - template(112)
    assert np.median(np.linalg.norm(offsets, axis=2)) < 4  # people differ by about 3 pixels
    assert np.abs(np.median(offsets, axis=(0, 1))).max() < 1


def measured(root, benchmark, folder, *options):
    """Run a benchmark as a user does and return the figures of its last line."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--images", folder, "--json", *options]
    return json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """Unpack 150 photos of as many people."""
    archive = Path(os.environ.get("FACEMAE_RAW_DIR", "")) / "lfw" / "lfw-deepfunneled.tgz"
    if not archive.is_file():
        pytest.skip(f"FACEMAE_RAW_DIR holds no lfw/{archive.name}")
    folder = tmp_path_factory.mktemp("lfw")
    with tarfile.open(archive) as photos:
        names = (each for each in photos if each.name.endswith("_0001.jpg"))
        for number, member in enumerate(names):
            if number % 38 == 0:
                (folder / Path(member.name).name).write_bytes(photos.extractfile(member).read())
    return folder


@pytest.mark.shared_data
def test_alignment_is_several_times_as_fast_as_upstream_and_finds_as_many(root, lfw):
    figures = measured(root, "align", lfw)
    assert figures["images"] > 140
    assert figures["ratio"] >= 4
    assert figures["found"] >= 0.995
    assert figures["landmark_px"] <= 1.5


@pytest.mark.shared_data
def test_landmarks_move_with_the_photo_and_eyes_lie_on_the_template(root, lfw):
    figures = measured(root, "alignment", lfw)
    ours, theirs = figures["ours"], figures["theirs"]
    assert ours["found"] >= 0.99 * figures["images"]
    assert ours["found_again"] >= 0.99
    error, their_error = ours["error_percent_of_eye_distance"], theirs["error_percent_of_eye_distance"]
    assert error["median"] < 2.5
    assert error["p90"] < 5
    assert error["median"] < 0.75 * their_error["median"]
    assert max(ours["eyes"]["std"]) < 1.8
    assert np.abs(np.subtract(ours["eyes"]["mean"], ours["eyes"]["template"])).max() < 1.2


def test_a_benchmark_without_photos_says_so_in_a_sentence(root, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(root)
    from benchmarks.align import main

    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "broken.jpg").write_bytes(b"none")
    for folder, message in [(tmp_path, "No photo below"), (tmp_path / "gone", "There is no folder")]:
        with pytest.raises(SystemExit) as caught:
            main(["--images", str(folder), "--json"])
        assert caught.value.code == 2
        output = capsys.readouterr()
        assert output.err.splitlines()[-1].startswith(message)
        assert output.out == ""
