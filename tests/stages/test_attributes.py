from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from store_folder import make_outcome

from facemae.core import files, layout, records
from facemae.core.errors import DataError, PreemptedError, UsageError
from facemae.core.layout import DataFolder
from facemae.core.seeds import seed_of
from facemae.data.faces import shards as store
from facemae.data.faces.cache import build_cache
from facemae.data.images import encode_png
from facemae.data.sources import manifest
from facemae.data.sources.base import AGE, EXPRESSION, GENDER, RACE, Photo
from facemae.models.build import build_embedder
from facemae.stages import attributes as module
from facemae.stages.attributes import PREDICTIONS, attributes, read_labelled
from facemae.stages.finetune import start_embedder
from facemae.stages.pretrain import pretrain
from facemae.stages.task import Task
from facemae.training.objectives.attributes import AttributeLearning
from facemae.training.preemption import Stop

SIZE, PEOPLE, SHOTS = 32, 40, 3
COLUMNS = {"gender": GENDER, "race": RACE, "age": AGE, "expression": EXPRESSION}
RACES = ("black", "asian", "white")
START = {"init": "face-mae"}


def picture(draw, labels):
    """Return a face that shows its labels: gender in red, age in brightness, race in blue above."""
    image = draw.normal(100, 10, (SIZE, SIZE, 3)) + labels["age"]
    image[..., 0] += 60 * (labels["gender"] == "female")
    image[: SIZE // 2, :, 2] += 40 * RACES.index(labels["race"])
    return image.clip(0, 255).astype(np.uint8)


def make_faces(
    root, change=lambda number, labels: labels, people=PEOPLE, named=True, role=layout.ROLE_TESTED
):
    """Fill a folder with faces of people of one gender, race and age each, and give them a role."""
    draw, folder, entries, images = np.random.default_rng(0), DataFolder(root), [], []
    for number in range(people * SHOTS):
        person = number // SHOTS
        gender = ("female", "male")[person % 2]
        labels = {"gender": gender, "race": RACES[person % 3], "age": 10 + 2 * (person * 7 % 30)}
        images.append(picture(draw, labels))
        path = root / "photos" / f"{number:03}.png"
        files.atomic_write(path, encode_png(images[-1]))
        known = {name: each for name, each in change(number, labels).items() if each is not None}
        photo = Photo(f"made/{number:03}", f"p{person}" if named else None, path, attributes=known)
        entries.append(manifest.enter(photo, "made", layout.SET_TESTED))
    manifest.write(folder.photos, entries, COLUMNS)
    shards = folder.shards / "made"
    outcomes = [make_outcome(entry, image) for entry, image in zip(entries, images, strict=True)]
    columns = store.schema(manifest.attributes_of(folder.photos))
    store.write_shard(store.shard_path(shards, 0), outcomes, columns)
    store.finish(folder, shards)
    build_cache(folder)
    table = records.read_table(folder.faces, ["sample_id", "person", "sha256"])
    table = table.assign(role=role, fold=None, part=None, trainable=False, enrolled=False)
    records.write_table(folder.split, table, list(table))
    return folder


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    return make_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def make_task(small, tmp_path):
    def make(folder, tasks=("gender",), out="out", name="scratch", **changes):
        sources = tasks if isinstance(tasks, dict) else dict.fromkeys(tasks, "made")
        asked = {"tasks": sources, "folds": 4, "steps": 60, "learning_rate": 0.02}
        runs = {
            "scratch": {"pretrain": None},
            "random": {},
            "started": {"pretrain": None, "finetune": START},
            "further": {"pretrain": START},
        }
        experiment = small(
            runs=runs, baselines=["pca", "hog_lda", "pixels"], attributes={**asked, **changes},
            data={"tested": ["made", "lfw"]},
        )  # fmt: skip
        return Task(experiment, name, 0, folder, tmp_path / out / "attributes")

    return make


def found_in(out):
    content = records.read_json(out / layout.METRICS)["metrics"]
    return {records.column(each["name"], each["condition"]): each for each in content}


# --- the stage ---


def test_what_can_be_read_off_a_picture_is_found(make_task, store_folder):
    task = make_task(store_folder, ("gender", "race", "age"))
    attributes(task, None)
    found = found_in(task.out)
    assert found["gender_accuracy"]["value"] > 0.95
    assert found["race_balanced"]["value"] > 0.8
    assert found["age_error"]["value"] < 10  # years; always the median gives about 15
    assert found["gender_accuracy"]["n"] == PEOPLE * SHOTS
    assert {each["protocol"] for each in found.values()} == {"attributes"}
    assert "4 folds of 40 subjects, linear models on an untrained encoder;" in found["gender_f1"]["note"]
    assert "would give 0.500" in found["gender_balanced"]["note"]
    names = {layout.METRICS, layout.CONFIG, layout.RESAMPLES, layout.INFLUENCE, PREDICTIONS}
    assert {path.name for path in task.out.iterdir()} == names
    assert not task.out.with_name(".attributes").exists()


@pytest.mark.parametrize(("mode", "pretrained", "told"), [
    ("probe", True, "linear models on the frozen pretrained encoder"),
    ("probe", False, "linear models on an untrained encoder"),
    ("full", True, "pretrained encoder and heads trained"),
    ("full", False, "encoder and heads trained from scratch"),
])  # fmt: skip
def test_a_note_says_what_was_trained_and_from_what(make_task, store_folder, mode, pretrained, told):
    task = make_task(store_folder, mode=mode)
    labelled = module.read_labelled(task, "made", ["gender"])
    note = module._note(task, labelled, module.HEADS[mode, pretrained])
    assert note == f"4 folds of 40 subjects, {told}"


@pytest.mark.parametrize("name", ["started", "further"])
def test_a_note_says_which_weights_may_have_seen_the_photos(make_task, store_folder, name):
    task = make_task(store_folder, name=name)
    labelled = module.read_labelled(task, "made", ["gender"])
    assert module._note(task, labelled, "heads") == (
        "4 folds of 40 subjects, heads; face-mae may have seen these photos"
    )


@pytest.mark.parametrize("model", [{"encoder": "mlp"}, {"encoder": "cnn", "patch_size": 16}])
def test_encoders_of_every_kind_can_be_probed_in_half_precision(make_task, store_folder, small, model):
    task = make_task(store_folder)
    experiment = small(
        runs={"scratch": {"pretrain": None, "model": model}}, baselines=[], precision="bfloat16",
        attributes=task.experiment.attributes.model_dump(), data={"tested": ["made", "lfw"]},
    )  # fmt: skip
    attributes(replace(task, experiment=experiment), None)
    assert found_in(task.out)["gender_accuracy"]["value"] > 0.8


def test_what_no_task_can_be_told_of_is_not_looked_at(make_task, tmp_path):
    task = make_task(make_faces(tmp_path / "few", people=1))
    labelled = module.read_labelled(task, "made", ["gender"])
    assert labelled.refused
    assert module._probed(task, lambda images: pytest.fail("looked at"), labelled, None) == ({}, 0.0)


@pytest.mark.parametrize(("name", "mode"), [("pca", "probe"), ("pca", "full"), ("pixels", "probe")])
def test_a_controls_features_are_probed_as_an_encoders_are(make_task, store_folder, monkeypatch, name, mode):
    monkeypatch.setattr(module, "COMPONENTS", 4)  # of 90 faces to learn from
    task = make_task(store_folder, ("race", "age"), name=name, mode=mode)
    attributes(task, None)
    found = found_in(task.out)
    assert found["race_balanced"]["value"] > 0.7
    assert name == "pixels" or found["age_error"]["value"] < 10  # which are centred, and age is brightness
    assert f"linear models on what {name} makes of a face before it learns" in found["race_f1"]["note"]
    assert records.read_json(task.out / layout.METRICS)["device"] == "cpu, float32"
    written = records.read_json(task.out / layout.CONFIG)
    assert written["run"] == name
    assert written["attributes"]["mode"] == mode
    assert "model" not in written


def test_components_are_those_that_differ_most_on_one_scale(make_task, store_folder, monkeypatch):
    monkeypatch.setattr(module, "COMPONENTS", 3)
    task = make_task(store_folder)
    faces = task.open(module.read_labelled(task, "made", ["gender"]).rows)
    draw = np.random.default_rng(0)
    mixed, weights = np.linalg.qr(draw.normal(size=(20, 20)))[0], np.r_[9.0, 3.0, 1.0, np.full(17, 0.01)]
    hidden = {image.tobytes(): draw.normal(size=20) * weights for image in faces[:]}
    hidden |= {image[:, ::-1].tobytes(): hidden[image.tobytes()] for image in faces[:]}

    def see(images):
        assert images.flags.c_contiguous  # as PyTorch asks
        return np.array([hidden[image.tobytes()] for image in images]) @ mixed + 5

    found = module._components(task, see, faces)
    assert found.shape == (PEOPLE * SHOTS, 3)
    assert found.var(axis=0, ddof=1).mean() == pytest.approx(1, rel=1e-3)
    assert found[:, 0].std() / found[:, 1].std() == pytest.approx(3, rel=0.3)
    own = [hidden[image.tobytes()] for image in faces[:]]
    for place in range(3):
        assert abs(np.corrcoef(found[:, place], np.array(own)[:, place])[0, 1]) > 0.9


def test_the_numbers_follow_from_the_predictions(make_task, store_folder):
    task = make_task(store_folder, ("gender", "race", "age"), steps=5)
    attributes(task, None)
    found, table = found_in(task.out), records.read_table(task.out / PREDICTIONS)
    samples = records.read_table(task.out / layout.RESAMPLES)
    assert set(samples) == {name for name, each in found.items() if each["value"] is not None}
    for name in ("gender", "race"):
        rows = table[table["task"] == name]
        assert found[f"{name}_accuracy"]["value"] == accuracy_score(rows["truth"], rows["predicted"])
        expected = f1_score(rows["truth"], rows["predicted"], average="macro")
        assert found[f"{name}_f1"]["value"] == pytest.approx(expected)
    ages = table[table["task"] == "age"]
    error = (ages["truth"].astype(float) - ages["predicted"].astype(float)).abs()
    assert found["age_error"]["value"] == pytest.approx(error.mean(), abs=1e-3)
    low, high = np.quantile(samples["age_error"], [0.025, 0.975])
    assert found["age_error"]["ci_low"] == pytest.approx(low)
    assert found["age_error"]["ci_high"] == pytest.approx(high)


def test_labels_by_chance_are_not_found(make_task, tmp_path):
    draw = np.random.default_rng(3).permutation(PEOPLE * SHOTS) % 2
    folder = make_faces(
        tmp_path / "faces",
        lambda number, labels: labels | {"gender": ("male", "female")[draw[number]]},
        named=False,
    )
    task = make_task(folder)
    attributes(task, None)
    assert found_in(task.out)["gender_balanced"]["value"] == pytest.approx(0.5, abs=0.15)


def test_the_encoder_can_be_trained_along(make_task, store_folder):
    task = make_task(
        store_folder, ("gender", "race"), mode="full", steps=25, batch_size=16, learning_rate=0.01
    )
    attributes(task, None)
    found = found_in(task.out)
    assert found["gender_accuracy"]["value"] > 0.9
    assert "encoder and heads trained from scratch" in found["race_f1"]["note"]


def test_a_killed_stage_ends_with_the_same_bytes(make_task, store_folder, monkeypatch):
    changes = {"mode": "full", "steps": 6, "batch_size": 8}
    whole = make_task(store_folder, out="whole", **changes)
    attributes(whole, None)
    task, seen = make_task(store_folder, out="killed", **changes), []

    def asked(stop):
        seen.append(stop)
        return len(seen) == 15  # in the third fold

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "requested", property(asked))
        with pytest.raises(PreemptedError):
            attributes(task, None)
    assert not task.out.exists()
    steps, loss = [], AttributeLearning.loss
    monkeypatch.setattr(
        AttributeLearning, "loss", lambda self, step, part: steps.append(step) or loss(self, step, part)
    )
    attributes(task, None)
    assert steps == [3, 4, 5, *range(6)]  # what was done is not done again
    for name in (PREDICTIONS, layout.RESAMPLES, layout.CONFIG):
        assert (task.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_the_pretrained_encoder_is_what_is_tested(make_task, store_folder, small, tmp_path):
    changes = {"steps": 2, "held_out": 0.0, "validate_every": 0, "decoder": "mlp", "learning_rate": 0.1}
    folder = make_faces(tmp_path / "faces", role=layout.ROLE_TRAIN, people=8)
    roles = records.read_table(folder.split)
    roles.loc[:3, "role"] = layout.ROLE_EVALUATION  # which pretraining shows reconstructions of
    records.write_table(folder.split, roles, list(roles))
    files.write_json(folder.sources, [{"name": "made", "align": "landmarks", "crop": [0.0, 0.0, 1.0, 1.0]}])
    before = Task(small(runs={"random": {"pretrain": changes}}), "random", 0, folder, tmp_path / "a/pretrain")
    pretrain(before)
    task = make_task(store_folder, name="random", steps=5)
    attributes(task, before.out)
    assert records.read_json(task.out / layout.METRICS)["seconds"].keys() == {"pretrain", "attributes"}
    pretrained = start_embedder(task, before.out).encoder.state_dict()
    untrained = start_embedder(task, None).encoder.state_dict()
    torch.manual_seed(seed_of(0, "weights"))
    start = build_embedder(task.run.model, SIZE).encoder.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in untrained.items())
    assert not all(torch.equal(value, start[name]) for name, value in pretrained.items())


# --- labels and folds ---


def test_nobody_is_in_two_folds_and_every_fold_has_every_class(make_task, store_folder):
    labelled = read_labelled(make_task(store_folder), "made", ["gender", "race"])
    assert labelled.subjects == PEOPLE
    assert labelled.subject.tolist() != list(range(PEOPLE * SHOTS))
    for subject in range(PEOPLE):
        assert len(set(labelled.fold[labelled.subject == subject])) == 1
    for fold in range(4):
        assert set(labelled.truth["gender"][labelled.fold == fold]) == {0, 1}
        assert set(labelled.truth["race"][labelled.fold == fold]) == {0, 1, 2}
    again = read_labelled(make_task(store_folder, out="b"), "made", ["gender", "race"])
    np.testing.assert_array_equal(labelled.fold, again.fold)


def test_without_names_every_photo_is_a_subject(make_task, tmp_path):
    folder = make_faces(tmp_path / "faces", named=False, people=8)
    assert read_labelled(make_task(folder), "made", ["gender"]).subjects == 8 * SHOTS


def test_a_missing_label_is_left_out_of_its_task_alone(make_task, tmp_path):
    def change(number, labels):
        return labels | {"race": None} if number < 3 else labels

    task = make_task(make_faces(tmp_path / "faces", change), ("gender", "race"), steps=5)
    attributes(task, None)
    found = found_in(task.out)
    assert found["gender_accuracy"]["n"] == PEOPLE * SHOTS
    assert found["race_accuracy"]["n"] == PEOPLE * SHOTS - 3


def test_faces_for_the_evaluation_of_identity_are_left_alone(make_task, tmp_path):
    folder = make_faces(tmp_path / "faces", people=16)
    table = records.read_table(folder.split)
    table.loc[:5, "role"] = layout.ROLE_EVALUATION
    records.write_table(folder.split, table, list(table))
    labelled = read_labelled(make_task(folder), "made", ["gender"])
    assert set(labelled.rows["sample_id"]) == set(table["sample_id"][6:])


def test_of_many_faces_some_are_chosen_evenly(make_task, store_folder, monkeypatch):
    monkeypatch.setattr(module, "MOST_FACES", 60)
    labelled = read_labelled(make_task(store_folder), "made", ["gender"])
    assert len(labelled.fold) == 60
    assert labelled.subjects == PEOPLE


# --- refusals ---


def test_no_task_is_refused(make_task, store_folder):
    with pytest.raises(UsageError, match=r"attributes\.tasks names none"):
        attributes(make_task(store_folder, ()), None)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [({"gender": "lfw"}, "lfw says nothing of gender"),
     ({"expression": "made"}, "made says nothing of expression")],
)  # fmt: skip
def test_a_source_that_cannot_say_is_refused(make_task, store_folder, tasks, message):
    task = make_task(store_folder, tasks)
    with pytest.raises(UsageError, match=message):
        attributes(task, None)


def test_an_impossible_age_is_refused(make_task, tmp_path):
    folder = make_faces(tmp_path / "faces", lambda number, labels: labels | {"age": 117 + number}, people=8)
    with pytest.raises(DataError, match=r"made/000 has the age 117, and ages go from 0 to 116"):
        attributes(make_task(folder, ("age",)), None)


def test_what_the_data_cannot_tell_is_refused_and_the_rest_is_measured(make_task, tmp_path):
    def change(number, labels):
        return labels | {"gender": "female", "race": "indian" if number < 9 else labels["race"]}

    task = make_task(make_faces(tmp_path / "faces", change), ("gender", "race", "age"), steps=5)
    attributes(task, None)
    found = found_in(task.out)
    assert found["gender_accuracy"]["value"] is None
    assert "every face is female" in found["gender_accuracy"]["note"]
    assert found["race_f1"]["value"] is None
    assert "the class indian: 3 subjects for 4 folds" in found["race_f1"]["note"]
    assert found["age_error"]["value"] > 0
    assert "gender_accuracy" not in records.read_table(task.out / layout.RESAMPLES)


def test_where_nothing_can_be_told_everything_is_refused(make_task, tmp_path):
    folder = make_faces(tmp_path / "faces", lambda number, labels: labels | {"gender": "male"}, people=8)
    task = make_task(folder)
    attributes(task, None)
    assert {each["value"] for each in found_in(task.out).values()} == {None}
    assert len(records.read_table(task.out / PREDICTIONS)) == 0
