import datetime
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from facemae import config
from facemae.config import merge, parse
from facemae.config.sections import Section
from facemae.core.errors import UsageError
from facemae.core.text import escaped

ROOT = Path(__file__).parents[2]


def leaves(section, path=()):
    """Yield the path of every key that holds a value, from the types."""
    for name, field in section.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        inner = [each for each in options if isinstance(each, type) and issubclass(each, Section)]
        if inner:
            yield from leaves(inner[0], (*path, name))
        else:
            yield (*path, name)


def yaml_leaves(node, path=()):
    """Yield path and line number of every key that holds a value, from the file; runs are one key."""
    for key, value in node.value:
        here = (*path, key.value)
        if isinstance(value, yaml.MappingNode) and here != ("runs",):
            yield from yaml_leaves(value, here)
        else:
            yield here, key.start_mark.line


def laid(content, path, value):
    """Return `content` with the value at a dotted path replaced, whatever it was."""
    first, _, rest = path.partition(".")
    return content | {first: laid(content.get(first) or {}, rest, value) if rest else value}


def refusal(content):
    """Return the message that refuses the content, checked to be one sentence with the right exit code."""
    with pytest.raises(UsageError) as caught:
        parse(content)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert re.search(r"[^.]\.$", message)
    return message


# --- the shipped files ---


def test_shipped_config_loads(root):
    experiment = config.load([root / "config.yaml"])
    assert experiment.run_names == ["scratch", "random", "block", "grid", "region", "face_mae"]
    assert [experiment.run(name).strategy for name in experiment.run_names] == [
        "none", "random", "block", "grid", "region", "face-mae",
    ]  # fmt: skip
    assert experiment.dataset == "orl"


@pytest.mark.parametrize(
    ("labelled", "name"),
    [
        ("orl", "orl"),
        ("lfw", "lfw"),
        ("utkface:/x/UTKFace.tar", "utkface"),
        ("/photos/of people", "of people"),
        ("/photos/mine/", "mine"),
        ("photos/mine.zip", "mine.zip"),
        ("packs/train.rec", "train.rec"),
    ],
)
def test_the_name_of_the_data_is_its_own_or_its_folders(shipped, labelled, name):
    assert parse(laid(shipped, "data.labelled", labelled)).dataset == name


def test_the_folder_one_stands_in_has_a_name(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(laid(shipped, "data.labelled", ".")).dataset == tmp_path.name


def test_all_of_the_data_can_be_said(shipped):
    data = {
        "labelled": "lfw", "unlabelled": ["utkface", "celeba:/x", "my photos"], "raw_dir": "/raw",
        "align": "crop", "faces": "all",
    }  # fmt: skip
    shipped["runs"]["region"] = None  # which needs the alignment's template
    split = {"overlap": "stop", "hash_bits": 0, "embedder": "results/random/0/finetune", "same_cosine": 0.5}
    experiment = parse(merge(shipped, {"data": data, "split": split}))
    assert experiment.data.model_dump().items() >= data.items()
    assert experiment.split.model_dump().items() >= split.items()


def test_every_key_of_the_types_stands_in_the_file_with_a_comment(root):
    text = (root / "config" / "defaults.yaml").read_text()
    lines = text.splitlines()
    found = dict(yaml_leaves(yaml.compose(text)))
    assert set(found) | {("attributes", "tasks")} == set(leaves(config.Experiment))  # none are named
    bare = [path for path, line in found.items() if not re.search(r"\S\s+# \S+ ?\S*", lines[line])]
    assert bare == []


def test_the_file_that_a_user_opens_is_short(root):
    assert len((root / "config.yaml").read_text().splitlines()) < 40


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        (
            {"defaults": {"pretrain": {"clip_norm": 1.0}}},
            "pretrain.clip_norm: this key is now called max_grad_norm",
        ),
        (
            {"split": {"evaluation_share": 0.5}},
            "split.evaluation_share: this key is now called evaluation_fraction",
        ),
        (
            {"defaults": {"finetune": {"labels": {"share": 0.5}}}},
            "labels.share: this key is now called fraction",
        ),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(shipped, difference, told):
    assert told in refusal(merge(shipped, difference))


@pytest.mark.parametrize(
    ("path", "expanded"),
    [("~/faces", "{home}/faces"), ("lfw:~/lfw.tgz", "lfw:{home}/lfw.tgz"), ("a~b", "a~b"), ("./~", "./~")],
)
def test_the_home_folder_is_expanded_as_a_shell_would(shipped, monkeypatch, path, expanded):
    monkeypatch.setenv("HOME", "/home/ann")
    shipped["data"] |= {"labelled": path, "raw_dir": path, "tested": [path]}
    shipped["gallery"]["url"] = shipped["results"] = path
    found, wanted = parse(shipped), expanded.format(home="/home/ann")
    texts = [found.data.labelled, found.data.raw_dir, *found.data.tested, found.gallery.url, found.results]
    assert texts == [wanted] * 5


def test_tiny_overlay_loads_over_the_shipped_file(root):
    experiment = config.load([root / "config.yaml", root / "config" / "tiny.yaml"])
    assert experiment.run_names == ["scratch", "random", "region", "simclr"]
    assert experiment.run("region").model.width == 32
    assert experiment.run("region").model.patch_size == 14
    assert experiment.results != config.load([root / "config.yaml"]).results


def test_literals_are_the_registered_strategies_and_baselines():
    from facemae.masking.strategies import STRATEGIES

    assert tuple(STRATEGIES) == config.STRATEGIES
    assert set(config.BASELINES_WITHOUT_CHANCE) < set(get_args(config.Baseline))


def test_importing_the_configuration_stays_light():
    heavy = "{'torch', 'timm', 'pandas', 'pyarrow', 'sklearn', 'streamlit', 'numpy'}"
    code = f"import sys, facemae.config, facemae.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- refusals ---

NAN, INF = math.nan, math.inf

WRONG = [
    # unknown and mistyped keys
    ("sedes", [1], "did you mean seeds"),
    ("defaults.model.widht", 128, "did you mean width"),
    ("runs.block.pretrain.maks", "block", "did you mean mask"),
    ("runs.scratch.fine_tune", {}, "did you mean finetune"),
    ("data.zzz", 1, "raw_dir, image_size, align, faces, min_score, max_skipped"),
    # wrong types
    ("results", 3, "got 3"),
    ("seeds", 3, "got 3"),
    ("seeds.0", [True], "got true"),
    ("seeds.1", [0, 0.5], "got 0.5"),
    ("data.image_size", "112", "got \"112\""),
    ("data.image_size", True, "got true"),
    ("data.image_size", 112.5, "got 112.5"),
    ("data.unlabelled", "a", "got \"a\""),
    ("data.unlabelled", None, "got null"),
    ("data.unlabelled.1", ["a", ""], "at least 1"),
    ("data.unlabelled.0", [3], "got 3"),
    ("data.raw_dir", None, "got null"),
    ("data.raw_dir", "", "at least 1"),
    ("data.align", "none", "'auto', 'landmarks' or 'crop'"),
    ("data.faces", "biggest", "'largest', 'central' or 'all'"),
    ("split.overlap", "ignore", "'exclude' or 'stop'"),
    ("split.hash_bits", -1, "got -1"),
    ("split.hash_bits", 32, "less than or equal to 31"),
    ("split.hash_bits", 2.5, "got 2.5"),
    ("split.embedder", 3, "got 3"),
    ("split.same_cosine", 0, "greater than 0"),
    ("split.same_cosine", 1, "less than 1"),
    ("split.seed", -1, "got -1"),
    ("defaults.model.class_token", "yes", "got \"yes\""),
    ("defaults.model.class_token", 1, "got 1"),
    ("baselines.0", ["pixel"], "'pixels'"),
    ("runs.block", [1], "got [1]"),
    ("defaults.pretrain.learning_rate", "1e-3", "write it as a plain number such as 0.001"),
    ("runs.block.pretrain.weight_decay", "5e-2", "write it as a plain number such as 0.001"),
    # null where something must stand
    *((section, None, "got null") for section in ("data", "split", "defaults", "runs", "evaluate")),
    ("defaults.model", None, "got null"),
    ("defaults.finetune", None, "got null"),
    ("runs.block.model", None, "got null"),
    # not finite
    ("defaults.finetune.learning_rate", NAN, "finite"),
    ("defaults.finetune.scale", INF, "finite"),
    ("defaults.pretrain.max_grad_norm", -INF, "finite"),
    ("evaluate.level", NAN, "finite"),
    # out of range
    ("seeds", [], "at least 1"),
    ("seeds.1", [0, -1], "got -1"),
    ("data.image_size", 31, "32"),
    ("data.image_size", 449, "448"),
    ("data.min_score", 1.01, "got 1.01"),
    ("data.max_skipped", -0.1, "got -0.1"),
    ("data.labelled", "", "at least 1"),
    ("split.evaluation_fraction", 0, "greater than 0"),
    ("split.evaluation_fraction", 1, "less than 1"),
    ("split.folds", 0, "got 0"),
    ("defaults.model.width", 130, "multiple of 4"),
    ("defaults.model.drop_path", 1.0, "less than 1"),
    ("defaults.model.heads", 0, "got 0"),
    ("defaults.pretrain.decoder_width", 6, "multiple of 4"),
    ("defaults.pretrain.mask", "blok", "there is no strategy blok, did you mean block"),
    *(("defaults.pretrain.mask_ratio", ratio, f"got {ratio}") for ratio in (0, 1.0, 1.5, -0.5)),
    ("runs.block.pretrain.mask_ratio", 1.0, "less than 1"),
    ("defaults.pretrain.steps", 0, "got 0"),
    ("defaults.finetune.batch_size", 1, "greater than or equal to 2"),
    ("defaults.finetune.warmup_fraction", 1.0, "less than 1"),
    ("defaults.finetune.max_grad_norm", 0, "greater than 0"),
    ("defaults.finetune.layer_decay", 0, "greater than 0"),
    ("defaults.finetune.margin", 1.1, "less than or equal to 1"),
    ("defaults.finetune.rotation", 46, "45"),
    ("defaults.finetune.log_every", 0, "got 0"),
    ("evaluate.far_targets.1", [0.1, 0], "greater than 0"),
    ("evaluate.resamples", 99, "100"),
    ("evaluate.level", 0.5, "greater than 0.5"),
    ("evaluate.level", 1, "less than 1"),
    ("evaluate.primary", "auc", "'roc_auc', 'eer', 'accuracy' or 'rank1'"),
    ("evaluate.against", ["scratch", "scrach"], "there is no run scrach to compare masked runs with"),
    ("evaluate.against", ["pixels"], "known are scratch, random, block, grid, region"),
    *(("evaluate.equivalence", margin, f"got {margin}") for margin in (0, 0.51, -0.01)),
    ("evaluate.equivalence_years", 0, "greater than 0"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "hint"), WRONG, ids=lambda part: str(part)[:40])
def test_one_wrong_value_is_named_by_its_path(shipped, path, value, hint):
    place = re.sub(r"\.\d+$", "", path)  # an item's path is told, its list is set
    message = refusal(laid(shipped, place, value))
    assert message.startswith(f"{path}: ")
    assert hint in message


@pytest.mark.parametrize("path", [".".join(path) for path in leaves(config.Experiment)])
def test_every_missing_key_is_named(shipped, path):
    *above, last = path.split(".")
    section = shipped
    for key in above:
        section = section[key]
    del section[last]
    assert refusal(shipped).startswith(f"{path}: this key is missing")


def test_values_that_do_not_go_together(shipped):
    cases = [
        ("defaults.model.heads", 3, "defaults.model: width 128 is not divisible by heads 3."),
        ("runs.grid.model", {"heads": 3}, "runs.grid.model: width 128 is not divisible by heads 3."),
        (
            "defaults.pretrain.decoder_heads", 3,
            "defaults.pretrain: decoder_width 64 is not divisible by decoder_heads 3.",
        ),
        (
            "runs.grid.model", {"patch_size": 15},
            "runs.grid.model.patch_size: data.image_size 112 is not divisible by 15; "
            "choose 4, 7, 8, 14, 16, 28 or 56.",
        ),
        (
            "evaluate.against", ["random", "random"],
            "evaluate.against: ['random', 'random'] names one twice; each must be different.",
        ),
        ("seeds", [3, 1, 3], "seeds: [3, 1, 3] names one twice; each must be different."),
        (
            "data.unlabelled", ["a", "b", "a"],
            "data.unlabelled: ['a', 'b', 'a'] names one twice; each must be different.",
        ),
    ]  # fmt: skip
    for path, value, message in cases:
        assert refusal(laid(shipped, path, value)) == message


@pytest.mark.parametrize("ratio", [0.007, 0.993])
def test_a_ratio_too_extreme_for_the_number_of_patches(shipped, ratio):
    message = refusal(laid(shipped, "runs.grid.pretrain.mask_ratio", ratio))
    assert message.startswith(f"runs.grid.pretrain.mask_ratio: {ratio} of 64 patches leaves none hidden")
    finer = laid(shipped, "runs.grid", {"pretrain": {"mask_ratio": ratio}, "model": {"patch_size": 7}})
    assert parse(finer).run("grid").mask_ratio == ratio


def test_the_ratio_check_is_the_one_that_masks_are_drawn_by(shipped):
    from facemae.masking.mask import hidden_count

    for ratio in (0.0079, 0.007, 0.9921, 0.993, 0.5):
        content = laid(shipped, "runs", {"one": {"pretrain": {"mask_ratio": ratio}}})
        content = laid(content, "evaluate.against", [])
        try:
            hidden_count(64, ratio)
        except ValueError:
            assert refusal(content).startswith("runs.one.pretrain.mask_ratio")
        else:
            parse(content)


@pytest.mark.parametrize("name", config.RESERVED_RUN_NAMES)
def test_reserved_run_names(shipped, name):
    shipped["runs"][name] = {}
    assert re.match(f"runs.{name}: this name is taken .*{name}.*; choose another.$", refusal(shipped))


@pytest.mark.parametrize(
    "name", ["Block", "1st", "_x", "", "a b", "a/b", "..", "ä", "a" * 42, "a\n", "-x", "{seed}"]
)
def test_run_names_that_are_no_folder_names(shipped, name):
    shipped["runs"][name] = {}
    with pytest.raises(UsageError) as caught:
        parse(shipped)
    assert str(caught.value).startswith(f"runs.{escaped(name)}" if name else "runs")


def test_the_first_of_several_problems_is_told_and_the_rest_counted(shipped):
    shipped["defaults"]["model"] |= {"width": 3, "depth": 0, "heads": "x"}
    assert re.match(r"defaults\.model\.width: .* \(2 more after this one\)\.$", refusal(shipped))


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
def test_seeds_are_those_that_every_library_takes(shipped, seed):
    assert refusal(shipped | {"seeds": [seed]}).startswith("seeds.0: input should be")
    shipped["split"]["seed"] = seed
    assert refusal(shipped).startswith("split.seed: input should be")


def test_yaml_values_that_are_not_plain(shipped):
    shipped["data"]["labelled"] = datetime.date(2024, 1, 1)
    assert refusal(shipped) == "data.labelled: a date is no setting; put it in quotes."


def test_a_run_over_defaults_without_pretraining_names_what_it_lacks(shipped):
    shipped["defaults"]["pretrain"] = None
    assert refusal(shipped).startswith("runs.block.pretrain.steps: this key is missing")


def test_resamples_too_few_for_the_level_are_refused(shipped):
    refusal(laid(shipped, "evaluate", shipped["evaluate"] | {"level": 0.99, "resamples": 100}))


@pytest.mark.parametrize(
    ("against", "pairs"),
    [
        (["scratch"], "random-scratch block-scratch"),
        (["scratch", "random"], "random-scratch block-scratch block-random"),
        (["random", "block"], "block-random"),  # and not random-block besides
        (["views"], "random-views block-views"),
        ([], ""),
    ],
)
def test_the_primary_family_holds_masked_runs_against_those_named_beforehand(small, against, pairs):
    runs = {"grid": None, "region": None, "views": {"pretrain": {"method": "simclr"}}}
    experiment = small(runs=runs, evaluate={"against": against})
    assert " ".join(map("-".join, experiment.primary_pairs)) == pairs


def test_a_run_that_is_dropped_is_no_control_and_no_mistake(small):
    experiment = small(runs={"random": None, "grid": None, "region": None})
    assert experiment.evaluate.against == ["scratch", "random"]
    assert experiment.controls == ["scratch"]
    assert experiment.primary_pairs == [("block", "scratch")]


def test_the_margin_of_equivalence_is_in_the_metrics_unit(small):
    settings = small(evaluate={"equivalence": 0.02, "equivalence_years": 0.4}).evaluate
    assert [settings.margin(metric) for metric in ("roc_auc", "labels_accuracy", "age_error")] == [
        0.02, 0.02, 0.4,
    ]  # fmt: skip


def test_a_baseline_named_twice_is_refused(shipped):
    refusal(laid(shipped, "baselines", ["pixels", "pixels"]))


def test_defaults_that_only_a_baseline_uses_are_checked(shipped):
    shipped["data"]["image_size"] = 96
    shipped["runs"] = {"scratch": {"pretrain": None, "model": {"patch_size": 16}}}
    refusal(shipped)


def test_region_masks_on_too_few_patches_are_refused(shipped):
    refusal(laid(shipped, "runs", {"region": {"model": {"patch_size": 56}, "pretrain": {"mask": "region"}}}))


# --- files ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no keys"),
        (b"# only a comment\n", "holds no keys"),
        (b"- a\n- b\n", "holds no keys"),
        (b"just text", "holds no keys"),
        (b"a: [1, 2", "not a readable YAML file"),
        (b"a: !!python/object/apply:os.getcwd []", "not a readable YAML file"),
        (b"a: \xff", "not a readable YAML file"),
        (b"a: 1\n\tb: 2", "not a readable YAML file"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, reason):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"{path}: ") + f".*{reason}") as caught:
        config.load([path])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'no.yaml'}: there is no such file")):
        config.load([tmp_path / "no.yaml"])
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}: this is not a readable YAML file")):
        config.load([tmp_path])


def test_scientific_notation_is_text_in_yaml_and_told_apart(root, tmp_path):
    overlay = tmp_path / "fast.yaml"
    overlay.write_text("defaults: {finetune: {learning_rate: 1e-3}}")
    with pytest.raises(UsageError, match=r'^defaults\.finetune\.learning_rate: .*got "1e-3", write it as'):
        config.load([root / "config.yaml", overlay])
    overlay.write_text("defaults: {finetune: {learning_rate: 0.002}}")
    loaded = config.load([root / "config.yaml", overlay])
    assert loaded.run("block").finetune.learning_rate == 0.002


def test_standard_input_is_a_file_too(root, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("seeds: [7]"))
    assert config.load([root / "config.yaml", Path("-")]).seeds == [7]


def test_what_was_loaded_can_be_written_as_json_and_loaded_again(root, tmp_path):
    experiment = config.load([root / "config.yaml"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(experiment.model_dump()))
    assert config.load([path]) == experiment


def test_a_key_given_twice_is_refused(root, tmp_path):
    overlay = tmp_path / "twice.yaml"
    overlay.write_text("seeds: [1]\nseeds: [2]\n")
    with pytest.raises(UsageError):
        config.load([root / "config.yaml", overlay])


# --- merging and runs ---

PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
SECTIONS = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), PLAIN | st.lists(st.integers(), max_size=2), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), PLAIN | inner, max_size=3),
    max_leaves=8,
)


@given(SECTIONS, SECTIONS)
def test_merge_lays_one_over_the_other(a, b):
    before = json.dumps([a, b])
    merged = merge(a, b)
    assert json.dumps([a, b]) == before
    assert merge(a, {}) == a
    assert merge({}, b) == b
    assert merge(merged, b) == merged
    assert set(merged) == set(a) | set(b)
    for key, value in merged.items():
        if key not in b:
            assert value == a[key]
        elif isinstance(a.get(key), dict) and isinstance(b[key], dict):
            assert value == merge(a[key], b[key])
        else:
            assert value == b[key]


def test_merge_by_hand():
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2]}
    assert merge(base, {"a": {"y": {"z": 3}}}) == {"a": {"x": 1, "y": {"z": 3}}, "b": [1, 2]}
    assert merge(base, {"a": None, "b": [3]}) == {"a": None, "b": [3]}
    assert merge({"a": None}, {"a": {"x": 1}}) == {"a": {"x": 1}}


def test_null_drops_a_run(shipped):
    shipped["runs"]["block"] = None
    experiment = parse(shipped)
    assert experiment.run_names == ["scratch", "random", "grid", "region", "face_mae"]
    with pytest.raises(UsageError, match=r"^runs\.block: there is no such run; .* scratch, random, grid"):
        experiment.run("block")


def test_at_least_one_run_must_stay(shipped):
    assert refusal(shipped | {"runs": {"one": None}}) == "runs: every run is null; keep at least one."
    assert refusal(shipped | {"runs": {}}).startswith("runs: ")


def test_a_run_is_the_defaults_plus_its_differences(shipped):
    shipped["runs"]["wide"] = {"model": {"width": 256}, "pretrain": {"mask": "grid", "mask_ratio": 0.5}}
    experiment = parse(shipped)
    wide, plain = experiment.run("wide").model_dump(), experiment.run("random").model_dump()
    assert plain == shipped["defaults"]
    assert wide == merge(shipped["defaults"], shipped["runs"]["wide"])
    assert (experiment.run("wide").strategy, experiment.run("wide").mask_ratio) == ("grid", 0.5)
    scratch = experiment.run("scratch")
    assert (scratch.pretrain, scratch.strategy, scratch.mask_ratio) == (None, "none", None)


def test_baselines_without_chance_have_one_seed(shipped):
    experiment = parse(shipped | {"seeds": [4, 2]})
    assert [experiment.seeds_of(name) for name in ("pixels", "pca", "random_weights", "block")] == [
        [4], [4], [4, 2], [4, 2],
    ]  # fmt: skip


# --- the schema that editors and the workflow check against ---


def test_the_stored_schema_is_the_generated_one(root):
    stored = json.loads((root / "workflow" / "schemas" / "config.schema.json").read_text())
    assert stored == config.json_schema()


def test_the_schema_accepts_what_is_shipped(root, shipped):
    validator = jsonschema.Draft202012Validator(config.json_schema())
    validator.check_schema(validator.schema)
    validator.validate(shipped)
    validator.validate(merge(shipped, yaml.safe_load((root / "config" / "tiny.yaml").read_text())))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sedes", [1]),
        ("defaults.model.widht", 128),
        ("runs.block.pretrain.maks", "block"),
        ("runs.block.pretrain.mask", "blok"),
        ("runs.block.model.width", "128"),
        ("runs.Block", {}),
        ("runs.block", [1]),
        ("defaults.pretrain.mask_ratio", 1.0),
        ("data.image_size", 31),
        ("data", None),
        ("data.unlabelled", "photos"),
        ("data.align", "none"),
        ("split.hash_bits", 32),
        ("seeds", []),
        ("baselines", ["pixel"]),
    ],
)
def test_the_schema_refuses_what_the_types_refuse(shipped, path, value):
    content = laid(shipped, path, value)
    refusal(content)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, config.json_schema())


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_every_shipped_configuration_is_one_and_fits_the_schema(name):
    """Snakemake checks what it is given by the schema, in which a run need not name every key."""
    content = config.content_of([ROOT / "config.yaml", ROOT / "config" / name])
    config.parse(content)
    jsonschema.validate(content, config.json_schema())


@pytest.mark.parametrize(
    "run",
    [
        {"pretrain": {"views": {"projection": 8}}},
        {"pretrain": {"masks": {"block": {"rounds": 3}}, "perceptual": {"weight": 0.5}}},
        {"finetune": {"labels": {"fraction": 0.5}}},
    ],
)
def test_a_run_may_name_a_part_of_any_section(run):
    shipped = config.content_of([ROOT / "config.yaml"])
    content = config.merge(shipped, {"runs": {"part": run}})
    config.parse(content)
    jsonschema.validate(content, config.json_schema())


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"robustness": {"runs": ["nobody"]}}, "robustness.runs: there is no run nobody; known are scratch"),
        ({"label_curve": {"runs": ["pixels"]}}, "label_curve.runs: there is no run pixels"),
        (
            {"robustness": {"illumination": "yaleb"}},
            "robustness.illumination: yaleb is not among",
        ),
        (
            {"attributes": {"tasks": {"age": "utkface"}}},
            "attributes.tasks.age: utkface is not among",
        ),
        ({"attributes": {"runs": ["all"]}}, "attributes.runs: attributes.tasks names nothing to tell"),
        ({"runs": {"all": {}}}, "runs.all: this name is taken"),
        (
            {"runs": {"few": {"finetune": {"labels": {"fraction": 0.3}}}}, "label_curve": {"runs": ["few"]}},
            "label_curve.runs: few is by itself fine-tuned on no labels, or on fewer",
        ),
        (
            {"robustness": {"runs": ["all"], "occlusions": [], "lights": []}},
            "robustness.runs: nothing is tested",
        ),
        (
            {"runs": {"some": {"finetune": {"mode": "partial", "last_blocks": 9}}}},
            "runs.some.finetune.last_blocks: 9 of 4 blocks",
        ),
    ],
)
def test_stages_that_could_not_run_are_refused_at_the_start(difference, message):
    shipped = config.content_of([ROOT / "config.yaml"])
    with pytest.raises(UsageError) as refused:
        config.parse(config.merge(shipped, difference))
    assert str(refused.value).startswith(message)
