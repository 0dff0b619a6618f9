import functools
import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from contestants import play, run_out_of_memory
from scipy.stats import multivariate_normal
from stages import make_folder

from benchmarks import gallery, main_job, protocols, strategies, trial, tricks
from benchmarks.turns import Baton, Contestant, Order, Turn
from facemae.core.errors import UsageError


class Line:
    """A contestant's connection: the orders it will be given, and what it has said."""

    def __init__(self, *orders):
        self.orders, self.said = list(orders), []

    def recv(self):
        if not self.orders:
            raise EOFError
        return self.orders.pop(0)

    def send(self, told):
        self.said.append(told)


def test_a_contestant_says_its_size_and_then_one_turn_for_each_order():
    line = Line(Order(lead=0, steps=2), Order(lead=1, steps=2))
    with pytest.raises(SystemExit):
        play([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], Baton(line, "cpu", wall_clock=True))
    parameters, first, second = line.said
    assert parameters == 2 * 3 + 3
    assert first.losses == [0.0, 1.0]
    assert second.losses == [2.0, 3.0, 4.0]
    assert second.loss == 3.0


def test_the_clock_starts_after_the_lead(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(Baton, "_now", lambda self: next(ticks))
    line = Line(Order(lead=3, steps=1))
    baton = Baton(line, "cpu", wall_clock=True)
    baton.begin(torch.nn.Linear(2, 3))
    for _ in range(3):
        baton.step_done(torch.tensor(1.0))
    assert next(ticks) == 1  # one look at it so far, at the end of the third step
    with pytest.raises(SystemExit):
        baton.step_done(torch.tensor(1.0))
    assert line.said[-1].seconds == 2


def test_a_profile_says_where_the_time_went():
    line = Line(Order(lead=0, steps=1, profiled=True))
    baton = Baton(line, "cpu", wall_clock=True)
    baton.begin(torch.nn.Linear(2, 3))
    torch.ones(64, 64) @ torch.ones(64, 64)
    with pytest.raises(SystemExit):
        baton.step_done(torch.tensor(1.0))
    shares = line.said[-1].profile
    assert "aten::mm" in shares
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) <= 1.01


def test_a_loss_that_is_not_finite_ends_the_race():
    contestant = Contestant(functools.partial(play, [1.0, float("nan")]), "cpu", wall_clock=True)
    try:
        assert contestant.turn(Order(lead=0, steps=1)).losses == [1.0]
        with pytest.raises(RuntimeError, match="not finite"):
            contestant.turn(Order(lead=0, steps=1))
    finally:
        contestant.close()
    assert not multiprocessing.active_children()


def test_a_batch_that_does_not_fit_is_told_apart():
    contestant = Contestant(run_out_of_memory, "cpu", wall_clock=True)
    try:
        with pytest.raises(OverflowError, match=r"^no room for 3 GiB$"):
            contestant.turn(Order(lead=0, steps=1))
    finally:
        contestant.close()


def test_strategies_are_compared_round_by_round():
    found = strategies.compare({"random": [1.0, 2.0, 4.0], "grid": [2.0, 2.0, 12.0]})
    assert found["ratio"] == {"random": 1.0, "grid": 2.0}
    assert found["range"]["grid"] == [1.0, 3.0]


def test_the_strategies_take_their_turns():
    found = strategies.measure(["hard_patches"], rounds=2, steps=1)
    assert list(found["ratio"]) == ["random", "hard_patches"]
    assert found["ratio"]["hard_patches"] > 1.0
    json.dumps(found)


@pytest.fixture
def pretrain():
    for peer in ("lightly", "transformers"):
        pytest.importorskip(peer, reason=f"the peer {peer} is not installed: docs/performance.md")
    from benchmarks import pretrain

    return pretrain


def test_ours_is_compared_with_the_faster_peer(pretrain):
    rates = {"same": [20.0, 30.0, 60.0], "huggingface": [5.0] * 3, "lightly": [10.0, 20.0, 10.0]}
    found = pretrain.compare(rates)
    assert found["faster_peer"] == "lightly"
    assert found["ratio_same"] == 2.0
    assert found["ratio_same_range"] == [1.5, 6.0]
    assert found["per_s"]["same"] == 30.0
    assert "ratio_cross" not in found


def test_a_tuned_peer_is_told_apart_from_the_faster_one(pretrain):
    rates = {"same": [20.0], "huggingface": [5.0], "lightly": [10.0], "lightly_plain": [16.0]}
    found = pretrain.compare(rates)
    assert found["faster_peer"] == "lightly"
    assert found["ratio_same"] == 2.0
    assert found["ratio_same_to_lightly_plain"] == 1.25


def test_unequal_networks_are_no_race(pretrain):
    with pytest.raises(RuntimeError, match="different sizes"):
        pretrain._check({"same": 100, "lightly": 103}, {})


def test_a_network_that_does_not_learn_is_no_contestant(pretrain):
    turns = {"same": [Turn(1.0, [0.5], {}), Turn(1.0, [0.6], {})]}
    with pytest.raises(RuntimeError, match="the loss of same does not fall"):
        pretrain._check({"same": 100}, turns)


def test_prepared_batches_are_those_of_the_first_steps(pretrain, monkeypatch):
    from benchmarks.ours import Prepared
    from benchmarks.peers import READY
    from facemae.training.objectives.mae import MaskedPretraining

    monkeypatch.setattr(MaskedPretraining, "_images", lambda self, step, part: (step, part))
    prepared = Prepared.__new__(Prepared)
    prepared.settings = SimpleNamespace(batch_size=4)
    prepared.begin(None)
    whole = slice(0, 4)
    assert prepared.ready == [(step, whole) for step in range(READY)]
    assert prepared._images(READY + 1, whole) == (1, whole)


def test_a_race_of_one_round(pretrain):
    setup = pretrain.Setup("nano", "cpu", "float32", threads=1, batch=0, faces=Path(), jpegs=None)
    found = pretrain.measure(setup, ["same", "lightly"], batches=[8], rounds=1, steps=3, profiled=False)
    assert found["faster_peer"] == "lightly"
    assert np.isfinite(found["ratio_same"])
    assert found["data"] == "ready in memory"
    json.dumps(found)


def test_people_have_as_many_images_as_in_lfw():
    images = protocols.sizes()
    assert (len(images), images.sum(), images.max(), (images == 1).sum()) == (5749, 13233, 530, 4069)
    assert (np.diff(images) <= 0).all()


def test_the_protocols_are_measured_against_scikit_learn():
    images = protocols.sizes(60, 20, 200, 20)
    found = protocols.measure(images, resamples=100, rounds=1, names=["values", "everything"], million=300)
    assert found["pairs"] == 200 * 199 // 2
    assert found["parts"]["values"]["seconds"] > 0
    assert found["parts"]["values"]["peak_mb"] >= found["parts"]["values"]["before_mb"] > 0
    assert found["compared_pairs"] == 300 * 299 // 2
    assert found["ratio"] > 0
    json.dumps(found)


def test_embedding_is_compared_with_the_peer_round_by_round():
    from benchmarks import embedding

    found = embedding.compare({"tiny8": [20.0, 30.0, 80.0], "inception": [10.0, 20.0, 20.0]})
    assert found["ratio_tiny8"] == 2.0
    assert found["ratio_tiny8_range"] == [1.5, 4.0]
    assert found["per_s"] == {"tiny8": 30.0, "inception": 20.0}


def test_models_of_the_package_are_compared_with_dlib():
    from benchmarks import embedding

    found = embedding.compare({"inception": [9.0, 9.0], "dlib": [10.0, 20.0], "face-tiny": [100.0, 160.0]})
    assert (found["ratio_tiny"], found["ratio_tiny_range"]) == (9.0, [8.0, 10.0])
    assert "ratio_embedder" not in found


@pytest.mark.parametrize(
    ("name", "package"), [("dlib", "dlib"), ("face-tiny", "torch"), ("face-tiny-int8", "onnxruntime")]
)
def test_a_recogniser_with_a_name_embeds_in_the_race(name, package, monkeypatch, tmp_path, small):
    pytest.importorskip(package, reason=f"{package} is not installed")
    from benchmarks import embedding
    from facemae.core import files
    from facemae.models import shipped_models
    from facemae.models.build import build_embedder
    from facemae.models.weights import save_weights

    model = small().defaults.model
    save_weights(build_embedder(model, 112), tmp_path / "embedder.safetensors")
    files.write_json(tmp_path / "config.json", {"model": model.model_dump(), "image_size": 112})
    monkeypatch.setattr(shipped_models, "find", lambda name: tmp_path)
    line = Line(Order(lead=0, steps=1))
    with pytest.raises(SystemExit):
        embedding.play(name, "float32", 2, Baton(line, "cpu", wall_clock=False))
    assert line.said[1].loss > 0


@pytest.mark.parametrize("name", ["tiny16", "tiny16_once", "inception", "inception_autocast"])
def test_a_contestant_of_the_embedding_embeds(name):
    from benchmarks import embedding

    line = Line(Order(lead=0, steps=1), Order(lead=0, steps=1))
    with pytest.raises(SystemExit):
        embedding.play(name, "bfloat16", 2, Baton(line, "cpu", wall_clock=False))
    parameters, *turns = line.said
    assert parameters > 5e6
    assert len({turn.loss for turn in turns}) == 1  # the same faces
    assert 0 < turns[0].loss < 1  # of unit vectors


def test_the_gallery_that_is_measured_finds_the_nearest_people(tmp_path):
    vectors = gallery.embeddings(60, 16, seed=0)
    search = gallery.ours(tmp_path, vectors, each=3)
    query = gallery.embeddings(1, 16, seed=1)[0]
    best = (vectors @ query).reshape(20, 3).max(axis=1)
    assert search(query) == np.argsort(-best)[: gallery.TOP].tolist()


def test_a_trial_is_judged_on_training_people_that_it_did_not_learn_from(tmp_path):
    folder = make_folder(tmp_path / "data", 32, people=24, shots=2)
    settings = tmp_path / "small.yaml"
    settings.write_text(
        "data: {image_size: 32}\n"
        "defaults:\n"
        "  model: {patch_size: 8, width: 16, depth: 1, heads: 2, embedding: 8}\n"
        "  finetune: {steps: 3, batch_size: 4}\n"
    )
    found = trial.measure([settings], folder.root, "scratch", 0, None, ["steps=2", "margin=0.1"])
    assert (found["steps"], found["margin"], found["learnt"]) == (2, 0.1, False)
    assert 0 <= found["held_out_loss"] <= 1
    for faces in ("aligned", "moved"):
        assert 0 <= found[faces]["roc_auc"] <= 1
    assert found["aligned"] != found["moved"]
    as_trained = trial.measure(
        [settings], folder.root, "scratch", 0, None, ["steps=2", "margin=0.1", "whiten=false"]
    )
    assert as_trained["aligned"]["roc_auc"] == pytest.approx(1 - as_trained["held_out_loss"], abs=1e-4)
    assert found["faces_per_second"] > 0
    settings.write_text(f"{settings.read_text()}split: {{rotations: 2}}\n")
    assert trial.measure([settings], folder.root, "scratch", 0, None, ["steps=2"])["steps"] == 2
    still = trial.measure([settings], folder.root, "scratch", 0, None, ["mode=knn"])
    assert (still["mode"], still["training_loss"], still["faces_per_second"]) == ("knn", None, 0.0)
    with pytest.raises(UsageError, match="write key=value"):
        trial.measure([settings], folder.root, "scratch", 0, None, ["steps"])


def test_two_covariance_plda_is_the_likelihood_ratio_of_one_person_against_two():
    """Of people and photos drawn as the model has it, with known covariances."""
    drawn, people = np.random.default_rng(0), np.repeat(np.arange(3000), 4)
    within, between = np.diag([0.5, 0.2, 1.0]), np.array([[1.0, 0.4, 0.0], [0.4, 2.0, 0.0], [0.0, 0.0, 0.3]])
    centres = drawn.multivariate_normal(np.ones(3), between, 3000)
    vectors = centres[people] + drawn.multivariate_normal(np.zeros(3), within, len(people))
    score = tricks.two_covariance(pd.DataFrame({"person": people}), vectors)
    first, second = vectors[:2000], vectors[4001:6001]
    total = within + between
    same, other = (
        multivariate_normal(np.ones(6), np.block([[total, shared], [shared, total]])).logpdf(
            np.hstack([first, second])
        )
        for shared in (between, np.zeros((3, 3)))
    )
    slope, _ = np.polyfit(same - other, score(first, second), 1)
    assert slope == pytest.approx(1.0, abs=0.1)
    assert np.corrcoef(same - other, score(first, second))[0, 1] > 0.995


def test_two_versions_of_the_main_job_train_the_same(monkeypatch, tmp_path):
    """Every setting of both is the earlier one; what only one knows stays out of it."""
    theirs = {"seeds": [0], "model": {"width": 8, "gone": 1}, "runs": {"scratch": {"pretrain": None}}}
    ours = {"seeds": [0, 1], "model": {"width": 9, "new": 2}, "runs": {"scratch": {}, "grid": {}}}
    assert main_job.shared(theirs, ours) == {
        "seeds": [0], "model": {"width": 8, "new": 2}, "runs": {"scratch": {"pretrain": None}, "grid": None}
    }  # fmt: skip


def test_the_main_job_s_ratio_is_of_processor_time(monkeypatch):
    """The workflows are not run; the earlier work tree is, and is gone afterwards."""
    settings, trees = {}, []

    def spent(tree, folder, content, threads):
        assert (tree / "Snakefile").is_file()
        settings[folder.name] = content
        trees.append(tree)
        seconds = {"before": 50.0, "now": 20.0}[folder.name]
        return {"processor_seconds": seconds, "wall_seconds": seconds / 2, "jobs": 3}

    monkeypatch.setattr(main_job, "run", spent)
    found = main_job.measure("HEAD", {"seeds": [7]}, threads=2)
    assert (found["ratio"], found["commit"], found["cores"]) == (0.4, "HEAD", 2)
    assert settings["before"] == settings["now"]
    assert settings["now"]["seeds"] == [7]
    assert trees[1] == main_job.ROOT
    assert not trees[0].exists()


def test_a_main_job_that_fails_or_a_commit_that_is_none_is_told(tmp_path):
    with pytest.raises(UsageError, match="no-such-commit cannot be checked out"):
        main_job.measure("no-such-commit", {}, threads=1)
    with pytest.raises(UsageError, match="at least 1 item"):
        main_job.run(main_job.ROOT, tmp_path / "now", {"seeds": []}, threads=1)
