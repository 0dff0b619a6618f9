"""A few steps are timed before anything is trained, and give minutes for the whole."""

import pytest

from facemae.training import speed


def test_every_kind_of_run_is_timed(small, compute):
    experiment = small(runs={"contrastive": {"pretrain": {"method": "simclr"}}})
    for name in ("random", "scratch", "contrastive"):
        found = speed.step_seconds(experiment.run(name), experiment.data.image_size, compute)
        assert found.keys() == {"finetune"} | ({"pretrain"} if name != "scratch" else set())
        assert all(0 < seconds < 30 for seconds in found.values())


def test_the_minutes_are_those_of_all_trainings_side_by_side(small, compute, monkeypatch):
    def seconds(run, *_):
        return {"finetune": 1.0} | ({"pretrain": 2.0} if run.pretrain else {})

    monkeypatch.setattr(speed, "step_seconds", seconds)
    drop = dict.fromkeys(("block", "grid", "region"))
    experiment = small(runs=drop)  # scratch and random, two seeds, ten steps each
    assert speed.minutes(experiment, compute, 1) == pytest.approx(2 * (10 + 10 + 20) / 60)
    assert speed.minutes(experiment, compute, 2) == pytest.approx(2 * (10 + 10 + 20) / 2 / 60)
    untrained = small(runs=drop | {"random": {"finetune": {"mode": "knn"}}})
    assert speed.minutes(untrained, compute, 1) == pytest.approx(2 * (10 + 20) / 60)
