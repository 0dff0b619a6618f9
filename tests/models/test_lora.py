import copy

import pytest
import safetensors.torch
import torch

from facemae.models.build import build_embedder
from facemae.models.lora import LowRank, add_adapters, merged

SIZE = 32
RANK = 3


@pytest.fixture
def embedder(experiment):
    torch.manual_seed(0)
    return build_embedder(experiment.defaults.model, SIZE).eval()


@pytest.fixture
def adapted(embedder):
    changed = copy.deepcopy(embedder)
    add_adapters(changed.encoder.trunk, RANK)
    return changed


@pytest.fixture
def images():
    return torch.rand(4, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


def moved(adapted):
    """Give every trained change another value than the zero it starts with."""
    with torch.no_grad():
        for weight in adapted.encoder.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.manual_seed(weight.numel())))
    return adapted


def test_an_adapted_network_starts_as_the_network(embedder, adapted, images):
    assert torch.equal(adapted(images), embedder(images))


def test_only_the_changes_and_the_head_are_trained(embedder, adapted, images):
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len([name for name in trained if name.startswith("encoder.")]) == 2 * len(
        embedder.encoder.trunk.blocks
    )
    assert all(".attn.qkv." in name for name in trained if name.startswith("encoder."))
    assert any(name.startswith("head.") for name in trained)
    moved(adapted)(images).sum().backward()
    assert all(
        weight.grad is not None and weight.grad.any()
        for name, weight in adapted.encoder.named_parameters()
        if weight.requires_grad
    )


def test_queries_and_values_change_by_so_many_ranks_and_keys_do_not(embedder, adapted):
    moved(adapted)
    for before, after in zip(embedder.encoder.trunk.blocks, adapted.encoder.trunk.blocks, strict=True):
        queries, keys, values = (after.attn.qkv.weight - before.attn.qkv.weight).chunk(3)
        assert not keys.any()
        for part in (queries, values):
            assert torch.linalg.matrix_rank(part, rtol=1e-4) == RANK


def test_merged_weights_compute_the_same_without_adapters(embedder, adapted, images):
    plain = merged(moved(adapted))
    assert not any(isinstance(module, LowRank) for module in plain.modules())
    assert torch.equal(plain(images), adapted(images))
    assert not torch.allclose(plain(images), embedder(images), atol=1e-3)
    assert isinstance(adapted.encoder.trunk.blocks[0].attn.qkv, LowRank)  # a copy was merged
    found = {name: value.shape for name, value in plain.state_dict().items()}
    assert found == {name: value.shape for name, value in embedder.state_dict().items()}
    tensors = safetensors.torch.load(safetensors.torch.save(plain.state_dict()))
    embedder.load_state_dict(tensors)
    assert torch.equal(embedder(images), adapted(images))


def test_merging_what_has_no_adapters_changes_nothing(embedder, images):
    assert torch.equal(merged(embedder)(images), embedder(images))
