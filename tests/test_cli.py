import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from facemae import __main__ as cli
from facemae import __version__, config
from facemae.core import errors, records
from facemae.data.sources.orl import orl_photos

COMMANDS = sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands)


@pytest.fixture
def facemae(monkeypatch, command_line, root):
    """Return a function that runs a command line in this process: exit code, output, errors."""

    monkeypatch.chdir(root)
    return command_line


def real(*arguments, **options):
    command = [sys.executable, "-m", "facemae", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def overlay(tmp_path):
    """Return a function that writes a YAML file and gives the options that lay it over the shipped one."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return ["--config", "config.yaml", "--config", path]

    return write


def stage_options(tmp_path, *names):
    """Return options that are well-formed; nothing they name exists."""
    values = {
        "config": "config.yaml", "run": "block", "seed": 0, "data": tmp_path / "data",
        "subset": 0, "out": tmp_path / "out", "finetuned": tmp_path / "finetune",
        "results": tmp_path,
    }  # fmt: skip
    return [part for name in names for part in (f"--{name}", values[name])]


# --- help and version ---


def test_the_stages_are_all_there():
    stages = {
        "fetch",
        "align",
        "cache",
        "split",
        "pretrain",
        "finetune",
        "baselines",
        "evaluate-runs",
        "robustness",
        "label-curve",
        "attributes",
        "compare",
        "report",
    }
    assert set(COMMANDS) >= stages | {"config", "schema", "doctor", "embed", "evaluate"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_option(command):
    shown = CliRunner().invoke(cli.app, [command, "--help"], terminal_width=200, color=False)
    assert shown.exit_code == 0
    assert f" {command} [OPTIONS]" in shown.output
    described = next(
        each for each in cli.app.registered_commands if (each.name or each.callback.__name__) == command
    )
    assert described.callback.__doc__.splitlines()[0][:60] in shown.output
    context = cli.typer.main.get_command(cli.app).commands[command]
    assert [option.name for option in context.params if not option.help] == []


def test_help_and_version_of_the_program_itself():
    done = real("--help", check=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert real("--version", check=True).stdout == f"facemae {__version__}\n"


def test_without_a_command_the_help_is_shown(facemae):
    code, out, err = facemae()
    assert code == 2
    assert "Usage" in out + err


# --- refusals ---


def test_a_bad_configuration_ends_in_one_line_without_a_traceback(root, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seeeds: [1]")
    done = real("config", "--config", "config.yaml", "--config", path, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "facemae: seeeds: unknown key, did you mean seeds.\n"


@pytest.mark.parametrize(
    "command",
    [
        "config",
        "fetch",
        "align",
        "split",
        "pretrain",
        "finetune",
        "baselines",
        "evaluate-runs",
        "robustness",
        "label-curve",
        "attributes",
        "compare",
    ],
)
def test_every_stage_checks_the_configuration_first(facemae, tmp_path, command):
    (tmp_path / "bad.yaml").write_text("nothing: 1")
    names = {
        "config": [], "fetch": ["data"], "align": ["data"], "split": ["data"],
        "compare": ["results"],
        "baselines": ["results"], "evaluate-runs": ["results"],
        "label-curve": ["run", "seed", "subset", "data", "out", "finetuned"],
    }.get(command, ["run", "seed", "data", "out"])  # fmt: skip
    code, out, err = facemae(command, "--config", tmp_path / "bad.yaml", *stage_options(tmp_path, *names))
    assert (code, out) == (2, "")
    assert err.startswith("facemae: ")
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["config"], "Missing option '--config'"),
        (["pretrain", "--config", "config.yaml"], "Missing option '--run'"),
        (["config", "--config"], "requires an argument"),
        (["nothing"], "No such command 'nothing'"),
        (["config", "--nothing"], "No such option"),
        (["pretrain", "--seed", "x"], "Invalid value for '--seed'"),
        (["pretrain", "--seed", "-1"], "Invalid value for '--seed'"),
        (["pretrain", "--threads", "0"], "Invalid value for '--threads'"),
    ],
)
def test_a_command_line_that_cannot_be_read(facemae, arguments, told):
    code, out, err = facemae(*arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_a_home_folder_after_an_options_equals_sign_is_found(facemae, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/none.parquet cannot be read" in facemae("evaluate", "--embeddings=~/none.parquet")[2]


@pytest.mark.parametrize(
    "error",
    [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.FaceMAEError)
    ],
)
def test_each_expected_failure_has_its_own_exit_code(monkeypatch, facemae, error):
    def fail(paths):
        raise error("What happened.")

    monkeypatch.setattr(config, "load", fail)
    code, out, err = facemae("config", "--config", "config.yaml")
    assert (code, out, err) == (error.exit_code, "", "facemae: What happened.\n")


def test_exit_codes_tell_failures_apart():
    kinds = [each for each in errors.FaceMAEError.__subclasses__() if each.__module__ == errors.__name__]
    assert len({each.exit_code for each in kinds}) == len(kinds) == 6
    assert errors.PreemptedError.exit_code == 75  # EX_TEMPFAIL: try again


def test_a_run_without_pretraining_cannot_be_pretrained(facemae, tmp_path):
    options = stage_options(tmp_path, "config", "seed", "data", "out")
    code, _, err = facemae("pretrain", *options, "--run", "scratch")
    assert code == 2
    assert err.splitlines()[-1].startswith("facemae: runs.scratch.pretrain is null")


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_run_that_does_not_exist(facemae, tmp_path, command):
    options = stage_options(tmp_path, "config", "seed", "data", "out")
    code, _, err = facemae(command, *options, "--run", "blok")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("facemae: runs.blok: there is no such run; there are scratch, random")


@pytest.mark.parametrize(
    "command",
    ["pretrain", "finetune", "baselines", "evaluate-runs", "robustness", "split", "align"],
)
def test_a_missing_input_is_told_in_one_line(facemae, tmp_path, command):
    names = {
        "split": ["data"], "align": ["data"],
        "robustness": ["run", "seed", "data", "out", "finetuned"],
        "evaluate-runs": ["results"], "baselines": ["results"],
    }.get(command, ["run", "seed", "data", "out"])  # fmt: skip
    code, _, err = facemae(command, "--config", "config.yaml", *stage_options(tmp_path, *names))
    assert code in (2, 3, 4)
    assert err.splitlines()[-1].startswith("facemae: ")
    assert str(tmp_path) in err.splitlines()[-1]


def test_a_run_without_its_embedder_and_a_baseline_that_is_none(facemae, tmp_path):
    options = stage_options(tmp_path, "config", "seed", "data", "out")
    code, _, err = facemae("robustness", *options, "--run", "block")
    assert code == 2
    assert "block is a run; name the folder of its finetune stage with --finetuned" in err
    code, _, err = facemae("robustness", *options, "--run", "median")
    assert code == 2
    assert "there is no such run" in err


# --- what the configuration commands print ---


def test_config_prints_the_whole_experiment(facemae, overlay, root):
    code, out, _ = facemae("config", *overlay("runs: {block: null}\nseeds: [5]"))
    assert code == 0
    content = json.loads(out)
    shipped = config.content_of([root / "config.yaml"])
    assert content["seeds"] == [5]
    assert content["runs"] == shipped["runs"] | {"block": None}
    assert content["defaults"] == shipped["defaults"]
    assert config.parse(content).run_names == ["scratch", "random", "grid", "region", "face_mae"]


def test_config_writes_a_file_that_is_a_configuration(facemae, tmp_path, root):
    out = tmp_path / "deep" / "config.json"
    assert facemae("config", "--config", "config.yaml", "--out", out)[:2] == (0, "")
    assert config.load([out]) == config.load([root / "config.yaml"])


def test_the_written_configuration_keeps_the_order_of_the_runs(facemae, tmp_path, root):
    out = tmp_path / "config.json"
    facemae("config", "--config", "config.yaml", "--out", out)
    assert config.load([out]).run_names == config.load([root / "config.yaml"]).run_names


def test_config_reads_standard_input(root):
    text = (root / "config.yaml").read_text()
    done = real("config", "--config", "-", input=text, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(config.content_of([root / "config.yaml"])))


def test_schema_prints_the_stored_schema(facemae, root):
    code, out, _ = facemae("schema")
    assert code == 0
    assert json.loads(out) == json.loads((root / "workflow" / "schemas" / "config.schema.json").read_text())


# --- data sets ---


def test_the_data_commands_explain_themselves():
    for command in ("list", "prepare"):
        shown = CliRunner().invoke(cli.app, ["data", command, "--help"], terminal_width=200, color=False)
        assert shown.exit_code == 0
        context = cli.typer.main.get_command(cli.app).commands["data"].commands[command]
        assert [option.name for option in context.params if not option.help] == []


def test_the_data_sets_are_listed_for_people_and_for_programs(facemae, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEMAE_RAW_DIR", str(tmp_path))
    code, out, _ = facemae("data", "list", "--json")
    assert code == 0
    entries = {each["name"]: each for each in json.loads(out)}
    assert entries["orl"]["state"] == "ready"
    assert entries["utkface"]["state"] == "missing"
    assert (entries["lfw"]["images"], entries["lfw"]["people"]) == (13_233, 5_749)
    assert all(each["licence"] and each["source"] for each in entries.values())
    code, out, _ = facemae("data", "list")
    assert code == 0
    assert all(name in out for name in entries)


def test_a_folder_is_prepared_with_one_command(facemae, tmp_path):
    for number in (1, 2):
        home = tmp_path / "photos" / f"p{number}"
        home.mkdir(parents=True)
        (home / "a.pgm").write_bytes(orl_photos()[10 * number].path.read_bytes())
    out = tmp_path / "out"
    code, _, err = facemae("data", "prepare", tmp_path / "photos", "--out", out, "--size", 64)
    assert (code, "2 photos, 2 people" in err) == (0, True)
    assert len(records.read_table(out / "photos.parquet")) == 2
    assert len(records.read_table(out / "faces.parquet")) == 2
    assert len((out / "report.jsonl").read_text().splitlines()) == 2


def test_a_data_set_behind_a_form_says_what_to_do(facemae, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEMAE_RAW_DIR", str(tmp_path))
    code, _, err = facemae("data", "prepare", "celeba", "--out", tmp_path / "out")
    assert code == 3
    assert all(
        part in err for part in ("img_align_celeba.zip", "mmlab.ie.cuhk.edu.hk", "Licence", str(tmp_path))
    )
    code, _, err = facemae("data", "prepare", "selebA", "--out", tmp_path / "out")
    assert (code, "did you mean celeba?" in err) == (2, True)


def test_more_rejected_photos_than_allowed_end_with_their_own_code(facemae, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no picture")
    code, _, err = facemae("data", "prepare", tmp_path / "photos", "--out", tmp_path / "out")
    assert code == 3
    assert "1 of 1 photos (100.0%) have no usable face" in err
    assert (tmp_path / "out" / "report.jsonl").exists()


def test_letters_that_a_terminal_does_not_have_are_spelt_out(root, tmp_path):
    (tmp_path / "mine.yaml").write_text("results: Łęcka")
    options = ["--config", root / "config.yaml", "--config", tmp_path / "mine.yaml"]
    done = real("config", *options, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"] == "Łęcka"
    done = real("where", *options, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert "There is no verdict in \\u0141\\u0119cka yet" in done.stderr


def test_a_full_disk_behind_the_output_is_a_sentence():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "facemae", "schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5
    assert done.stderr == "facemae: The output cannot be written: the disk is full; make room.\n"


@pytest.mark.parametrize("command", [
    ("embed", "--images", "{}", "--out", "o.parquet"), ("evaluate", "--images", "{}"),
    ("evaluate", "--data", "{}", "--model", "dlib"), ("data", "prepare", "{}", "--out", "made"),
    ("cache", "--data", "{}"),
])  # fmt: skip
def test_names_of_nothing_end_with_a_sentence(command_line, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("", "missing", "\udcff", "a" * 300, "/dev/null/x"):
        code, _, told = command_line(*(each.format(name) for each in command))
        assert code in (2, 3, 4), name
        assert told.startswith("facemae: ")
        assert "\udcff" not in told
