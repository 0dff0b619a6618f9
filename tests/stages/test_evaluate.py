from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from facemae.core import files, layout, records
from facemae.core.errors import DataError, FaceMAEError, IntegrityError
from facemae.core.records import read_json, read_table
from facemae.data.faces.pairs import table as pairs_table
from facemae.data.sources.base import Pair
from facemae.evaluation.protocols import identification
from facemae.evaluation.statistics import identity_weights
from facemae.stages.evaluate import accuracy, evaluate
from facemae.stages.task import Task

PEOPLE, FACES, FOLDS = 12, 4, 2


def split_table(people=PEOPLE, first=0):
    rows = [
        {"sample_id": f"p{person:02}/{shot}", "person": f"p{person:02}", "role": "evaluation",
         "fold": person % FOLDS, "part": 0, "trainable": False, "enrolled": shot == 0,
         "sha256": f"{person}/{shot}"}
        for person in range(first, first + people)
        for shot in range(FACES)
    ]  # fmt: skip
    training = {
        "sample_id": "t/0",
        "person": "t",
        "role": "train",
        "fold": None,
        "part": None,
        "trainable": True,
        "enrolled": False,
        "sha256": "t",
    }
    table = pd.DataFrame([*rows, training])
    return table.astype({"fold": "Int64", "part": "Int64"})


def data_of(folder, table, pairs=()):
    """Write what evaluation reads of a folder of data."""
    data = layout.DataFolder(folder)
    records.write_table(data.split, table, layout.SPLIT_COLUMNS)
    records.write_table(data.pairs, pairs_table(pairs), layout.PAIR_COLUMNS)
    photos = table[["sample_id", "person"]]
    records.write_table(data.photos, photos, ["sample_id", "person"])
    gender = np.where(photos["person"].str[-1].isin(list("02468")), "female", "male")
    records.write_table(data.faces, photos.assign(gender=gender), ["sample_id", "gender"])


@pytest.fixture
def folder(tmp_path):
    data_of(tmp_path, split_table())
    return tmp_path


def write(folder, vectors, table=None):
    """Write the folder of a stage that embedded."""
    table = split_table() if table is None else table
    table = table[table["role"] == "evaluation"].assign(embedding=list(np.float32(vectors)))
    records.write_table(folder / "embed" / layout.EMBEDDINGS, table, layout.EMBEDDING_COLUMNS)
    records.write_metrics(
        folder / "embed", [], seed=1, device="cpu, float32", seconds={"finetune": 2.5}, inputs={},
        images_seen={"finetune": 640}, energy_joules={}, precision={"finetune": "bfloat16"},
    )  # fmt: skip


def run(experiment, folder, out="evaluate"):
    evaluate(Task(experiment, "random", 1, layout.DataFolder(folder), folder / out), folder / "embed")
    content = read_json(folder / out / layout.METRICS)
    return content, {entry["name"]: entry for entry in content["metrics"]}


def perfect():
    """Embeddings that tell all people apart."""
    return np.repeat(np.eye(PEOPLE), FACES, axis=0) + 0.05 * np.random.default_rng(0).random(
        (PEOPLE * FACES, PEOPLE)
    )


def noise(seed=0):
    return np.random.default_rng(seed).normal(size=(PEOPLE * FACES, 32))


def test_perfect_embeddings_have_perfect_metrics(experiment, folder):
    write(folder, perfect())
    content, found = run(experiment, folder)
    for name, value in (("roc_auc", 1), ("eer", 0), ("accuracy", 1), ("rank1", 1), ("tar_at_far=0.1", 1)):
        assert found[name]["value"] == value
        assert (found[name]["ci_low"], found[name]["ci_high"]) == pytest.approx((value, value), abs=1e-12)
    assert (content["people"], content["seed"], content["dataset"]) == (PEOPLE, 1, "orl")
    assert (content["device"], content["seconds"]) == ("cpu, float32", {"finetune": 2.5})
    assert content["precision"] == {"finetune": "bfloat16"}
    assert found["roc_auc"]["n"] == PEOPLE * FACES * (PEOPLE * FACES - 1) // 2
    assert found["rank1"]["n"] == PEOPLE * (FACES - 1)


def test_noise_is_at_chance_and_its_intervals_say_so(experiment, folder):
    values = []
    for seed in range(4):
        write(folder, noise(seed))
        _, found = run(experiment, folder)
        values.append([found[name]["value"] for name in ("roc_auc", "eer", "accuracy")])
        for name, entry in found.items():
            if not name.startswith("far_at_target"):  # which the threshold was chosen for
                assert entry["ci_low"] <= entry["value"] <= entry["ci_high"]
        assert found["rank1"]["value"] < 0.4
    assert np.abs(np.mean(values, axis=0) - 0.5).max() < 0.08


def test_a_closed_form_head_is_measured_as_the_run_is(experiment, folder):
    write(folder, noise())
    table = read_table(folder / "embed" / layout.EMBEDDINGS)
    table = table.assign(embedding=list(np.float32(perfect())))
    records.write_table(folder / "embed" / layout.PROBE, table, layout.EMBEDDING_COLUMNS)
    _, found = run(experiment, folder)
    write(folder, perfect())
    (folder / "embed" / layout.PROBE).unlink()
    _, expected = run(experiment, folder, "again")
    for name in ("accuracy", "roc_auc"):
        assert found[f"probe_{name}"] == expected[name] | {"name": f"probe_{name}"}
        assert found[name]["value"] < 0.8
        assert f"probe_{name}" not in expected


def test_a_head_that_could_not_be_fitted_is_no_number_and_says_why(experiment, folder):
    write(folder, perfect())
    empty = pd.DataFrame(columns=layout.EMBEDDING_COLUMNS)
    records.write_table(folder / "embed" / layout.PROBE, empty, layout.EMBEDDING_COLUMNS)
    why = records.metric(layout.PROBE_AUC, None, n=0, note="too few people")
    source = read_json(folder / "embed" / layout.METRICS) | {"metrics": [why]}
    files.write_json(folder / "embed" / layout.METRICS, source)
    _, found = run(experiment, folder)
    assert found["probe_accuracy"]["value"] is None
    assert found["probe_accuracy"]["note"] == "too few people"
    assert found["accuracy"]["value"] == 1.0


def test_shuffled_people_undo_perfect_embeddings(experiment, folder):
    write(folder, np.random.default_rng(0).permutation(perfect()))
    _, found = run(experiment, folder)
    assert abs(found["roc_auc"]["value"] - 0.5) < 0.15
    assert found["rank1"]["value"] < 0.4


def test_twice_is_the_same_to_the_byte(experiment, folder):
    write(folder, noise())
    for out in ("first", "second"):
        run(experiment, folder, out)
    for name in (layout.METRICS, layout.SCORES, layout.RESAMPLES, layout.INFLUENCE, layout.CONFIG):
        assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes()


def test_the_order_of_the_embeddings_does_not_matter(experiment, folder):
    write(folder, noise())
    _, first = run(experiment, folder)
    path = folder / "embed" / layout.EMBEDDINGS
    records.write_table(path, read_table(path).sample(frac=1, random_state=1), layout.EMBEDDING_COLUMNS)
    _, second = run(experiment, folder, "second")
    for name, entry in first.items():
        assert second[name]["value"] == pytest.approx(entry["value"], abs=1e-12)


def test_scores_are_the_cosines_of_all_pairs(experiment, folder):
    write(folder, noise())
    run(experiment, folder)
    scores = read_table(folder / "evaluate" / layout.SCORES)
    unit = np.float32(noise()).astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    i, j = np.triu_indices(len(unit), 1)
    np.testing.assert_allclose(scores["score"], (unit @ unit.T)[i, j], atol=1e-6)
    people = np.repeat([f"p{person:02}" for person in range(PEOPLE)], FACES)
    assert scores["first"].astype(str).to_list() == people[i].tolist()
    assert scores["second"].astype(str).to_list() == people[j].tolist()
    assert (scores["genuine"] == (scores["first"].astype(str) == scores["second"].astype(str))).all()


def test_one_of_two_tables_tells_every_metric_on_people_that_all_runs_share(experiment, folder):
    weights = identity_weights(PEOPLE, experiment.evaluate.resamples, experiment.split.seed)
    for seed in range(2):
        write(folder, noise(seed))
        _, found = run(experiment, folder)
        table = read_table(folder / "evaluate" / layout.RESAMPLES)
        influence = read_table(folder / "evaluate" / layout.INFLUENCE)
        assert set(table.columns) == {"rank1"}
        measured = {name for name, entry in found.items() if entry["ci_low"] is not None}
        assert {*table.columns, *influence.columns} == {*measured, "first", "second"}
        assert len(influence) == PEOPLE * (PEOPLE + 1) // 2  # everyone with everyone, and alone
        assert influence["roc_auc"].sum() == pytest.approx(0, abs=1e-9)
        people = np.repeat(np.arange(PEOPLE), FACES)
        enrolled = np.arange(len(people)) % FACES == 0
        rank1 = identification.rank1(np.float32(noise(seed)), people, enrolled, weights)
        np.testing.assert_allclose(table["rank1"], rank1.samples)


def test_a_rate_too_small_for_the_data_is_refused_and_says_why(small, folder):
    write(folder, noise())
    _, found = run(small(evaluate={"far_targets": [0.1, 0.001]}), folder)
    refused = found["tar_at_far=0.001"]
    assert (refused["value"], refused["ci_low"], refused["ci_high"]) == (None, None, None)
    assert "needs 30000 impostor pairs" in refused["note"]
    assert found["tar_at_far=0.1"]["value"] is not None


def test_intervals_follow_the_level(small, folder):
    write(folder, noise())
    widths = []
    for level in (0.8, 0.95):
        _, found = run(small(evaluate={"level": level}), folder)
        widths.append(found["roc_auc"]["ci_high"] - found["roc_auc"]["ci_low"])
    assert widths[0] < widths[1]


@pytest.mark.parametrize("other", ["fewer", "more", "others", "twice", "training"])
def test_embeddings_of_another_split_are_refused(experiment, folder, other):
    table = split_table()
    table = table[table["role"] == "evaluation"]
    table = {
        "fewer": table.iloc[:-1],
        "more": pd.concat([table, split_table(1, 50).iloc[:FACES]]),
        "others": split_table(first=1).iloc[: PEOPLE * FACES],
        "twice": pd.concat([table.iloc[:-1], table.iloc[:1]]),
        "training": pd.concat([table, table.iloc[:1].assign(sample_id="t/0")]),
    }[other]
    write(folder, np.ones((len(table), 3)), table)
    with pytest.raises(IntegrityError, match="was made for another split; make it again") as caught:
        run(experiment, folder)
    assert caught.value.exit_code == 4
    assert not (folder / "evaluate").exists()


def test_people_come_from_the_split_and_not_from_the_embeddings(experiment, folder):
    write(folder, perfect())
    path = folder / "embed" / layout.EMBEDDINGS
    records.write_table(path, read_table(path).assign(person="somebody"), layout.EMBEDDING_COLUMNS)
    assert run(experiment, folder)[1]["rank1"]["value"] == 1


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_embedding_without_a_direction_is_told(experiment, folder, value):
    vectors = noise()
    vectors[5] = value
    write(folder, vectors)
    with pytest.raises(FaceMAEError, match="zero or not finite") as caught:
        run(experiment, folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_embedding_is_not_blamed_on_the_number_of_people(experiment, folder):
    vectors = noise()
    vectors[5] = np.nan
    write(folder, vectors)
    with pytest.raises(FaceMAEError) as caught:
        run(experiment, folder)
    assert "split.folds" not in str(caught.value)


def test_too_few_people_for_the_folds_refuse_the_accuracy_alone(experiment, folder):
    table = split_table(people=2)
    data_of(folder, table)
    write(folder, noise()[: 2 * FACES], table)
    _, found = run(experiment, folder)
    assert (found["accuracy"]["value"], found["accuracy"]["note"]) == (None, "fold 0 has no impostor pair")
    assert found["roc_auc"]["value"] is not None


def test_people_without_a_second_photo_are_told(experiment, folder):
    table = split_table().iloc[::FACES]
    data_of(folder, table)
    write(folder, noise()[::FACES], table)
    with pytest.raises(
        DataError, match=r"^12 people cannot be evaluated: there is no genuine pair"
    ) as caught:
        run(experiment, folder)
    assert caught.value.exit_code == 3


# --- on a list of pairs, in parts ---


def listed_pairs(people=PEOPLE):
    """In each fold every person once with themselves and once with the next person of the fold."""
    for fold in range(FOLDS):
        own = [f"p{person:02}" for person in range(people) if person % FOLDS == fold]
        for name, other in zip(own, own[1:] + own[:1], strict=True):
            yield Pair("list", fold, f"{name}/0", f"{name}/1", True)
            yield Pair("list", fold, f"{name}/0", f"{other}/2", False)


@pytest.fixture
def by_list(small, tmp_path):
    """An experiment on a list in two parts, with the folder of its data."""
    table = split_table()
    table["part"] = table["fold"]
    data_of(tmp_path, table, listed_pairs())
    return small(split={"pairs": "list", "rotations": 2}), tmp_path, table


def by_name(content):
    return {(each["name"], each["condition"]): each for each in content["metrics"]}


def test_a_list_in_parts_is_measured_on_its_pairs_and_on_all_pairs_of_each_part(by_list):
    experiment, folder, table = by_list
    write(folder, perfect(), table)
    content, _ = run(experiment, folder)
    found = by_name(content)
    assert found["accuracy", ""]["value"] == 1
    assert found["accuracy", ""]["n"] == 2 * PEOPLE
    # In each part half of the people, so a quarter of all pairs but those of a person.
    faces = PEOPLE // 2 * FACES
    assert found["roc_auc", "all pairs"]["n"] == 2 * (faces * (faces - 1) // 2)
    assert found["roc_auc", "all pairs"]["value"] == 1
    assert found["rank1", ""]["value"] == 1
    assert "mean of 2 parts" in found["rank1", ""]["note"]
    assert found["brier", ""]["value"] < 0.05
    assert "part" in content["setting"]


def test_faces_of_two_parts_are_never_compared(by_list):
    """The parts' networks may turn their spaces: nothing that is measured moves."""
    experiment, folder, table = by_list
    vectors = noise()
    write(folder, vectors, table)
    plain, _ = run(experiment, folder)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(32, 32)))[0]
    second = (table[table["role"] == "evaluation"]["part"] == 1).to_numpy()
    write(folder, np.where(second[:, None], vectors @ turn, vectors), table)
    turned, _ = run(experiment, folder, "turned")
    for one, other in zip(plain["metrics"], turned["metrics"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-6)


def test_a_pair_of_two_parts_is_left_out_of_the_list(by_list):
    experiment, folder, table = by_list
    across = Pair("list", 0, "p00/0", "p01/3", False)
    data_of(folder, table, [*listed_pairs(), across])
    write(folder, noise(), table)
    run(experiment, folder)
    scores = read_table(folder / "evaluate" / layout.SCORES)
    assert len(scores) == 2 * PEOPLE
    assert not ((scores["first"] == "p00") & (scores["second"] == "p01")).any()


def test_two_perfect_networks_with_shifted_scores_are_perfect(by_list):
    """A threshold and a curve belong to one network: another's scores may lie anywhere."""
    experiment, folder, table = by_list
    # In the second part all faces share a direction: strangers there are nearer than one person in the first.
    second = (table[table["role"] == "evaluation"]["part"] == 1).to_numpy()
    spread = perfect() + 0.1 * np.random.default_rng(0).normal(size=perfect().shape)
    vectors = np.where(second[:, None], perfect() + 20 * perfect().mean(axis=0), spread)
    write(folder, vectors, table)
    content, _ = run(experiment, folder)
    scores = read_table(folder / "evaluate" / layout.SCORES)
    assert scores.loc[~scores["genuine"], "score"].max() > scores.loc[scores["genuine"], "score"].min()
    found = by_name(content)
    assert found["accuracy", ""]["value"] == 1
    assert found["roc_auc", ""]["value"] == 1
    assert found["eer", ""]["value"] == 0


def test_the_health_of_the_training_is_handed_on(experiment, folder):
    write(folder, noise())
    assert run(experiment, folder)[0]["health"] == []
    source = folder / "embed" / layout.METRICS
    health = [{"learnt": False, "reason": "it collapsed"}]
    source.write_bytes(files.dump_json(read_json(source) | {"health": health}))
    assert run(experiment, folder, "again")[0]["health"] == health


def test_a_face_that_was_not_found_is_a_rejected_pair_and_is_told(by_list):
    experiment, folder, table = by_list
    gone = "p00/1"
    data = layout.DataFolder(folder)
    kept = table[table["sample_id"] != gone]
    records.write_table(data.split, kept, layout.SPLIT_COLUMNS)
    vectors = perfect()[(table[table["role"] == "evaluation"]["sample_id"] != gone).to_numpy()]
    write(folder, vectors, kept)
    content, _ = run(experiment, folder)
    accuracy = by_name(content)["accuracy", ""]
    assert accuracy["n"] == 2 * PEOPLE
    assert accuracy["value"] == pytest.approx(
        1 - 1 / 40
    )  # of two genuine pairs in one of five folds, in one part
    assert "face was not found: 1" in accuracy["note"]


def test_embeddings_that_another_parts_model_made_are_refused(by_list):
    experiment, folder, table = by_list
    write(folder, perfect(), table.assign(part=1 - table["part"]))
    with pytest.raises(IntegrityError, match="may have been trained on them"):
        run(experiment, folder)


def test_a_list_that_names_no_pair_is_told(by_list):
    experiment, folder, table = by_list
    write(folder, perfect(), table)
    records.write_table(folder / "pairs.parquet", pairs_table([]), layout.PAIR_COLUMNS)
    with pytest.raises(DataError, match="holds no pair of list"):
        run(experiment, folder)


def test_the_accuracy_alone_is_that_of_the_whole_evaluation(by_list):
    experiment, folder, table = by_list
    write(folder, noise(), table)
    content, _ = run(experiment, folder)
    task = Task(experiment, "random", 1, layout.DataFolder(folder), folder / "evaluate")
    parts = [accuracy(task, folder / "embed" / layout.EMBEDDINGS, part) for part in range(2)]
    assert np.mean([each.value for each in parts]) == by_name(content)["accuracy", ""]["value"]
    assert parts[0].n == PEOPLE  # half of the pairs


def test_many_people_are_measured_on_the_generated_pairs(experiment, folder, monkeypatch):
    monkeypatch.setattr("facemae.stages.evaluate.MOST_PAIRS", 100)
    table = split_table()
    data_of(folder, table, (replace(pair, protocol="generated") for pair in listed_pairs()))
    write(folder, perfect())
    content, _ = run(experiment, folder)
    assert by_name(content)["accuracy", ""]["n"] == 2 * PEOPLE
    assert by_name(content)["roc_auc", "all pairs"]["n"] == PEOPLE * FACES * (PEOPLE * FACES - 1) // 2


def test_the_open_set_enrols_half_of_the_people_of_a_part(by_list, monkeypatch):
    experiment, folder, table = by_list
    write(folder, perfect(), table)
    seen = []
    monkeypatch.setattr(
        identification,
        "open_set",
        lambda vectors, identity, enrolled, *more: seen.append(identity[enrolled]) or [],
    )
    run(experiment, folder)
    assert [each.tolist() for each in seen] == [[0, 2, 4], [0, 2, 4]]  # of six people in each part
