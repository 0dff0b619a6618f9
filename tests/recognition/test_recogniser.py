import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facemae.compute.device import Compute
from facemae.core import layout
from facemae.core.errors import IntegrityError
from facemae.data.alignment.align import Settings, align_photos
from facemae.data.alignment.detect import MtcnnDetector
from facemae.data.images import ImageError
from facemae.data.sources.base import Photo as Listed
from facemae.data.sources.manifest import enter
from facemae.data.sources.orl import orl_photos
from facemae.evaluation.protocols import identification, operating_point
from facemae.models.embedder import embed_faces
from facemae.models.weights import load_embedder
from facemae.recognition.enrolment import Shot, Terms, enrol, until
from facemae.recognition.gallery.schema import Candidate, Person, Template
from facemae.recognition.gallery.store import GalleryModelError
from facemae.recognition.recogniser import (  # fmt: skip
    MIN_SCORE,
    Recogniser,
    as_json,
    decide,
    face_to_enrol,
    only_face,
)
from facemae.recognition.threshold import Threshold
from facemae.recognition.trained_models import model_at, models


def test_faces_are_aligned_as_the_pipeline_aligns_them(photos, finder, tmp_path):
    chosen = list(photos.items())[:4]
    entries = [enter(Listed(name, None, path), "orl", "labelled") for name, path in chosen]
    settings = Settings(112, MIN_SCORE, {"orl": "largest"}, {}, "mtcnn", thorough=True)
    expected = list(align_photos(entries, MtcnnDetector(thorough=True), settings))
    found = finder.find_all([path for _, path in chosen])
    for photo, outcome in zip(found, expected, strict=True):
        assert outcome.code == "OK"
        np.testing.assert_array_equal(photo.faces[0].image, outcome.faces[0].image)


def test_several_photos_at_once_give_what_each_gives_alone(photos, finder):
    paths = list(photos.values())[:3]
    for photo, path in zip(finder.find_all(paths), paths, strict=True):
        alone = finder.find(path)
        np.testing.assert_array_equal(photo.faces[0].image, alone.faces[0].image)
        np.testing.assert_array_equal(photo.faces[0].box, alone.faces[0].box)


def test_embeddings_are_those_of_evaluation(recogniser, photos, finder):
    faces = np.stack([each.faces[0].image for each in finder.find_all(list(photos.values())[:5])])
    compute = Compute(torch.device("cpu"), torch.float32)
    expected = embed_faces(load_embedder(recogniser.model.finetuned), faces, compute)
    np.testing.assert_allclose(recogniser.embed(faces), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(recogniser.embed(faces), axis=1), 1, atol=1e-6)
    one_by_one = np.concatenate([recogniser.embed([face]) for face in faces])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


def test_every_face_of_a_group_is_numbered_from_the_largest_on(finder, group):
    photo = finder.find(group)
    assert [each.number for each in photo.faces] == [1, 2, 3]
    areas = [float(np.prod(each.box[2:] - each.box[:2])) for each in photo.faces]
    assert areas == sorted(areas, reverse=True)
    thirds = sorted(int(each.box[[0, 2]].mean() // (photo.image.width / 3)) for each in photo.faces)
    assert thirds == [0, 1, 2]


def test_enrolment_takes_one_face_and_not_a_small_one(finder, group, photos, tmp_path):
    with pytest.raises(
        ImageError, match=r"3 faces found; enrolment needs exactly one\. Crop the photo\."
    ) as error:
        face_to_enrol(finder.find(group))
    assert error.value.code == "SEVERAL_FACES"
    Image.new("RGB", (100, 100), "white").save(tmp_path / "white.png")
    with pytest.raises(
        ImageError, match=r"No face found\. Try a brighter, front-facing photo that is upright\."
    ):
        only_face(finder.find(tmp_path / "white.png"), "verification")
    path = next(iter(photos.values()))
    small = Image.open(path).convert("RGB").resize((46, 56))
    small.save(tmp_path / "small.png")
    photo = finder.find(tmp_path / "small.png")
    assert photo.faces
    with pytest.raises(ImageError, match=r"The face is \d\d pixels wide; enrolment needs at least 40"):
        face_to_enrol(photo)


def test_a_sideways_photo_is_recognised_as_the_upright_one(finder, recogniser, photos, tmp_path):
    upright = Image.open(next(iter(photos.values()))).convert("RGB").resize((276, 336))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
    faces = [finder.find(tmp_path / name).faces[0].image for name in ("upright.png", "sideways.png")]
    np.testing.assert_array_equal(*faces)


TERMS = Terms(True, until(30))


def enter_first(recogniser, gallery, finder, photos, people):
    for person in people:
        face = finder.find(photos[f"orl/s{person:02}/01"]).faces[0].image
        template = Template(recogniser.embed([face])[0], recogniser.fingerprint)
        gallery.enrol(f"s{person:02}", [template], consent=True, retain_until=until(30))


def test_a_search_ranks_people_and_names_nobody_below_the_threshold(recogniser, gallery, finder, photos):
    enter_first(recogniser, gallery, finder, photos, range(1, 8))
    probes = [finder.find(photos[f"orl/s{person:02}/01"]).faces[0] for person in (1, 5, 8)]
    stored = {
        f"s{n:02}": recogniser.embed([finder.find(photos[f"orl/s{n:02}/01"]).faces[0].image])[0]
        for n in range(1, 8)
    }
    limit = Threshold(0.9999)
    found = recogniser.identify(probes, gallery, limit)
    for probe, each in zip(probes, found, strict=True):
        vector = recogniser.embed([probe.image])[0]
        score = {name: float(vector @ other) for name, other in stored.items()}
        order = sorted(score, key=lambda name: -score[name])[:5]
        assert [c.person.name for c in each.candidates] == order
        np.testing.assert_allclose([c.score for c in each.candidates], [score[n] for n in order], atol=1e-6)
    assert [each.match.person.name if each.match else None for each in found] == ["s01", "s05", None]
    plain = json.loads(json.dumps(as_json(found)))
    assert [face["decision"] for face in plain] == ["match", "match", "unknown"]
    assert [face["person"] for face in plain] == ["s01", "s05", None]
    assert recogniser.identify([], gallery, limit) == []


def test_an_empty_gallery_knows_nobody_and_another_models_is_refused(
    recogniser, gallery, finder, photos, paths
):
    probe = finder.find(photos["orl/s01/01"]).faces
    (nobody,) = recogniser.identify(probe, gallery, Threshold(-1))
    assert nobody.candidates == []
    assert nobody.match is None
    enter_first(recogniser, gallery, finder, photos, [1])
    other = Recogniser(models(paths)[-1], "cpu", finder)
    with pytest.raises(GalleryModelError, match="another model"):
        other.identify(probe, gallery, Threshold(0.5))


def test_only_the_best_candidate_is_ever_named():
    people = [Person(n, f"p{n}", None, None, None, 1, 1) for n in range(2)]
    candidates = [Candidate(people[0], 0.6), Candidate(people[1], 0.59)]
    assert decide(candidates, Threshold(0.6)).person.name == "p0"
    assert decide(candidates, Threshold(0.6001)) is None
    assert decide([], Threshold(-1)) is None


def test_verification_compares_two_faces(recogniser, finder, photos):
    one, other = (finder.find(photos[f"orl/s01/0{n}"]).faces[0].image for n in (1, 2))
    vectors = recogniser.embed([one, other])
    assert recogniser.similarity(one, other) == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert recogniser.similarity(one, one) == pytest.approx(1, abs=1e-5)


def test_a_damaged_model_is_refused(made, tmp_path):
    stage = tmp_path / "finetune"
    shutil.copytree(models(layout.Results(made))[0].finetuned, stage)
    (stage / layout.EMBEDDER).write_bytes(b"\x80\x04nonsense")
    with pytest.raises(IntegrityError, match="cannot be read as weights"):
        Recogniser(model_at(stage), "cpu")


def test_a_run_without_pretraining_has_no_autoencoder(paths, finder):
    by_run = {each.run: each for each in models(paths)}
    assert Recogniser(by_run["scratch"], "cpu", finder).autoencoder is None
    network, pretrain = Recogniser(by_run["region"], "cpu", finder).autoencoder
    assert pretrain.mask == "region"
    assert not network.training


def agree(recogniser, gallery, enrolled, probes, target):
    """Hold enrolling and identifying against the evaluation's own alignment, embedding and protocols.

    Args:
        enrolled: A photo per person, by name.
        probes: Name and photo of each probe; strangers are those who are not enrolled.
        target: Of the false positive identification rate.
    """
    for name, path in enrolled.items():
        assert enrol([recogniser], gallery, name, [Shot(name, path)], TERMS, Threshold(2.0)).person
    found = [
        recogniser.identify(recogniser.finder.find(path).faces[:1], gallery, Threshold(-1), len(enrolled))[0]
        for _, path in probes
    ]
    best = np.array([each.candidates[0].score for each in found])
    first = [each.candidates[0].person.name for each in found]
    mated = np.array([name in enrolled for name, _ in probes])
    right = np.array([name == other for (name, _), other in zip(probes, first, strict=True)])
    limit = operating_point.threshold_at(best[~mated], target)
    decided = [decide(each.candidates, Threshold(limit)) for each in found]
    assert [each is not None for each in decided] == (best >= limit).tolist()

    everybody = [*enrolled.items(), *probes]
    identity = np.unique([name for name, _ in everybody], return_inverse=True)[1].astype(np.int64)
    vectors = evaluated([path for _, path in everybody], recogniser)
    gallery_rows = np.arange(len(everybody)) < len(enrolled)
    open_set = {
        m.name: m.value for m in identification.open_set(vectors, identity, gallery_rows, None, [target])
    }
    kept = np.flatnonzero(np.concatenate([np.ones(len(enrolled), bool), mated]))
    people = np.unique(identity[kept], return_inverse=True)[1].astype(np.int64)
    closed = identification.closed_set(vectors[kept], people, gallery_rows[kept], None, [1])
    counts = {
        "matches": int((right & (best >= limit))[mated].sum()),
        "wrong": int((~right & (best >= limit))[mated].sum()),
        "unknown": int((best < limit)[mated].sum()),
        "strangers accepted": int((best >= limit)[~mated].sum()),
    }
    assert open_set[f"tpir_at_fpir={target:g}"] == counts["matches"] / mated.sum()
    assert open_set[f"fpir_at_target={target:g}"] == counts["strangers accepted"] / (~mated).sum()
    assert closed[0].value == right[mated].mean()
    return counts


def evaluated(paths, recogniser):
    """Return the embeddings of photos as the evaluation makes them, by its own alignment."""
    entries = [enter(Listed(str(n), None, path), "photos", "labelled") for n, path in enumerate(paths)]
    settings = Settings(recogniser.size, MIN_SCORE, {"photos": "largest"}, {}, "mtcnn", thorough=True)
    outcomes = list(align_photos(entries, MtcnnDetector(thorough=True), settings))
    faces = np.stack([each.faces[0].image for each in outcomes])
    compute = Compute(torch.device("cpu"), torch.float32)
    return embed_faces(load_embedder(recogniser.model.finetuned), faces, compute)


def test_the_counts_are_the_evaluations(recogniser, gallery):
    known = {each.sample_id: each.path for each in orl_photos()}
    enrolled = {f"s{n:02}": known[f"orl/s{n:02}/01"] for n in range(1, 6)}
    probes = [(f"s{n:02}", known[f"orl/s{n:02}/{shot:02}"]) for n in range(1, 6) for shot in (2, 3)]
    probes += [(f"s{n:02}", known[f"orl/s{n:02}/{shot:02}"]) for n in range(11, 41) for shot in (1, 2)]
    counts = agree(recogniser, gallery, enrolled, probes, 0.5)
    assert counts["matches"] + counts["wrong"] + counts["unknown"] == 10
    assert counts["strangers accepted"] == 30


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """Return LFW's photos by person."""
    raw = os.environ.get("FACEMAE_RAW_DIR")
    archive = Path(raw or "") / "lfw" / "lfw-deepfunneled.tgz"
    if not raw or not archive.is_file():
        pytest.skip("LFW is not here: set FACEMAE_RAW_DIR to a folder with lfw/lfw-deepfunneled.tgz")
    folder = tmp_path_factory.mktemp("lfw")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    people = next(folder.iterdir())
    return {each.name: sorted(each.glob("*.jpg")) for each in people.iterdir() if each.is_dir()}


@pytest.mark.shared_data
def test_the_counts_are_the_evaluations_on_fifty_people_of_lfw(recogniser, gallery, lfw):
    """Enrol 50 people, and look up 200 other photos of them and 200 of strangers."""
    several = [name for name, paths in sorted(lfw.items()) if len(paths) >= 5]
    alone = [name for name, paths in sorted(lfw.items()) if len(paths) == 1]
    one_face = (n for n in several if len(recogniser.finder.find(lfw[n][0]).faces) == 1)
    people = list(itertools.islice(one_face, 50))
    enrolled = {name: lfw[name][0] for name in people}
    probes = [(name, path) for name in people for path in lfw[name][1:5]]
    probes += [(name, lfw[name][0]) for name in alone[:200]]
    counts = agree(recogniser, gallery, enrolled, probes, 0.15)
    assert counts["strangers accepted"] == 30


def test_a_link_is_read_as_what_it_leads_to(photos, finder, tmp_path):
    path = next(iter(photos.values()))
    link, broken = tmp_path / "link.jpg", tmp_path / "broken.jpg"
    link.symlink_to(path)
    broken.symlink_to(tmp_path / "nowhere")
    assert np.array_equal(finder.find(link).faces[0].image, finder.find(path).faces[0].image)
    with pytest.raises(ImageError, match="a link to a file that is not there"):
        finder.find(broken)
