"""Embeddings of any model through the protocols, and the commands `facemae evaluate` and `facemae embed`."""

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, RefusedError, UsageError
from facemae.evaluation import embedding_report
from facemae.evaluation.embedding_file import Embeddings, sidecar
from facemae.evaluation.embedding_report import Settings
from facemae.evaluation.pairs import EveryPair
from facemae.evaluation.protocols import identification, operating_point, pair_list
from facemae.evaluation.protocols.calibration import FMR_TARGETS
from facemae.models.build import build_embedder
from facemae.models.weights import save_weights
from facemae.stages import evaluate_file
from facemae.stages.evaluate_file import Options

QUICK = Settings(far_targets=(0.1,), resamples=100)


def made(people=12, shots=4, noise=0.5, seed=0, **more):
    rng = np.random.default_rng(seed)
    names = [f"p{person:02}" for person in range(people) for _ in range(shots)]
    ids = [f"{name}/{n % shots}" for n, name in enumerate(names)]
    centres = np.repeat(rng.normal(size=(people, 8)), shots, axis=0)
    vectors = centres + noise * rng.normal(size=(len(ids), 8))
    return Embeddings("E", ids, vectors, list(names), **more)


def pairs_of(people=12, shots=4, folds=3):
    """Each person's first photo with the second, and with the next person's; folds of people."""
    rows = []
    for person in range(people):
        other = person // (people // folds) * (people // folds) + (person + 1) % (people // folds)
        for shot in range(1, shots):
            fold = person // (people // folds)
            rows.append((f"p{person:02}/0", f"p{person:02}/{shot}", True, fold))
            rows.append((f"p{person:02}/0", f"p{other:02}/{shot}", False, fold))
    return pd.DataFrame(rows, columns=["first", "second", "genuine", "fold"])


def named(report):
    return {each.name: each for each in report.measured}


# --- a list of pairs ---


def test_a_list_is_measured_by_its_cosines_and_its_people():
    embeddings, pairs = made(), pairs_of()
    report = embedding_report.evaluate(embeddings, pairs, QUICK)
    rows = dict(zip(embeddings.sample_ids, embeddings.vectors, strict=True))
    cosine = [
        rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])
        for a, b in zip(pairs["first"], pairs["second"], strict=True)
    ]
    people = [[int(name[1:3]) for name in pairs[side]] for side in ("first", "second")]
    listed = pair_list.comparisons(np.array(cosine), *map(np.array, people), pairs["genuine"])
    expected = pair_list.measure(listed, pairs["fold"], (0.1,))
    for each in expected:
        found = named(report)[each.name]
        assert (found.value, found.note) == (
            pytest.approx(each.value) if each.value else each.value,
            each.note,
        )
    pd.testing.assert_series_equal(named(report)["accuracy"].influence, expected[-1].influence)
    assert {"brier", "ece"} <= set(named(report))
    assert (report.people, report.photos, report.notes) == (12, 48, [])
    assert len(report.card) == len(FMR_TARGETS)


def test_pairs_that_several_models_scored_keep_their_scores_and_it_is_said():
    pairs = pairs_of()
    score = np.where(pairs["genuine"], 3.0, -3.0)
    report = embedding_report.evaluate(made(), pairs.assign(score=score), QUICK)
    assert named(report)["accuracy"].value == named(report)["roc_auc"].value == 1.0
    assert "a model of its own" in report.notes[0]


def test_a_face_that_was_not_found_is_its_persons_failure():
    whole, pairs = made(), pairs_of()
    gone = whole.sample_ids.index("p03/1")
    keep = [n for n in range(48) if n != gone]
    lost = Embeddings(
        "E", [whole.sample_ids[n] for n in keep], whole.vectors[keep], [whole.people[n] for n in keep],
        without_face={"p03/1": None},
    )  # fmt: skip
    report = embedding_report.evaluate(lost, pairs, QUICK)
    assert report.people == 12  # its genuine pair says whose photo it is
    assert named(report)["accuracy"].note.endswith("pairs rejected since a face was not found: 2")
    assert report.notes == []


def test_people_who_are_not_named_are_photos_and_it_is_said():
    whole = made()
    unnamed = Embeddings("E", whole.sample_ids, whole.vectors, [None] * 48)
    report = embedding_report.evaluate(unnamed, pairs_of(), QUICK)
    assert (report.people, report.photos) == (0, 48)
    assert named(report)["accuracy"].influence.abs().sum() > 0
    assert report.notes == [
        "48 of 48 photos name nobody: the resamples behind the intervals draw photos in the place of people."
    ]
    known = embedding_report.evaluate(whole, pairs_of(), QUICK)
    assert named(report)["accuracy"].value == named(known)["accuracy"].value


def test_a_list_that_contradicts_the_people_is_believed_and_it_is_said():
    pairs = pairs_of()
    pairs["genuine"] = np.random.default_rng(0).permutation(pairs["genuine"])
    report = embedding_report.evaluate(made(noise=0.1), pairs, QUICK)
    assert abs(named(report)["accuracy"].value - 0.5) < 0.2
    assert report.notes[-1].startswith("Pairs of other people than the list says")


def test_pairs_that_are_listed_twice_are_counted():
    pairs = pairs_of()
    turned = pairs[:3].rename(columns={"first": "second", "second": "first"})
    report = embedding_report.evaluate(made(), pd.concat([pairs, turned]), QUICK)
    assert "Pairs listed more than once: 3." in report.notes


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda pairs: pairs[pairs["genuine"]], DataError, "36 genuine and 0 impostor pairs, and 5 of each"),
        (lambda pairs: pairs[~pairs["genuine"]], DataError, "0 genuine and 36 impostor pairs"),
        (lambda pairs: pairs[:6], DataError, "3 genuine and 3 impostor pairs, and 5 of each are needed"),
        (
            lambda pairs: pairs.assign(second=["nobody/1", *pairs["second"][1:]]),
            IntegrityError,
            "1 photos of the list are not in E, nobody/1 for example",
        ),
    ],
)
def test_lists_that_cannot_be_measured(change, error, told):
    with pytest.raises(error) as caught:
        embedding_report.evaluate(made(), change(pairs_of()), QUICK)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# --- people who are named ---


def test_all_faces_of_named_people_are_measured():
    report = embedding_report.evaluate(made(people=24, noise=0.3), None, QUICK)
    found = named(report)
    assert {"accuracy", "roc_auc", "eer", "tar_at_far=0.1", "rank1", "brier", "ece"} <= set(found)
    pairs = EveryPair.of(made(people=24, noise=0.3).vectors, np.repeat(np.arange(24), 4))
    assert report.card["threshold"][0] == operating_point.threshold_at(pairs.impostors, 0.1)
    assert found["roc_auc"].n == 96 * 95 // 2
    assert found["accuracy"].note.startswith("on pairs drawn from the people; standard error ")
    assert found["accuracy"].value > 0.8
    assert found["rank1"].n == 24 * 3
    assert (report.people, report.photos) == (24, 96)


def test_more_pairs_than_memory_holds_refuse_the_thresholds_and_not_the_rest(monkeypatch):
    monkeypatch.setattr("facemae.evaluation.pairs.MOST_PAIRS", 1000)
    monkeypatch.setattr("facemae.evaluation.protocols.all_pairs.EXACT_PAIRS", 1000)
    report = embedding_report.evaluate(made(people=24), None, QUICK)
    found, why = named(report), "96 images make 4560 pairs, at most 1000 are compared"
    assert found["roc_auc"].note == why
    assert found["rank1"].value is not None
    assert set(report.card["note"]) == {why}
    text = embedding_report.as_text(report, 0.95)
    assert f"0.1         {why}" in text
    assert json.loads(json.dumps(embedding_report.as_json(report, 0.95), allow_nan=False))


def test_the_open_set_enrols_half_of_those_who_are_shown_twice(monkeypatch):
    seen = []
    monkeypatch.setattr(
        identification,
        "open_set",
        lambda vectors, identity, enrolled, *more: seen.append(identity[enrolled]) or [],
    )
    whole = made(people=24)
    embedding_report.evaluate(whole, None, QUICK)
    assert len(set(seen[0].tolist())) == len(seen[0]) == 12
    once = [n for n, name in enumerate(whole.sample_ids) if name.endswith("/0") or name < "p12"]
    some = Embeddings(
        "E", [whole.sample_ids[n] for n in once], whole.vectors[once], [whole.people[n] for n in once]
    )
    embedding_report.evaluate(some, None, QUICK)
    assert 0 < len(seen[1]) < 12
    assert seen[1].max() < 12  # who is shown once has no second photo to be found


def test_the_order_of_the_photos_does_not_matter():
    whole = made(people=24)
    order = np.random.default_rng(0).permutation(96)
    shuffled = Embeddings(
        "E", [whole.sample_ids[n] for n in order], whole.vectors[order], [whole.people[n] for n in order]
    )
    one, other = (named(embedding_report.evaluate(each, None, QUICK)) for each in (whole, shuffled))
    for name, each in one.items():
        assert other[name].value == pytest.approx(each.value, abs=1e-9)


def test_folds_have_both_kinds_of_pairs_whatever_the_sizes():
    for sizes in ([2, 2, 1, 1], [5] * 3 + [1] * 40, [3] * 100):
        fold = embedding_report._folds(np.array(sizes))
        for number in set(fold):
            assert (fold == number).sum() >= 2
            assert (np.array(sizes)[fold == number] > 1).any()
    with pytest.raises(RefusedError, match="two folds take 4 people"):
        embedding_report._folds(np.array([3, 1, 1, 1]))


def test_too_few_people_for_folds_refuse_accuracy_and_not_the_rest():
    report = embedding_report.evaluate(made(people=3), None, QUICK)
    assert named(report)["accuracy"].value is None
    assert "two folds take 4 people" in named(report)["accuracy"].note
    assert named(report)["roc_auc"].value is not None
    content = embedding_report.as_json(report, 0.95)
    assert (content["accuracy"], content["ci_low"], content["ci_high"]) == (None, None, None)
    assert "two folds take 4 people" in content["reason"]


def test_groups_are_compared_where_there_are_any():
    people = 80
    groups = {f"p{n:02}": "a" if n % 2 else "b" for n in range(people)}
    found = embedding_report.evaluate(made(people=people, groups=groups), None, QUICK).measured
    by_group = {(each.name, each.condition): each for each in found if each.protocol == "fairness"}
    fmr, fnmr = ([by_group[rate, group].value for group in "ab"] for rate in ("fmr", "fnmr"))
    assert by_group["fdr", ""].value == pytest.approx(1 - (np.ptp(fmr) + np.ptp(fnmr)) / 2)
    assert np.ptp(fmr) + np.ptp(fnmr) > 0


def test_photos_that_name_nobody_are_left_out_and_counted():
    whole = made()
    some = Embeddings(
        "E", whole.sample_ids, whole.vectors, [None, *whole.people[1:]], without_face={"x": None}
    )
    report = embedding_report.evaluate(some, None, QUICK)
    assert report.photos == 47
    assert report.notes == [
        "Photos that name nobody and are left out: 1.", "Photos without a face, left out: 1.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("embeddings", "error", "told"),
    [
        (Embeddings("E", ["a", "b"], np.eye(2), [None, None]), UsageError, "E names no person; add a column"),
        (Embeddings("E", ["a", "b"], np.eye(2), ["a", "a"]), DataError, "E shows 1 people"),
        (Embeddings("E", ["a", "b"], np.eye(2), ["a", "b"]), DataError, "2 people, 0 of them on several"),
        (
            made(trained_on=frozenset({"p03", "q"})),
            IntegrityError,
            "1 of 12 people, p03 for example, are among",
        ),
    ],
)
def test_people_who_cannot_be_measured(embeddings, error, told):
    with pytest.raises(error) as caught:
        embedding_report.evaluate(embeddings, None, QUICK)
    assert told in str(caught.value)


def test_training_people_are_refused_on_a_list_only_if_it_names_them():
    embeddings = made(trained_on=frozenset({"p00"}))
    with pytest.raises(IntegrityError, match="p00 for example"):
        embedding_report.evaluate(embeddings, pairs_of(), QUICK)
    pairs = pairs_of()
    pairs = pairs[~(pairs["first"] + pairs["second"]).str.contains("p00")]
    assert named(embedding_report.evaluate(embeddings, pairs, QUICK))["accuracy"].value is not None


# --- the commands ---


@pytest.fixture
def facemae(monkeypatch, command_line, tmp_path):
    """Return a function that runs a command line in this process: exit code, output, errors."""

    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture
def written(tmp_path):
    """The embeddings as a file, and the list of pairs."""
    embeddings = made()
    table = pd.DataFrame(
        {
            "sample_id": embeddings.sample_ids,
            "person": embeddings.people,
            "embedding": list(embeddings.vectors),
        }
    )
    table.to_parquet(tmp_path / "e.parquet")
    pairs_of().to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path


def test_the_command_prints_a_table_and_ends_with_json(facemae, written):
    code, out, _ = facemae(
        "evaluate", "--embeddings", "e.parquet", "--pairs", "pairs.csv", "--far", 0.1, "--resamples", 100,
        "--json", "--out", "found",
    )  # fmt: skip
    assert code == 0
    content = json.loads(out.splitlines()[-1])
    assert content["ci_low"] <= content["accuracy"] <= content["ci_high"]
    assert content["reason"] == ""
    entries = {each["name"]: each for each in content["metrics"]}
    assert entries["accuracy"]["value"] == content["accuracy"]
    assert set(entries) == {
        "roc_auc",
        "eer",
        "tar_at_far=0.1",
        "far_at_target=0.1",
        "accuracy",
        "brier",
        "ece",
    }
    assert entries["tar_at_far=0.1"]["note"] == "needs 300 impostor pairs, this evaluation has 36"
    assert out.startswith("48 photos, 12 people named\n")
    assert f"{content['accuracy']:.4f}" in out
    assert "wanted FMR" in out
    assert "not enough impostors for this claim" in out
    kept = records.read_json(written / "found" / layout.METRICS)
    assert kept["metrics"] == content["metrics"]
    card = pd.read_csv(written / "found" / evaluate_file.CARD)
    assert card["target_fmr"].to_list() == list(FMR_TARGETS)


def test_the_same_command_gives_the_same_numbers(facemae, written):
    runs = [facemae("evaluate", "--embeddings", "e.parquet", "--resamples", 100, "--json") for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert json.loads(runs[0][1].splitlines()[-1])["accuracy"] is not None


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "Give one of --embeddings, --images and --data"),
        (["--recogniser", "dlib"], 2, "Give one of"),
        (["--images", "photos", "--data", "lfw"], 2, "Give one of"),
        (["--embeddings", "e.parquet", "--model", "dlib"], 2, "--embeddings need no model"),
        (["--images", "photos", "--model", "fisherfaces"], 2, "learns from a data set with pairs"),
        (["--images", "photos", "--model", "nobody"], 2, "neither a name that facemae models lists nor"),
        (["--embeddings", "e.parquet", "--protocol", "view2"], 2, "--embeddings have no lists"),
        (["--embeddings", "none.parquet"], 2, "none.parquet cannot be read (No such file or directory)"),
        (["--embeddings", "e.parquet", "--pairs", "none.csv"], 2, "none.csv cannot be read"),
        (["--embeddings", "pairs.csv"], 2, "neither .parquet nor .npz"),
        (["--embeddings", "e.parquet", "--far", "0"], 2, "--far 0 is no rate between 0 and 1"),
        (["--embeddings", "e.parquet", "--level", "1"], 2, "--level 1 is not between"),
        (["--embeddings", "e.parquet", "--resamples", "39"], 2, "use 40 or more"),
        (["--embeddings", "e.parquet", "--resamples", "1000000000"], 2, "are more than 100000; use fewer"),
    ],
)
def test_commands_that_cannot_be_followed(facemae, written, arguments, code, told):
    found, out, err = facemae("evaluate", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("facemae: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("named", [["--model", "finetune"], []])
def test_photos_are_embedded_and_evaluated_with_one_command(facemae, tmp_path, experiment, orl_images, named):
    stage = tmp_path / "finetune"
    stage.mkdir()
    model = experiment.defaults.model
    save_weights(build_embedder(model, 32), stage / layout.EMBEDDER)
    files.write_json(stage / layout.CONFIG, {"model": model.model_dump(), "image_size": 32})
    for number, image in enumerate(orl_images):
        path = tmp_path / "photos" / f"p{number // 2}" / f"{number % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((128, 128)).save(path)
    rows = [(f"p{n}/0.png", f"p{n}/1.png", 1) for n in range(8)]
    rows += [(f"p{n}/0.png", f"p{(n + 1) % 8}/1.png", 0) for n in range(8)]
    table = pd.DataFrame(rows, columns=["first", "second", "same"])
    table.to_csv(tmp_path / "photos" / "pairs.csv", index=False)
    options = ["--images", "photos", *named]
    code, _, err = facemae("embed", *options, "--out", "e.parquet", "--align", "crop", "--device", "cpu")
    assert (code, "16 faces of 8 people in e.parquet" in err) == (0, True)
    model_name = records.read_json(sidecar(tmp_path / "e.parquet"))["name"]
    assert (model_name == "dlib") == ("finetune" not in named)
    code, out, err = facemae("evaluate", *options, "--align", "crop", "--resamples", 100, "--json")
    assert code == 0, err
    content = json.loads(out.splitlines()[-1])  # on the pairs that the folder lists
    assert {each["name"]: each["n"] for each in content["metrics"]}["accuracy"] == 16
    renamed = table.rename(columns={"same": "genuine"})
    renamed.to_csv(tmp_path / "mine.csv", index=False)
    code, out, _ = facemae(
        "evaluate", "--embeddings", "e.parquet", "--pairs", "mine.csv", "--resamples", 100, "--json"
    )
    assert json.loads(out.splitlines()[-1])["accuracy"] == pytest.approx(content["accuracy"])


@pytest.mark.parametrize("option", ["--recogniser", "--model"])
def test_a_recogniser_is_asked_for_its_embeddings_of_a_list(facemae, monkeypatch, tmp_path, option):
    embeddings, asked = made(), []
    table = pd.DataFrame(
        {
            "sample_id": embeddings.sample_ids,
            "person": embeddings.people,
            "embedding": list(embeddings.vectors),
        }
    )

    def embeddings_of(name, data, raw_dir, cache, protocol=None, workers=1, everybody=False):
        asked.append((name, data, raw_dir, cache, protocol, workers))
        return table[table["sample_id"] != "p03/1"], pairs_of().assign(protocol="lfw-view2")

    fake = types.SimpleNamespace(embeddings_of=embeddings_of)
    monkeypatch.setitem(sys.modules, "facemae.stages.embed_dataset", fake)
    monkeypatch.setattr("facemae.stages.embed_dataset", fake, raising=False)
    arguments = ["evaluate", option, "dlib", "--data", "lfw", "--resamples", 100, "--cache", "kept"]
    code, out, _ = facemae(*arguments, "--protocol", "view2", "--workers", 2, "--json")
    assert code == 0
    assert [(*each[:2], str(each[3]), *each[4:]) for each in asked] == [
        ("dlib", "lfw", "kept", "lfw-view2", 2)
    ]
    content = json.loads(out.splitlines()[-1])
    notes = {each["name"]: each["note"] for each in content["metrics"]}
    assert notes["accuracy"].endswith("pairs rejected since a face was not found: 2")
    assert facemae(*arguments)[0] == 0  # there is one list alone
    code, _, err = facemae(*arguments, "--protocol", "view1")
    assert (code, "--protocol lfw-view1-test: the lists of pairs are lfw-view2" in err) == (2, True)


def test_a_list_is_chosen_by_its_name():
    pairs = pd.concat([pairs_of().assign(protocol=name) for name in ("lfw-view2", "lfw-view1-test")])
    for name, full in (("view2", "lfw-view2"), ("view1", "lfw-view1-test"), ("lfw-view2", "lfw-view2")):
        assert evaluate_file.of_protocol(pairs, name)["protocol"].unique().tolist() == [full]
    with pytest.raises(UsageError, match=r"--protocol \(not given\): the lists of pairs are lfw-view2, lfw-"):
        evaluate_file.of_protocol(pairs, None)
    with pytest.raises(UsageError, match="--protocol view3"):
        evaluate_file.of_protocol(pairs, "view3")
    with pytest.raises(UsageError, match="the lists of pairs are none"):
        evaluate_file.of_protocol(pairs[:0], None)


def test_what_is_asked_for_is_checked_before_anything_is_made():
    with pytest.raises(UsageError, match="both choose a list"):
        evaluate_file.inputs(Options(model="pca", data="lfw", protocol="view2", pairs=Options().cache))
