import pytest
import torch

from facemae import config
from facemae.compute.device import fused_attention, set_fused_attention
from facemae.compute.seeding import Noise
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.base import gather_tokens, pixel_only
from facemae.models.build import DECODERS, ENCODERS, build_decoder, build_encoder
from facemae.models.mae import MaskedAutoencoder

SIZE, SIDE, BATCH = 32, 4, 3


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(SIDE * SIDE), 12)


@pytest.fixture(params=ENCODERS)
def encoder(request, experiment):
    model = experiment.defaults.model.model_copy(update={"encoder": request.param})
    torch.manual_seed(0)
    return build_encoder(model, SIZE).eval()


def test_the_encoders_are_those_that_the_configuration_offers():
    assert set(ENCODERS) == set(config.Model.model_fields["encoder"].annotation.__args__)
    assert set(DECODERS) == set(config.Pretrain.model_fields["decoder"].annotation.__args__)


def test_every_encoder_keeps_to_the_form(encoder, images, mask):
    tokens = 0 if encoder.prefix_tokens and type(encoder).__name__ == "Mlp" else 1
    for seen, count in ((None, 16), (mask, 4)):
        encoding = encoder(images, seen)
        assert encoding.prefix.shape == (BATCH, encoder.prefix_tokens, encoder.width)
        assert encoding.tokens.shape == (BATCH, tokens * count, encoder.width)
        assert encoder.pool(encoding).shape == (BATCH, encoder.width)
    assert (encoder.side, encoder.patch_size) == (SIDE, 8)
    assert len(list(encoder.trunk.parameters())) == len(list(encoder.parameters()))  # all of it is saved
    assert "trunk" in dict(encoder.named_children())


def test_hidden_pixels_have_no_influence_on_any_encoder(encoder, images, mask):
    covered = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(covered, torch.full_like(images, 0.9), images)
    with torch.inference_mode():
        vectors = encoder.pool(encoder(images, mask))
        assert torch.equal(encoder.pool(encoder(changed, mask)), vectors)
        assert not torch.equal(encoder.pool(encoder(-images, mask)), vectors)
        for before, after in zip(encoder(images, mask).maps, encoder(changed, mask).maps, strict=True):
            assert torch.equal(before, after)


def test_gather_by_hand():
    tokens = torch.arange(12.0).view(2, 3, 2)
    ids = torch.tensor([[2, 0], [1, 1]])
    assert gather_tokens(tokens, ids).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert gather_tokens(tokens[:1], ids).tolist() == [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]  # shared by all


@pytest.mark.parametrize("side", [4, SIZE])
def test_only_visible_pixels_are_left(images, side):
    mask = hide_highest(Noise(range(BATCH), "mask").uniform(side * side), side * side // 2)
    shown, cell = pixel_only(images, mask, side), SIZE // side
    for image in range(BATCH):
        for row in range(0, SIZE, 5):
            for column in range(0, SIZE, 3):
                hidden = mask.hidden[image, row // cell * side + column // cell]
                expected = torch.zeros(3) if hidden else images[image, :, row, column]
                assert torch.equal(shown[image, :, row, column], expected)


@pytest.mark.parametrize("before", [True, False])
def test_attention_is_fused_for_a_while(experiment, before):
    encoder = build_encoder(experiment.defaults.model, SIZE)
    set_fused_attention(encoder, before)
    blocks = encoder.trunk.blocks
    with fused_attention(encoder):
        assert [block.attn.fused_attn for block in blocks] == [True] * len(blocks)
    assert [block.attn.fused_attn for block in blocks] == [before] * len(blocks)


@pytest.mark.parametrize("decoder", ["transformer", "cross"])
def test_fused_attention_gives_the_same(experiment, images, mask, decoder):
    torch.manual_seed(0)
    encoder = build_encoder(experiment.defaults.model, SIZE)
    settings = experiment.defaults.pretrain.model_copy(update={"decoder": decoder})
    mae = MaskedAutoencoder(encoder, build_decoder(encoder, settings))
    with torch.no_grad():
        for weight in mae.parameters():
            weight.add_(0.2 * torch.randn_like(weight))  # attention that is not uniform
    found = []
    for fused in (True, False):
        set_fused_attention(mae, fused)
        switched = [module.fused_attn for module in mae.modules() if hasattr(module, "fused_attn")]
        assert switched == [fused] * 3  # two blocks of the encoder and one of the decoder
        found.append(mae(images, mask).patches)
        found[-1].square().mean().backward()
        found.append(torch.cat([weight.grad.flatten() for weight in mae.parameters()]))
        mae.zero_grad()
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], found[3], rtol=1e-4, atol=1e-5)


def test_a_mask_is_cut_with_its_batch(mask):
    assert isinstance(mask[:2], PatchMask)
    assert torch.equal(mask[1:].visible_ids, mask.visible_ids[1:])
