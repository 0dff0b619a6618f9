from types import SimpleNamespace

import pytest
import torch
from torch import nn

from facemae.masking.mask import hide_highest
from facemae.models.mlp import Mlp, MlpImage, fully_connected
from facemae.models.patches import patchify

SIZE, PATCH, BATCH = 16, 4, 3
PATCHES, PIXELS = 16, 48


def build(depth=2, width=8, size=SIZE, patch=PATCH):
    torch.manual_seed(0)
    mlp = Mlp(SimpleNamespace(shape=(width, depth, 1), patch_size=patch), size)
    return mlp, MlpImage(mlp, SimpleNamespace(decoder_width=6, decoder_depth=depth))


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(torch.rand(BATCH, PATCHES, generator=torch.Generator().manual_seed(2)), 12)


@pytest.mark.parametrize(("size", "patch"), [(112, 7), (112, 8), (112, 14), (112, 16), (32, 8), (32, 16)])
def test_shapes(size, patch):
    mlp, decoder = build(size=size, patch=patch)
    encoding = mlp(torch.zeros(2, 3, size, size))
    assert (mlp.width, mlp.side, mlp.patch_size, mlp.prefix_tokens) == (8, size // patch, patch, 1)
    assert encoding.prefix.shape == (2, 1, 8)
    assert encoding.tokens.shape == (2, 0, 8)
    assert encoding.maps == ()
    assert mlp.pool(encoding).shape == (2, 8)
    assert decoder(encoding, None, torch.tensor([[0], [1]])).shape == (2, 1, 3 * patch**2)


def test_pool_is_the_vector(images):
    mlp, _ = build()
    assert torch.equal(mlp.pool(mlp(images)), mlp.trunk(images.flatten(1)))


def test_depth_counts_hidden_layers():
    linear = [layer for layer in fully_connected(5, 7, 3, 9) if isinstance(layer, nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linear] == [(5, 7), (7, 7), (7, 7), (7, 9)]


def test_hidden_pixels_have_no_influence_and_visible_ones_do(images, mask):
    mlp, _ = build()
    patches = patchify(images, PATCH)
    for index in range(PATCHES):
        changed = images.clone()
        row, column = PATCH * (index // 4), PATCH * (index % 4)
        changed[:, :, row : row + PATCH, column : column + PATCH] += 1
        assert not torch.equal(patchify(changed, PATCH)[:, index], patches[:, index])
        same = (mlp(changed, mask).prefix == mlp(images, mask).prefix).all(dim=2)[:, 0]
        assert torch.equal(same, mask.hidden[:, index])


def test_the_image_is_cut_into_patches_at_ids(images):
    mlp, decoder = build()
    encoding = mlp(images)
    everything = torch.arange(PATCHES).expand(BATCH, -1)
    ids = torch.tensor([[3, 0], [1, 15], [7, 7]])
    whole, some = decoder(encoding, None, everything), decoder(encoding, None, ids)
    assert torch.equal(whole.flatten(1), decoder.layers(encoding.prefix[:, 0]))
    assert torch.equal(some, torch.stack([whole[row, ids[row]] for row in range(BATCH)]))


def test_prediction_is_not_squeezed(images):
    mlp, decoder = build()
    with torch.no_grad():
        decoder.layers[-1].bias.add_(5)
    assert decoder(mlp(images), None, torch.zeros(BATCH, 1, dtype=torch.int64)).min() > 1


def test_gradient_reaches_every_weight(images, mask):
    mlp, decoder = build()
    everything = torch.arange(PATCHES).expand(BATCH, -1)
    decoder(mlp(images, mask), mask, everything).square().sum().backward()
    named = [*mlp.named_parameters(), *decoder.named_parameters()]
    assert [name for name, weight in named if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("depth", [1, 12])
def test_overfits(depth):
    torch.manual_seed(0)
    mlp = Mlp(SimpleNamespace(shape=(64, depth, 1), patch_size=PATCH), SIZE)
    decoder = MlpImage(mlp, SimpleNamespace(decoder_width=64, decoder_depth=1))
    images = torch.rand(8, 3, SIZE, SIZE) * 2 - 1
    mask = hide_highest(torch.rand(8, PATCHES), 12)
    target = patchify(images, PATCH).gather(1, mask.hidden_ids[:, :, None].expand(-1, -1, PIXELS))
    adam = torch.optim.Adam([*mlp.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in range(200):
        loss = (decoder(mlp(images, mask), mask, mask.hidden_ids) - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.01 * target.square().mean()


def test_weights_round_trip(images, mask):
    (mlp, decoder), (other_mlp, other_decoder) = build(), build()
    with torch.no_grad():
        for weight in [*other_mlp.parameters(), *other_decoder.parameters()]:
            weight.zero_()
    other_mlp.trunk.load_state_dict(mlp.trunk.state_dict())
    other_decoder.load_state_dict(decoder.state_dict())
    found = other_decoder(other_mlp(images, mask), mask, mask.hidden_ids)
    assert torch.equal(found, decoder(mlp(images, mask), mask, mask.hidden_ids))


def test_bfloat16(images, mask):
    mlp, decoder = build()
    exact = decoder(mlp(images, mask), mask, mask.hidden_ids)
    with torch.autocast("cpu", torch.bfloat16):
        rough = decoder(mlp(images, mask), mask, mask.hidden_ids)
    rough.float().square().sum().backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    assert all(weight.grad.isfinite().all() for weight in mlp.parameters())


def test_deterministic(images, mask):
    torch.use_deterministic_algorithms(True)  # raises where there is no such algorithm

    def gradients():
        mlp, decoder = build()
        decoder(mlp(images, mask), mask, mask.hidden_ids).square().sum().backward()
        return [weight.grad for weight in [*mlp.parameters(), *decoder.parameters()]]

    assert all(map(torch.equal, gradients(), gradients()))
