import subprocess
import sys
import time

import pytest
import torch

from facemae.compute import device
from facemae.compute.device import Compute, choose
from facemae.core.errors import UsageError
from facemae.models.build import build_encoder

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@NO_GPU
def test_cuda_without_a_gpu_is_refused_in_one_sentence():
    with pytest.raises(
        UsageError, match=r"^device: cuda is asked for, but .*; use device: auto or cpu\.$"
    ) as caught:
        choose("cuda", "auto", 1)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@NO_GPU
def test_auto_without_a_gpu_is_the_processor():
    assert (
        choose("auto", "float32", 1)
        == choose("cpu", "float32", 1)
        == Compute(torch.device("cpu"), torch.float32)
    )


def test_choosing_makes_pytorch_deterministic_and_counts_threads():
    torch.use_deterministic_algorithms(False)
    choose("cpu", "float32", 2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_precision_that_is_asked_for_is_taken_and_used(precision, dtype):
    compute = choose("cpu", precision, 1)
    assert compute.dtype == dtype
    with compute.autocast():
        product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert product.dtype == dtype
    assert str(compute) == f"cpu, {precision}"


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_follows_the_processor(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert choose("cpu", "auto", 1).dtype == dtype


@pytest.mark.parametrize(("dtype", "fused"), [(torch.float32, True), (torch.bfloat16, False)])
def test_placing_a_network_chooses_its_attention(experiment, dtype, fused):
    encoder = build_encoder(experiment.defaults.model, 32)
    Compute(torch.device("cpu"), dtype).place(encoder)
    assert {block.attn.fused_attn for block in encoder.trunk.blocks} == {fused}
    assert next(encoder.parameters()).dtype == torch.float32  # weights stay in full precision


@pytest.mark.parametrize(("asked", "compiles"), [("on", True), ("off", False), ("auto", False)])
@NO_GPU
def test_on_a_processor_networks_are_compiled_only_where_that_is_asked_for(asked, compiles):
    compute = choose("cpu", "float32", 1, asked)
    assert compute.compiles is compiles
    layer = torch.nn.Linear(2, 2)
    assert (compute.compiled(layer, one_shape=True) is layer) is not compiles


@pytest.mark.parametrize(
    ("name", "dtype", "share"),
    [
        ("NVIDIA H200", torch.bfloat16, 0.25),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 989 / 312 / 4),
        ("NVIDIA H200", torch.float32, 0.0),
        ("NVIDIA of tomorrow", torch.bfloat16, 0.0),
    ],
)
def test_utilisation_is_known_of_listed_gpus_alone(monkeypatch, name, dtype, share):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert Compute(torch.device("cuda"), dtype).utilisation(989e12 / 4) == pytest.approx(share)
    assert Compute(torch.device("cuda"), dtype).utilisation(0.0) == 0.0
    assert Compute(torch.device("cpu"), dtype).utilisation(1e9) == 0.0


def test_memory_is_this_processes():
    """In a process of its own: it is the most so far, which other tests may have raised."""
    code = (
        "import torch\nfrom facemae.compute.device import choose\ncompute = choose('cpu', 'float32', 1)\n"
        "before = compute.memory_mb()\nheld = torch.ones(2**30 // 4)\nprint(before, compute.memory_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held = map(int, done.stdout.split())
    assert before + 32 < held
    assert 50 < before < 10**4


def test_the_clock_counts_work_and_not_waiting(compute):
    started = compute.seconds()
    time.sleep(0.05)
    waited = compute.seconds() - started
    while compute.seconds() - started < waited + 0.02:  # ends only if work is counted
        sum(range(1000))
    assert waited < 0.04
    assert not compute.on_gpu


def test_a_gpu_that_cannot_be_used_is_explained(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in device._why_no_gpu()


def test_a_gpu_is_asked_for_its_power_now_and_then(monkeypatch):
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 250_000)  # milliwatts
    gpu = device.Compute(torch.device("cuda"), torch.float32)
    assert gpu.watts(0) == [250.0]
    assert gpu.watts(1) == []
    assert device.Compute(torch.device("cpu"), torch.float32).watts(0) == []


def test_a_gpu_that_does_not_tell_its_power_stops_nothing(monkeypatch):
    def unknown(asked):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "power_draw", unknown)
    assert device.Compute(torch.device("cuda"), torch.float32).watts(0) == []


def test_energy_is_the_mean_power_over_the_time():
    assert device.joules([100.0, 300.0], 2.0) == 400.0
    assert device.joules([], 2.0) is None
