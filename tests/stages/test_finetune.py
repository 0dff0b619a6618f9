import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from stages import make_folder

from facemae.compute.seeding import Noise
from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces, open_faces
from facemae.data.faces.subsets import people_apart
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import all_pairs
from facemae.models.build import build_embedder
from facemae.models.embedder import Embedder, embed, with_mirror
from facemae.models.patches import to_input
from facemae.models.weights import load_embedder
from facemae.stages import finetune as stages
from facemae.stages.finetune import finetune
from facemae.stages.pretrain import pretrain
from facemae.stages.task import Task
from facemae.training import memory
from facemae.training.objectives.identity import Recognition, dropped_patches

SIZE = 32


@pytest.fixture(scope="module")
def store(tmp_path_factory, orl_images):
    return make_folder(tmp_path_factory.mktemp("store"), SIZE, people=8, shots=2, images=orl_images)


@pytest.fixture
def stage(small, store, tmp_path):
    def run(
        name="random",
        seed=0,
        workers=0,
        model=(),
        out="out",
        pretrained=None,
        data=store,
        rotations=1,
        **changes,
    ):
        run = {"model": dict(model), "finetune": {"steps": 4, **changes}, "pretrain": {"decoder": "mlp"}}
        settings = small(runs={name: run}, baselines=[], split={"rotations": rotations})
        task = Task(settings, name, seed, data, tmp_path / out / "finetune", workers=workers)
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
        layout.CONFIG, layout.EMBEDDER, layout.EMBEDDINGS, layout.LOG, layout.METRICS, layout.PROBE
    }  # fmt: skip
    log = records.read_log(out / layout.LOG)
    assert [(record["part"], record["step"]) for record in log] == [(0, 3), (0, 4)]
    metrics = records.read_json(out / layout.METRICS)
    assert metrics["metrics"][0]["value"] == log[-1]["loss"]
    assert metrics["seconds"].keys() == {"finetune"}
    assert metrics["images_seen"] == {"finetune": 4 * 4}
    assert metrics["labels"] == [{"faces": 8, "people": 4}]
    assert not out.with_name(".finetune").exists()


def test_two_trainings_write_the_same_bytes(stage):
    first, second = stage(out="a"), stage(out="b", workers=2)
    for name in (layout.EMBEDDER, layout.EMBEDDINGS, layout.PROBE, layout.CONFIG):
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
    weights = safetensors.torch.load_file(before / layout.ENCODER)
    after = safetensors.torch.load_file(out / layout.EMBEDDER)
    for name, value in weights.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[f"encoder.trunk.{name}"], value, rtol=0, atol=1e-6)
    metrics = records.read_json(out / layout.METRICS)
    assert metrics["seconds"].keys() == metrics["images_seen"].keys() == {"pretrain", "finetune"}
    vectors = embed(load_embedder(out), to_input(torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)))
    assert torch.isfinite(vectors).all()


def test_without_pretraining_the_encoder_starts_as_every_run_of_the_seed(stage, small):
    out = stage(learning_rate=1e-9, weight_decay=0.0)
    torch.manual_seed(seed_of(0, "weights"))
    expected = build_embedder(small().run("random").model, SIZE).encoder.state_dict()
    after = safetensors.torch.load_file(out / layout.EMBEDDER)
    for name, value in expected.items():
        torch.testing.assert_close(after[f"encoder.{name}"], value, rtol=0, atol=1e-6)


def test_averaged_weights_become_the_result(stage):
    plain, averaged = stage(out="a"), stage(out="b", ema=0.9)
    first, second = (safetensors.torch.load_file(out / layout.EMBEDDER) for out in (plain, averaged))
    assert first.keys() == second.keys()
    assert not all(torch.equal(first[name], second[name]) for name in first)
    logs = [records.read_log(out / layout.LOG) for out in (plain, averaged)]
    assert [record["loss"] for record in logs[0]] == [record["loss"] for record in logs[1]]  # trained alike


def test_weights_of_another_network_are_refused(stage, pretrained):
    before = pretrained()
    with pytest.raises(IntegrityError, match="does not fit its configuration"):
        stage(model={"width": 32}, pretrained=before)


def test_a_run_that_the_memory_cannot_hold_never_starts(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_bytes", lambda compute: 100_000.0)
    with pytest.raises(UsageError, match=r"finetune random/0 needs about .* GiB are free; "):
        stage()
    assert not (tmp_path / "out" / ".finetune").exists()


def test_a_batch_in_parts_is_a_training_of_its_own_but_a_sound_one(stage):
    """Batch normalisation sees a part at a time, so the weights are others; the same each time."""
    first, second = stage(out="a", grad_accumulation=2), stage(out="b", grad_accumulation=2)
    assert (first / layout.EMBEDDER).read_bytes() == (second / layout.EMBEDDER).read_bytes()


@pytest.mark.parametrize("loss", ["cosface", "arcface", "softmax", "adaface", "subcenter"])
def test_it_learns_who_is_who(stage, store, orl_images, loss):
    out = stage(loss=loss, steps=60, batch_size=8, learning_rate=0.003, margin=0.1, log_every=20,
                brightness=0.0, rotation=0.0, shift=0.0, scale_jitter=0.0)  # fmt: skip
    log = records.read_log(out / layout.LOG)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    vectors = embed(load_embedder(out), to_input(torch.from_numpy(orl_images[:8])))  # the training people's
    cosine = (vectors @ vectors.T).fill_diagonal_(-1)
    assert (cosine.argmax(dim=1) // 2 == torch.arange(8) // 2).float().mean() >= 0.75


# --- modes ---


def start(small, **model):
    """Return the state of the embedder that every run of seed 0 starts from."""
    torch.manual_seed(seed_of(0, "weights"))
    return build_embedder(small().defaults.model.model_copy(update=model), SIZE).state_dict()


def changed(out, before):
    after = safetensors.torch.load_file(out / layout.EMBEDDER)
    assert after.keys() == before.keys()  # whatever was trained, plain weights come out
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_full_trains_every_weight(stage, small):
    before = start(small)
    assert changed(stage(whiten=False), before) == before.keys()


@pytest.mark.parametrize(
    "model", [{}, {"encoder": "cnn", "network": "resnet10t"}, {"encoder": "mlp"}], ids=str
)
def test_a_probe_trains_the_head_alone(stage, small, model):
    """The running statistics of a frozen network's normalisation stay too."""
    before = start(small, **model)
    out = stage(model=model, mode="probe", ema=0.5, layer_decay=0.75, whiten=False)
    assert changed(out, before) == {name for name in before if name.startswith("head.")}


def test_partial_trains_the_last_blocks(stage, small):
    before = start(small, depth=3)
    out = stage(model={"depth": 3}, mode="partial", last_blocks=2, layer_decay=0.75, whiten=False)
    trained = ("head.", "encoder.trunk.blocks.1.", "encoder.trunk.blocks.2.", "encoder.trunk.norm.")
    assert changed(out, before) == {name for name in before if name.startswith(trained)}


def test_lora_changes_queries_and_values(stage, small):
    before = start(small)
    out = stage(mode="lora", lora_rank=2, ema=0.5, layer_decay=0.75, whiten=False)
    trained = {name for name in before if name.startswith("head.") or name.endswith("attn.qkv.weight")}
    assert changed(out, before) == trained
    after = safetensors.torch.load_file(out / layout.EMBEDDER)
    difference = (
        after["encoder.trunk.blocks.0.attn.qkv.weight"] - before["encoder.trunk.blocks.0.attn.qkv.weight"]
    )
    queries, keys, values = difference.chunk(3)
    assert not keys.any()
    assert torch.linalg.matrix_rank(queries, atol=1e-5) <= 2
    assert values.any()


@pytest.mark.parametrize("head", ["pooled", "flatten", "narrow"])
def test_knn_gives_the_encoder_as_it_is(stage, small, store, head):
    before = start(small)
    out = stage(mode="knn", model={"head": head})
    after = safetensors.torch.load_file(out / layout.EMBEDDER)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    assert records.read_log(out / layout.LOG) == []
    metrics = records.read_json(out / layout.METRICS)
    assert metrics["metrics"][0]["value"] is None
    assert metrics["images_seen"] == {"finetune": 0}
    embedder = load_embedder(out)
    images = to_input(torch.from_numpy(open_faces(store, records.read_table(store.split)).loaded().images))
    pooled = embedder.encoder.pool(embedder.encoder(images))
    cosine = torch.nn.functional.normalize(embedder(images), dim=1)
    torch.testing.assert_close(cosine @ cosine.T, torch.corrcoef(pooled), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ({"encoder": "cnn"}, {"mode": "lora"}, "lora trains attention of a vision Transformer"),
        ({"encoder": "mlp"}, {"mode": "partial"}, "partial trains blocks of a vision Transformer"),
        ({}, {"mode": "partial", "last_blocks": 3}, "last_blocks: 3 of 2 blocks"),
        ({"encoder": "mlp"}, {"patch_drop": 0.5}, "encoder mlp has no patches"),
        ({}, {"patch_drop": 0.01}, "0.01 of 16 patches leaves out none"),
    ],
)
def test_what_the_encoder_cannot_follow_is_refused(stage, model, changes, reason, tmp_path):
    with pytest.raises(UsageError, match=reason):
        stage(model=model, **changes)
    assert not (tmp_path / "out" / ".finetune").exists()


# --- first steps, dropped patches, some people ---


def test_the_first_steps_train_the_head_alone(stage, small):
    before = start(small)
    heads = {name for name in before if name.startswith("head.")}
    assert changed(stage(out="a", head_steps=4, whiten=False), before) == heads
    assert changed(stage(out="b", head_steps=3, whiten=False), before) == before.keys()


@pytest.mark.parametrize("model", [{}, {"encoder": "cnn"}], ids=str)
def test_patches_are_left_out_in_training(stage, model, monkeypatch):
    counts, original = [], Embedder.features

    def spied(self, images, mask=None):
        counts.append((self.training, mask and mask.visible_ids.shape[1]))
        return original(self, images, mask)

    monkeypatch.setattr(Embedder, "features", spied)
    stage(patch_drop=0.75, held_out=0.5, validate_every=2, model=model)
    assert [visible for training, visible in counts if training].count(4) >= 4  # of 4 x 4
    assert {visible for training, visible in counts if not training} == {None}


def test_dropped_patches_are_others_each_time_and_none_at_zero(experiment):
    embedder = build_embedder(experiment.defaults.model, SIZE)
    settings = experiment.defaults.finetune
    assert dropped_patches(embedder, settings, Noise(range(2), 0)) is None
    dropping = settings.model_copy(update={"patch_drop": 0.25})
    masks = [dropped_patches(embedder, dropping, Noise(range(50), step)) for step in range(2)]
    assert masks[0].hidden.sum(dim=1).tolist() == [4] * 50
    assert not torch.equal(masks[0].hidden, masks[1].hidden)
    assert len({tuple(row.tolist()) for row in masks[0].hidden}) > 40


EVERYTHING = {
    "mode": "lora", "loss": "adaface", "head_steps": 3, "patch_drop": 0.5,
    "erasing": 0.5, "low_resolution": 0.5, "held_out": 0.5, "validate_every": 2, "ema": 0.5, "steps": 8,
    "checkpoint_every": 2, "grad_accumulation": 2, "scale": "auto",
}  # fmt: skip


@pytest.mark.parametrize("stopped_at", [1, 5])
def test_a_training_that_was_interrupted_ends_with_the_same_bits(stage, monkeypatch, stopped_at):
    """Stopped while the head is trained alone, and later."""
    whole = stage(out="whole", **EVERYTHING)
    original = Recognition.loss

    def stopping(self, step, part):
        if step == stopped_at:
            raise KeyboardInterrupt
        return original(self, step, part)

    with monkeypatch.context() as patch:
        patch.setattr(Recognition, "loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            stage(out="pieces", **EVERYTHING)
    out = stage(out="pieces", **EVERYTHING)
    assert (out / layout.EMBEDDER).read_bytes() == (whole / layout.EMBEDDER).read_bytes()
    logs = [records.read_log(folder / layout.LOG) for folder in (whole, out)]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


# --- embeddings ---


def test_each_part_of_the_evaluation_people_is_embedded_by_its_own_model(stage, rotating):
    out = stage(data=rotating, rotations=2)
    found = records.read_table(out / layout.EMBEDDINGS)
    rows = records.read_table(rotating.split)
    assert list(found.columns) == [*layout.EMBEDDING_COLUMNS, layout.WEIGHTS]
    assert dict(zip(found["sample_id"], found["part"], strict=True)) == dict(
        zip(rows["sample_id"], rows["part"], strict=True)
    )
    for part, table in found.groupby("part"):
        faces = open_faces(rotating, rows[rows["part"] == part]).loaded()
        expected = embed(load_embedder(out, part), to_input(torch.from_numpy(faces.images))).numpy()
        by_name = table.set_index("sample_id").loc[faces.sample_ids, "embedding"]
        np.testing.assert_allclose(np.stack(by_name.to_list()), expected, atol=1e-5)


def test_a_kill_while_embedding_trains_nothing_again(stage, monkeypatch):
    """The results of the stage are deleted with the job that failed; its checkpoints are not."""
    trained, fit, embed_people = [], stages.fit_faces, stages.embed_people
    monkeypatch.setattr(stages, "fit_faces", lambda *given: trained.append(1) or fit(*given))

    def killed(task, finetuned):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "embed_people", killed)
    with pytest.raises(KeyboardInterrupt):
        stage()
    monkeypatch.setattr(stages, "embed_people", embed_people)
    assert (stage() / layout.EMBEDDINGS).exists()
    assert trained == [1]


def test_at_the_end_the_embedding_is_whitened_within_the_people_it_learnt_from(stage, store):
    out, before = stage(out="whitened"), stage(out="as it was", whiten=False)
    assert records.read_log(out / layout.LOG)[-1]["loss"] == records.read_log(before / layout.LOG)[-1]["loss"]
    rows = records.read_table(store.split)
    faces = open_faces(store, rows[rows["role"] == layout.ROLE_TRAIN]).loaded()

    def evenness(folder):
        """Return the effective dimension of how photos of a person differ."""
        vectors = with_mirror(load_embedder(folder), to_input(torch.from_numpy(faces.images))).numpy()
        apart = vectors - pd.DataFrame(vectors).groupby(list(faces.people)).transform("mean").to_numpy()
        spread = np.linalg.svd(apart, compute_uv=False) ** 2
        return spread.sum() ** 2 / (spread**2).sum()

    assert evenness(out) > 1.2 * evenness(before)


def test_nobody_held_out_and_nobody_evaluated_on_is_whitened_by(stage, store, monkeypatch):
    seen = []
    monkeypatch.setattr(stages, "whiten", lambda embedder, faces, people, compute, label: seen.extend(people))
    stage(held_out=0.5, validate_every=2)
    rows = records.read_table(store.split)
    learnt, _ = people_apart(rows[rows["role"] == layout.ROLE_TRAIN], 0.5)
    assert sorted(seen) == sorted(learnt["person"])


# --- validation ---


def test_the_best_weights_on_people_held_out_become_the_result(stage, store):
    changes = {"held_out": 0.5, "validate_every": 1, "steps": 6, "learning_rate": 0.02, "whiten": False}
    out = stage(out="a", **changes)
    errors = [line["held_out_loss"] for line in records.read_log(out / layout.LOG)]
    assert len(errors) == 6
    rows = records.read_table(store.split)
    learnt, held_out = people_apart(rows[rows["role"] == layout.ROLE_TRAIN], 0.5)
    faces = open_faces(store, held_out).loaded()
    people = np.unique(faces.people, return_inverse=True)[1]
    vectors = embed(load_embedder(out), to_input(torch.from_numpy(faces.images))).numpy()
    assert 1 - roc_auc_score(all_pairs(vectors, people))[0] == pytest.approx(min(errors), abs=1e-6)
    metrics = records.read_json(out / layout.METRICS)
    assert metrics["metrics"][1]["name"] == "held_out_loss"
    assert metrics["metrics"][1]["value"] == min(errors)
    assert metrics["labels"] == [{"faces": len(learnt), "people": 2}]


def test_it_stops_when_nothing_gets_better(stage):
    out = stage(held_out=0.5, validate_every=1, patience=1, steps=40)
    log = records.read_log(out / layout.LOG)
    assert log[-1]["step"] < 40
    assert records.read_json(out / layout.METRICS)["images_seen"] == {"finetune": 4 * log[-1]["step"]}


# --- labels ---


def test_too_few_labels_are_refused(stage):
    with pytest.raises(DataError, match="set held_out and validate_every to 0"):
        stage(held_out=0.1, validate_every=2)
    with pytest.raises(DataError, match="it takes two to tell apart"):
        stage(labels={"fraction": 0.1})


def test_fewer_labels_are_learnt_from_and_told(stage):
    metrics = records.read_json(stage(labels={"fraction": 0.5}) / layout.METRICS)
    assert metrics["labels"] == [{"faces": 4, "people": 4}]


# --- rotations ---


@pytest.fixture
def rotating(store, tmp_path):
    """The same store, with all people evaluated in two parts and trained on in the other's turn."""
    root = tmp_path / "rotating"
    root.mkdir()
    for path in store.root.iterdir():
        (root / path.name).symlink_to(path)
    folder = layout.DataFolder(root)
    table = records.read_table(store.split)
    part = table["person"].str[1:].astype(int) % 2
    table = table.assign(role=layout.ROLE_EVALUATION, part=part, trainable=True)
    folder.split.unlink()
    records.write_table(folder.split, table, layout.SPLIT_COLUMNS)
    return folder


def test_each_part_is_trained_in_turn_on_the_others(stage, rotating):
    out = stage(data=rotating, rotations=2)
    files = {layout.embedder_file(part) for part in (0, 1)}
    assert len(files) == 2
    assert files == {path.name for path in out.glob("*.safetensors")}
    first, second = (load_embedder(out, part) for part in (0, 1))
    assert not torch.equal(first.head[1].weight, second.head[1].weight)
    log = records.read_log(out / layout.LOG)
    assert [(record["part"], record["step"]) for record in log] == [(0, 3), (0, 4), (1, 3), (1, 4)]
    metrics = records.read_json(out / layout.METRICS)
    assert metrics["labels"] == [{"faces": 8, "people": 4}] * 2
    assert metrics["images_seen"] == {"finetune": 32}
    assert metrics["metrics"][0]["value"] == pytest.approx((log[1]["loss"] + log[3]["loss"]) / 2)
    assert [path for path in out.parent.glob(".finetune*") if path.is_dir()] == []


def test_a_part_that_was_finished_is_kept(stage, rotating, monkeypatch, tmp_path):
    whole = stage(data=rotating, rotations=2, out="whole")
    original, calls = stages.fit_faces, []

    def failing(objective, optimizer, faces, training, job, workers):
        calls.append(job.label)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(objective, optimizer, faces, training, job, workers)

    monkeypatch.setattr(stages, "fit_faces", failing)
    with pytest.raises(KeyboardInterrupt):
        stage(data=rotating, rotations=2)
    state = tmp_path / "out" / ".finetune"
    assert {path.name for path in state.iterdir()} >= {layout.EMBEDDER, layout.PART}
    assert list(state.glob("step_*")) == []
    with pytest.raises(UsageError, match="a part that was trained with other settings"):
        stage(data=rotating, rotations=2, learning_rate=0.1)
    out = stage(data=rotating, rotations=2)
    assert calls == ["finetune random/0", "finetune random/0 part 1", "finetune random/0 part 1"]
    for part in (0, 1):
        name = layout.embedder_file(part)
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    lines = [[list(line) for line in records.read_log(each / layout.LOG)] for each in (out, whole)]
    assert lines[0] == lines[1]  # in the same order


def test_patches_are_dropped_for_the_first_part_of_the_training_alone(stage, monkeypatch):
    counts, original = [], Embedder.features

    def spied(self, images, mask=None):
        if self.training:
            counts.append(mask and mask.visible_ids.shape[1])
        return original(self, images, mask)

    monkeypatch.setattr(Embedder, "features", spied)
    stage(patch_drop=0.75, patch_drop_until=0.5, steps=4, model={"head": "flatten"})
    assert counts[-4:] == [4, 4, None, None]


@pytest.mark.parametrize(("until", "visible"), [(1.0, 4), (0.5, 16)])
def test_the_memory_is_that_of_the_steps_with_the_most_patches(experiment, compute, until, visible):
    changes = {"patch_drop": 0.75, "patch_drop_until": until}
    settings = experiment.defaults.finetune.model_copy(update=changes)
    embedder, tokens = build_embedder(experiment.defaults.model, SIZE), []
    embedder.encoder.register_forward_hook(lambda *made: tokens.append(made[-1].tokens.shape[1]))
    nobody = Faces(np.empty((0, SIZE, SIZE, 3), np.uint8), [], [])
    Recognition(embedder, torch.arange(4), nobody, settings, compute, 0).trial(embedder, 2)
    assert tokens == [visible]


def test_where_one_person_is_shown_twice_the_loss_alone_says_whether_it_has_learnt(stage, store, tmp_path):
    root = tmp_path / "once"
    root.mkdir()
    for path in store.root.iterdir():
        (root / path.name).symlink_to(path)
    folder = layout.DataFolder(root)
    table = records.read_table(store.split)
    second = (table["role"] == layout.ROLE_TRAIN) & table["sample_id"].str.endswith("/1")
    folder.split.unlink()
    records.write_table(folder.split, table[~second | (table["person"] == "p0")], layout.SPLIT_COLUMNS)
    (found,) = records.read_json(stage(data=folder) / layout.METRICS)["health"]
    assert found.keys() == {"learnt", "reason", "loss_of_chance"}


def test_a_training_says_whether_it_has_learnt(stage, orl_images):
    young = records.read_json(stage(out="a") / layout.METRICS)["health"]
    assert [each["learnt"] for each in young] == [False]
    assert "of chance" in young[0]["reason"]
    settings = {"steps": 60, "batch_size": 8, "learning_rate": 0.003, "margin": 0.1, "log_every": 20,
                "held_out": 0.5, "validate_every": 30, "rotation": 0.0}  # fmt: skip
    out = stage(out="b", **settings)
    (old,) = records.read_json(out / layout.METRICS)["health"]
    assert old["learnt"], old["reason"]
    assert old["loss_of_chance"] < young[0]["loss_of_chance"]
    assert 0 <= old["frame_share"] <= 1
    validated = [line for line in records.read_log(out / layout.LOG) if "held_out_loss" in line]
    assert all("effective_dimension" in line for line in validated)


# --- weights to start from ---


@pytest.fixture
def started(small, store, tmp_path):
    """Return a function that fine-tunes a run without pretraining from `init`."""

    def run(init, out="out", model=(), data=store):
        changes = {"steps": 2, "init": init, "learning_rate": 1e-9, "weight_decay": 0.0}
        settings = small(
            runs={"x": {"pretrain": None, "model": dict(model), "finetune": changes}}, baselines=[]
        )
        task = Task(settings, "x", 0, data, tmp_path / out / "finetune")
        finetune(task, None)
        return task.out

    return run


@pytest.fixture
def shipped_mae(pretrained, tmp_path, monkeypatch):
    """A model face-mae of the package, which has seen nobody of the evaluation people."""
    from facemae.models import shipped_models

    before, folder = pretrained(), tmp_path / "shipped" / "face-mae"
    folder.mkdir(parents=True)
    for name in (layout.CONFIG, layout.ENCODER, layout.DECODER):
        (folder / name).write_bytes((before / name).read_bytes())

    def seen(*names):
        people = {"training": sorted(shipped_models.hashed(names)), "evaluation": []}
        files.write_json(folder / "people.json", people)
        hashes = {path.name: files.sha256_of(path) for path in folder.iterdir() if path.name != "card.json"}
        files.write_json(folder / "card.json", {"model": "face-mae", "schema_version": 1, "files": hashes})

    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path / "shipped")
    seen("p0")
    return folder, seen


def test_a_run_without_pretraining_starts_from_a_named_model_or_a_file(started, shipped_mae):
    folder, _ = shipped_mae
    weights = safetensors.torch.load_file(folder / layout.ENCODER)
    for init, out in (("face-mae", "a"), (str(folder / layout.ENCODER), "b")):
        after = safetensors.torch.load_file(started(init, out) / layout.EMBEDDER)
        for name, value in weights.items():
            torch.testing.assert_close(after[f"encoder.trunk.{name}"], value, rtol=0, atol=1e-6)
    metrics = records.read_metrics(folder.parents[1] / "a" / "finetune")
    assert metrics["started_from"] == {
        "init": "face-mae", "sha256": files.sha256_of(folder / layout.ENCODER)
    }  # fmt: skip
    assert (
        records.read_json(folder.parents[1] / "a" / "finetune" / layout.CONFIG)["finetune"]["init"]
        == "face-mae"
    )


def test_a_shallower_run_takes_the_first_blocks_of_a_named_model(started, shipped_mae):
    folder, _ = shipped_mae
    weights = safetensors.torch.load_file(folder / layout.ENCODER)
    after = safetensors.torch.load_file(started("face-mae", model={"depth": 1}) / layout.EMBEDDER)
    assert "encoder.trunk.blocks.1.attn.qkv.weight" not in after
    torch.testing.assert_close(
        after["encoder.trunk.blocks.0.attn.qkv.weight"],
        weights["blocks.0.attn.qkv.weight"],
        rtol=0,
        atol=1e-6,
    )


def test_a_run_stops_that_would_be_judged_by_people_whom_its_start_has_seen(started, shipped_mae):
    shipped_mae[1]("p0", "p5")
    with pytest.raises(
        IntegrityError, match=r"names of 1 of 4 .* evaluated on, p5 for example; delete .*split"
    ):
        started("face-mae")


def test_a_start_beside_a_pretraining_is_refused(small):
    with pytest.raises(UsageError, match=r"runs.x.* is for a run without pretraining; set pretrain to null"):
        small(runs={"x": {"finetune": {"init": "face-mae"}}})
