import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.models.build import build_embedder, build_mae
from facemae.training.objectives.margin_losses import identity_loss
from facemae.training.optimizer import adamw, averaged, learning_rate, ramp, set_learning_rate


@pytest.fixture
def training(experiment):
    def make(**changes):
        return experiment.defaults.finetune.model_copy(update=changes)

    return make


@pytest.fixture
def mae(experiment):
    model = experiment.defaults.model.model_copy(update={"class_token": True})
    return build_mae(model, experiment.defaults.pretrain, 32)


@pytest.fixture
def recogniser(experiment):
    model = experiment.defaults.model.model_copy(update={"class_token": True, "depth": 4})
    embedder = build_embedder(model, 32)
    return torch.nn.ModuleDict(
        {"embedder": embedder, "loss": identity_loss(experiment.defaults.finetune, 5, 8)}
    )


def placed(optimizer, network):
    """Return the parameter group of every parameter by name, checked to be the only one."""
    groups = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in groups
            groups[id(parameter)] = group
    named = dict(network.named_parameters())
    assert set(groups) == {id(parameter) for parameter in named.values()}
    return {name: groups[id(parameter)] for name, parameter in named.items()}


# --- the learning rate ---


def test_learning_rate_by_hand(training):
    rate = training(steps=10, warmup_fraction=0.2, learning_rate=1.0)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert [learning_rate(step, rate) for step in range(10)] == pytest.approx([0.5, 1.0, *cosine])


@settings(max_examples=50)
@given(steps=st.integers(1, 300), share=st.floats(0, 0.99))
def test_learning_rate_rises_to_its_peak_and_falls_towards_zero(steps, share):
    from facemae import config

    values = {"steps": steps, "warmup_fraction": share, "learning_rate": 0.3, "batch_size": 2,
              "weight_decay": 0.0, "max_grad_norm": 1.0, "log_every": 1, "checkpoint_every": 1,
              "grad_accumulation": 1, "ema": 0.0, "held_out": 0.0, "validate_every": 0,
              "patience": 0}  # fmt: skip
    rates = [learning_rate(step, config.Training(**values)) for step in range(steps)]
    warmup = round(share * steps)
    rising, falling = rates[:warmup], rates[warmup:]
    assert all(rate > 0 for rate in rates)
    assert max(rates) == pytest.approx(0.3)
    assert rising == pytest.approx([0.3 * (step + 1) / warmup for step in range(warmup)])
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    if falling:
        assert falling[0] == pytest.approx(0.3)  # the peak is not skipped
    if len(falling) > 50:
        assert falling[-1] < 0.001 * 0.3


def test_setting_the_rate_keeps_each_groups_scale():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr_scale": scale} for scale in (1.0, 0.25)]
    optimizer = torch.optim.AdamW(groups, lr=9.0)
    set_learning_rate(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.1]


def test_ramp():
    assert [ramp(step, 10, 0.4) for step in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert ramp(0, 10, 0.0) == 1.0
    assert ramp(9, 10, 1.0) == pytest.approx(0.9)


# --- parameter groups ---


def test_only_matrices_are_decayed(mae, training):
    groups = placed(adamw(mae, training(weight_decay=0.3)), mae)
    for name, parameter in mae.named_parameters():
        assert groups[name]["weight_decay"] == (0.3 if parameter.ndim in (2, 4) else 0.0), name
    for name in ("encoder.trunk.pos_embed", "encoder.trunk.cls_token", "decoder.tokens.mask_token",
                 "encoder.trunk.norm.weight", "decoder.head.pixels.bias"):  # fmt: skip
        assert groups[name]["weight_decay"] == 0.0
    for name in (
        "encoder.trunk.patch_embed.proj.weight",
        "encoder.trunk.blocks.0.attn.qkv.weight",
        "decoder.head.pixels.weight",
    ):
        assert groups[name]["weight_decay"] == 0.3
    assert {group["lr_scale"] for group in groups.values()} == {1.0}


INSIDE = "embedder.encoder.trunk."


def scales(recogniser, training):
    encoder = recogniser["embedder"].encoder.trunk
    groups = placed(
        adamw(recogniser, training(weight_decay=0.3), encoder=encoder, layer_decay=0.5), recogniser
    )
    for name, parameter in recogniser.named_parameters():
        assert groups[name]["weight_decay"] == (0.3 if parameter.ndim in (2, 4) else 0.0), name
    return {name: group["lr_scale"] for name, group in groups.items()}


def blocks(scale):
    """Return the one scale that all weights of a block have, block by block."""
    found = [{scale[name] for name in scale if name.startswith(f"{INSIDE}blocks.{k}.")} for k in range(4)]
    assert all(len(each) == 1 for each in found)
    return [each.pop() for each in found]


def test_layer_decay_slows_down_what_lies_deeper(recogniser, training):
    scale = scales(recogniser, training)
    by_depth = blocks(scale)
    assert [deep / shallow for deep, shallow in itertools.pairwise(by_depth)] == [0.5] * 3
    for name in ("pos_embed", "cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        assert scale[INSIDE + name] == 0.5 * by_depth[0]
    outside = [name for name in scale if not name.startswith(INSIDE)]
    assert len(outside) >= 6
    assert {scale[name] for name in outside} == {1.0}


def test_the_last_block_is_one_step_below_the_head(recogniser, training):
    assert blocks(scales(recogniser, training)) == [0.0625, 0.125, 0.25, 0.5]


def test_without_layer_decay_every_layer_has_the_full_rate(recogniser, training):
    optimizer = adamw(recogniser, training(), encoder=recogniser["embedder"].encoder.trunk, layer_decay=1.0)
    assert {group["lr_scale"] for group in placed(optimizer, recogniser).values()} == {1.0}


def test_what_is_frozen_is_left_alone(mae, training):
    mae.encoder.trunk.pos_embed.requires_grad_(False)
    optimizer = adamw(mae, training())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(mae.encoder.trunk.pos_embed) not in held
    assert len(held) == len(list(mae.parameters())) - 1


def test_a_step_moves_by_the_rate_against_the_gradient(training):
    layer = torch.nn.Linear(2, 1)
    optimizer = adamw(layer, training(weight_decay=0.0))
    before = layer.weight.detach().clone()
    set_learning_rate(optimizer, 0.01)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, -0.2]]), torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(
        before - layer.weight.detach(), torch.tensor([[0.01, -0.01]]), rtol=1e-4, atol=0
    )
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_layer_decay_knows_convolutions_too(experiment, training, network):
    model = experiment.defaults.model.model_copy(update={"encoder": "cnn", "network": network})
    embedder = build_embedder(model, 32)
    optimizer = adamw(embedder, training(weight_decay=0.3), encoder=embedder.encoder.trunk, layer_decay=0.5)
    groups = placed(optimizer, embedder)
    scale = {name: group["lr_scale"] for name, group in groups.items()}
    assert {scale[name] for name in scale if name.startswith("head.")} == {1.0}
    inside = {scale[name] for name in scale if name.startswith("encoder.")}
    assert max(inside) <= 0.5
    assert len(inside) >= 3
    stem = min(scale, key=scale.get)
    assert "stem" in stem or "conv1" in stem or "bn1" in stem
    for name, parameter in embedder.named_parameters():
        assert groups[name]["weight_decay"] == (0.3 if parameter.ndim in (2, 4) else 0.0), name


# --- averaged weights ---


def test_averaged_weights_by_hand():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    average = averaged(layer, 0.75)
    expected = None
    for value in (4.0, 8.0, 0.0):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        expected = (
            value if expected is None else 0.75 * expected + 0.25 * value
        )  # the first one is taken whole
        assert float(average.module.weight) == pytest.approx(expected)
    assert float(layer.weight.detach()) == 0.0


def test_averaged_weights_are_not_trained_and_have_their_own_memory(mae, training):
    average = averaged(mae, 0.9)
    assert not [name for name, each in average.named_parameters() if each.requires_grad]
    both = torch.nn.ModuleDict({"mae": mae, "average": average})
    held = {id(p) for group in adamw(both, training()).param_groups for p in group["params"]}
    assert held == {id(p) for p in mae.parameters()}
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for weight in mae.parameters():
            weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())


def test_statistics_are_copied_as_they_are():
    layer = torch.nn.BatchNorm1d(2)
    average = averaged(layer, 0.9)
    for _ in range(2):
        layer(torch.randn(8, 2) * 3 + 5)
        average.update_parameters(layer)
    assert torch.equal(average.module.running_mean, layer.running_mean)
    assert torch.equal(average.module.num_batches_tracked, layer.num_batches_tracked)
