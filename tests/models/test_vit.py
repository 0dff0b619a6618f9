import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from facemae.compute.seeding import Noise
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.base import Encoding
from facemae.models.build import build_encoder
from facemae.models.patches import position_embedding
from facemae.models.vit import Vit

SIZE, BATCH = 32, 3


@pytest.fixture(params=[False, True], ids=["patch tokens", "class token"])
def encoder(request, experiment):
    model = experiment.defaults.model.model_copy(update={"class_token": request.param})
    torch.manual_seed(0)
    built = build_encoder(model, SIZE).eval()
    with torch.no_grad():  # both start near zero, which would hide a mistake
        built.positions[:, : built.prefix_tokens].normal_()
        if request.param:
            built.trunk.cls_token.normal_()
    return built


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(16), 12)


def joined(encoding):
    return torch.cat([encoding.prefix, encoding.tokens], dim=1)


def test_with_nothing_hidden_it_is_timms_own_network(encoder, images):
    with torch.inference_mode():
        ours, theirs = joined(encoder(images)), encoder.trunk.forward_features(images)
        everything = torch.arange(16).expand(BATCH, -1)
        nothing = PatchMask(torch.zeros(BATCH, 16, dtype=torch.bool), everything, everything[:, :0])
        assert isinstance(encoder.trunk, VisionTransformer)
        assert ours.shape == (BATCH, encoder.prefix_tokens + 16, 16)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        assert torch.equal(joined(encoder(images, nothing)), ours)


def test_visible_patches_are_encoded_as_if_there_were_no_others(encoder, images, mask):
    prefix, trunk = encoder.prefix_tokens, encoder.trunk
    with torch.inference_mode():
        tokens = joined(encoder(images, mask))
        assert tokens.shape == (BATCH, prefix + 4, 16)
        for image, ids, found in zip(images, mask.visible_ids, tokens, strict=True):
            patches = trunk.patch_embed(image[None])[0]
            listed = [trunk.cls_token[0, 0] + trunk.pos_embed[0, 0]] if prefix else []
            listed += [patches[place] + trunk.pos_embed[0, prefix + place] for place in ids.tolist()]
            alone = trunk.norm(trunk.blocks(torch.stack(listed)[None]))[0]
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_hidden_pixels_have_no_influence_at_all(encoder, images, mask):
    covered = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(covered, torch.full_like(images, 0.9), images)
    with torch.inference_mode():
        tokens = joined(encoder(images, mask))
        assert torch.equal(joined(encoder(changed, mask)), tokens)
        assert not torch.equal(joined(encoder(-images, mask)), tokens)


def test_the_order_of_the_visible_patches_is_the_order_of_the_tokens(encoder, images, mask):
    turned = PatchMask(mask.hidden, mask.visible_ids.flip(1), mask.hidden_ids)
    with torch.inference_mode():
        tokens, backwards = encoder(images, mask).tokens, encoder(images, turned).tokens
    torch.testing.assert_close(backwards.flip(1), tokens, rtol=0, atol=1e-5)


def test_pooling_averages_the_patch_tokens_only(encoder):
    encoding = Encoding(
        torch.full((1, encoder.prefix_tokens, 16), 1e9), torch.tensor([1.0, 3.0])[None, :, None]
    )
    assert torch.equal(encoder.pool(encoding), torch.full((1, 1), 2.0))


def test_pooling_by_the_class_token(experiment):
    model = experiment.defaults.model.model_copy(update={"class_token": True, "pool": "class"})
    encoding = Encoding(torch.full((2, 1, 16), 5.0), torch.rand(2, 4, 16))
    assert torch.equal(build_encoder(model, SIZE).pool(encoding), torch.full((2, 16), 5.0))


@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_start_as_sines_and_can_be_trained(experiment, prefix):
    model = experiment.defaults.model.model_copy(update={"class_token": bool(prefix)})
    encoder = build_encoder(model, SIZE)
    assert encoder.positions.requires_grad
    assert torch.equal(encoder.positions[0, prefix:].detach(), position_embedding(16, 4))
    assert not encoder.positions[0, :prefix].any()


def test_dropped_paths_change_training_only(experiment, images):
    built = build_encoder(experiment.defaults.model, SIZE, drop_path=0.5)
    assert [float(getattr(block.drop_path1, "drop_prob", 0)) for block in built.trunk.blocks] == [0, 0.5]
    torch.manual_seed(0)
    training = [built.train()(images).tokens for _ in range(2)]
    assert not torch.equal(*training)
    built.eval()
    assert torch.equal(built(images).tokens, built(images).tokens)


@pytest.mark.parametrize(
    ("size", "shape"), [("nano", (128, 8, 4)), ("tiny", (192, 12, 3)), ("custom", (16, 2, 2))]
)
def test_sizes_by_name(experiment, size, shape):
    model = experiment.defaults.model.model_copy(update={"size": size})
    with torch.device("meta"):
        trunk = VisionTransformer(
            img_size=SIZE,
            patch_size=8,
            **dict(zip(("embed_dim", "depth", "num_heads"), shape, strict=True)),
            num_classes=0,
            class_token=False,
            global_pool="",
        )
    encoder = Vit(model, SIZE)
    assert encoder.width == shape[0]
    assert {name: each.shape for name, each in encoder.trunk.state_dict().items()} == {
        name: each.shape for name, each in trunk.state_dict().items()
    }
    assert encoder.trunk.blocks[0].attn.num_heads == shape[2]
