import copy
import re
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.grn import GlobalResponseNorm
from torch import nn

from facemae.config.compatibility import STRIDES
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.cnn import Cnn, Holes, VisibleNorm, hidden_places

SIZE, BATCH = 32, 3
WIDTHS = {
    "convnextv2_atto": (40, 80, 160, 320),
    "convnextv2_tiny": (96, 192, 384, 768),
    "resnet10t": (64, 128, 256, 512),
    "resnet18": (64, 128, 256, 512),
    "resnet26": (256, 512, 1024, 2048),
}
SMALL = list(WIDTHS)
# atto's feed-forward are convolutions, tiny's linear; 10t has a deep stem and averages, 26 bottlenecks.


def build(network, patch=8, size=SIZE, drop_path=0.0):
    torch.manual_seed(0)
    cnn = Cnn(SimpleNamespace(network=network, patch_size=patch), size, drop_path)
    with torch.no_grad():  # what starts at zero would hide what flows through it
        for weight in cnn.parameters():
            if weight.ndim == 1 or not weight.any():
                weight.add_(0.2 * torch.randn(weight.shape))
    return cnn


def random_mask(patches, ratio=0.75, batch=BATCH, seed=1):
    noise = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))
    return hide_highest(noise, round(ratio * patches))


def grid_mask(patch=8, **changes):
    return random_mask((SIZE // patch) ** 2, **changes)


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1


# --- what it returns ---


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("size", [112, 32])
def test_shapes(network, size):
    for patch in (stride for stride in STRIDES if size % stride == 0):
        widths, side = WIDTHS[network][: STRIDES.index(patch) + 1], size // patch
        with torch.device("meta"):  # shapes without arithmetic
            cnn = Cnn(SimpleNamespace(network=network, patch_size=patch), size)
            images = torch.empty(2, 3, size, size)
            ids = torch.empty(2, 1, dtype=torch.int64)
            mask = PatchMask(torch.empty(2, side * side, dtype=torch.bool), ids, ids)
            dense, masked = cnn(images), cnn(images, mask)
        assert (cnn.width, cnn.side, cnn.patch_size, cnn.prefix_tokens) == (widths[-1], side, patch, 0)
        expected = [
            (2, width, size // stride, size // stride)
            for width, stride in zip(widths, STRIDES[: len(widths)], strict=True)
        ]
        assert [tuple(each.shape) for each in dense.maps] == expected
        assert [tuple(each.shape) for each in masked.maps] == expected
        assert dense.tokens.shape == (2, side * side, cnn.width)
        assert masked.tokens.shape == (2, 1, cnn.width)
        assert masked.prefix.shape == (2, 0, cnn.width)
        assert cnn.pool(masked).shape == (2, cnn.width)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("patch", [8, 16])
def test_without_a_mask_it_is_timms_own(network, patch, images):
    cnn = build(network, patch).eval()
    levels = [level + (network.startswith("resnet")) for level in range(len(cnn.map_widths))]
    timms = timm.create_model(network, features_only=True, out_indices=levels).eval()
    weights = {re.sub(r"^(stem|stages)\.", r"\1_", key): each for key, each in cnn.trunk.state_dict().items()}
    timms.load_state_dict(weights)  # strict: no later stage, no classifier
    encoding = cnn(images)
    for ours, theirs in zip(encoding.maps, timms(images), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(encoding.tokens, encoding.maps[-1].flatten(2).mT)


def test_tokens_are_the_visible_places_in_order(images):
    mask = grid_mask()
    encoding = build("resnet18")(images, mask)
    for index in range(BATCH):
        places = encoding.maps[-1][index].flatten(1).T
        assert torch.equal(encoding.tokens[index], places[mask.visible_ids[index]])


def test_pool_is_the_mean_of_what_is_visible(images):
    mask = grid_mask()
    cnn = build("resnet18")
    encoding = cnn(images, mask)
    mean = encoding.maps[-1].sum(dim=(2, 3)) / mask.visible_ids.shape[1]
    torch.testing.assert_close(cnn.pool(encoding), mean)


def test_drop_path_reaches_the_blocks():
    rates = [
        each.drop_prob
        for each in build("resnet18", 16, drop_path=0.4).modules()
        if hasattr(each, "drop_prob")
    ]
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[-1] < 0.4


# --- what is hidden stays hidden ---


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_hidden_pixels_have_no_influence(network, training, images):
    cnn, mask = build(network).train(training), grid_mask()
    hidden = hidden_places(mask, SIZE).expand_as(images)
    changed = torch.where(hidden, torch.full_like(images, torch.nan), images)
    one, other = copy.deepcopy(cnn)(images, mask), copy.deepcopy(cnn)(changed, mask)
    assert torch.equal(one.tokens, other.tokens)
    for first, second in zip(one.maps, other.maps, strict=True):
        assert torch.equal(first, second)
        assert not first.masked_select(hidden_places(mask, first.shape[-1])).any()
    assert one.tokens.abs().sum() > 0


def test_visible_pixels_do(images):
    cnn, mask = build("convnextv2_atto"), grid_mask()
    changed = torch.where(hidden_places(mask, SIZE), images, images.flip(0))
    assert not torch.equal(cnn(images, mask).tokens, cnn(changed, mask).tokens)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_no_convolution_sees_a_filled_in_place(network, training, images):
    """Else a visible place would take in what its neighbours have put into a hidden one."""
    cnn, mask, seen = build(network, 16).train(training), grid_mask(16, ratio=0.5), []

    def look(layer, inputs):
        side = inputs[0].shape[-1]
        seen.append((layer, inputs[0].masked_select(hidden_places(mask, side)).count_nonzero().item()))

    for layer in cnn.trunk.modules():
        # A kernel as wide as its stride stays within a patch.
        if isinstance(layer, nn.Conv2d) and layer.kernel_size > layer.stride:
            layer.register_forward_pre_hook(look)
    cnn(images, mask)
    assert len(seen) > 3
    assert [layer for layer, filled in seen if filled] == []


@pytest.mark.parametrize("network", ["convnextv2_atto", "convnextv2_tiny"])
def test_response_normalisation_compares_visible_places(network, images):
    cnn, mask, found = build(network), grid_mask(), []

    def keep(layer, inputs, output):
        if layer.channel_dim == 1:
            inputs, output = (inputs[0].movedim(1, -1),), output.movedim(1, -1)
        found.append((layer, inputs[0], output))

    for layer in cnn.trunk.modules():
        if isinstance(layer, GlobalResponseNorm):
            layer.register_forward_hook(keep)
    cnn(images, mask)
    assert found
    for layer, inputs, output in found:  # (B, S, S, C)
        alone = GlobalResponseNorm(inputs.shape[-1])
        alone.load_state_dict(layer.state_dict())
        hidden = hidden_places(mask, inputs.shape[1])[:, 0]
        for index in range(BATCH):
            expected = alone(inputs[index][~hidden[index]][None, None])[0, 0]
            torch.testing.assert_close(output[index][~hidden[index]], expected)


# --- batch normalisation over the visible places ---


def visible_norm(mask, channels=5):
    norm = VisibleNorm(channels)
    norm.holes = Holes()
    norm.holes.mask = mask
    torch.manual_seed(3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels))
        norm.bias.copy_(torch.randn(channels))
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_pytorchs_on_the_visible_places(training):
    mask = grid_mask()
    features = (3 + 2 * torch.randn(BATCH, 5, 8, 8)).requires_grad_()
    visible = ~hidden_places(mask, 8)[:, 0]
    norm = visible_norm(mask).train(training)
    alone = nn.BatchNorm1d(5).train(training)
    alone.load_state_dict(norm.state_dict())

    found, expected = norm(features).movedim(1, -1)[visible], alone(features.movedim(1, -1)[visible])
    torch.testing.assert_close(found, expected)
    for name, statistic in alone.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], statistic, msg=name)
    weight = torch.randn(found.shape)
    (ours,) = torch.autograd.grad((found * weight).sum(), features)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), features)
    torch.testing.assert_close(ours, theirs)


def test_batch_norm_statistics_are_not_thinned_by_holes():
    features = 4 + torch.randn(64, 5, 8, 8, generator=torch.Generator().manual_seed(4))
    norm, plain = visible_norm(random_mask(16, batch=64)), nn.BatchNorm2d(5)
    for _ in range(100):
        norm(features)
        plain(features * ~hidden_places(norm.holes.mask, 8))
    assert norm.running_mean.tolist() == pytest.approx([4] * 5, abs=0.2)
    assert norm.running_var.tolist() == pytest.approx([1] * 5, abs=0.2)
    assert plain.running_mean.tolist() == pytest.approx([1] * 5, abs=0.2)  # what this is all about


def test_batch_norm_of_a_single_place_stays_finite():
    norm = visible_norm(random_mask(4, batch=1))
    assert norm(torch.randn(1, 5, 2, 2)).isfinite().all()
    assert norm.running_var.isfinite().all()


def test_batch_norm_without_a_mask_is_pytorchs():
    features = torch.randn(BATCH, 5, 8, 8)
    norm = visible_norm(None)
    expected = F.batch_norm(features, None, None, norm.weight, norm.bias, training=True)
    assert torch.equal(norm(features), expected)


# --- as a part of a program ---


def test_the_trunk_is_dense_again_after_a_masked_batch(images):
    cnn = build("resnet18").eval()
    before = cnn(images).tokens
    cnn(images, grid_mask())
    assert torch.equal(cnn(images).tokens, before)
    with pytest.raises(RuntimeError):
        cnn(images[:, :1], grid_mask())  # one colour only
    assert cnn.holes.mask is None


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_a_copy_has_its_own_holes(network, images):
    cnn, mask = build(network).eval(), grid_mask()
    expected = cnn(images, mask)
    twin = copy.deepcopy(cnn)
    assert torch.equal(twin(images, mask).tokens, expected.tokens)
    cnn.holes.mask = mask
    assert torch.equal(twin(images).tokens, build(network).eval()(images).tokens)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("patch", [8, 16])
def test_gradient_reaches_every_weight(network, patch, images):
    cnn = build(network, patch)
    cnn(images, grid_mask(patch, ratio=0.5)).tokens.square().sum().backward()
    assert [
        name for name, weight in cnn.named_parameters() if weight.grad is None or not weight.grad.any()
    ] == []


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_weights_round_trip(network, images):
    cnn, other = build(network).eval(), build(network).eval()
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    other.trunk.load_state_dict(cnn.trunk.state_dict())
    assert torch.equal(other(images, grid_mask()).tokens, cnn(images, grid_mask()).tokens)


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_bfloat16(network, images):
    cnn, mask = build(network), grid_mask()
    exact = cnn(images, mask).tokens
    with torch.autocast("cpu", torch.bfloat16):
        rough = cnn(images, mask).tokens
    rough.float().square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in cnn.parameters())
    assert F.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.99


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t"])
def test_deterministic(network, images):
    torch.use_deterministic_algorithms(True)  # raises where there is no such algorithm

    def gradients():
        cnn = build(network, 16)
        cnn(images, grid_mask(16)).tokens.square().sum().backward()
        return [weight.grad for weight in cnn.parameters()]

    assert all(map(torch.equal, gradients(), gradients()))
