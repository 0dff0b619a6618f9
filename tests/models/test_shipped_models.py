"""The models that come with the package are whole, as good as their cards say, judged on unseen people."""

import numpy as np
import pytest

from facemae.core import records
from facemae.evaluation import battery
from facemae.models import shipped_models
from facemae.models.shipped_models import PEOPLE, README, SCORES, WEIGHTS
from facemae.recognition.model_card import shipped_card
from facemae.recognition.packing import MOST_BYTES, sample_value

MOST_IN_ALL = 45_000_000  # bytes


@pytest.fixture(params=WEIGHTS)
def name(request):
    if not (shipped_models.FOLDER / request.param).is_dir():
        pytest.skip(f"{request.param} is not shipped")
    return request.param


def test_a_shipped_model_is_whole_and_small(name):
    assert shipped_models.missing(name) == ""
    folder = shipped_models.find(name)
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= MOST_BYTES
    assert sum(path.stat().st_size for path in shipped_models.FOLDER.rglob("*")) <= MOST_IN_ALL
    assert (folder / README).read_text() == shipped_card(shipped_models.card(name))


def test_nobody_of_a_card_is_in_the_training_of_what_it_is_about(name):
    people = shipped_models.people(name)
    assert people.training
    assert people.evaluation
    assert not people.training & people.evaluation
    started = (shipped_models.card(name)["made"]["started_from"] or {}).get("init")
    if started in WEIGHTS:
        assert shipped_models.people(started).training <= people.training


def test_a_shipped_model_does_on_the_sample_what_its_card_says(name):
    value = shipped_models.card(name)["sample"]["value"]
    assert sample_value(shipped_models.find(name)) == pytest.approx(value, abs=2e-3)


def test_the_accuracy_of_a_card_follows_from_its_scores(name):
    card = shipped_models.card(name)
    if not card.get("lfw_view2"):
        pytest.skip(f"{name} was not measured on View 2")
    scores = records.read_table(shipped_models.find(name) / SCORES)
    pairs = scores.rename(columns={"first": "one", "second": "other"})
    weights = np.ones((1, 1 + int(pairs[["one", "other"]].max().max())))
    found = {each.name: each.value for each in battery.on_list(pairs, weights, ())}
    assert len(pairs) == card["lfw_view2_pairs"]
    assert found["accuracy"] == pytest.approx(card["lfw_view2"]["lfw_view2"], abs=1e-6)


def test_the_lists_of_people_hold_hashes_alone(name):
    lists = records.read_json(shipped_models.find(name) / PEOPLE)
    hashes = [each for side in lists.values() for each in side]
    assert {len(each) for each in hashes} == {shipped_models.DIGITS}
    assert set("".join(hashes)) <= set("0123456789abcdef")
