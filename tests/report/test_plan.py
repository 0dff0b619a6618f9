"""Plans: the arithmetic by hand, and a sentence wherever a number is missing or out of reach."""

import json
import math
from pathlib import Path

import pytest
from results_folder import make_experiment, make_results
from scipy.special import stdtrit
from typer.testing import CliRunner

from facemae.__main__ import app
from facemae.core import files
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.report import plan, tables
from facemae.report.plan import Noise

NOISE = {"people": 20, "people_variance": 0.0004, "training_variance": 0.0009}
_COST = ("run", "seconds_pretrain", "images_pretrain", "seconds_finetune", "images_finetune")
RUNS = [
    dict(zip(_COST, row, strict=True))
    for row in (("scratch", 0.0, 0.0, 10.0, 100.0), ("random", 30.0, 100.0, 20.0, 100.0))
]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Return a folder with a documented result of ORL by ROC AUC, and one of other data."""
    for name, data, noise in (("a", "lfw", {}), ("b", "orl", NOISE)):
        content = {"facts": {"Data": data}, "primary": "roc_auc", "noise": noise, "runs": RUNS}
        files.write_json(tmp_path / f"{name}.json", content)
    return tmp_path


@pytest.fixture
def planned(small, published):
    """Return a function that plans a small experiment, whose results are nowhere."""

    def make(folder=published, **changes):
        return plan.plan(small(**changes), published / "nowhere", folder)

    return make


def test_the_reach_by_hand(planned):
    """Five runs, three seeds, twenty people; four comparisons against scratch and three against random."""
    found = planned(seeds=[0, 1, 2], evaluate={"equivalence": 0.4})
    variance = 0.0004 + 0.0009 / 3
    freedom = 1 / ((0.0004 / variance) ** 2 / 19 + (0.0003 / variance) ** 2 / (4 * 2))
    level = 1 - 0.05 / 7 / 2
    assert (found.comparisons, found.runs, found.seeds, found.people) == (7, 5, 3, 20)
    error = math.sqrt(variance)
    assert found.detectable == pytest.approx((stdtrit(freedom, level) + stdtrit(freedom, 0.8)) * error)
    assert found.smallest_margin == pytest.approx((stdtrit(freedom, level) + stdtrit(freedom, 0.9)) * error)
    assert found.sentences == []
    assert found.source == "docs/results/b.json"


def test_more_people_and_more_seeds_reach_further():
    noise = Noise(20, 0.0004, 0.0009)

    def error(people=20, seeds=3, runs=5):
        return noise.estimate(people, seeds, runs, 0.95).standard_error

    assert error() == pytest.approx(math.sqrt(0.0007))
    assert error(people=40) == pytest.approx(math.sqrt(0.0005))
    assert error(seeds=9) == pytest.approx(math.sqrt(0.0005))
    freedoms = [noise.estimate(20, 3, runs, 0.95).degrees_of_freedom for runs in (2, 5, 20)]
    assert freedoms == sorted(freedoms)


def test_the_promised_power_is_kept():
    """Drawn with the noise that was planned with, so many differences are called."""
    import numpy as np

    noise, people, seeds, runs, share = Noise(200, 0.0001, 0.0003), 200, 3, 6, 0.05 / 7
    found = noise.estimate(people, seeds, runs, 0.95)
    random = np.random.default_rng(0)
    draws = 20_000
    true = plan.detectable(found, share, 0.8)
    differences = true + random.normal(0, found.standard_error, draws)
    own = 0.0003 * random.chisquare((runs - 1) * (seeds - 1), draws) / ((runs - 1) * (seeds - 1))
    errors = np.sqrt(0.0001 + own / seeds)
    called = np.abs(differences) > stdtrit(found.degrees_of_freedom, 1 - share / 2) * errors
    assert 0.77 < called.mean() < 0.84


def test_the_minutes_are_those_of_all_trainings(planned):
    """Runs that nobody trained before take what the others took."""
    settings = {"pretrain": {"steps": 10, "batch_size": 6}, "finetune": {"steps": 5, "batch_size": 20}}
    runs = {"grid": None, "region": None, "views": {"pretrain": {"method": "simclr"}}}
    found = planned(defaults=settings, runs=runs)
    finetune = 0.1 + 0.2 + 2 * (30 / 200)  # seconds a face: scratch, random, and the two new ones by both
    seconds = 60 * 0.3 * (1 + 1 + 2) + 100 * finetune
    assert found.minutes == pytest.approx(2 * seconds / 60)


def test_rotations_train_a_network_each(planned):
    once, twice = (planned(split={"folds": 4, "rotations": parts}).minutes for parts in (1, 2))
    assert once < twice < 2 * once


def test_one_seed_decides_nothing(planned):
    found = planned(seeds=[0])
    assert (found.detectable, found.smallest_margin) == (None, None)
    assert found.sentences == [plan.ONE_SEED]
    assert found.minutes is not None


def test_seeds_that_would_do_are_counted(small, published):
    content = {"facts": {"Data": "orl"}, "primary": "roc_auc", "runs": RUNS}
    files.write_json(published / "b.json", content | {"noise": NOISE | {"people_variance": 1e-6}})

    def at(seeds, margin):
        settings = {"equivalence": margin}
        return plan.plan(small(seeds=list(range(seeds)), evaluate=settings), published, published)

    found = at(2, 0.05)
    needed = next(count for count in range(3, 50) if at(count, 0.05).smallest_margin <= 0.05)
    assert found.sentences == [
        f"These seeds are too few to show equivalence within 0.05: it takes {needed} of them."
    ]


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (0.03, "people: evaluate on about "),  # with 50 seeds, and more people, it could be shown
        (0.01, "people: set evaluate.equivalence"),  # the trainings alone move it further
    ],
)
def test_a_margin_that_no_data_here_can_decide_says_what_to_change(planned, margin, words):
    (sentence,) = planned(evaluate={"equivalence": margin}).sentences
    assert sentence.startswith(f"No number of seeds to 50 shows equivalence within {margin} on 20 people: ")
    assert words in sentence
    enough = float(sentence.rpartition("evaluate.equivalence to ")[2].removesuffix(" or more."))
    assert planned(evaluate={"equivalence": enough}).sentences == []
    assert planned(evaluate={"equivalence": 0.9 * enough}).sentences != []


def test_without_an_earlier_run_there_is_no_number(planned, tmp_path):
    found = planned(folder=tmp_path / "empty")
    assert (found.detectable, found.smallest_margin, found.minutes, found.source) == (None, None, None, "")
    assert "run two seeds first" in found.sentences[0]
    assert found.people == 20  # of ORL's forty


def test_an_earlier_run_that_has_not_learnt_tells_no_noise(planned, published):
    content = {"facts": {"Data": "orl"}, "primary": "roc_auc", "noise": {}, "runs": RUNS}
    files.write_json(published / "b.json", content)
    found = planned()
    assert (found.detectable, found.smallest_margin) == (None, None)
    assert found.sentences == [plan.NOT_LEARNT.format(source="docs/results/b.json")]


def test_a_result_by_another_metric_is_no_pilot(planned):
    assert planned(evaluate={"primary": "accuracy"}).source == ""


def test_nothing_to_decide_is_refused(planned):
    with pytest.raises(UsageError, match=r"evaluate\.against"):
        planned(evaluate={"against": []})


def test_a_folder_of_results_tells_noise_people_and_cost(tmp_path):
    experiment = make_results(tmp_path / "results")
    found = plan.plan(experiment, tmp_path / "results", tmp_path)
    assert found.source == str(tmp_path / "results")
    assert found.people == tables.headline(Results(tmp_path / "results")).people
    assert found.detectable > 0
    assert found.minutes > 0
    halved = plan.plan(make_experiment(tmp_path, seeds=[0, 1, 2, 3]), tmp_path / "results", tmp_path)
    assert halved.detectable < found.detectable


def test_the_command_ends_with_json(root):
    done = CliRunner().invoke(app, ["plan", "--config", str(root / "config.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.output.splitlines()[-1])
    assert content["metric"] == "roc_auc"
    assert content["comparisons"] == 7
    assert content["people"] == 20
    assert "7 comparisons by ROC AUC" in done.output
