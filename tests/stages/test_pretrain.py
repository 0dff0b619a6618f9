import contextlib
import json
import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from stages import SOURCE, make_folder

from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.masking.strategies import STRATEGIES
from facemae.models.weights import load_autoencoder
from facemae.stages import pretrain_mae
from facemae.stages.pretrain import pretrain
from facemae.stages.task import Task
from facemae.training import memory
from facemae.training.objectives import contrastive
from facemae.training.objectives.mae import MaskedPretraining

SIZE = 32
SHORT = {"steps": 4, "held_out": 0.25, "validate_every": 2, "log_every": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory, orl_images):
    """Eight people of two photos: four to train on and four that nothing trains on."""
    return make_folder(tmp_path_factory.mktemp("store"), SIZE, people=8, shots=2, images=orl_images)


@pytest.fixture
def stage(small, store, tmp_path):
    """Return a function that trains a run with changed settings and returns its folder."""

    def run(name="random", seed=0, workers=0, model=(), out="out", baselines=(), **changes):
        settings = {
            "runs": {name: {"model": dict(model), "pretrain": SHORT | changes}},
            "baselines": list(baselines),
        }
        task = Task(small(**settings), name, seed, store, tmp_path / out / "pretrain", workers=workers)
        pretrain(task)
        return task.out

    return run


def metrics_of(out):
    return {each["name"]: each for each in records.read_json(out / layout.METRICS)["metrics"]}


def test_everything_that_is_promised_is_written(stage, store):
    out = stage()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [
            layout.CONFIG,
            layout.ENCODER,
            layout.DECODER,
            layout.LOG,
            layout.METRICS,
            layout.PROGRESS,
            layout.RECONSTRUCTIONS,
        ]
    )
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == [".pretrain.lock"]
    log = records.read_log(out / layout.LOG)
    assert [record["step"] for record in log] == [2, 4]
    assert all({"held_out_loss", "probe_knn", "probe_auc"} <= record.keys() for record in log)
    assert all(record["mfu"] >= 0 and record["memory_mb"] > 0 for record in log)
    found = metrics_of(out)
    assert found.keys() == {
        "training_loss",
        "reconstruction_error",
        "reconstruction_error_random",
        "held_out_loss",
    }
    best = min(record["held_out_loss"] for record in log)
    assert found["held_out_loss"]["value"] == best
    assert re.fullmatch(r"best, at step [24]", found["held_out_loss"]["note"])
    assert found["reconstruction_error"]["n"] == 8  # the evaluation people's faces
    settings = records.read_json(out / layout.CONFIG)
    assert settings["pretrain"]["masks"] == {"random": {}}


def test_what_is_written_comes_back(stage):
    out = stage("grid", mask="grid")
    mae, settings = load_autoencoder(out)
    assert settings.mask == "grid"
    images = torch.rand(2, 3, SIZE, SIZE)
    ids = torch.arange(16).expand(2, -1)
    from facemae.masking.mask import PatchMask

    mask = PatchMask(torch.zeros(2, 16, dtype=torch.bool), ids[:, :4], ids[:, 4:])
    assert torch.isfinite(mae(images, mask).patches).all()


def test_reconstructions_are_of_unseen_people_one_each(stage, store):
    out = stage()
    with safetensors.safe_open(out / layout.RECONSTRUCTIONS, "pt") as file:
        facts = json.loads(file.metadata()[layout.FACTS])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert facts["sample_ids"] == ["p4/0", "p5/0", "p6/0", "p7/0"]
    assert tensors["face"].shape == tensors["reconstruction"].shape == (4, SIZE, SIZE, 3)
    assert tensors["hidden"].sum(dim=1).tolist() == [12] * 4
    hidden = tensors["hidden"].view(4, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(tensors["face"][~hidden], tensors["reconstruction"][~hidden])
    assert not torch.equal(tensors["face"][hidden], tensors["reconstruction"][hidden])
    assert facts["mask"]["visible_tokens"] == 4


def test_completions_on_the_way_are_kept_for_the_first_seed_and_change_no_weight(stage, monkeypatch):
    out = stage(out="a")
    kept = safetensors.torch.load_file(out / layout.PROGRESS)
    assert kept["step"].tolist() == [2, 4]
    assert kept["reconstruction"].shape == (2, pretrain_mae.PROGRESS_FACES, SIZE, SIZE, 3)
    with safetensors.safe_open(out / layout.RECONSTRUCTIONS, "pt") as file:
        shown = slice(pretrain_mae.PROGRESS_FACES)
        visible = ~file.get_tensor("hidden")[shown].view(-1, 4, 4).repeat_interleave(8, 1).repeat_interleave(
            8, 2
        )
        face = file.get_tensor("face")[shown]
    for picture in kept["reconstruction"]:
        assert torch.equal(picture[visible], face[visible])  # the masks are those of the end
    assert not torch.equal(*kept["reconstruction"])
    assert not (stage(out="b", seed=1) / layout.PROGRESS).exists()
    assert not (stage("guided", out="c", mask="attention_high") / layout.PROGRESS).exists()
    monkeypatch.setattr(pretrain_mae, "keep_progress", lambda *_: None)
    (out.parent / "d").mkdir()
    (out.parent / "d" / layout.PROGRESS).write_bytes(b"of an earlier training")
    without = stage(out="d")
    assert not (without / layout.PROGRESS).exists()
    assert (without / layout.ENCODER).read_bytes() == (out / layout.ENCODER).read_bytes()


def test_many_validations_keep_few_completions(stage):
    out = stage(steps=20, validate_every=1, log_every=20)
    steps = safetensors.torch.load_file(out / layout.PROGRESS)["step"].tolist()
    assert steps == [4, 8, 12, 16, 20]


def test_two_trainings_write_the_same_bytes(stage):
    first, second = stage(out="a", workers=0), stage(out="b", workers=2)
    for name in (layout.ENCODER, layout.DECODER, layout.RECONSTRUCTIONS, layout.PROGRESS, layout.CONFIG):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert {name: each["value"] for name, each in metrics_of(first).items()} == {
        name: each["value"] for name, each in metrics_of(second).items()
    }
    other = stage(out="c", seed=1)
    assert (other / layout.ENCODER).read_bytes() != (first / layout.ENCODER).read_bytes()


@pytest.mark.parametrize("mask", STRATEGIES)
def test_every_strategy_comes_to_its_end(stage, mask):
    out = stage("x", mask=mask)
    tensors = safetensors.torch.load_file(out / layout.ENCODER)
    assert all(value.isfinite().all() for value in tensors.values())
    assert "reconstruction_error" in metrics_of(out)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({"encoder": "cnn"}, {"decoder": "deconv"}),
        ({"encoder": "cnn", "network": "resnet10t"}, {"decoder": "cross", "predict_ratio": 0.25}),
        ({"encoder": "mlp"}, {"decoder": "mlp", "mask": "pixel"}),
        ({"class_token": True, "pool": "class"}, {"decoder": "cross", "ema": 0.9, "loss": "l1"}),
        ({}, {"loss_on": "all", "normalise_target": False, "crop_min": 0.5}),
        ({}, {"perceptual": {"weight": 1.0, "network": "ema", "weights": None}}),
    ],
    ids=str,
)
def test_every_family_comes_to_its_end(stage, model, changes):
    out = stage("x", model=model, **changes)
    assert all(value.isfinite().all() for value in safetensors.torch.load_file(out / layout.ENCODER).values())
    mae, _ = load_autoencoder(out)
    assert not mae.training


def test_without_validation_the_last_weights_count(stage):
    out = stage(held_out=0.0, validate_every=0)
    assert "held_out_loss" not in metrics_of(out)
    assert not any("held_out_loss" in record for record in records.read_log(out / layout.LOG))


def test_the_probe_can_be_left_out(stage):
    log = records.read_log(stage(probe=False) / layout.LOG)
    assert all("held_out_loss" in record and "probe_auc" not in record for record in log)


def test_held_out_faces_are_the_same_for_every_run_and_never_trained_on(small, store, tmp_path):
    from facemae.stages.pretrain import _rows

    splits = []
    for name, seed in (("random", 0), ("grid", 1)):
        experiment = small(defaults={"pretrain": SHORT})
        task = Task(experiment, name, seed, store, tmp_path)
        training, held_out = _rows(task, task.run.pretrain)
        assert len(training) + len(held_out) == 8
        assert not set(training["sample_id"]) & set(held_out["sample_id"])
        assert set(training["role"]) | set(held_out["role"]) == {layout.ROLE_TRAIN}
        splits.append((list(training["sample_id"]), list(held_out["sample_id"])))
    assert splits[0] == splits[1]
    assert len(splits[0][1]) == 2


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nothing_is_told(stage, share):
    with pytest.raises(DataError, match="leaves none to train on or none to validate on") as caught:
        stage(held_out=share)
    assert caught.value.exit_code == 3


def test_a_run_without_pretraining_is_told(small, store, tmp_path):
    with pytest.raises(UsageError, match=r"runs\.scratch\.pretrain is null"):
        pretrain(Task(small(), "scratch", 0, store, tmp_path / "pretrain"))


def test_a_run_that_the_memory_cannot_hold_never_starts(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_bytes", lambda compute: 600_000.0)
    with pytest.raises(UsageError, match=r"pretrain random/0 needs about .* GiB are free; "):
        stage(batch_size=8, held_out=0.0, validate_every=0)
    assert not (tmp_path / "out" / ".pretrain").exists()


def test_the_error_under_the_common_mask_does_not_depend_on_the_runs_own(stage):
    """A run of the random mask is scored twice under masks that are drawn alike: the same number."""
    found = metrics_of(stage("x", mask="random"))
    assert found["reconstruction_error"]["value"] == pytest.approx(
        found["reconstruction_error_random"]["value"], rel=1e-6
    )
    blocks = metrics_of(stage("x", mask="block", out="b"))
    assert blocks["reconstruction_error"]["value"] != blocks["reconstruction_error_random"]["value"]


def test_a_start_from_given_weights(stage, tmp_path):
    first = stage(out="a")
    again = stage("x", out="b", init=str(first / layout.ENCODER), learning_rate=1e-9, weight_decay=0.0)
    for name, value in safetensors.torch.load_file(first / layout.ENCODER).items():
        torch.testing.assert_close(
            safetensors.torch.load_file(again / layout.ENCODER)[name], value, rtol=0, atol=1e-6
        )


def test_a_finished_stage_that_was_not_written_is_written(stage, small, store, tmp_path, monkeypatch):
    """A kill between the last step and the results: nothing is trained again, and the result is the same."""
    import facemae.stages.pretrain as module

    whole = stage(out="whole")

    def killed(*ignored):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            stage()
    assert list((tmp_path / "out" / ".pretrain").glob("step_00000004.*.safetensors"))
    assert not (tmp_path / "out" / "pretrain").exists()
    monkeypatch.setattr(MaskedPretraining, "loss", None)  # no step is taken
    out = stage()
    assert (out / layout.ENCODER).read_bytes() == (whole / layout.ENCODER).read_bytes()


def test_other_inputs_are_another_training(small, store, tmp_path):
    task = Task(small(), "random", 0, store, tmp_path / "pretrain")
    extra = tmp_path / "weights.safetensors"
    extra.write_bytes(b"1")
    first = task.job(task.settings("model", "pretrain"), init=extra)
    extra.write_bytes(b"2")
    second = task.job(task.settings("model", "pretrain"), init=extra)
    assert first.identity != second.identity
    assert first.state == second.state == tmp_path / ".pretrain"
    busier = replace(task, workers=2, threads=2)
    assert busier.job(task.settings("model", "pretrain"), init=extra) == second


@pytest.mark.parametrize(
    ("align", "own", "crop", "refused"),
    [
        ("auto", "landmarks", [0.0, 0.0, 1.0, 1.0], False),
        ("auto", "crop", [0.0, 0.0, 1.0, 1.0], True),
        ("auto", "crop", [0.1, 0.1, 0.9, 0.9], False),
        ("landmarks", "crop", [0.0, 0.0, 1.0, 1.0], False),  # what is advised helps
    ],
)
def test_regions_want_faces_on_the_template(small, store, tmp_path, align, own, crop, refused):
    changes = {"data": {"align": align}, "runs": {"region": {"pretrain": {"mask": "region", **SHORT}}}}
    task = Task(small(**changes), "region", 0, store, tmp_path / "pretrain")
    files.write_json(store.sources, [SOURCE, {"name": "photos", "align": own, "crop": crop}])
    try:
        if refused:
            with pytest.raises(
                UsageError, match=r"runs\.region\.pretrain\.mask: .* photos was taken as it is"
            ):
                pretrain(task)
        else:
            pretrain(task)
            assert (task.out / layout.ENCODER).exists()
    finally:
        files.write_json(store.sources, [SOURCE])


# --- rivals ---

RIVALS = list(contrastive.METHODS)
SMALL_HEADS = {"hidden": 8, "projection": 6}


@pytest.mark.parametrize("encoder", ["vit", "cnn", "mlp"])
@pytest.mark.parametrize("method", RIVALS)
def test_every_rival_comes_to_its_end_with_every_encoder(stage, method, encoder):
    out = stage("x", model={"encoder": encoder}, method=method, views=SMALL_HEADS, ema=0.5)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [layout.CONFIG, layout.ENCODER, layout.LOG, layout.METRICS]
    )
    assert all(each.isfinite().all() for each in safetensors.torch.load_file(out / layout.ENCODER).values())
    found, log = metrics_of(out), records.read_log(out / layout.LOG)
    assert found.keys() == {"training_loss", "held_out_loss"}
    assert found["held_out_loss"]["value"] == min(record["held_out_loss"] for record in log)
    assert all({"held_out_loss", "probe_auc"} <= record.keys() for record in log)
    settings = records.read_json(out / layout.CONFIG)["pretrain"]
    assert settings["views"]["hidden"] == 8
    assert "mask" not in settings


def test_a_rivals_encoder_is_fine_tuned_as_any(stage, experiment):
    from facemae.models.build import build_embedder
    from facemae.models.weights import load_weights

    out = stage("x", method="moco", views=SMALL_HEADS)
    embedder = build_embedder(experiment.defaults.model, SIZE)
    load_weights(embedder.encoder.trunk, out / layout.ENCODER)


def test_rivals_start_from_given_weights_too(stage):
    first = stage(out="a")
    again = stage("x", out="b", init=str(first / layout.ENCODER), method="simclr", learning_rate=1e-9,
                  weight_decay=0.0, views=SMALL_HEADS)  # fmt: skip
    for name, value in safetensors.torch.load_file(first / layout.ENCODER).items():
        torch.testing.assert_close(
            safetensors.torch.load_file(again / layout.ENCODER)[name], value, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(("changes", "views"), [({}, 1), ({"method": "moco", "views": SMALL_HEADS}, 2)])
def test_what_a_training_has_seen_is_written(stage, changes, views):
    found = records.read_json(stage("x", **changes) / layout.METRICS)
    assert found["images_seen"] == 4 * 4 * views  # steps times faces
    assert found["energy_joules"] is None  # no GPU


def test_energy_is_the_power_over_the_seconds(stage, small, store, tmp_path, monkeypatch):
    monkeypatch.setattr(Compute, "watts", lambda self, step: [100.0 if step % 2 else 300.0])
    found = records.read_json(stage() / layout.METRICS)
    assert found["energy_joules"] == pytest.approx(200.0 * found["seconds"]["pretrain"], abs=0.3)


@pytest.mark.parametrize("method", RIVALS)
def test_rivals_take_one_process_and_the_whole_batch(stage, monkeypatch, method):
    import facemae.stages.pretrain as module

    with pytest.raises(UsageError, match=rf"^runs\.x\.pretrain\.grad_accumulation: {method} compares"):
        stage("x", method=method, grad_accumulation=2)

    @contextlib.contextmanager
    def two(device):
        yield World(rank=1, size=2)

    monkeypatch.setattr(module, "world", two)
    with pytest.raises(UsageError, match=rf"^pretrain\.method: {method} .* run it in one process"):
        stage("x", method=method)


def test_a_rival_cannot_be_validated_on_one_face(stage):
    with pytest.raises(DataError, match="leaves one, which dino can compare with no other"):
        stage("x", method="dino", held_out=0.12)
