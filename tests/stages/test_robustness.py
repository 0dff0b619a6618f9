from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from store_folder import make_store

from facemae.core import layout, records
from facemae.core.errors import DataError, FaceMAEError, IntegrityError, UsageError
from facemae.core.layout import DataFolder
from facemae.core.records import read_json, read_table
from facemae.data.faces import pairs
from facemae.data.faces.cache import build_cache
from facemae.evaluation.protocols import robustness as protocol
from facemae.evaluation.records import Measurement, higher_is_better
from facemae.evaluation.statistics import identity_weights
from facemae.stages import robustness
from facemae.stages.task import Task

SIZE, PEOPLE, SHOTS, FOLDS = 32, 12, 4, 3
LIGHTS = [
    (0, 0),
    (5, 10),
    (20, 10),
    (-35, 40),
    (0, 45),
    (60, 20),
    (-70, 0),
    (110, 15),
]  # S1 twice, then S2 ...


def pictures(people, shots, noise=25, seed=0):
    """Return faces that are alike within a person and smooth enough to survive being made small."""
    draw = np.random.default_rng(seed)
    own = draw.integers(40, 216, (people, 1, 4, 4, 3)).repeat(8, axis=2).repeat(8, axis=3)
    shot = draw.normal(0, noise, (people, shots, 4, 4, 3)).repeat(8, axis=2).repeat(8, axis=3)
    return np.clip(own + shot, 0, 255).astype(np.uint8).reshape(-1, SIZE, SIZE, 3)


def make_data(root, parts=1, noise=25):
    """Fill a data folder: people to train on, evaluation people in folds and parts, and lit ones."""
    names, owners, roles, folds = [], [], [], []
    for person in range(PEOPLE):
        names += [f"p{person:02}/{shot}" for shot in range(SHOTS)]
        owners += [f"p{person:02}"] * SHOTS
        roles += [layout.ROLE_EVALUATION] * SHOTS
        folds += [person % FOLDS] * SHOTS
    for name, role, people, shots in (("t", layout.ROLE_TRAIN, 3, 3), ("y", layout.ROLE_TESTED, 4, 8)):
        names += [f"{name}{person}/{shot}" for person in range(people) for shot in range(shots)]
        owners += [f"{name}{person}" for person in range(people) for _ in range(shots)]
        roles += [role] * (people * shots)
        folds += [None] * (people * shots)
    images = np.concatenate([pictures(PEOPLE, SHOTS, noise), pictures(3, 3, seed=1), pictures(4, 8, seed=2)])
    folder = make_store(root, images, names, owners)
    table = pd.DataFrame({"sample_id": names, "person": owners, "role": roles, "sha256": names})
    table["fold"] = pd.array(folds, "Int64")
    table["part"] = table["fold"] % parts
    table = table.assign(trainable=table["role"] == layout.ROLE_TRAIN, enrolled=True)
    records.write_table(folder.split, table, layout.SPLIT_COLUMNS)
    evaluated = table[table["role"] == layout.ROLE_EVALUATION]
    drawn = pairs.generate(evaluated, seed=0, per_fold=20)
    records.write_table(folder.pairs, drawn, layout.PAIR_COLUMNS)
    faces = read_table(folder.faces)
    lit = faces["sample_id"].str.startswith("y")
    faces.loc[lit, "source"] = "yaleb"
    for place, column in enumerate(("light_azimuth", "light_elevation")):
        faces[column] = pd.array([None] * len(faces), "Int32")
        faces.loc[lit, column] = [LIGHTS[int(name[-1])][place] for name in faces.loc[lit, "sample_id"]]
    records.write_table(folder.faces, faces, list(faces.columns))
    build_cache(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def shrunk(images, part=0):
    """Embed without any sum over the batch: the 4 x 4 fields of an image, less their mean."""
    fields = images[:, 4::8, 4::8].reshape(len(images), -1).astype(np.float64)
    return fields - fields.mean(axis=1, keepdims=True)


def settings(**changes):
    few = {"pairs": 60, "occlusions": ["block", "left"], "areas": [0.5, 0.2], "lights": ["gamma"],
           "strengths": [0.5, 1.0], "illumination": None}  # fmt: skip
    return few | changes


def make_task(small, data, out, name="pixels", **changes):
    experiment = small(
        split={"folds": FOLDS, **changes.pop("split", {})},
        baselines=["pixels"],
        data={"tested": ["yaleb"]},
        robustness=settings(**changes),
    )
    return Task(experiment, name, 0, data, Path(out) / "robustness")


@pytest.fixture
def task(small, data, tmp_path):
    return make_task(small, data, tmp_path)


def run(task, recognise=shrunk):
    """Run the stage with a recogniser of ours."""
    before = robustness.recogniser
    robustness.recogniser = lambda task, finetuned: recognise
    try:
        robustness.robustness(task, None)
    finally:
        robustness.recogniser = before
    content = read_json(task.out / layout.METRICS)
    entries = {records.column(e["name"], e["condition"], e["amount"]): e for e in content["metrics"]}
    return content, entries, read_table(task.out / layout.RESAMPLES)


# --- the stage ---


def test_the_stage_writes_every_condition_with_its_resamples(small, data, tmp_path):
    task = make_task(small, data, tmp_path, illumination="yaleb")
    content, entries, resamples = run(task)
    conditions = [("none", 0.0), *((k, a) for k in ("block", "left") for a in (0.2, 0.5))]
    conditions += [("gamma", 0.5), ("gamma", 1.0)]
    expected = {records.column("accuracy", *each) for each in conditions}
    expected |= {"occlusion_accuracy", "occlusion_drop", "light_accuracy", "light_drop", "illumination_rank1"}
    expected |= {f"{name}@S{n}" for name in ("rank1", "eer") for n in range(2, 6)}
    assert set(entries) == expected == set(resamples.columns)
    assert len(resamples) == task.experiment.evaluate.resamples
    for name, entry in entries.items():
        assert entry["ci_low"] - 1e-9 <= entry["value"] <= entry["ci_high"] + 1e-9, name
        assert isinstance(higher_is_better(entry["name"]), bool)
    protocols = {(e["protocol"], e["condition"]) for e in content["metrics"]}
    assert {("occlusion", "none"), ("lighting", "none"), ("illumination", "S2")} <= protocols
    assert (content["people"], content["seed"], content["seconds"]) == (PEOPLE, 0, {})
    assert read_json(task.out / layout.CONFIG)["areas"] == [0.5, 0.2]


def test_a_baseline_runs_through_and_twice_is_the_same_to_the_byte(small, data, tmp_path):
    tasks = [make_task(small, data, tmp_path / name) for name in ("a", "b")]
    for task in tasks:
        robustness.robustness(task, None)
    for name in (layout.METRICS, layout.RESAMPLES, layout.CONFIG):
        assert (tasks[0].out / name).read_bytes() == (tasks[1].out / name).read_bytes()


def test_accuracy_is_that_of_an_independent_implementation(task):
    _, entries, resamples = run(task)
    trial = robustness.load_trial(task)
    clean, changed = scores_of(trial, "left", 0.5)
    for name, scores in (("accuracy@none=0", clean), ("accuracy@left=0.5", changed)):
        expected = plain_accuracy(clean, scores, trial)
        assert entries[name]["value"] == pytest.approx(expected)
        assert entries[name]["n"] == len(trial.first)
    weights = identity_weights(PEOPLE, task.experiment.evaluate.resamples, task.experiment.split.seed)
    for row in (0, 7, 23):
        expected = plain_accuracy(clean, changed, trial, weights[row])
        assert resamples["accuracy@left=0.5"][row] == pytest.approx(expected, nan_ok=True)


def scores_of(trial, kind, amount):
    """Return clean and changed cosines, computed pair by pair."""
    from facemae.compute.seeding import Noise
    from facemae.evaluation.corruptions.occlusion import occlude

    clean, changed = [], []
    for pair, (first, second) in enumerate(zip(trial.first, trial.second, strict=True)):
        noise = Noise(range(pair, pair + 1), trial.seed, "occlusion", kind)
        covered, _ = occlude(trial.images[[second]], kind, amount, noise)
        one, same, other = (
            shrunk(each)[0] for each in (trial.images[[first]], trial.images[[second]], covered)
        )
        clean.append(one @ same / np.linalg.norm(one) / np.linalg.norm(same))
        changed.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    return np.array(clean), np.array(changed)


def plain_accuracy(clean, scores, trial, people=None):
    """Choose each fold's threshold by trying every cut on the clean scores of the others."""
    people = np.ones(trial.weights.shape[1]) if people is None else people
    weight = people[trial.first_person] * np.where(trial.genuine, 1, people[trial.second_person])

    def balanced(values, chosen, threshold):
        sums = []
        for kind in (trial.genuine, ~trial.genuine):
            mine = chosen & kind
            if not weight[mine].sum():
                return np.nan
            sums.append(weight[mine & (values >= threshold)].sum() / weight[mine].sum())
        return (sums[0] + 1 - sums[1]) / 2

    found = []
    for fold in np.unique(trial.fold):
        others = trial.fold != fold
        drawn = np.sort(clean[others & (weight > 0)])
        cuts = [-np.inf, *((drawn[1:] + drawn[:-1]) / 2)]
        best = max(cuts, key=lambda cut: (round(balanced(clean, others, cut), 12), -cut))
        found.append(balanced(scores, ~others, best))
    return np.nanmean(found) if np.isfinite(found).any() else np.nan


def test_what_is_changed_cannot_move_a_threshold(task):
    """A recogniser that goes mad on every face it does not know as it is."""
    known = {each.tobytes() for each in robustness.load_trial(task).images}

    def mad(images, part):
        vectors = shrunk(images)
        strange = np.array([each.tobytes() not in known for each in images])
        vectors[strange] = np.random.default_rng(0).normal(size=(strange.sum(), vectors.shape[1])) * 100
        return vectors

    _, sane, _ = run(task)
    _, poisoned, _ = run(task, mad)
    assert poisoned["accuracy@none=0"] == sane["accuracy@none=0"]
    at = {entry["note"].partition(" at ")[2] for name, entry in poisoned.items() if "@" in name}
    assert at == {sane["accuracy@none=0"]["note"].partition(" at ")[2]}
    assert poisoned["accuracy@left=0.2"]["value"] < 0.65 < sane["accuracy@left=0.2"]["value"]


def test_a_fold_has_no_say_in_its_own_threshold(task):
    trial = robustness.load_trial(task)
    _, clean = protocol.enrol(trial, shrunk)
    before = protocol.choose_thresholds(trial, clean)
    mine = trial.fold == np.unique(trial.fold)[0]
    others = np.setdiff1d(trial.first_person[mine], trial.first_person[~mine])
    assert len(others)
    lies = np.where(mine, ~trial.genuine, trial.genuine)
    noise = np.where(mine, -clean, clean)
    after = protocol.choose_thresholds(replace(trial, genuine=lies), noise)
    assert after[0, 1] != before[0, 1]
    np.testing.assert_array_equal(after[:, 0], before[:, 0])


@pytest.mark.parametrize("kind_of", ["occlusion", "lighting"])
def test_no_change_is_the_clean_accuracy_exactly(task, kind_of):
    trial = robustness.load_trial(task)
    family = next(
        each for each in protocol.families_of(task.experiment.robustness) if each.protocol == kind_of
    )
    enrolled, clean = protocol.enrol(trial, shrunk)
    thresholds = protocol.choose_thresholds(trial, clean)
    expected = protocol.accuracy(trial, thresholds, clean)
    scores = protocol.changed_scores(trial, replace(family, amounts=[0.0]), enrolled, shrunk, "test")
    for kind in family.kinds:
        np.testing.assert_array_equal(scores[kind, 0.0], clean)
        found = protocol.accuracy(trial, thresholds, scores[kind, 0.0])
        assert found.value == expected.value
        np.testing.assert_array_equal(found.samples, expected.samples)


def test_scores_do_not_depend_on_how_the_pairs_are_cut(task, replaced):
    trial = robustness.load_trial(task)
    family = protocol.families_of(task.experiment.robustness)[0]
    enrolled, _ = protocol.enrol(trial, shrunk)
    whole = protocol.changed_scores(trial, family, enrolled, shrunk, "test")
    with replaced(protocol, "CHUNK_BYTES", 5 * 2 * SIZE * SIZE * 3):
        parts = protocol.changed_scores(trial, family, enrolled, shrunk, "test")
    for condition, scores in whole.items():
        np.testing.assert_array_equal(scores, parts[condition])


def test_the_first_photo_stays_as_it_is(task):
    """Faces that only differ in the half that is covered are told apart by nobody."""
    trial = robustness.load_trial(task)
    seen = []

    def listening(images, part):
        seen.append(images)
        return shrunk(images)

    run(task, listening)
    clean = np.unique(np.concatenate([trial.first, trial.second]))
    assert np.array_equal(seen[0], trial.images[clean])
    conditions = 2 * 2 + 1 * 2
    assert sum(map(len, seen[1:])) == conditions * len(trial.first)


def test_a_changed_face_without_an_embedding_is_rejected_and_counted(task):
    known = {each.tobytes() for each in robustness.load_trial(task).images}

    def blind(images, part):
        strange = np.array([each.tobytes() not in known for each in images])
        return np.where(strange[:, None], 0, shrunk(images))

    _, entries, _ = run(task, blind)
    entry = entries["accuracy@left=0.2"]
    assert entry["value"] == 0.5
    assert entry["note"].startswith("TAR 0.000, FAR 0.000")
    assert entry["note"].endswith(f"{entry['n']} faces without an embedding, rejected")


def test_a_clean_face_without_an_embedding_is_an_error(task):
    with pytest.raises(IntegrityError, match="zero or not finite") as caught:
        run(task, lambda images, part: np.zeros((len(images), 3)))
    assert "\n" not in str(caught.value)


def test_nothing_to_test_is_told(small, data, tmp_path):
    with pytest.raises(UsageError, match="there is no occlusion, light or illumination"):
        run(make_task(small, data, tmp_path, occlusions=[], strengths=[]))


def test_each_part_is_embedded_by_its_own_model(small, tmp_path):
    folder = make_data(tmp_path / "data", parts=2)
    task = make_task(small, folder, tmp_path, split={"rotations": 2}, illumination="yaleb")
    asked = Counter()

    def recognise(images, part):
        asked[part] += 1
        return shrunk(images) * (
            1 if part == 0 else -1
        )  # parts do not fit together; a cosine within one does

    _, entries, _ = run(task, recognise)
    same = make_task(small, folder, tmp_path / "same", split={"rotations": 2}, illumination="yaleb")
    assert set(asked) == {0, 1}
    assert entries["accuracy@left=0.5"]["value"] == run(same)[1]["accuracy@left=0.5"]["value"]
    assert entries["rank1@S2"]["note"] == "by the model of part 1 of 2"


def test_two_perfect_networks_with_shifted_scores_stay_perfect(small, tmp_path):
    """The impostors of one score above the genuine pairs of the other: no threshold fits both."""
    folder = make_data(tmp_path / "data", parts=2, noise=1)
    task = make_task(small, folder, tmp_path, split={"rotations": 2})

    def recognise(images, part):
        vectors = shrunk(images)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        own = np.stack([np.random.default_rng(each.ravel()).normal(size=1024) / 32 for each in images])
        return np.hstack([unit, own if part == 0 else np.full_like(own, 0.2)])

    trial = robustness.load_trial(task)
    _, clean = protocol.enrol(trial, recognise)
    assert clean[(trial.part == 1) & ~trial.genuine].min() > clean[trial.part == 0].max()
    assert run(task, recognise)[1]["accuracy@none=0"]["value"] == 1.0


def test_no_fold_has_pairs_of_two_parts(data):
    listed, faces = listing(data)
    apart = faces.assign(part=(faces["fold"] > 0).astype(int))
    chosen = protocol.choose_pairs(listed, apart, 60, 0)
    folds = chosen.groupby("part")["fold"].unique()
    assert [sorted(each) for each in folds] == [
        [0, 1, 2, 3, 4],
        [5, 6],
    ]  # a part in one fold is cut into five


# --- the two values of all conditions ---


def measurement(value, amount=0.0, spread=0.0):
    samples = value + spread * np.linspace(-1, 1, 100)
    return Measurement("occlusion", "accuracy", value, 60, "", samples, "kind", amount)


def family(amounts):
    return protocol.Family("occlusion", "occlusion", ["a", "b"], amounts, None)


def test_the_mean_over_conditions_by_hand():
    rows = [measurement(each) for each in (0.8, 0.6, 0.6, 0.5)]
    mean, drop = protocol.summarise(family([0.1, 0.5]), measurement(0.9), rows, 0.95)
    expected = (0.8 + 0.6 + 0.6 + 0.5) / 4
    assert (mean.name, mean.value) == ("occlusion_accuracy", pytest.approx(expected))
    assert (drop.name, drop.value) == ("occlusion_drop", pytest.approx(1 - (expected - 0.5) / 0.4))
    np.testing.assert_allclose(mean.samples, expected)
    assert mean.note == "mean of 4 conditions"


def test_unchanged_faces_have_no_part_in_the_mean():
    rows = [measurement(0.7), measurement(0.6)]
    means = [protocol.summarise(family([0.5]), measurement(clean), rows, 0.95)[0] for clean in (0.7, 0.95)]
    assert means[0].value == means[1].value == pytest.approx(0.65)


def test_what_keeps_its_accuracy_drops_by_nothing_and_chance_is_all():
    for value, drop in ((0.9, 0), (0.5, 1.0)):
        rows = [measurement(value), measurement(value)]
        found = protocol.summarise(family([1e-9]), measurement(value), rows, 0.95)
        assert found[0].value == pytest.approx(value)
        if drop:
            assert found[1].value is None
        else:
            assert found[1].value == pytest.approx(0)


@pytest.mark.parametrize(("value", "spread"), [(0.54, 0.0), (0.6, 0.1)])
def test_a_drop_from_near_chance_is_refused(value, spread):
    rows = [measurement(0.5), measurement(0.5)]
    mean, drop = protocol.summarise(family([0.5]), measurement(value, spread=spread), rows, 0.95)
    assert mean.value is not None
    assert (drop.value, drop.samples) == (None, None)
    assert "needs more than 0.55" in drop.note


# --- the pairs ---


def listing(data):
    table = read_table(data.split)
    return read_table(data.pairs), table[table["role"] == layout.ROLE_EVALUATION]


def test_pairs_are_even_over_kinds_folds_and_people(data):
    listed, faces = listing(data)
    chosen = protocol.choose_pairs(listed, faces, 48, 0)
    assert chosen.groupby(["fold", "genuine"]).size().to_list() == [8] * (2 * FOLDS)
    genuine = chosen[chosen["genuine"]]
    assert set(genuine["first_person"].value_counts()) == {2}  # 24 pairs of 12 people
    impostors = chosen[~chosen["genuine"]]
    uses = pd.concat([impostors["first_person"], impostors["second_person"]]).value_counts()
    assert uses.max() <= 6  # 48 places for 12 people
    assert not chosen.duplicated(["first", "second"]).any()


def test_the_choice_depends_on_the_pairs_and_not_on_their_order(data):
    listed, faces = listing(data)
    chosen = protocol.choose_pairs(listed, faces, 30, 0)
    again = protocol.choose_pairs(
        listed.sample(frac=1, random_state=1), faces.sample(frac=1, random_state=2), 30, 0
    )
    pd.testing.assert_frame_equal(chosen, again)
    assert not chosen.equals(protocol.choose_pairs(listed, faces, 30, 1))


def test_pairs_of_two_parts_or_without_a_face_are_left_out(data):
    listed, faces = listing(data)
    apart = faces.assign(part=(faces["person"].str[1:].astype(int) // FOLDS) % 2)
    chosen = protocol.choose_pairs(listed, apart, 1000, 0)
    part = apart.set_index("sample_id")["part"]
    assert (part[chosen["first"]].to_numpy() == part[chosen["second"]].to_numpy()).all()
    lost = listed["first"].iloc[0]
    fewer = protocol.choose_pairs(listed, faces[faces["sample_id"] != lost], 1000, 0)
    assert lost not in {*fewer["first"], *fewer["second"]}


def test_a_list_in_one_fold_is_cut_into_five(data):
    listed, faces = listing(data)
    chosen = protocol.choose_pairs(listed.assign(fold=0), faces, 50, 0)
    assert sorted(chosen["fold"].unique()) == [0, 1, 2, 3, 4]


def test_what_cannot_be_tested_on_is_told(data):
    listed, faces = listing(data)
    cases = [
        (UsageError, r"^robustness\.pairs: 5 pairs leave 3 folds", (listed, faces, 5, 0)),
        (DataError, "fold 0 has 20 and 0", (listed[listed["genuine"] | (listed["fold"] > 0)], faces, 60, 0)),
        (DataError, "there are none", (listed[:0], faces, 60, 0)),
        (IntegrityError, "disagree", (listed.assign(genuine=~listed["genuine"]), faces, 60, 0)),
    ]
    for error, match, arguments in cases:
        with pytest.raises(error, match=match) as caught:
            protocol.choose_pairs(*arguments)
        assert isinstance(caught.value, FaceMAEError)
        assert "\n" not in str(caught.value)


# --- real light (test_illumination.py has the rest) ---


def test_only_tested_faces_with_a_light_are_taken(small, data, tmp_path):
    rows = robustness.lit_rows(make_task(small, data, tmp_path), "yaleb:somewhere")
    assert len(rows) == 4 * 8
    assert rows["subset"].value_counts().to_dict() == {"S1": 8, "S2": 4, "S3": 8, "S4": 8, "S5": 4}
    with pytest.raises(DataError, match=r"no face of orl .* name it in data\.tested"):
        robustness.lit_rows(make_task(small, data, tmp_path), "orl")


def test_a_source_without_lights_is_told(small, data, tmp_path):
    faces = read_table(data.faces)
    folder = DataFolder(tmp_path / "copy")
    folder.root.mkdir()
    records.write_table(folder.split, read_table(data.split), layout.SPLIT_COLUMNS)
    records.write_table(folder.faces, faces, [each for each in faces if not each.startswith("light")])
    with pytest.raises(UsageError, match="do not name the direction of their light"):
        robustness.lit_rows(make_task(small, folder, tmp_path), "yaleb")
