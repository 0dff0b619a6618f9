import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.losses import identity_loss
from facemae.models.embedder import build_embedder
from facemae.models.mae import build_mae
from facemae.optim import adamw, learning_rate, ramp, set_learning_rate


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
    rate = training(steps=10, warmup_share=0.2, learning_rate=1.0)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert [learning_rate(step, rate) for step in range(10)] == pytest.approx([0.5, 1.0, *cosine])


@settings(max_examples=50)
@given(steps=st.integers(1, 300), share=st.floats(0, 0.99))
def test_learning_rate_rises_to_its_peak_and_falls_towards_zero(steps, share):
    from facemae import config

    values = {"steps": steps, "warmup_share": share, "learning_rate": 0.3, "batch_size": 2,
              "weight_decay": 0.0, "clip_norm": 1.0, "log_every": 1, "checkpoint_every": 1}  # fmt: skip
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
    for name in ("encoder.pos_embed", "encoder.cls_token", "decoder.mask_token", "encoder.norm.weight",
                 "decoder.head.bias"):  # fmt: skip
        assert groups[name]["weight_decay"] == 0.0
    for name in (
        "encoder.patch_embed.proj.weight",
        "encoder.blocks.0.attn.qkv.weight",
        "decoder.head.weight",
    ):
        assert groups[name]["weight_decay"] == 0.3
    assert {group["lr_scale"] for group in groups.values()} == {1.0}


INSIDE = "embedder.encoder."


def scales(recogniser, training):
    encoder = recogniser["embedder"].encoder
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
    optimizer = adamw(recogniser, training(), encoder=recogniser["embedder"].encoder, layer_decay=1.0)
    assert {group["lr_scale"] for group in placed(optimizer, recogniser).values()} == {1.0}


def test_what_is_frozen_is_left_alone(mae, training):
    mae.encoder.pos_embed.requires_grad_(False)
    optimizer = adamw(mae, training())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(mae.encoder.pos_embed) not in held
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
