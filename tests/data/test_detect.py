import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from facemae.data.detect import MtcnnDetector, _fit
from facemae.data.images import open_image
from facemae.data.sources import orl_photos
from facemae.data.warp import similarity, template, warp


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
def photos():
    return [open_image(photo.path) for photo in orl_photos()[::50]]


def same(first, second, tolerance):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert np.abs(a.box - b.box).max() <= tolerance
        assert np.abs(a.landmarks - b.landmarks).max() <= tolerance
        assert a.score == pytest.approx(b.score, abs=1e-4)


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


def test_mixed_batch_equals_single_images_in_order(detector, photos):
    rng = np.random.default_rng(0)
    mixed = [
        photos[0],
        Image.new("RGB", (92, 112)),
        photos[1].resize((184, 224)),
        Image.new("RGB", (20, 20), "white"),
        photos[2],
        Image.fromarray(rng.integers(0, 256, (112, 92, 3), dtype=np.uint8)),
        Image.new("RGB", (20, 3000), "grey"),
        photos[3],
    ]
    together = detector.detect(mixed)
    assert [len(faces) for faces in together] == [1, 0, 1, 0, 1, 0, 0, 1]
    for image, faces in zip(mixed, together, strict=True):
        same(detector.detect([image])[0], faces, 1e-2)


def test_no_images(detector):
    assert detector.detect([]) == []


def test_small_batches_change_nothing(detector, photos):
    for one, other in zip(MtcnnDetector(batch=3).detect(photos), detector.detect(photos), strict=True):
        same(one, other, 1e-2)


def test_several_faces_come_largest_first(detector, photos):
    scene = Image.new("RGB", (500, 300), "grey")
    scene.paste(photos[0], (20, 20))
    scene.paste(photos[1].resize((184, 224)), (250, 40))
    large, small = detector.detect([scene])[0]
    assert large.box[0] > 240
    assert small.box[2] < 120


def test_large_photos_are_shrunk_and_mapped_back(detector, photos):
    scene = Image.new("RGB", (2500, 1500), "grey")
    scene.paste(photos[0].resize((920, 1120), Image.Resampling.BICUBIC), (1300, 100))
    face = detector.detect([scene])[0][0]
    reference = detector.detect([photos[0]])[0][0]
    assert np.abs((face.landmarks - (1300, 100)) / 10 - reference.landmarks).max() < 2
    assert np.abs((face.box - (1300, 100, 1300, 100)) / 10 - reference.box).max() < 5


def test_shrinking_leaves_the_detector_enough_to_see():
    assert _fit(Image.new("RGB", (40, 4000)), 1024).size == (20, 2000)
    assert _fit(Image.new("RGB", (3000, 2000)), 1024).size == (1024, 683)
    assert _fit(Image.new("RGB", (1024, 700)), 1024).size == (1024, 700)


def test_landmarks_are_measured_from_the_image_corner(detector):
    images = [open_image(photo.path) for photo in orl_photos()[::10]]
    faces = detector.detect(images)
    mirrored = detector.detect([ImageOps.mirror(image) for image in images])
    sums = [
        a[0].landmarks[:, 0] + b[0].landmarks[[1, 0, 2, 4, 3], 0]
        for a, b in zip(faces, mirrored, strict=True)
    ]
    assert np.median(sums) == pytest.approx(92, abs=0.4)  # pixel centres at whole numbers would give 91


def test_upstream_failure_costs_one_image_not_the_batch(photos):
    detector = MtcnnDetector()
    healthy = detector._networks.detect

    def failing(images, landmarks):
        if photos[1] in images:
            raise IndexError("The shape of the mask does not match")
        return healthy(images, landmarks=landmarks)

    detector._networks.detect = failing
    assert [len(faces) for faces in detector.detect(photos[:3])] == [1, 0, 1]


def test_running_out_of_memory_is_not_a_photo_without_faces(photos, monkeypatch):
    detector = MtcnnDetector()

    def exhausted(images, landmarks):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(detector._networks, "detect", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        detector.detect(photos[:2])


@pytest.mark.filterwarnings("error")
def test_loading_and_running_warn_of_nothing(photos):
    assert MtcnnDetector().detect(photos[:1])[0]


def test_random_pictures_never_raise(detector, photos):
    rng = np.random.default_rng(1)
    scenes = []
    for _ in range(40):
        scene = Image.fromarray(rng.integers(0, 256, (*rng.integers(20, 90, 2), 3), dtype=np.uint8))
        if rng.random() < 0.7:
            scene.paste(photos[rng.integers(8)], tuple(rng.integers(-70, 50, 2).tolist()))
        scenes.append(scene)
    assert len(detector.detect(scenes)) == 40


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
