import pytest
import safetensors.torch
import torch
from stages import make_folder

from facemae import cost, results
from facemae.errors import IntegrityError, UsageError
from facemae.finetune import finetune
from facemae.models.embedder import embed
from facemae.models.patches import to_input
from facemae.models.weights import load_embedder
from facemae.pretrain import pretrain
from facemae.task import Task

SIZE = 32


@pytest.fixture(scope="module")
def store(tmp_path_factory, orl_images):
    return make_folder(tmp_path_factory.mktemp("store"), SIZE, people=8, shots=2, images=orl_images)


@pytest.fixture
def stage(small, store, tmp_path):
    def run(name="random", seed=0, workers=0, model=(), out="out", pretrained=None, **changes):
        run = {"model": dict(model), "finetune": {"steps": 4, **changes}, "pretrain": {"decoder": "mlp"}}
        task = Task(
            small(runs={name: run}, baselines=[]),
            name,
            seed,
            store,
            tmp_path / out / "finetune",
            workers=workers,
        )
        finetune(task, pretrained)
        return task.out

    return run


@pytest.fixture
def pretrained(small, store, tmp_path):
    def run(model=(), decoder="transformer"):
        changes = {"steps": 2, "held_out": 0.0, "validate_every": 0, "decoder": decoder}
        settings = {"runs": {"random": {"model": dict(model), "pretrain": changes}}, "baselines": []}
        task = Task(small(**settings), "random", 0, store, tmp_path / "before" / "pretrain")
        pretrain(task)
        return task.out

    return run


def test_everything_that_is_promised_is_written(stage):
    out = stage()
    assert {path.name for path in out.iterdir()} == {
        results.CONFIG, results.EMBEDDER, results.LOG, results.METRICS
    }  # fmt: skip
    log = results.read_log(out / results.LOG)
    assert [record["step"] for record in log] == [3, 4]
    metrics = results.read_json(out / results.METRICS)
    assert metrics["metrics"][0]["value"] == log[-1]["loss"]
    assert metrics["seconds"].keys() == {"finetune"}
    assert not out.with_name(".finetune").exists()


def test_two_trainings_write_the_same_bytes(stage):
    first, second = stage(out="a"), stage(out="b", workers=2)
    for name in (results.EMBEDDER, results.CONFIG):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    ("model", "decoder"),
    [({}, "transformer"), ({"class_token": True, "pool": "class"}, "cross"), ({"encoder": "cnn"}, "deconv"),
     ({"encoder": "cnn", "network": "resnet10t"}, "mlp"), ({"encoder": "mlp"}, "mlp")],
    ids=str,
)  # fmt: skip
def test_every_encoder_goes_on_from_its_pretraining(stage, pretrained, store, model, decoder):
    before = pretrained(model, decoder)
    out = stage(model=model, pretrained=before, learning_rate=1e-9, weight_decay=0.0)
    weights = safetensors.torch.load_file(before / results.ENCODER)
    after = safetensors.torch.load_file(out / results.EMBEDDER)
    for name, value in weights.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[f"encoder.trunk.{name}"], value, rtol=0, atol=1e-6)
    seconds = results.read_json(out / results.METRICS)["seconds"]
    assert seconds.keys() == {"pretrain", "finetune"}
    vectors = embed(load_embedder(out), to_input(torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)))
    assert torch.isfinite(vectors).all()


def test_without_pretraining_the_encoder_starts_as_every_run_of_the_seed(stage, small):
    from facemae.models.embedder import build_embedder
    from facemae.randomness import seed_of

    out = stage(learning_rate=1e-9, weight_decay=0.0)
    torch.manual_seed(seed_of(0, "weights"))
    expected = build_embedder(small().run("random").model, SIZE).encoder.state_dict()
    after = safetensors.torch.load_file(out / results.EMBEDDER)
    for name, value in expected.items():
        torch.testing.assert_close(after[f"encoder.{name}"], value, rtol=0, atol=1e-6)


def test_averaged_weights_become_the_result(stage):
    plain, averaged = stage(out="a"), stage(out="b", ema=0.9)
    first, second = (safetensors.torch.load_file(out / results.EMBEDDER) for out in (plain, averaged))
    assert first.keys() == second.keys()
    assert not all(torch.equal(first[name], second[name]) for name in first)
    logs = [results.read_log(out / results.LOG) for out in (plain, averaged)]
    assert [record["loss"] for record in logs[0]] == [record["loss"] for record in logs[1]]  # trained alike


def test_weights_of_another_network_are_refused(stage, pretrained):
    before = pretrained()
    with pytest.raises(IntegrityError, match="does not fit its configuration"):
        stage(model={"width": 32}, pretrained=before)


def test_a_run_that_the_memory_cannot_hold_never_starts(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "free_bytes", lambda compute: 100_000.0)
    with pytest.raises(UsageError, match=r"finetune random/0 needs about .* GiB are free; "):
        stage()
    assert not (tmp_path / "out" / ".finetune").exists()


def test_a_batch_in_parts_is_a_training_of_its_own_but_a_sound_one(stage):
    """Batch normalisation sees a part at a time, so the weights are others; the same each time."""
    first, second = stage(out="a", accumulate=2), stage(out="b", accumulate=2)
    assert (first / results.EMBEDDER).read_bytes() == (second / results.EMBEDDER).read_bytes()


@pytest.mark.parametrize("loss", ["cosface", "arcface", "softmax"])
def test_it_learns_who_is_who(stage, store, orl_images, loss):
    out = stage(loss=loss, steps=60, batch_size=8, learning_rate=0.003, margin=0.1, log_every=20,
                brightness=0.0, rotation=0.0, shift=0.0, scale_jitter=0.0)  # fmt: skip
    log = results.read_log(out / results.LOG)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    vectors = embed(load_embedder(out), to_input(torch.from_numpy(orl_images[:8])))  # the training people's
    cosine = (vectors @ vectors.T).fill_diagonal_(-1)
    assert (cosine.argmax(dim=1) // 2 == torch.arange(8) // 2).float().mean() >= 0.75
