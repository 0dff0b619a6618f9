"""The tables of a results folder, and what is said of damaged ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_folder import (
    PEOPLE,
    SHOTS,
    make_experiment,
    make_results,
)

from facemae.core import files, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.report import tables

FOUND = PEOPLE * SHOTS


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made")
    make_results(folder)
    return Results(folder)


@pytest.mark.parametrize(("table", "column"), [("leaderboard", "condition"), ("summary", "amount")])
def test_a_table_of_an_older_version_is_one_sentence(
    paths: Results, tmp_path: Path, table: str, column: str
) -> None:
    own = Results(tmp_path)
    files.atomic_write(own.config, paths.config.read_bytes())
    old = pd.read_parquet(getattr(paths, table)).drop(columns=column)
    records.write_table(getattr(own, table), old, list(old.columns))
    with pytest.raises(IntegrityError, match=r"lacks|no table of ours"):
        getattr(tables, table)(own)


@pytest.mark.parametrize(("table", "column", "value"), [
    ("leaderboard", "value", "x"), ("leaderboard", "note", 1.0), ("leaderboard", "people", np.inf),
    ("summary", "n", np.inf), ("summary", "run", 7), ("verdicts", "difference", "much"),
])  # fmt: skip
def test_a_column_of_another_kind_is_one_sentence(
    paths: Results, tmp_path: Path, table: str, column: str, value: float | str
) -> None:
    own = Results(tmp_path)
    files.atomic_write(own.config, paths.config.read_bytes())
    whole = pd.read_parquet(getattr(paths, table))
    records.write_table(getattr(own, table), whole.assign(**{column: value}), list(whole.columns))
    with pytest.raises(IntegrityError, match=rf"{table}.parquet cannot be read \({column} holds"):
        getattr(tables, table)(own)


def test_the_verdict_has_its_claims(paths: Results) -> None:
    found = tables.headline(paths)
    assert len(found.claims) > 5
    assert all(claim.sentence.startswith(claim.finding.capitalize() + ": ") for claim in found.claims)
    assert found.setting


def test_a_verdict_of_an_older_version_has_none(paths: Results, tmp_path: Path) -> None:
    content = records.read_json(paths.verdict)
    del content["claims"], content["setting"]
    files.write_json(Results(tmp_path).verdict, content)
    assert tables.headline(Results(tmp_path)).claims == []


@pytest.mark.parametrize("damage", [{"finding": "<b>"}, {"difference": "much"}, None])
def test_a_claim_that_cannot_be_understood_is_one_sentence(
    paths: Results, tmp_path: Path, damage: dict[str, str] | None
) -> None:
    content = records.read_json(paths.verdict)
    content["claims"] = [content["claims"][0] | damage] if damage else [3]
    files.write_json(Results(tmp_path).verdict, content)
    with pytest.raises(IntegrityError, match=r"cannot be read|not as this version writes it"):
        tables.headline(Results(tmp_path))


def test_runs_are_in_the_order_they_are_held_against_each_other(tmp_path: Path) -> None:
    setup = make_experiment(
        tmp_path,
        runs={
            "views": {"pretrain": {"method": "simclr"}},
            "erasing": {"pretrain": None, "finetune": {"erasing": 0.5}},
            "scratch": None,
            "plain": {"pretrain": None},
        },
    )
    assert tables.run_names(setup) == ["plain", "erasing", "random", "region", "views"]


def test_the_roster_is_the_leaderboards(paths: Results) -> None:
    roster, board = tables.roster(tables.experiment(paths)), tables.leaderboard(paths)
    columns = ["run", "kind", "strategy"]
    expected = board.drop_duplicates("run")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(roster[columns], expected, check_dtype=False)


def test_settings_that_differ_are_side_by_side(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    found = tables.differences(experiment, "random", "region").values.tolist()
    assert found == [
        ["pretrain.mask", '"random"', '"region"'],
        ["pretrain.masks.random", "{}", tables.NOT_SET],
        ["pretrain.masks.region", tables.NOT_SET, "{}"],
    ]
    assert tables.differences(experiment, "random", "random").empty
    whole = tables.differences(experiment, "scratch", "random").set_index("setting")
    assert whole.loc["pretrain"].to_list() == ["null", tables.IN_PARTS]
    assert whole.loc["pretrain.mask"].to_list() == [tables.NOT_SET, '"random"']
    with pytest.raises(UsageError, match="there is no such run"):
        tables.differences(experiment, "random", "gone")


def test_the_curve_of_two_perfect_networks_is_perfect():
    """One's impostors score above the other's genuine pairs; pooled, half of the pairs would be mistaken."""
    genuine = np.tile(np.repeat([True, False], [10, 40]), 2)
    part = np.repeat([0, 1], 50)
    scores = pd.DataFrame({"genuine": genuine, "score": genuine * 0.1 + part * 0.5, "part": part})
    curve = tables._roc(scores)
    assert (curve["tar"] == 1).all()
    assert curve["far"].iloc[[0, -1]].to_list() == pytest.approx([1 / 40, 1])
    assert (tables._roc(scores.assign(part=0))["tar"].iloc[:10] <= 0.5).all()


def test_settings_under_earlier_keys_are_read_and_told(paths: Results, tmp_path: Path) -> None:
    content = records.read_json(paths.config)
    assert tables.earlier_settings(paths) == ""
    wanted, finetune = tables.experiment(paths), content["defaults"]["finetune"]
    finetune["clip_norm"] = finetune.pop("max_grad_norm")
    finetune["people_per_step"] = 4
    content["runs"]["share"] = content["runs"].pop("region")  # a name, not a key
    content["runs"]["share"]["finetune"] = {"clip_norm": 0.5}
    del content["robustness"], finetune["whiten"]
    files.write_json(Results(tmp_path).config, content, sort_keys=False)
    found = tables.experiment(Results(tmp_path))
    assert not found.defaults.finetune.whiten  # which was unheard of then
    trained = found.defaults.finetune.model_copy(update={"whiten": True})
    assert found.defaults.model_copy(update={"finetune": trained}) == wanted.defaults
    assert found.run("share").finetune.max_grad_norm == 0.5
    assert found.run("share").pretrain == wanted.run("region").pretrain
    told = tables.earlier_settings(Results(tmp_path))
    assert told.endswith("otherwise: clip_norm, defaults.finetune.whiten, people_per_step, robustness.")


def test_settings_of_an_older_version_are_one_sentence(paths: Results, tmp_path: Path) -> None:
    content = records.read_json(paths.config)
    content["evaluate"]["most"] = 3
    files.write_json(Results(tmp_path).config, content)
    with pytest.raises(IntegrityError, match=r"config.json cannot be read \(evaluate.most: .* version"):
        tables.experiment(Results(tmp_path))
