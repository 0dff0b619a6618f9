import re

import pytest
import torch

from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.core.errors import UsageError
from facemae.masking.mask import hide_highest
from facemae.models.build import build_encoder, build_mae
from facemae.models.embedder import Frozen
from facemae.training import memory
from facemae.training.memory import Cost, advice, check, explained, free_bytes, measure

SIZE, SIDE, PATCH, WIDTH, DEPTH, HEADS, DECODER = 32, 4, 8, 16, 2, 2, 16
MIB = 2**20


@pytest.fixture
def training(experiment):
    def make(**changes):
        return experiment.defaults.finetune.model_copy(update=changes)

    return make


def block_flops(tokens, width):
    """Count a Transformer block's operations by hand, two for each product and sum."""
    linear = (
        2 * tokens * width * (3 * width + width + 4 * width + 4 * width)
    )  # qkv, output, and two of the MLP
    attention = 2 * 2 * tokens * tokens * width  # scores, and the sum of the values
    return linear + attention


def whole(network, count):
    return network(torch.zeros(count, 3, SIZE, SIZE))


def masked(mae, count):
    mask = hide_highest(Noise(range(count), "mask").uniform(SIDE * SIDE), 12)
    return mae(torch.zeros(count, 3, SIZE, SIZE), mask).patches


@pytest.mark.parametrize("prefix", [0, 1])
def test_the_operations_of_a_vit_are_those_counted_by_hand(experiment, compute, prefix):
    model = experiment.defaults.model.model_copy(update={"class_token": bool(prefix)})
    vit = Frozen(build_encoder(model, SIZE))
    tokens = 16 + prefix
    forward = 2 * 16 * (3 * PATCH**2) * WIDTH + DEPTH * block_flops(tokens, WIDTH)
    assert measure(vit, whole, compute).flops == 3 * forward


def test_the_operations_of_an_autoencoder_are_those_counted_by_hand(experiment, compute):
    mae = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    encoder = 2 * 4 * (3 * PATCH**2) * WIDTH + DEPTH * block_flops(4, WIDTH)  # of 16 patches 4 are visible
    # The last block reads all 16 tokens and computes the 12 that are predicted.
    keys_and_values, query_and_projection = 2 * 16 * DECODER * 2 * DECODER, 2 * 12 * DECODER * 2 * DECODER
    last = keys_and_values + query_and_projection + 4 * 12 * 16 * DECODER + 2 * 12 * 8 * DECODER**2
    decoder = 2 * 4 * WIDTH * DECODER + last + 2 * 12 * DECODER * (3 * PATCH**2)
    assert measure(mae, masked, compute).flops == 3 * (encoder + decoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_changes_nothing(experiment, dtype):
    compute = Compute(torch.device("cpu"), dtype)
    mae = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    compute.place(mae)
    before = {name: value.clone() for name, value in mae.state_dict().items()}
    fused = [module.fused_attn for module in mae.modules() if hasattr(module, "fused_attn")]
    found = measure(mae, masked, compute)
    assert all(torch.equal(value, before[name]) for name, value in mae.state_dict().items())
    assert [module.fused_attn for module in mae.modules() if hasattr(module, "fused_attn")] == fused
    assert all(weight.grad is None for weight in mae.parameters())
    assert measure(mae, masked, compute) == found  # and it is no matter of chance


def test_the_memory_of_a_linear_layer_by_hand(compute):
    layer = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.GELU(), torch.nn.Linear(50, 7))
    found = measure(layer, lambda network, count: network(torch.zeros(count, 100)), compute)
    weights = 100 * 50 + 50 + 50 * 7 + 7
    assert found.image_bytes == 4 * (100 + 50 + 50)  # each layer's input
    assert found.fixed_bytes == 16 * weights  # itself, its gradient and two means
    assert found.flops == 3 * 2 * (100 * 50 + 50 * 7)


def test_the_estimate_grows_with_the_batch_and_the_network(experiment, compute):
    def estimate(**changes):
        vit = Frozen(build_encoder(experiment.defaults.model.model_copy(update=changes), SIZE))
        return measure(vit, whole, compute)

    small, wide, deep, fine = estimate(), estimate(width=64), estimate(depth=6), estimate(patch_size=4)
    sizes = [small.bytes(count) for count in (1, 2, 3, 8, 64, 1024)]
    assert sizes == sorted(set(sizes))
    for larger in (wide, deep, fine):
        assert larger.bytes(64) > small.bytes(64)
        assert larger.flops > small.flops
    assert small.bytes(0) > 0


def test_the_estimate_is_near_what_a_step_keeps(experiment, compute):
    """Against the storages that autograd keeps alive, counted for a batch of another size."""
    vit = Frozen(build_encoder(experiment.defaults.model, SIZE))
    found = measure(vit, whole, compute)
    kept, own = {}, {weight.untyped_storage().data_ptr() for weight in vit.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = whole(vit, 32)
    spent = sum(size for place, size in kept.items() if place not in own)
    assert result.requires_grad
    assert found.image_bytes * 32 == pytest.approx(spent, rel=0.3)  # fused attention keeps less


# --- a run that does not fit ---

COST = Cost(flops=1.0, image_bytes=10 * MIB, fixed_bytes=100 * MIB)


@pytest.fixture
def free(monkeypatch):
    def leave(mib):
        monkeypatch.setattr(memory, "free_bytes", lambda compute: mib * MIB)

    return leave


@pytest.mark.parametrize(
    ("batch", "accumulate", "mib"),
    [
        (64, 1, 400),
        (64, 2, 300),
        (6, 2, 147),
        (60, 4, 200),
        (12, 1, 200),
        (7, 1, 150),
        (30, 5, 140),
        (64, 32, 133),
    ],
)
def test_what_is_advised_then_fits_and_divides(training, compute, free, batch, accumulate, mib):
    free(mib)
    asked = training(batch_size=batch, grad_accumulation=accumulate)
    if COST.bytes(batch // accumulate) <= mib * MIB:
        check(COST, asked, compute, "finetune x/0")
        return
    with pytest.raises(UsageError) as caught:
        check(COST, asked, compute, "finetune x/0")
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.startswith("finetune x/0 needs about ")
    assert "GiB are free" in text
    assert "\n" not in text
    if COST.bytes(2) > mib * MIB:  # and no part is a single face
        assert text.endswith("choose a smaller model, or a larger patch_size.")
        return
    if fewer := re.search(r"lower batch_size to (\d+)\.", text):  # no number of parts would do
        check(COST, training(batch_size=int(fewer[1]), grad_accumulation=accumulate), compute, "finetune x/0")
        return
    parts = int(re.search(r"raise grad_accumulation to (\d+), or lower batch_size\.", text)[1])
    assert parts > accumulate
    assert batch % parts == 0  # what is advised has to be accepted
    check(COST, training(batch_size=batch, grad_accumulation=parts), compute, "finetune x/0")


@pytest.mark.parametrize(("batch", "size"), [(12, 2), (24, 3), (64, 4)])
def test_the_advice_to_several_processes_fits_and_divides_too(training, compute, free, batch, size):
    free(155)  # two images at a time
    asked = training(batch_size=batch, grad_accumulation=1)
    with pytest.raises(UsageError) as caught:
        check(COST, asked, compute, "pretrain x/0", World(0, size))
    parts = int(re.search(r"raise grad_accumulation to (\d+)", str(caught.value))[1])
    World(0, size).parts(batch, parts)
    check(COST, training(batch_size=batch, grad_accumulation=parts), compute, "pretrain x/0", World(0, size))


def test_where_not_one_image_fits_another_network_is_advised(training, compute, free):
    free(110)
    with pytest.raises(UsageError, match=r"choose a smaller model, or a larger patch_size\.$"):
        check(COST, training(batch_size=64), compute, "x")


def test_what_fits_is_let_go_on(training, compute, free):
    free(1.2 * (100 + 64 * 10) + 1)
    check(COST, training(batch_size=64), compute, "x")
    check(COST, training(batch_size=256, grad_accumulation=4), compute, "x")
    check(COST, training(batch_size=256), compute, "x", World(0, 4))
    with pytest.raises(UsageError):
        check(COST, training(batch_size=65), compute, "x")


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_what_pytorch_says_is_explained(training, compute, free, message):
    free(400)
    with (
        pytest.raises(UsageError, match=r"x ran out of memory: .* raise grad_accumulation to") as caught,
        explained("x", lambda: f": {advice(COST, training(batch_size=64, grad_accumulation=4), compute)}"),
    ):
        raise RuntimeError(message)
    assert int(re.search(r"grad_accumulation to (\d+)", str(caught.value))[1]) in (8, 16, 32, 64)


def test_a_real_allocation_that_fails_is_explained():
    with pytest.raises(UsageError, match="x ran out of memory before its first step"), explained("x"):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="a shape"), explained("x"):
        raise RuntimeError("a shape is wrong")


def test_there_is_some_memory(compute):
    import os

    assert 10 * MIB < free_bytes(compute) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_memory_of_a_container_is_that_of_its_limit(monkeypatch, compute, tmp_path):
    """What the kernel would give back, the cache of files, is free."""
    (tmp_path / "memory.max").write_text(f"{4000 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{3900 * MIB}\n")
    (tmp_path / "memory.stat").write_text(
        f"anon {900 * MIB}\ninactive_file {2000 * MIB}\nactive_file {1000 * MIB}\n"
    )
    real = memory.Path

    def path(text):
        return tmp_path if str(text) == "/sys/fs/cgroup" else real(text)

    monkeypatch.setattr(memory, "Path", path)
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**20)
    assert 2000 * MIB <= memory._cgroup_free() <= 3200 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_free() == float("inf")
    (tmp_path / "memory.max").unlink()
    assert memory._cgroup_free() == float("inf")
