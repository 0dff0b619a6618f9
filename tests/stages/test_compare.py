import json
import random

import numpy as np
import pandas as pd
import pytest

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.core.records import read_json, read_table
from facemae.evaluation.statistics import identity_weights
from facemae.evaluation.verdict import ONE_SEED
from facemae.stages.compare import COMPARED, compare

PEOPLE, RESAMPLES = 30, 200
LOWER = ("eer", "age_error")
OF_PAIRS = ("roc_auc", "eer", "accuracy")  # whose people are told by influence; of the others by resamples
WEIGHTS = identity_weights(PEOPLE, RESAMPLES, 0)
EASE = np.random.default_rng(0).normal(0, 0.1, PEOPLE)  # how easy each person is, for every run alike


@pytest.fixture
def made(small, tmp_path):
    """Return a function that lays out the evaluate folders of runs with known quality and compares them."""

    def make(gains, *, runs=None, seeds=(0, 1, 2), baselines=(), primary="roc_auc", people=PEOPLE, skip=()):
        runs = {name: {} for name in gains if name not in baselines} if runs is None else runs
        dropped = {
            name: None for name in ("scratch", "random", "block", "grid", "region") if name not in runs
        }
        experiment = small(
            seeds=list(seeds), runs=dropped | runs, baselines=list(baselines),
            evaluate={"primary": primary, "resamples": RESAMPLES, "equivalence_years": 0.01},
        )  # fmt: skip
        for name, gain in gains.items():
            for seed in experiment.seeds_of(name):
                if (name, seed) not in skip:
                    write(Results(tmp_path).stage(name, seed, "evaluate"), name, seed, gain, people)
        return experiment

    return make


TABLES = (layout.RESAMPLES, layout.INFLUENCE)


def reseal(folder):
    """Make the metrics name the tables as they are now."""
    content = read_json(folder / layout.METRICS)
    content["tables"] = {name: files.sha256_of(folder / name) for name in TABLES}
    files.write_json(folder / layout.METRICS, content)


def write(folder, name, seed, gain, people=PEOPLE, precision="float32"):
    luck = np.random.default_rng([len(name), *name.encode(), seed]).normal(0, 0.001)
    own = np.random.default_rng([*name.encode()]).normal(0, 0.003, PEOPLE)
    by_person = 0.7 + EASE + own - own.mean() + gain + luck
    values = {name: by_person if name not in LOWER else 1 - by_person for name in COMPARED}
    entries = [
        records.metric(key, float(value.mean()), n=9, interval=(0.0, 1.0), protocol="verification")
        for key, value in values.items()
    ]
    entries.append(records.metric("tar_at_far=0.001", None, n=9, note="needs more pairs"))
    views = 2 if name == "views" else 1
    images = {} if name == "scratch" else {"pretrain": 320 * views}
    seconds = {} if name == "scratch" else {"pretrain": 5.0 * views**2}
    of_pairs = [key for key in values if key in OF_PAIRS]
    table = pd.DataFrame({key: WEIGHTS @ values[key] / PEOPLE for key in values if key not in of_pairs})
    records.write_table(folder / layout.RESAMPLES, table, list(table.columns))
    moved = {key: (values[key] - values[key].mean()) / PEOPLE for key in of_pairs}
    table = pd.DataFrame({"first": range(PEOPLE), "second": range(PEOPLE)} | moved)
    records.write_table(folder / layout.INFLUENCE, table, list(table.columns))
    records.write_metrics(
        folder, entries, seed=seed, device=f"cpu, {precision}", people=people, dataset="orl", tables=TABLES,
        evaluated=str(people), setting="outside data", images_seen={"finetune": 640} | images,
        energy_joules={}, seconds={"finetune": 10.0 + seed} | seconds, precision={"finetune": precision},
    )  # fmt: skip


def judged(experiment, root, metric="roc_auc"):
    """Compare, and return the verdicts of one metric by pair."""
    compare(experiment, root)
    return verdicts_of(root, metric)


def verdicts_of(root, metric):
    table = read_table(Results(root).verdicts)
    assert list(table.columns) == layout.VERDICT_COLUMNS
    rows = table[table["metric"] == metric]
    return {(row.run_a, row.run_b): row for row in rows.itertuples()}


def test_a_known_difference_is_called_and_none_is_equivalent(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "block": -0.1, "grid": 0.0})
    compare(experiment, tmp_path)
    for metric in COMPARED:
        found = verdicts_of(tmp_path, metric)
        verdicts = {pair: row.verdict for pair, row in found.items()}
        assert verdicts == {
            ("random", "scratch"): "better", ("block", "scratch"): "worse", ("grid", "scratch"): "equivalent",
            ("block", "random"): "worse", ("grid", "random"): "worse", ("grid", "block"): "better",
        }  # fmt: skip
        sign = -1 if metric in LOWER else 1  # an error rate that falls is an improvement
        row = found["random", "scratch"]
        assert sign * row.difference == pytest.approx(0.1, abs=0.01)
        assert row.ci_low < row.difference < row.ci_high
        assert row.ci_low * row.ci_high > 0
        assert found["grid", "scratch"].detectable < 0.05


def test_every_pair_is_judged_once_and_families_are_corrected(made, tmp_path):
    names = ["scratch", "random", "block", "grid", "region"]
    gains = dict.fromkeys(names, 0.0) | {"pixels": -0.2, "random_weights": -0.1}
    experiment = made(gains, runs={name: {} for name in names}, baselines=["pixels", "random_weights"])
    found = judged(experiment, tmp_path)
    among = [pair for pair in found if set(pair) <= set(names)]
    decisive = [pair for pair in found if found[pair].family == "primary"]
    assert decisive == [
        (mask, control) for control in ("scratch", "random") for mask in names[1:] if mask != control
    ]
    assert {row.family for pair, row in found.items() if pair not in decisive} == {"exploratory"}
    assert len(among) == 10
    assert len({frozenset(pair) for pair in found}) == len(found) == 10 + 5 * 2
    assert all(second == "scratch" for first, second in among if "scratch" in (first, second))
    controls = [pair for pair in found if pair not in among]
    for family in (decisive, [pair for pair in among if pair not in decisive], controls):
        smallest = min(family, key=lambda pair: found[pair].p_value)
        assert found[smallest].p_adjusted == pytest.approx(min(1, len(family) * found[smallest].p_value))
    assert {found[pair].verdict for pair in controls} == {"better"}


def test_seeds_are_paired_and_averaged(made, tmp_path):
    found = judged(made({"scratch": 0.0, "random": 0.05}), tmp_path)["random", "scratch"]
    values = {
        name: [
            next(
                entry["value"]
                for entry in read_json(Results(tmp_path).stage(name, seed, "evaluate") / layout.METRICS)[
                    "metrics"
                ]
                if entry["name"] == "roc_auc"
            )
            for seed in range(3)
        ]
        for name in ("random", "scratch")
    }
    assert found.difference == pytest.approx(np.mean(values["random"]) - np.mean(values["scratch"]))
    assert found.seconds_difference == pytest.approx(5.0)


def test_one_seed_decides_nothing(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "pixels": -0.2}, baselines=["pixels"], seeds=[3])
    found = judged(experiment, tmp_path)
    assert {(row.verdict, row.note) for row in found.values()} == {("undecided", ONE_SEED)}
    leaderboard = read_table(Results(tmp_path).leaderboard).set_index(["run", "metric"])
    assert leaderboard.loc[("random", "roc_auc"), "note"] == "one seed: people only"
    assert leaderboard.loc[("pixels", "roc_auc"), "note"] == ""
    words = read_json(Results(tmp_path).verdict)
    assert words["headline"].startswith("Whether pretraining with masks helps cannot be told yet")
    assert f"Undecided because {ONE_SEED}." in words["sentences"]
    assert words["noise"] == {}


def test_other_metrics_than_the_primary_one_are_exploratory(made, tmp_path):
    found = judged(made(dict.fromkeys(["scratch", "random", "block"], 0.0)), tmp_path, "rank1")
    assert {row.family for row in found.values()} == {"exploratory"}


def test_a_run_that_has_not_learnt_is_refused_and_does_not_count_for_the_others(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "block": 0.2})

    path = Results(tmp_path).stage("block", 1, "evaluate") / layout.METRICS
    content = read_json(path)
    health = [{"learnt": True, "reason": ""}, {"learnt": False, "reason": "the loss stays at chance"}]
    content |= {"health": health}
    content["metrics"][0]["value"] -= 0.5  # and its seeds differ wildly
    path.write_bytes(files.dump_json(content))
    found = judged(experiment, tmp_path)
    for pair in (("block", "scratch"), ("block", "random")):
        assert found[pair].verdict == "undecided"
        assert found[pair].note == "block has not learnt: the loss stays at chance"
    assert found["random", "scratch"].verdict == "better"
    assert found["random", "scratch"].detectable < 0.02


def test_training_is_estimated_from_all_runs_together(made, tmp_path):
    """Seeds of two runs that agree by luck make no verdict: all runs say how far seeds differ."""
    names = ["scratch", "random", "block", "grid", "region"]
    experiment = made(dict.fromkeys(names, 0.0))
    for name in names:
        for seed in range(3):
            path = Results(tmp_path).stage(name, seed, "evaluate") / layout.METRICS
            content = read_json(path)
            luck = 0.0 if name in ("scratch", "random") else 0.05 * (seed - 1) * (-1) ** len(name)
            content["metrics"][0]["value"] = 0.7 + luck + 0.03 * (name == "random")
            path.write_bytes(files.dump_json(content))
    found = judged(experiment, tmp_path)["random", "scratch"]
    assert found.difference == pytest.approx(0.03)
    assert found.ci_low < 0


@pytest.mark.parametrize("names", [["random", "block"], ["scratch"], ["scratch", "random"]])
def test_without_scratch_pretraining_or_baselines_there_are_still_tables(made, tmp_path, names):
    found = judged(made(dict.fromkeys(names, 0.0)), tmp_path)
    assert len(found) == len(names) * (len(names) - 1) // 2
    words = read_json(Results(tmp_path).verdict)
    assert words["headline"].startswith("No verdict on pretraining") == (names == ["scratch"])
    leaderboard = read_table(Results(tmp_path).leaderboard)
    assert set(leaderboard["run"]) == set(names)
    assert set(leaderboard["kind"]) == {"run"}


def test_the_tables_hold_a_row_per_run_seed_and_metric(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "pixels": -0.1}, baselines=["pixels"])
    compare(experiment, tmp_path)
    summary, leaderboard = read_table(Results(tmp_path).summary), read_table(Results(tmp_path).leaderboard)
    assert list(summary.columns) == layout.SUMMARY_COLUMNS
    assert list(leaderboard.columns) == layout.LEADERBOARD_COLUMNS
    entries = len(COMPARED) + 1
    assert len(summary) == (3 + 3 + 1) * entries
    assert len(leaderboard) == 3 * entries
    assert not summary.duplicated(["run", "seed", "metric"]).any()
    facts = leaderboard.drop_duplicates("run").set_index("run")
    assert facts["kind"].to_dict() == {"scratch": "run", "random": "run", "pixels": "baseline"}
    assert facts["strategy"].to_dict() == {"scratch": "none", "random": "random", "pixels": "pixels"}
    assert facts["seeds"].to_dict() == {"scratch": 3, "random": 3, "pixels": 1}
    assert facts.loc["random", "mask_ratio"] == 0.75
    assert np.isnan(facts.loc["scratch", "mask_ratio"])
    assert facts.loc["random", ["seconds_pretrain", "seconds_finetune"]].to_list() == [5.0, 11.0]
    assert facts.loc["scratch", ["seconds_pretrain", "seconds_finetune"]].to_list() == [0.0, 11.0]
    assert summary.loc[(summary["run"] == "random") & (summary["seed"] == 2), "seconds"].unique() == [17.0]


def test_a_leaderboard_value_is_the_mean_over_seeds_within_its_interval(made, tmp_path):
    compare(made({"scratch": 0.0, "random": 0.1}), tmp_path)
    summary, leaderboard = read_table(Results(tmp_path).summary), read_table(Results(tmp_path).leaderboard)
    for row in leaderboard.itertuples():
        seeds = summary[(summary["run"] == row.run) & (summary["metric"] == row.metric)]
        if row.metric.startswith("tar"):
            assert np.isnan(row.value)
            assert row.note == "needs more pairs"
        else:
            assert row.value == pytest.approx(seeds["value"].mean())
            assert 0 <= row.ci_low < row.value < row.ci_high <= 1
            assert row.note == ""


def test_comparing_twice_gives_the_same_bytes(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "pixels": 0.0}, baselines=["pixels"])
    paths, found = Results(tmp_path), []
    for _ in range(2):
        compare(experiment, tmp_path)
        found.append(
            [path.read_bytes() for path in (paths.summary, paths.leaderboard, paths.verdicts, paths.verdict)]
        )
    assert found[0] == found[1]


# --- budgets ---


def test_a_note_names_every_setting_but_the_mask_that_differs(made, tmp_path):
    runs = {
        "scratch": {"pretrain": None, "finetune": {"layer_decay": 0.9}},
        "random": {},
        "block": {"pretrain": {"mask": "block"}},
        "half": {"pretrain": {"mask_ratio": 0.5}},
        "long": {
            "pretrain": {"mask": "grid", "steps": 20},
            "finetune": {"scale": 8.0},
            "model": {"depth": 3},
        },
    }
    experiment = made(dict.fromkeys((*runs, "pixels"), 0.0), runs=runs, baselines=["pixels"])
    notes = {pair: row.budget_note for pair, row in judged(experiment, tmp_path).items()}
    assert notes["block", "random"] == ""
    assert notes["half", "random"] == "differ in pretrain.mask_ratio"
    assert notes["long", "random"] == "differ in finetune.scale, model.depth, pretrain.steps"
    assert notes["random", "scratch"] == "differ in finetune.layer_decay, pretrain"
    assert notes["half", "pixels"] == "the control trains no network"


def test_a_note_tells_what_a_rival_saw_and_took(made, tmp_path):
    same = {"crop_min": 0.4, "brightness": 0.4, "grey": 0.2}
    runs = {
        "scratch": {"pretrain": None},
        "random": {"pretrain": same},
        "plain": {},
        "views": {"pretrain": {"method": "simclr", "views": same}},
    }
    experiment = made(dict.fromkeys(runs, 0.0), runs=runs)
    notes = {pair: row.budget_note for pair, row in judged(experiment, tmp_path).items()}
    spent = "2 times the images in 4 times the seconds of pretraining"
    assert notes["views", "random"] == f"differ in pretrain.method, pretrain.views; {spent}"
    assert notes["views", "plain"] == (
        "differ in pretrain.brightness, pretrain.crop_min, pretrain.grey, pretrain.method, pretrain.views; "
        + spent
    )
    assert notes["plain", "random"] == "differ in pretrain.brightness, pretrain.crop_min, pretrain.grey"


# --- what is missing or does not fit ---


@pytest.mark.parametrize("name", [layout.METRICS, layout.RESAMPLES, layout.INFLUENCE])
def test_a_missing_file_is_named(made, tmp_path, name):
    experiment = made({"scratch": 0.0, "random": 0.0})
    path = Results(tmp_path).stage("random", 1, "evaluate") / name
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{path} is missing; run the workflow to make it") as caught:
        compare(experiment, tmp_path)
    assert caught.value.exit_code == 4
    assert not Results(tmp_path).leaderboard.exists()


def test_a_missing_seed_or_baseline_is_told(made, tmp_path):
    experiment = made({"scratch": 0.0, "pixels": 0.0}, baselines=["pixels"], skip=[("pixels", 0)])
    with pytest.raises(IntegrityError, match=r"pixels/0/evaluate/metrics\.json is missing"):
        compare(experiment, tmp_path)


def test_runs_on_other_people_are_not_compared(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.0})
    for seed in range(3):
        write(Results(tmp_path).stage("random", seed, "evaluate"), "random", seed, 0.0, people=PEOPLE - 1)
    with pytest.raises(IntegrityError, match="were evaluated on different people"):
        compare(experiment, tmp_path)


def test_a_seed_on_other_people_is_not_compared(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.0})
    write(Results(tmp_path).stage("random", 2, "evaluate"), "random", 2, 0.0, people=PEOPLE - 1)
    with pytest.raises(IntegrityError):
        compare(experiment, tmp_path)


def test_runs_with_other_resamples_are_told(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.0})
    for seed in range(3):
        path = Results(tmp_path).stage("random", seed, "evaluate") / layout.RESAMPLES
        table = read_table(path)
        records.write_table(path, table.iloc[:150], list(table.columns))
        reseal(path.parent)
    with pytest.raises(IntegrityError, match="different people or resamples"):
        compare(experiment, tmp_path)


@pytest.mark.parametrize("name", [*TABLES, layout.METRICS])
def test_a_file_of_another_run_is_refused(made, tmp_path, name):
    experiment = made({"scratch": 0.0, "random": 0.1})
    own, other = (Results(tmp_path).stage(run, 0, "evaluate") for run in ("random", "scratch"))
    (own / name).write_bytes((other / name).read_bytes())
    with pytest.raises(IntegrityError, match="is damaged, or of another run than"):
        compare(experiment, tmp_path)


def test_results_of_an_older_version_are_refused(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1})
    path = Results(tmp_path).stage("random", 0, "evaluate") / layout.METRICS
    files.write_json(path, read_json(path) | {"schema_version": 1})
    with pytest.raises(IntegrityError, match=r"another version of FaceMAE \(schema 1, this one reads 2\)"):
        compare(experiment, tmp_path)


def test_runs_of_different_precision_are_compared_only_on_request(made, small, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1, "pixels": -0.1}, baselines=["pixels"])
    for seed in range(3):
        write(Results(tmp_path).stage("random", seed, "evaluate"), "random", seed, 0.1, precision="bfloat16")
    match = r"scratch in float32 and random in bfloat16.* evaluate\.mixed_precision"
    with pytest.raises(IntegrityError, match=match):
        compare(experiment, tmp_path)
    asked = experiment.evaluate.model_copy(update={"mixed_precision": True})
    compare(experiment.model_copy(update={"evaluate": asked}), tmp_path)


def add_stage(folder, entries, columns, seed, people=PEOPLE):
    """Write the folder of a stage that measures besides the evaluation."""
    table = pd.DataFrame({name: WEIGHTS @ np.full(PEOPLE, value) / PEOPLE for name, value in columns.items()})
    records.write_table(folder / layout.RESAMPLES, table, list(columns))
    none = pd.DataFrame({"first": [], "second": []}, dtype=int)
    records.write_table(folder / layout.INFLUENCE, none, list(none.columns))
    records.write_metrics(
        folder, entries, seed=seed, device="cpu", seconds={}, people=people, inputs={}, tables=TABLES
    )


def test_other_stages_are_in_the_tables_under_their_conditions(small, made, tmp_path):
    made({"scratch": 0.0, "random": 0.1, "pixels": -0.1}, baselines=["pixels"], seeds=(0, 1))
    experiment = small(
        seeds=[0, 1], baselines=["pixels"], evaluate={"resamples": RESAMPLES},
        runs={"block": None, "grid": None, "region": None}, robustness={"runs": ["all"]},
        label_curve={"runs": ["random"], "fractions": [0.1]},
    )  # fmt: skip
    covered = records.metric("accuracy", 0.6, n=9, protocol="occlusion", condition="mask", amount=0.3)
    whole = records.metric("occlusion_accuracy", 0.7, n=9, protocol="occlusion")
    columns = {"accuracy@mask=0.3": 0.6, "occlusion_accuracy": 0.7}
    for name, seed in [("scratch", 0), ("scratch", 1), ("random", 0), ("random", 1), ("pixels", 0)]:
        add_stage(Results(tmp_path).stage(name, seed, "robustness"), [covered, whole], columns, seed)
    few = records.metric("accuracy", 0.55, n=9, protocol="labels", condition="share", amount=0.1)
    for subset, seed in ((0, 0), (1, 1), (2, 0)):
        add_stage(Results(tmp_path).labels("random", seed, subset), [few], {"accuracy@share=0.1": 0.55}, seed)
    compare(experiment, tmp_path)

    table = read_table(Results(tmp_path).leaderboard)
    accuracies = table[(table["run"] == "random") & (table["metric"] == "accuracy")]
    assert accuracies[["protocol", "condition", "amount", "seeds"]].fillna(0).to_numpy().tolist() == [
        ["verification", "", 0, 2], ["occlusion", "mask", 0.3, 2], ["labels", "share", 0.1, 2],
    ]  # fmt: skip
    judged = read_table(Results(tmp_path).verdicts)
    pairs = judged.loc[judged["metric"] == "occlusion_accuracy", ["run_a", "run_b"]].to_numpy().tolist()
    assert pairs == [["random", "scratch"], ["scratch", "pixels"], ["random", "pixels"]]
    summary = read_table(Results(tmp_path).summary)
    assert len(summary[summary["protocol"] == "labels"]) == 3
    assert {each["metric"] for each in read_json(Results(tmp_path).verdict)["claims"]}


def test_what_a_seed_refused_has_no_value(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1})
    path = Results(tmp_path).stage("random", 1, "evaluate") / layout.METRICS
    content = read_json(path)
    content["metrics"][0] |= {"value": None, "note": "too few"}
    path.write_bytes(files.dump_json(content))
    compare(experiment, tmp_path)
    table = read_table(Results(tmp_path).leaderboard)
    row = table[(table["run"] == "random") & (table["metric"] == COMPARED[0])].iloc[0]
    assert np.isnan(row["value"])
    assert row["note"] == "too few"


@pytest.mark.parametrize("primary", ["roc_auc", "rank1"])
def test_a_metric_without_two_finite_resamples_is_not_judged(made, tmp_path, primary):
    experiment = made({"scratch": 0.0, "random": 0.1}, primary=primary)
    folder = Results(tmp_path).stage("random", 0, "evaluate")
    table = read_table(folder / layout.RESAMPLES)
    table.loc[1:, "rank1"] = np.nan
    records.write_table(folder / layout.RESAMPLES, table, list(table.columns))
    reseal(folder)
    row = judged(experiment, tmp_path, "rank1")["random", "scratch"]
    assert row.verdict == "undecided"
    assert row.note == "no interval: a variance needs 2 resamples with a value for every seed, got 1"
    assert row.difference == pytest.approx(0.1, abs=0.01)
    assert np.isnan(row.ci_low)
    assert bool(read_json(Results(tmp_path).verdict)["noise"]) == (primary != "rank1")


def test_a_head_on_the_encoder_is_judged_whether_or_not_the_fine_tuning_has_learnt(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1})
    path = Results(tmp_path).stage("random", 1, "evaluate") / layout.METRICS
    files.write_json(path, read_json(path) | {"health": [{"learnt": False, "reason": "it collapsed"}]})
    compare(experiment, tmp_path)
    for metric, verdict in (("probe_accuracy", "better"), ("accuracy", "undecided")):
        assert verdicts_of(tmp_path, metric)["random", "scratch"].verdict == verdict


def test_the_seconds_behind_a_head_on_the_encoder_are_those_of_pretraining(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1})
    for seed in range(3):
        path = Results(tmp_path).stage("random", seed, "evaluate") / layout.METRICS
        files.write_json(path, read_json(path) | {"seconds": {"pretrain": 30.0, "finetune": 4.0}})
        path = Results(tmp_path).stage("scratch", seed, "evaluate") / layout.METRICS
        files.write_json(path, read_json(path) | {"seconds": {"finetune": 70.0}})
    compare(experiment, tmp_path)
    for metric, seconds in (("probe_accuracy", 30.0), ("accuracy", -36.0)):
        assert verdicts_of(tmp_path, metric)["random", "scratch"].seconds_difference == seconds


# --- damaged files ---

ODD = (None, "", "x", "\0", -1, 0, 2**70, 1e308, float("nan"), True, [], {}, [[]], {"a": 1}, ["x"])


def places(value, path=()):
    """Yield the path of every value in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


def mutate_json(path, rng):
    content = read_json(path)
    *parents, last = rng.choice([each for each in places(content) if each])
    target = content
    for key in parents:
        target = target[key]
    if rng.random() < 0.3:
        del target[last]
    else:
        target[last] = rng.choice(ODD)
    path.write_text(json.dumps(content))


def mutate_bytes(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 30])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])


def mutate_table(path, rng):
    """As a tool leaves it that keeps the metrics and the table in step."""
    table = pd.read_parquet(path)
    name = rng.choice(list(table.columns))
    change = rng.randrange(6)
    if change == 0:
        table = table.drop(columns=name)
    elif change == 1:
        table = table.iloc[: rng.randrange(len(table))]
    elif change == 2:
        table = pd.concat([table, table])
    elif change == 3:
        table = table.rename(columns={name: rng.choice(["x", "first", "rank1"])})
        table = table.loc[:, ~table.columns.duplicated()]
    else:
        table[name] = rng.choice(["x", float("nan"), float("inf"), -1e308, None])
    table.to_parquet(path)
    reseal(path.parent)


def test_any_damage_is_refused_in_a_sentence_or_changes_no_more_than_a_number(made, tmp_path):
    experiment = made({"scratch": 0.0, "random": 0.1}, seeds=(0, 1))
    folder, rng = Results(tmp_path).stage("random", 1, "evaluate"), random.Random(0)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    metrics, *tables = folder / layout.METRICS, *(folder / name for name in TABLES)
    told = []
    for number in range(100):
        change = (mutate_json, mutate_json, mutate_bytes, mutate_table)[number % 4]
        change(rng.choice({mutate_json: [metrics], mutate_table: tables}.get(change, list(whole))), rng)
        try:
            compare(experiment, tmp_path)
        except IntegrityError as error:
            told.append(str(error))
        for path, content in whole.items():
            path.write_bytes(content)
    assert len(told) > 50
    assert all(each.endswith(".") for each in told)
