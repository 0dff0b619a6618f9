import pytest
import torch

from facemae.compute.seeding import Noise
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.base import Encoding
from facemae.models.build import build_decoder, build_encoder
from facemae.models.decoders import Cross, PerToken, Tokens, Transformer

SIZE, SIDE, PATCH, BATCH, WIDTH = 32, 4, 8, 3, 16
TOKEN_DECODERS = ("transformer", "cross", "mlp")


@pytest.fixture
def mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(SIDE * SIDE), 12)


@pytest.fixture(params=[0, 1], ids=["patch tokens", "class token"])
def made(request, experiment):
    """Return a function that makes a decoder by name, and an encoding for it."""

    def make(name, **changes):
        model = experiment.defaults.model.model_copy(update={"class_token": bool(request.param)})
        settings = experiment.defaults.pretrain.model_copy(update={"decoder": name, **changes})
        torch.manual_seed(0)
        encoder = build_encoder(model, SIZE)
        decoder = build_decoder(encoder, settings).eval()
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        return decoder, Encoding(torch.randn(BATCH, request.param, WIDTH), torch.randn(BATCH, 4, WIDTH))

    return make


def ids_of(*places):
    return torch.tensor([places] * BATCH)


@pytest.mark.parametrize(
    ("name", "kind"), [("transformer", Transformer), ("cross", Cross), ("mlp", PerToken)]
)
def test_they_are_found_by_name(made, name, kind, mask):
    decoder, encoding = made(name)
    assert isinstance(decoder, kind)
    found = decoder(encoding, mask, mask.hidden_ids)
    assert found.shape == (BATCH, 12, PATCH * PATCH * 3)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", [*TOKEN_DECODERS, "deconv"])
def test_the_prediction_of_a_patch_does_not_depend_on_which_others_are_asked_for(made, name, mask):
    decoder, encoding = made(name, decoder_depth=2)
    with torch.inference_mode():
        whole = decoder(encoding, mask, mask.hidden_ids)
        turned = decoder(encoding, mask, mask.hidden_ids.flip(1)).flip(1)
        few = decoder(encoding, mask, mask.hidden_ids[:, [7, 2]])
    torch.testing.assert_close(turned, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(few, whole[:, [7, 2]], rtol=0, atol=1e-5)
    assert not torch.allclose(whole[:, 2], whole[:, 7], atol=1e-3)


@pytest.mark.parametrize("name", [*TOKEN_DECODERS, "deconv"])
def test_the_class_token_is_passed_on(made, name, mask):
    decoder, encoding = made(name)
    if not encoding.prefix.shape[1]:
        pytest.skip("there is none")
    other = Encoding(encoding.prefix + torch.randn(BATCH, 1, WIDTH), encoding.tokens)
    with torch.inference_mode():
        before, after = (decoder(each, mask, mask.hidden_ids) for each in (encoding, other))
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("name", [*TOKEN_DECODERS, "deconv"])
def test_every_visible_token_counts_with_its_place(made, name, mask):
    decoder, encoding = made(name)
    with torch.inference_mode():
        before = decoder(encoding, mask, mask.hidden_ids)
        for place in range(4):
            tokens = encoding.tokens.clone()
            tokens[:, place] += torch.randn(WIDTH)
            changed = decoder(Encoding(encoding.prefix, tokens), mask, mask.hidden_ids)
            assert (changed - before).abs().amax(dim=(1, 2)).min() > 1e-4
    swapped = Encoding(encoding.prefix, encoding.tokens.flip(1))
    turned = PatchMask(mask.hidden, mask.visible_ids.flip(1), mask.hidden_ids)
    with torch.inference_mode():
        torch.testing.assert_close(decoder(swapped, turned, mask.hidden_ids), before, rtol=0, atol=1e-5)
        if name != "mlp":  # which is told the mean of the visible tokens only
            assert not torch.allclose(decoder(swapped, mask, mask.hidden_ids), before, atol=1e-3)


def test_the_per_token_decoder_is_told_the_mean_of_what_was_seen(made, mask):
    decoder, encoding = made("mlp")
    mean = torch.cat([encoding.prefix, encoding.tokens], dim=1).mean(dim=1, keepdim=True)
    evened = Encoding(mean.expand_as(encoding.prefix), mean.expand_as(encoding.tokens))
    with torch.inference_mode():
        torch.testing.assert_close(
            decoder(evened, mask, mask.hidden_ids),
            decoder(encoding, mask, mask.hidden_ids),
            rtol=0,
            atol=1e-5,
        )
        assert not torch.allclose(  # a visible patch's own token counts besides
            decoder(evened, mask, mask.visible_ids), decoder(encoding, mask, mask.visible_ids), atol=1e-3
        )


@pytest.mark.parametrize("name", ["transformer", "mlp", "deconv"])
def test_visible_patches_can_be_predicted_too(made, name, mask):
    decoder, encoding = made(name)
    everything = torch.arange(16).expand(BATCH, -1)
    with torch.inference_mode():
        whole = decoder(encoding, mask, everything)
        hidden = decoder(encoding, mask, mask.hidden_ids)
    assert whole.shape == (BATCH, 16, PATCH * PATCH * 3)
    expected = whole.gather(1, mask.hidden_ids[:, :, None].expand_as(hidden))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "mlp", "deconv"])
def test_with_nothing_hidden_every_token_is_at_its_place(made, name):
    decoder, encoding = made(name)
    full = Encoding(encoding.prefix, torch.randn(BATCH, 16, WIDTH))
    everything = torch.arange(16).expand(BATCH, -1)
    nothing = PatchMask(torch.zeros(BATCH, 16, dtype=torch.bool), everything, everything[:, :0])
    with torch.inference_mode():
        plain, masked = decoder(full, None, everything), decoder(full, nothing, everything)
    torch.testing.assert_close(plain, masked, rtol=0, atol=1e-6)


def test_the_grid_has_mask_tokens_where_patches_are_hidden(experiment, mask):
    torch.manual_seed(0)
    encoder = build_encoder(experiment.defaults.model.model_copy(update={"class_token": True}), SIZE)
    tokens = Tokens(encoder, 8)
    encoding = Encoding(torch.randn(BATCH, 1, WIDTH), torch.randn(BATCH, 4, WIDTH))
    grid = tokens.grid(encoding, mask)
    assert grid.shape == (BATCH, 17, 8)
    embedded = tokens.embed(encoding.tokens)
    torch.testing.assert_close(grid[:, 0], tokens.embed(encoding.prefix[:, 0]), rtol=0, atol=1e-6)
    for image in range(BATCH):
        visible = mask.visible_ids[image].tolist()
        for place in range(16):
            token = embedded[image, visible.index(place)] if place in visible else tokens.mask_token[0, 0]
            torch.testing.assert_close(
                grid[image, 1 + place], token + tokens.position[0, place], rtol=0, atol=1e-6
            )
    queries = tokens.queries(mask.hidden_ids)
    expected = grid[:, 1:].gather(1, mask.hidden_ids[:, :, None].expand_as(queries))
    torch.testing.assert_close(queries, expected, rtol=0, atol=1e-6)
    seen = tokens.visible(encoding, mask)
    rows = torch.cat([torch.zeros(BATCH, 1, dtype=torch.int64), 1 + mask.visible_ids], dim=1)
    torch.testing.assert_close(seen, grid.gather(1, rows[:, :, None].expand_as(seen)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*TOKEN_DECODERS, "deconv"])
def test_the_fixed_positions_are_not_saved_or_trained(made, name):
    decoder, _ = made(name)
    assert not [key for key in decoder.state_dict() if "position" in key]
    assert not [key for key, _ in decoder.named_parameters() if "position" in key]


@pytest.mark.parametrize("name", TOKEN_DECODERS)
def test_depth_and_width_are_those_asked_for(made, name):
    decoder, _ = made(name, decoder_depth=3, decoder_width=24, decoder_heads=2)
    assert len(decoder.blocks) == 3
    assert decoder.tokens.mask_token.shape == (1, 1, 24)
    assert decoder.head.pixels.in_features == 24


def test_the_cost_of_the_cross_decoder_falls_with_what_is_predicted(made, mask):
    from torch.utils.flop_counter import FlopCounterMode

    decoder, encoding = made("cross", decoder_depth=4)
    spent = []
    for count in (12, 3):
        with FlopCounterMode(display=False) as counter:
            decoder(encoding, mask, mask.hidden_ids[:, :count])
        spent.append(counter.get_total_flops())
    assert spent[1] < 0.5 * spent[0]


def test_ids_may_differ_from_image_to_image(made):
    decoder, encoding = made("transformer")
    mask = hide_highest(Noise(range(BATCH), "other").uniform(16), 12)
    ids = torch.tensor([[0, 5], [3, 1], [15, 7]])
    with torch.inference_mode():
        together = decoder(encoding, mask, ids)
        for image in range(BATCH):
            alone = Encoding(encoding.prefix[image : image + 1], encoding.tokens[image : image + 1])
            torch.testing.assert_close(
                decoder(alone, mask[image : image + 1], ids[image : image + 1])[0],
                together[image],
                rtol=0,
                atol=1e-5,
            )
