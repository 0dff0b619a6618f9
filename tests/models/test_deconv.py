from types import SimpleNamespace

import pytest
import torch

from facemae.config.compatibility import STRIDES
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.base import Encoding
from facemae.models.cnn import Cnn, hidden_places
from facemae.models.deconv import Deconv
from facemae.models.patches import patchify, position_embedding
from facemae.models.vit import Vit

SIZE, BATCH = 32, 3


def vit(patch, size=SIZE, class_token=True):
    model = SimpleNamespace(shape=(16, 1, 2), patch_size=patch, class_token=class_token, pool="mean")
    return Vit(model, size)


def cnn(network, patch, size=SIZE):
    return Cnn(SimpleNamespace(network=network, patch_size=patch), size)


ENCODERS = {
    "convnextv2": lambda: cnn("convnextv2_atto", 8),
    "convnextv2, one map": lambda: cnn("convnextv2_atto", 4),
    "resnet": lambda: cnn("resnet10t", 16),
    "vit": lambda: vit(8, class_token=False),
    "vit with a class token": lambda: vit(8),
    "vit, odd patch": lambda: vit(7, 28),
    "vit, even patch": lambda: vit(14, 28),
}


def decoder_of(encoder, width=16, depth=1):
    return Deconv(encoder, SimpleNamespace(decoder_width=width, decoder_depth=depth))


def case(name):
    """Return an encoder, its decoder, images and a mask."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval()
    size = encoder.side * encoder.patch_size
    patches = encoder.side**2
    mask = hide_highest(torch.rand(BATCH, patches), max(patches // 2, 1))
    return encoder, decoder_of(encoder), torch.rand(BATCH, 3, size, size) * 2 - 1, mask


def everything(mask):
    return torch.arange(mask.hidden.shape[1]).expand(BATCH, -1)


every_encoder = pytest.mark.parametrize("name", ENCODERS)


# --- shapes ---


def check_shapes(encoder, decoder, size):
    patches, patch = encoder.side**2, encoder.patch_size
    ids = torch.empty(2, 3, dtype=torch.int64)
    visible = torch.empty(2, 1, dtype=torch.int64)
    mask = PatchMask(torch.empty(2, patches, dtype=torch.bool), visible, ids)
    images = torch.empty(2, 3, size, size)
    assert decoder(encoder(images, mask), mask, ids).shape == (2, 3, 3 * patch**2)
    assert decoder(encoder(images), None, ids).shape == (2, 3, 3 * patch**2)


@pytest.mark.parametrize("network", ["convnextv2_atto", "resnet10t", "resnet50"])
def test_shapes_of_maps(network):
    for size in (112, 32):
        for patch in (stride for stride in STRIDES if size % stride == 0):
            with torch.device("meta"):  # shapes without arithmetic
                encoder = cnn(network, patch, size)
                decoder = decoder_of(encoder, 64)
                check_shapes(encoder, decoder, size)


@pytest.mark.parametrize(
    ("size", "patch"),
    [(112, each) for each in (4, 7, 8, 14, 16, 28, 56)] + [(32, 4), (32, 8), (32, 16), (36, 12)],
)
def test_shapes_of_tokens(size, patch):
    with torch.device("meta"):
        encoder = vit(patch, size)
        decoder = decoder_of(encoder)
        check_shapes(encoder, decoder, size)


def test_channels_halve_down_to_a_least():
    decoder = decoder_of(vit(16), 64, depth=2)
    assert [each.in_channels for each in (*decoder.grow, decoder.pixels)] == [64, 32, 16, 16]
    assert [len(each) for each in decoder.refine] == [2, 2, 2, 2]
    assert decoder_of(vit(16), 12).pixels.in_channels == 12


# --- where things are ---


@every_encoder
def test_patches_are_those_at_ids(name):
    encoder, decoder, images, mask = case(name)
    encoding = encoder(images, mask)
    whole, some = decoder(encoding, mask, everything(mask)), decoder(encoding, mask, mask.hidden_ids)
    assert torch.equal(some, torch.stack([whole[row, mask.hidden_ids[row]] for row in range(BATCH)]))


@pytest.mark.parametrize("name", ["convnextv2, one map", "vit", "vit, even patch"])
def test_what_is_seen_at_a_place_is_drawn_there(name):
    """A change in one visible place changes the image most at that place."""
    encoder, decoder, images, mask = case(name)
    with torch.no_grad():
        for weight in decoder.refine.parameters():
            weight.zero_()  # else places would look about
        for layer in (*decoder.grow, decoder.pixels):
            layer.weight.fill_(0.1)  # else a corner may weigh more than the middle
    encoding, ids = encoder(images, mask), everything(mask)
    before = decoder(encoding, mask, ids)
    for place in range(mask.visible_ids.shape[1]):
        tokens = encoding.tokens.clone()
        tokens[:, place] += torch.randn(tokens.shape[2])
        patch = mask.visible_ids[:, place]
        maps = encoding.maps
        if maps:
            at = torch.arange(encoder.side**2)[None] == patch[:, None]
            maps = (
                maps[0] + at.view(BATCH, 1, encoder.side, -1) * torch.randn(maps[0].shape[1])[:, None, None],
            )
        change = (decoder(Encoding(encoding.prefix, tokens, maps), mask, ids) - before).square().mean(dim=2)
        assert torch.equal(change.argmax(dim=1), patch)


@every_encoder
def test_all_visible_is_no_mask(name):
    encoder, decoder, images, mask = case(name)
    ids = everything(mask)
    nothing = PatchMask(torch.zeros_like(mask.hidden), ids, ids[:, :0])
    found = decoder(encoder(images, nothing), nothing, ids)
    torch.testing.assert_close(found, decoder(encoder(images), None, ids), atol=1e-5, rtol=1e-4)


# --- what is hidden stays hidden ---


@every_encoder
def test_hidden_pixels_have_no_influence(name):
    encoder, decoder, images, mask = case(name)
    changed = torch.where(hidden_places(mask, images.shape[-1]), images.flip(0), images)
    ids = everything(mask)
    assert torch.equal(decoder(encoder(images, mask), mask, ids), decoder(encoder(changed, mask), mask, ids))


def test_holes_are_filled_at_every_resolution():
    encoder, decoder, images, mask = case("convnextv2")
    encoding = encoder(images, mask)
    dirty = tuple(each + hidden_places(mask, each.shape[-1]) for each in encoding.maps)
    before = decoder(encoding, mask, mask.hidden_ids)
    assert torch.equal(
        decoder(Encoding(encoding.prefix, encoding.tokens, dirty), mask, mask.hidden_ids), before
    )
    for fill in decoder.fill:
        with torch.no_grad():
            fill.hidden.add_(1)
        after = decoder(encoding, mask, mask.hidden_ids)
        assert not torch.allclose(after, before)
        before = after


def test_hidden_patches_differ_by_place_and_by_what_is_seen():
    encoder, decoder, images, mask = case("vit")
    prediction = decoder(encoder(images, mask), mask, mask.hidden_ids)
    assert not torch.allclose(prediction[:, 0], prediction[:, 1], atol=1e-3)
    same = PatchMask(
        *(each[:1].expand(BATCH, -1) for each in (mask.hidden, mask.visible_ids, mask.hidden_ids))
    )
    prediction = decoder(encoder(images, same), same, same.hidden_ids)
    assert not torch.allclose(prediction[0], prediction[1], atol=1e-3)


@pytest.mark.parametrize("name", ["vit", "convnextv2"])
def test_every_place_is_told_where_it_is(name):
    encoder, decoder, images, mask = case(name)
    seen = []
    decoder.refine[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for weight in decoder.fill[0].project.parameters():
            weight.zero_()
    decoder(encoder(images, mask), mask, mask.hidden_ids)
    assert torch.equal(seen[0].flatten(2).mT, position_embedding(16, encoder.side).expand(BATCH, -1, -1))


def test_the_class_token_is_told_to_every_place():
    encoder, decoder, images, mask = case("vit with a class token")
    encoding, ids = encoder(images, mask), everything(mask)
    other = Encoding(encoding.prefix + torch.randn(16), encoding.tokens)
    assert ((decoder(other, mask, ids) - decoder(encoding, mask, ids)).abs().amax(dim=2) > 1e-4).all()


# --- as a part of training ---


@every_encoder
def test_gradient_reaches_every_weight(name):
    encoder, decoder, images, mask = case(name)
    encoding = encoder.train()(images, mask)
    decoder(encoding, mask, mask.hidden_ids).square().sum().backward()
    assert [
        key for key, weight in decoder.named_parameters() if weight.grad is None or not weight.grad.any()
    ] == []
    assert all(weight.grad is not None for weight in encoder.parameters())


@pytest.mark.parametrize("name", ["convnextv2", "vit with a class token", "vit, even patch"])
def test_overfits(name):
    encoder, _, _, _ = case(name)
    decoder, size, patch = (
        decoder_of(encoder.train(), 32),
        encoder.side * encoder.patch_size,
        encoder.patch_size,
    )
    images = torch.rand(8, 3, size // 4, size // 4).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    ids = hide_highest(torch.rand(8, encoder.side**2), encoder.side**2 // 2)
    target = patchify(images, patch).gather(1, ids.hidden_ids[:, :, None].expand(-1, -1, 3 * patch**2))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    for _ in range(120):
        loss = (decoder(encoder(images, ids), ids, ids.hidden_ids) - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.05 * target.square().mean()


@every_encoder
def test_weights_round_trip(name):
    encoder, decoder, images, mask = case(name)
    other = decoder_of(encoder)
    other.load_state_dict(decoder.state_dict())
    encoding = encoder(images, mask)
    assert torch.equal(other(encoding, mask, mask.hidden_ids), decoder(encoding, mask, mask.hidden_ids))
    assert "position" not in decoder.state_dict()


@every_encoder
def test_bfloat16(name):
    encoder, decoder, images, mask = case(name)
    exact = decoder(encoder(images, mask), mask, mask.hidden_ids)
    with torch.autocast("cpu", torch.bfloat16):
        rough = decoder(encoder(images, mask), mask, mask.hidden_ids)
        decoder(encoder.train()(images, mask), mask, mask.hidden_ids).float().square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in decoder.parameters())
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.99


@every_encoder
def test_deterministic(name):
    torch.use_deterministic_algorithms(True)  # raises where there is no such algorithm

    def gradients():
        encoder, decoder, images, mask = case(name)
        decoder(encoder.train()(images, mask), mask, mask.hidden_ids).square().sum().backward()
        return [weight.grad for weight in [*encoder.parameters(), *decoder.parameters()]]

    assert all(map(torch.equal, gradients(), gradients()))
