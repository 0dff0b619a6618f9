import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facemae.core.errors import IntegrityError, UsageError
from facemae.data.alignment.warp import template
from facemae.data.sources.orl import orl_photos
from facemae.evaluation.baselines import off_the_shelf
from facemae.evaluation.baselines.off_the_shelf import chips, recogniser

# Corners of the eyes and the base of the nose in dlib's mean face, on a square of side 1 without padding:
# get_face_chip_details in dlib/image_transforms/interpolation.h.
RIGHT_EYE = [(0.8595674595992, 0.2134981538014), (0.6460604764104, 0.2289674387677)]
LEFT_EYE = [(0.1205750620789, 0.2137274526848), (0.3340850613712, 0.2290642403242)]


@pytest.fixture(scope="module")
def square_faces():
    """Three ORL people's first three photos as squares of 112 pixels, which nobody aligned."""
    photos = [photo for photo in orl_photos() if photo.sample_id[-2:] in ("01", "02", "03")][:9]
    squares = [Image.open(photo.path).convert("RGB").crop((0, 14, 92, 106)) for photo in photos]
    return np.stack([np.asarray(square.resize((112, 112), Image.Resampling.BICUBIC)) for square in squares])


# --- framing ---


def test_eyes_come_near_where_dlibs_mean_face_has_them():
    moved = template(112) @ off_the_shelf._TO_CHIP[:, :2].T + off_the_shelf._TO_CHIP[:, 2]
    for eye, corners in ((0, LEFT_EYE), (1, RIGHT_EYE)):
        expected = (np.mean(corners, axis=0) + 0.25) / 1.5 * 150
        assert np.abs(moved[eye] - expected).max() < 4


def test_a_mark_on_the_face_is_found_where_the_matrix_puts_it_at_any_size():
    for scale in (1, 2):
        face = np.zeros((1, 112 * scale, 112 * scale, 3), np.uint8)
        face[0, 70 * scale : 74 * scale, 54 * scale : 58 * scale] = 255  # its centre is (56, 72) at 112 px
        chip = chips(face)[0][..., 0].astype(float)
        rows, columns = np.indices(chip.shape) + 0.5
        centre = np.array([(chip * columns).sum(), (chip * rows).sum()]) / chip.sum()
        expected = off_the_shelf._TO_CHIP @ (56, 72, 1)
        np.testing.assert_allclose(centre, expected, atol=0.6)


def test_below_our_square_its_lowest_pixels_continue():
    face = np.zeros((1, 112, 112, 3), np.uint8)
    face[0, 100:] = 200
    chip = chips(face)[0]
    assert chip.shape == (150, 150, 3)
    assert (chip[-10:] == 200).all()
    assert (chip[:60] == 0).all()


# --- networks ---


def test_dlib_tells_people_apart(square_faces):
    vectors = recogniser("dlib")(square_faces)
    assert vectors.shape == (9, 128)
    assert vectors.dtype == np.float32
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    same = np.arange(9)[:, None] // 3 == np.arange(9) // 3
    other = ~np.eye(9, dtype=bool)
    assert np.mean(distance[same & other]) < 0.6 < np.median(distance[~same])  # 0.6: dlib's own threshold
    nearest = np.where(other, distance, np.inf).argmin(axis=1)
    assert (nearest // 3 == np.arange(9) // 3).all()
    np.testing.assert_allclose(recogniser("dlib")(square_faces[4:5])[0], vectors[4], atol=1e-5)


def test_no_face_gives_no_vector(square_faces):
    assert recogniser("dlib")(square_faces[:0]).shape == (0, 128)


def test_damaged_weights_of_dlib_are_refused(monkeypatch):
    monkeypatch.setattr(off_the_shelf, "DLIB_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match=r"rm -r \.venv && make install"):
        recogniser("dlib")


@pytest.fixture(scope="module")
def inception_network():
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    return InceptionResnetV1().eval()


@pytest.fixture
def inception_file(inception_network, tmp_path, monkeypatch):
    state = inception_network.state_dict()
    path = tmp_path / "weights.pt"
    torch.save(state | {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}, path)
    monkeypatch.setenv(off_the_shelf.INCEPTION_VARIABLE, str(path))
    return path


def test_inception_embeds_by_the_named_weights(inception_network, inception_file):
    faces = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    vectors = recogniser("inception")(faces)
    with torch.inference_mode():  # at its own size nothing is resized
        expected = inception_network((torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127.5) / 128)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert recogniser("inception")(faces[:1, :112, :112]).shape == (1, 512)


class Command:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-weight-file",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of the hostile one
@pytest.mark.parametrize("kind", ["text", "another network", "cut short", "code", "a list"])
def test_what_is_not_inceptions_weights_is_refused_and_never_run(kind, inception_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = inception_file.read_bytes()
    if kind == "text":
        inception_file.write_text("no weights")
    elif kind == "another network":
        torch.save(torch.nn.Linear(2, 2).state_dict(), inception_file)
    elif kind == "cut short":
        inception_file.write_bytes(content[: len(content) // 2])
    elif kind == "code":
        inception_file.write_bytes(pickle.dumps(Command()))
    else:
        torch.save([1, 2], inception_file)
    with pytest.raises(IntegrityError, match=str(inception_file)) as raised:
        recogniser("inception")
    assert "\n" not in str(raised.value)
    assert not Path("made-by-a-weight-file").exists()


def test_a_file_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(off_the_shelf.INCEPTION_VARIABLE, "/nowhere/weights.pt")
    with pytest.raises(UsageError, match="/nowhere/weights"):
        recogniser("inception")


def test_an_unknown_recogniser_is_told_the_known_ones():
    with pytest.raises(UsageError, match="dlib, inception"):
        recogniser("deepface")
