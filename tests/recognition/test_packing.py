"""A trained run becomes a model that comes with the package, known by name and refused where damaged."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from results_folder import make_experiment, pack_models

import facemae.stages.data
from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.models import shipped_models
from facemae.models.build import build_encoder
from facemae.models.interop.load import start_encoder
from facemae.models.shipped_models import CARD, PEOPLE, README
from facemae.models.weights import load_autoencoder, load_embedder
from facemae.recognition import packing
from facemae.recognition.model import View2
from facemae.recognition.named_models import every_model, find_model, list_models
from facemae.recognition.recogniser import Recogniser
from facemae.stages.evaluate_file import of_recogniser
from facemae.stages.measure_model import _add_to_card

HASHED = {f"p{number:02}": shipped_models.hashed([f"p{number:02}"]) for number in range(24)}


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory):
    """Return a folder with face-mae and face-embedder, packed from invented results."""
    folder = tmp_path_factory.mktemp("shipped")
    pack_models(made, folder)
    return folder


@pytest.fixture
def shipped(packed, tmp_path, monkeypatch):
    """Return a copy of it that the package takes for its own."""
    folder = tmp_path / "shipped"
    shutil.copytree(packed, folder)
    monkeypatch.setattr(shipped_models, "FOLDER", folder)
    return folder


def train_on(folder, hashes):
    """Say of a shipped model that it was trained on the people of these hashes."""
    files.write_json(folder / PEOPLE, records.read_json(folder / PEOPLE) | {"training": sorted(hashes)})
    card = records.read_json(folder / CARD)
    files.write_json(
        folder / CARD, card | {"files": card["files"] | {PEOPLE: files.sha256_of(folder / PEOPLE)}}
    )


def test_the_weights_are_those_of_the_run_in_half_precision(shipped, made):
    stage = made / "random" / "0" / "finetune"
    stored = safetensors.torch.load_file(shipped / "face-embedder" / layout.EMBEDDER)
    for name, value in safetensors.torch.load_file(stage / layout.EMBEDDER).items():
        assert stored[name].dtype == (value.half().dtype if value.is_floating_point() else value.dtype)
        assert np.allclose(stored[name], value, rtol=1e-3, atol=1e-6)
    network = load_embedder(shipped_models.find("face-embedder"))
    assert {str(each.dtype) for each in network.parameters()} == {"torch.float32"}
    assert load_autoencoder(shipped_models.find("face-mae"))[1].mask == "random"


def test_the_card_tells_people_by_hash_alone_and_nobody_is_on_both_sides(shipped, made):
    split = records.read_table(Results(made).data.split, layout.SPLIT_COLUMNS)
    for name in ("face-mae", "face-embedder"):
        people = shipped_models.people(name)
        trained = split.loc[split["role"] == layout.ROLE_TRAIN, "person"].unique()
        evaluated = split.loc[split["role"] == layout.ROLE_EVALUATION, "person"].unique()
        assert people.training == shipped_models.hashed(trained)
        assert people.evaluation == shipped_models.hashed(evaluated)
        assert people.training
        assert people.evaluation
        assert not people.training & people.evaluation
        card = shipped_models.card(name)
        assert card["trained_on"]["people"] == len(trained)
        for text in ((shipped / name / each).read_text() for each in (CARD, PEOPLE, README)):
            assert not any(person in text for person in [*trained, *evaluated] if person in HASHED)


def test_the_readme_is_made_from_the_card_alone(shipped):
    before = (shipped / "face-embedder" / README).read_text()
    assert "It squints." in before
    assert "- It took long.\n" in (shipped / "face-mae" / README).read_text()
    assert "non-commercial research" in before
    assert "Known failures" in before
    (shipped / "face-embedder" / README).write_text("")
    packing.write_readme(shipped / "face-embedder")
    assert (shipped / "face-embedder" / README).read_text() == before


def test_the_sample_is_what_the_card_says(shipped):
    for name in ("face-mae", "face-embedder"):
        value = shipped_models.card(name)["sample"]["value"]
        assert packing.sample_value(shipped / name) == pytest.approx(value, abs=1e-4)


def test_what_cannot_be_packed_is_refused(made, tmp_path):
    stage, out = made / "random" / "0" / "finetune", tmp_path / "out"
    with pytest.raises(UsageError, match="no model face-eye in the package; there are face-mae"):
        packing.pack(stage, "face-eye", out, [])
    with pytest.raises(
        UsageError, match=r"holds no encoder.safetensors, which face-mae has; .*pretrain stage"
    ):
        packing.pack(stage, "face-mae", out, [])
    with pytest.raises(UsageError, match="exists already"):
        packing.pack(stage, "face-tiny", tmp_path, [])
    shutil.copytree(stage, tmp_path / "a" / "b" / "c" / "finetune")
    with pytest.raises(DataError, match="in no results folder whose split tells whom it was trained on"):
        packing.pack(tmp_path / "a" / "b" / "c" / "finetune", "face-tiny", out, [])
    assert not out.exists()


def test_a_model_that_was_evaluated_on_its_training_people_is_not_packed(made, tmp_path, shipped):
    """Also where a shipped model that it started from has seen them."""
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    stage = folder / "random" / "0" / "finetune"
    metrics = records.read_json(stage / layout.METRICS)
    files.write_json(stage / layout.METRICS, metrics | {"started_from": {"init": "face-mae"}})
    packing.pack(stage, "face-embedder", tmp_path / "fine", [])
    train_on(shipped / "face-mae", records.read_json(shipped / "face-mae" / PEOPLE)["evaluation"][:2])
    with pytest.raises(
        IntegrityError, match=r"2 of the .* whom .* the model it started from, was trained on"
    ):
        packing.pack(stage, "face-embedder", tmp_path / "leaks", [])


def test_what_a_teacher_showed_counts_as_seen(made, tmp_path):
    """Without one a run from scratch has seen the labelled faces alone."""
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    stage = folder / "scratch" / "0" / "finetune"
    packing.pack(stage, "face-tiny", tmp_path / "plain", [])
    settings = records.read_json(stage / layout.CONFIG)
    settings["finetune"]["teacher"] = "dlib"
    files.write_json(stage / layout.CONFIG, settings)
    packing.pack(stage, "face-tiny", tmp_path / "taught", [])
    plain, taught = (records.read_json(tmp_path / name / CARD) for name in ("plain", "taught"))
    assert plain["trained_on"]["unnamed"] == 0 < taught["trained_on"]["unnamed"]
    assert "Teacher: `dlib`." in (tmp_path / "taught" / README).read_text()


def test_a_workflow_sets_nobody_apart_whom_the_start_of_a_run_has_seen(made, tmp_path, shipped):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    paths = Results(folder)
    records.write_table(
        paths.data.listed_pairs, pd.DataFrame(columns=layout.PAIR_COLUMNS), layout.PAIR_COLUMNS
    )

    def evaluated(**changes):
        runs = {"mine": {"pretrain": None, "finetune": {"init": "face-mae"}}}
        facemae.stages.data.split(make_experiment(folder, runs=runs, **changes), paths.data)
        roles = records.read_table(paths.data.split, layout.SPLIT_COLUMNS)
        return set(roles.loc[roles["role"] == layout.ROLE_EVALUATION, "person"])

    train_on(shipped / "face-mae", [])
    before = evaluated()
    some = sorted(before)[-2:]
    train_on(shipped / "face-mae", shipped_models.hashed(some))
    assert not evaluated() & set(some)
    with pytest.raises(IntegrityError, match=r"split\.overlap is stop, and 2 people"):
        evaluated(split={"overlap": "stop"})


@pytest.mark.parametrize("known", [True, False])
def test_what_a_run_took_counts_in_the_runs_that_it_started_from_where_they_are_known(made, tmp_path, known):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    stages = [folder / each for each in ("random/0/pretrain", "scratch/1/finetune", "scratch/0/finetune")]
    starts = [stages[0] / layout.ENCODER, stages[1] / layout.EMBEDDER]
    spent = [
        {"seconds": {"pretrain": 5.0}, "images_seen": 100},
        {"seconds": {"finetune": 2.0}, "images_seen": {"finetune": 20}},
        {"seconds": {"finetune": 1.0}, "images_seen": {"finetune": 3}},
    ]
    for place, start, took in zip(stages, (None, *starts), spent, strict=True):
        origin = start and {"init": str(start), "sha256": files.sha256_of(start)}
        written = records.read_json(place / layout.METRICS) | took | {"started_from": origin}
        files.write_json(place / layout.METRICS, written)
    if not known:
        starts[0].unlink()
    packing.pack(stages[2], "face-tiny", tmp_path / "packed", [])
    card = records.read_json(tmp_path / "packed" / CARD)["made"]
    assert card["seconds"] == ({"pretrain": 5.0, "finetune": 3.0} if known else {"finetune": 1.0})
    assert card["images_seen"] == ({"pretrain": 100, "finetune": 23} if known else {"finetune": 3})
    readme = (tmp_path / "packed" / README).read_text()
    assert ("Both numbers are of this training and of those" in readme) == known
    assert ("Both numbers are of this training alone" in readme) != known


# --- known by name ---


def test_a_shipped_recogniser_is_known_by_name(shipped):
    model = find_model("face-embedder")
    assert model.name == "face-embedder"
    assert not model.missing
    assert model.pretrained == shipped / "face-mae"
    faces = packing.sample_faces(112)[0][:2]
    vectors = Recogniser(model, "cpu").embed(list(faces))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert "face-embedder" in [each.name for each in every_model()[0] if not each.missing]
    with pytest.raises(DataError, match="no threshold card; make one with facemae models measure"):
        model.card()


def test_the_autoencoder_is_listed_and_is_no_recogniser(shipped):
    facts = {each.name: each for each in list_models()}
    assert "pretrain.init" in facts["face-mae"].warning
    assert not facts["face-mae"].missing
    assert facts["face-mae"].licence == packing.LICENCE
    assert facts["face-mae"].size > 0
    assert "face-mae" not in [each.name for each in every_model()[0]]
    with pytest.raises(UsageError, match=r"face-mae completes faces .* choose another of"):
        find_model("face-mae")


def test_a_model_that_is_not_installed_says_how_to_get_it(shipped):
    assert "face-tiny" not in [each.name for each in list_models()]
    with pytest.raises(UsageError, match=r"face-tiny is not in .* again with: pip install --force-reinstall"):
        find_model("face-tiny")


def test_the_command_lists_them(shipped, command_line):
    code, out, _ = command_line("models", "--json")
    listed = {each["name"]: each for each in json.loads(out)}
    assert code == 0
    assert {"face-mae", "face-embedder"} <= listed.keys()
    assert "face-tiny" not in listed  # its folder is not there
    assert listed["face-embedder"]["missing"] == ""


# --- damaged, incomplete, of another model or version ---


def truncated(folder):
    path = folder / layout.EMBEDDER
    path.write_bytes(path.read_bytes()[:-100])


def another(folder):
    shutil.copy(folder.parent / "face-mae" / layout.ENCODER, folder / layout.EMBEDDER)


def changed_card(**changes):
    return lambda folder: files.write_json(folder / CARD, records.read_json(folder / CARD) | changes)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncated, "is not the file that its card names"),
        (another, "is not the file that its card names"),
        (lambda folder: (folder / layout.EMBEDDER).unlink(), "is missing"),
        (lambda folder: (folder / layout.CONFIG).write_text("{}"), "is not the file that its card names"),
        (changed_card(schema_version=2), "is of another model or version"),
        (changed_card(model="face-tiny"), "is of another model or version"),
        (changed_card(files={}), "is of another model or version"),
        (lambda folder: (folder / CARD).write_text("{"), "is damaged"),
    ],
)
def test_a_damaged_model_is_refused_with_the_command_that_mends_it(shipped, damage, what):
    damage(shipped / "face-embedder")
    with pytest.raises(IntegrityError, match=what) as refused:
        find_model("face-embedder")
    assert "pip install --force-reinstall --no-deps facemae" in str(refused.value)
    assert what in {each.name: each for each in list_models()}["face-embedder"].missing


# --- measured ---


@pytest.fixture
def measured(shipped, monkeypatch):
    """Return a table of all faces of an invented LFW, as the recogniser embeds them, and a list of pairs."""
    people = sorted(shipped_models.known_among(HASHED, shipped_models.people("face-embedder").evaluation))
    trained = sorted(shipped_models.known_among(HASHED, shipped_models.people("face-embedder").training))
    rng, rows = np.random.default_rng(0), []
    for person in [*people, *trained]:
        centre = rng.normal(size=16)
        rows += [(f"{person}/{n}", person, centre + 0.4 * rng.normal(size=16)) for n in range(4)]
    table = pd.DataFrame(rows, columns=["sample_id", "person", "embedding"])
    pairs = [
        ("lfw-view2", fold, f"{one}/0", f"{other}/{shot}", one == other)
        for fold, part in enumerate((people[:6], people[6:], trained[:6]))
        for place, one in enumerate(part)
        for other in (one, part[place - 1])
        for shot in (1, 2)
    ]
    listed = pd.DataFrame(pairs, columns=layout.PAIR_COLUMNS)
    from facemae.stages import embed_dataset

    monkeypatch.setattr(embed_dataset, "embeddings_of", lambda *asked, **more: (table, listed))
    return table, listed, people


def test_a_card_is_measured_on_its_people_and_on_unseen_folds(shipped, measured):
    table, pairs, people = measured
    folder = shipped / "face-embedder"
    _add_to_card("face-embedder", table, pairs, folder / CARD)
    packing.write_readme(folder)
    card = shipped_models.card("face-embedder")
    assert card["people"] == len(people)
    assert card["lfw_view2_pairs"] == 2 * len(pairs) // 3
    assert shipped_models.missing("face-embedder") == ""
    model = find_model("face-embedder")
    assert model.view2 == View2(**card["lfw_view2"])
    assert len(model.card().rows) == len(card["thresholds"])
    scores = records.read_table(folder / shipped_models.SCORES)
    assert len(scores) == card["lfw_view2_pairs"]
    assert set(scores["fold"]) == {0, 1}
    assert "LFW View 2" in (folder / README).read_text()
    found, listed = of_recogniser("face-embedder", "lfw", None, "raw", folder)
    assert listed is None
    assert set(found.people) == set(people)


def test_people_that_a_model_was_trained_on_are_refused_where_it_is_evaluated(shipped, measured):
    from facemae.evaluation.embedding_report import Settings, evaluate

    with pytest.raises(IntegrityError, match="among those that the model was trained on"):
        evaluate(*of_recogniser("face-embedder", "lfw", "view2", "raw", shipped), Settings())


# --- a start for trainings ---


def test_an_encoder_starts_from_a_name_and_a_shallower_one_from_the_first_blocks(shipped, made):
    from facemae.report import tables

    setup = tables.experiment(Results(made))
    model, size = setup.run("random").model, setup.data.image_size
    stored = safetensors.torch.load_file(shipped / "face-mae" / layout.ENCODER)
    for depth in (model.depth, 1):
        encoder = build_encoder(model.model_copy(update={"depth": depth}), size)
        start_encoder(encoder, "face-mae")
        for name, value in encoder.trunk.state_dict().items():
            assert np.allclose(value, stored[name].float()), name
    with pytest.raises(IntegrityError, match="depth 2 instead of 3"):
        start_encoder(build_encoder(model.model_copy(update={"depth": 3}), size), "face-mae")
    with pytest.raises(IntegrityError, match="width 32 instead of 64"):
        start_encoder(build_encoder(model.model_copy(update={"width": 64}), size), "face-mae")
    shallow = build_encoder(model.model_copy(update={"depth": 1}), size)
    with pytest.raises(IntegrityError, match="depth 2 instead of 1"):  # of a file nothing is left out
        start_encoder(shallow, str(shipped / "face-mae" / layout.ENCODER))
