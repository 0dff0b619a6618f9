import pytest
import torch

from facemae.masking import make_mask
from facemae.models.encoder import build_encoder, encode, gather_tokens, pool, set_fused_attention
from facemae.models.patches import position_embedding
from facemae.randomness import generator

SIZE, BATCH = 32, 3


@pytest.fixture(params=[False, True], ids=["patch tokens", "class token"])
def encoder(request, experiment):
    model = experiment.defaults.model.model_copy(update={"class_token": request.param})
    torch.manual_seed(0)
    built = build_encoder(model, SIZE).eval()
    with torch.no_grad():  # both start near zero, which would hide a mistake
        built.pos_embed[:, : built.num_prefix_tokens].normal_()
        if request.param:
            built.cls_token.normal_()
    return built


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return make_mask("random", 0.75, BATCH, 4, generator("mask"))


def test_with_nothing_hidden_it_is_timms_own_network(encoder, images):
    with torch.inference_mode():
        ours, theirs = encode(encoder, images), encoder.forward_features(images)
        everything = torch.arange(16).expand(BATCH, -1)
        assert ours.shape == (BATCH, encoder.num_prefix_tokens + 16, 16)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        assert torch.equal(encode(encoder, images, everything), ours)


def test_visible_patches_are_encoded_as_if_there_were_no_others(encoder, images, mask):
    prefix = encoder.num_prefix_tokens
    with torch.inference_mode():
        tokens = encode(encoder, images, mask.visible_ids)
        assert tokens.shape == (BATCH, prefix + 4, 16)
        for image, ids, found in zip(images, mask.visible_ids, tokens, strict=True):
            patches = encoder.patch_embed(image[None])[0]
            listed = [encoder.cls_token[0, 0] + encoder.pos_embed[0, 0]] if prefix else []
            listed += [patches[place] + encoder.pos_embed[0, prefix + place] for place in ids.tolist()]
            alone = encoder.norm(encoder.blocks(torch.stack(listed)[None]))[0]
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_hidden_pixels_have_no_influence_at_all(encoder, images, mask):
    covered = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(covered, torch.full_like(images, 0.9), images)
    with torch.inference_mode():
        tokens = encode(encoder, images, mask.visible_ids)
        assert torch.equal(encode(encoder, changed, mask.visible_ids), tokens)
        assert not torch.equal(encode(encoder, -images, mask.visible_ids), tokens)


def test_the_order_of_the_visible_patches_is_the_order_of_the_tokens(encoder, images, mask):
    prefix = encoder.num_prefix_tokens
    with torch.inference_mode():
        tokens = encode(encoder, images, mask.visible_ids)
        backwards = encode(encoder, images, mask.visible_ids.flip(1))
    torch.testing.assert_close(backwards[:, prefix:].flip(1), tokens[:, prefix:], rtol=0, atol=1e-5)


def test_fused_attention_gives_the_same(encoder, images, mask):
    found = []
    for fused in (True, False):
        set_fused_attention(encoder, fused)
        assert {block.attn.fused_attn for block in encoder.blocks} == {fused}
        with torch.inference_mode():
            found.append(encode(encoder, images, mask.visible_ids))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_gather_by_hand():
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert gather_tokens(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [
        [[4, 5], [0, 1]], [[8, 9], [8, 9]],
    ]  # fmt: skip


def test_pooling_averages_the_patch_tokens_only(encoder):
    prefix = encoder.num_prefix_tokens
    tokens = torch.zeros(1, prefix + 2, 16)
    tokens[:, :prefix] = 1e9
    tokens[0, prefix:] = torch.tensor([1.0, 3.0])[:, None]
    assert torch.equal(pool(encoder, tokens), torch.full((1, 16), 2.0))


@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_start_as_sines_and_can_be_trained(experiment, prefix):
    model = experiment.defaults.model.model_copy(update={"class_token": bool(prefix)})
    encoder = build_encoder(model, SIZE)
    assert encoder.pos_embed.requires_grad
    assert torch.equal(encoder.pos_embed[0, prefix:].detach(), position_embedding(16, 4))
    assert not encoder.pos_embed[0, :prefix].any()


def test_dropped_paths_change_training_only(experiment, images):
    built = build_encoder(experiment.defaults.model, SIZE, drop_path=0.5)
    assert [float(getattr(block.drop_path1, "drop_prob", 0)) for block in built.blocks] == [0, 0.5]
    torch.manual_seed(0)
    training = [encode(built.train(), images) for _ in range(2)]
    assert not torch.equal(*training)
    built.eval()
    assert torch.equal(encode(built, images), encode(built, images))
