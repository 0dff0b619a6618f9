"""The real workflow, run once on the tiny configuration with real faces, then asked what it would do next."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from facemae import config
from facemae.core import layout, records
from facemae.core.layout import Results

ROOT = Path(__file__).parent.parent
STAGES = {"pretrain", "finetune"}
pytestmark = pytest.mark.timeout(900)  # the first test waits for the whole workflow


def command(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        "2",
        *arguments,
    ]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def planned(folder: Path, *arguments: str) -> set[tuple[str, str]]:
    """Return the (rule, run) pairs that a dry run lists."""
    told = snakemake(folder, "--dry-run", *arguments)
    assert told.returncode == 0, told.stderr
    found = set()
    for block in re.split(r"\n(?=(?:local)?rule )", told.stdout + told.stderr):
        rule = re.match(r"(?:local)?rule (\w+):", block)
        run = re.search(r"wildcards: run=(\w+)", block)
        if rule:
            found.add((rule[1], run[1] if run else ""))
    return found


def write_config(folder: Path, difference: dict) -> None:
    content = config.content_of([ROOT / "config.yaml", ROOT / "config" / "tiny.yaml"])
    (folder / "config.yaml").write_text(json.dumps(config.merge(content, difference)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workflow")
    write_config(folder, {})
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def paths(finished) -> Results:
    return Results(finished / "results-tiny")


def test_every_result_is_there_and_fits_its_schema(paths):
    summary = records.read_table(paths.summary)
    assert list(summary.columns) == layout.SUMMARY_COLUMNS
    assert set(summary["run"]) == {"scratch", "random", "region", "simclr", "pixels"}
    assert set(summary.loc[summary["run"] == "region", "seed"]) == {0, 1}
    values = summary.loc[~summary["metric"].str.endswith("_drop"), "value"].dropna()
    assert values.between(0, 1).all()
    inside = summary.dropna(subset=["value", "ci_low"])
    assert (inside["ci_low"] <= inside["ci_high"]).all()
    refused = summary[summary["metric"] == "tar_at_far=0.001"]
    assert refused["value"].isna().all()
    assert refused["note"].str.contains("impostor").all()
    conditions = summary.groupby("protocol")["condition"].unique()
    assert set(conditions["occlusion"]) == {"", "none", "mask"}
    assert set(conditions["lighting"]) == {"", "none", "side"}
    assert set(conditions["labels"]) == {"", "share"}


def test_the_verdict_table_compares_every_pair_once(paths):
    verdicts = records.read_table(paths.verdicts)
    primary = verdicts[verdicts["metric"] == "roc_auc"]
    pairs = {frozenset(pair) for pair in zip(primary["run_a"], primary["run_b"], strict=True)}
    assert len(pairs) == len(primary) == 6 + 4  # the runs with each other, and each with the baseline
    assert set(verdicts["verdict"]) <= {"better", "worse", "equivalent", "undecided"}
    assert records.read_json(paths.verdict)["headline"]


def test_evaluation_people_are_in_no_training(paths):
    split = records.read_table(paths.data.split)
    evaluated = set(split.loc[split["role"] == "evaluation", "person"])
    trained = set(split.loc[split["role"] != "evaluation", "person"])
    assert len(evaluated) == len(trained) == 20
    assert not evaluated & trained
    embedded = records.read_table(paths.stage("region", 0, "finetune") / layout.EMBEDDINGS)
    assert set(embedded["person"]) == evaluated


def test_every_photo_has_one_outcome(paths):
    outcomes = pd.DataFrame(records.read_log(paths.data.outcomes))
    assert len(outcomes) == outcomes["sample_id"].nunique() == 400


def test_runs_that_share_a_seed_start_from_the_same_encoder_and_see_the_same_steps(paths):
    logs = [records.read_log(paths.stage(run, 0, "pretrain") / layout.LOG) for run in ("random", "region")]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    assert [r["learning_rate"] for r in logs[0]] == [r["learning_rate"] for r in logs[1]]


def test_snakemake_reports_it_in_one_file(finished):
    done = snakemake(finished, "--report", "report.html")
    assert done.returncode == 0, done.stderr
    assert "overview.html" in (finished / "report.html").read_text("utf-8")


def test_no_checkpoint_or_temporary_file_is_left(paths):
    left = [path for path in paths.root.rglob("*") if ".tmp" in path.name or path.name.startswith("step_")]
    assert left == []


def test_a_second_run_does_nothing(finished):
    assert planned(finished) == set()


def test_a_change_to_one_run_runs_that_runs_stages_only(finished):
    write_config(finished, {"runs": {"region": {"pretrain": {"mask_ratio": 0.5}}}})
    try:
        found = planned(finished)
    finally:
        write_config(finished, {})
    assert {run for _, run in found} == {"region", ""}
    assert {rule for rule, run in found if run == "region"} == STAGES
    assert {rule for rule, run in found if not run} == {"evaluate", "compare", "report", "all"}


def test_a_change_to_fine_tuning_keeps_the_pretraining(finished):
    write_config(finished, {"defaults": {"finetune": {"steps": 9}}})
    try:
        rules = {rule for rule, _ in planned(finished)}
    finally:
        write_config(finished, {})
    measuring = {"evaluate", "robustness", "label_curve"}
    assert rules == {"finetune", *measuring, "compare", "report", "all"}


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"sedes": [1]}, "facemae: sedes: unknown key, did you mean seeds"),
        ({"defaults": {"pretrain": {"mask_ratio": 1.0}}}, "facemae: defaults.pretrain.mask_ratio: "),
    ],
)
def test_a_bad_configuration_stops_before_any_work(tmp_path, difference, message):
    write_config(tmp_path, difference)
    done = snakemake(tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results-tiny").exists()


def test_weights_that_a_run_cannot_start_from_stop_before_any_work(tmp_path):
    write_config(tmp_path, {"runs": {"random": {"pretrain": {"init": "none.safetensors"}}}})
    done = snakemake(tmp_path)
    assert done.returncode == 2
    assert "facemae: runs.random.pretrain.init: none.safetensors cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results-tiny" / "data").exists()


def test_a_second_workflow_on_the_folder_is_refused(finished, paths):
    write_config(finished, {"defaults": {"finetune": {"steps": 9}}})
    lock = str(paths.root / ".workflow.lock")
    code = (
        "import sys; from pathlib import Path; from facemae.core.files import exclusive\n"
        f"with exclusive(Path({lock!r})): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        done = snakemake(finished)
        seconds = time.monotonic() - start
    finally:
        holder.communicate("")
        write_config(finished, {})
    assert done.returncode == 2
    assert f"in use by process {holder.pid}" in done.stderr
    assert "stages to run" not in done.stderr  # it is refused before the jobs are listed, which takes long
    assert seconds < 20, "5 on a quiet machine"


@pytest.mark.slow
def test_a_killed_workflow_finishes_with_the_same_command(finished, tmp_path):
    """Kill -9 the workflow and its jobs, three times; the same command ends with the same weights."""
    write_config(tmp_path, {})
    for source in ("data", "scratch", "pixels"):
        shutil.copytree(finished / "results-tiny" / source, tmp_path / "results-tiny" / source)
    for seconds in (6, 9, 12):
        process = subprocess.Popen(
            command(),
            cwd=tmp_path,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stderr
    name = Path("results-tiny") / "random" / "0" / "finetune" / layout.EMBEDDER
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


SHARED = {
    "lfw": ("labelled", 13_233, 5_749, {}),
    "utkface": ("unlabelled", 23_706, 0, {}),
    "yaleb": ("unlabelled", 2_414, 38, {"ambient light, no flash": 38, "marked bad by the authors": 18}),
    "ck48": ("unlabelled", 981, 118, {}),
}


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.timeout(1800)
def test_the_named_data_sets_go_from_archive_to_aligned_faces(tmp_path):
    """LFW, UTKFace, Yale B and CK+ in one workflow: their own counts, every photo accounted for."""
    raw = os.environ.get("FACEMAE_RAW_DIR")
    if not raw:
        pytest.skip("FACEMAE_RAW_DIR does not name a folder with the data sets")
    others = [name for name, (set_name, *_) in SHARED.items() if set_name == "unlabelled"]
    write_config(tmp_path, {"data": {"labelled": "lfw", "unlabelled": others, "raw_dir": raw}})
    done = snakemake(tmp_path, "data")
    assert done.returncode == 0, done.stderr
    folder = Results(tmp_path / "results-tiny").data
    sources = {each["name"].split("-")[0]: each for each in records.read_json(folder.sources)}
    for name, (_, photos, people, ignored) in SHARED.items():
        found = sources[name]
        assert (found["photos"], found["people"]) == (photos, people)
        assert ignored.items() <= found["ignored"].items()
    outcomes = pd.DataFrame(records.read_log(folder.outcomes))
    assert len(outcomes) == outcomes["sample_id"].nunique() == sum(each[1] for each in SHARED.values())
    of_lfw = outcomes[outcomes["sample_id"].str.startswith("lfw/")]
    assert (of_lfw["code"] == "OK").mean() >= 0.995
    pairs = records.read_table(folder.listed_pairs)
    assert pairs["protocol"].value_counts().to_dict() == {
        "lfw-view2": 6000,
        "lfw-view1-train": 2200,
        "lfw-view1-test": 1000,
    }
    assert set(pairs["first"]) | set(pairs["second"]) <= set(outcomes["sample_id"])


def test_a_path_may_hold_words_in_braces(tmp_path):
    """Which Snakemake takes for wildcards."""
    home = tmp_path / "class {7E} {run}" / "ann"
    home.mkdir(parents=True)
    (home / "1.jpg").write_bytes(b"\xff\xd8\xff")
    write_config(tmp_path, {"data": {"labelled": str(home.parent)}})
    assert ("fetch", "") in planned(tmp_path)


def test_photos_that_are_added_are_listed_by_the_next_run(tmp_path):
    """The files of a source are part of what the workflow watches."""
    from facemae.data.sources.orl import orl_photos

    for photo in orl_photos()[:40]:
        home = tmp_path / "photos" / str(photo.person)
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo.path, home)
    write_config(tmp_path, {"data": {"labelled": "photos"}})
    assert snakemake(tmp_path, "data").returncode == 0
    assert planned(tmp_path, "data") == set()
    shutil.copy(orl_photos()[40].path, tmp_path / "photos" / "s01" / "more.pgm")
    assert {rule for rule, _ in planned(tmp_path, "data")} == {"fetch", "align", "cache", "data"}
    done = snakemake(tmp_path, "data")
    assert "40 of 41 photos are aligned already" in (tmp_path / "logs" / "align.log").read_text()
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[workflow", "[fetch", "[align", "[cache"], done.stderr


TOLERANCE = 0.03  # of a mean over seeds, when another processor trains


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_another_processor_gives_the_verdicts_that_the_readme_shows(tmp_path):
    """Without bfloat16 the same seeds give other networks: numbers that are near, and the same verdicts."""
    content = config.content_of([ROOT / "config.yaml"])
    (tmp_path / "config.yaml").write_text(json.dumps(content | {"precision": "float32"}))
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = records.read_json(ROOT / "docs" / "results" / "orl.json")
    paths = Results(tmp_path / "results")
    found = records.read_table(paths.verdicts)
    found = found[found["metric"] == shown["primary"]].set_index(["run_a", "run_b"])
    known = {
        (row["run_a"], row["run_b"]): row for row in shown["verdicts"] if row["metric"] == shown["primary"]
    }
    assert {pair: found.loc[pair, "verdict"] for pair in known} == {
        pair: row["verdict"] for pair, row in known.items()
    }
    for pair, row in known.items():
        assert found.loc[pair, "difference"] == pytest.approx(row["difference"], abs=TOLERANCE), pair
