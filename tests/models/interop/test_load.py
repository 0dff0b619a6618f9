"""What a file of another library leaves open: pooled normalisation, positions, the shape of their grid."""

import json

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from facemae.core.errors import IntegrityError
from facemae.models.build import build_encoder
from facemae.models.interop.load import load_encoder
from facemae.models.patches import position_embedding

SIZE, PATCH, WIDTH = 64, 8, 16


def timms(**changes):
    torch.manual_seed(0)
    shape = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    network = VisionTransformer(**{**shape, "num_classes": 3, "fc_norm": False, **changes})
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    return network


@pytest.fixture
def encoder(small):
    def build(**changes):
        model = {"depth": 2, "heads": 2, "width": WIDTH, "patch_size": PATCH, "class_token": True, **changes}
        return build_encoder(small(defaults={"model": model}).defaults.model, SIZE)

    return build


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def test_a_finetuned_network_that_pools_all_tokens(encoder, path, capsys):
    network, found = timms(global_pool="avg", fc_norm=None), encoder()
    assert "norm.weight" not in network.state_dict()
    torch.save({"model": network.state_dict(), "epoch": 99}, path)
    load_encoder(found, path)
    assert torch.equal(found.trunk.norm.weight, network.fc_norm.weight)
    assert torch.equal(found.trunk.norm.bias, network.fc_norm.bias)
    assert torch.equal(found.trunk.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)
    assert "normalises what it has pooled" in capsys.readouterr().err


# 8 x 6 patches and a class token are 49 positions, as are 7 x 7 patches without one.
OBLONG = {"img_size": (64, 48)}


def test_positions_of_an_oblong_grid_are_not_guessed(encoder, path):
    found = encoder()
    before = found.positions.clone()
    torch.save(timms(**OBLONG).state_dict(), path)
    with pytest.raises(IntegrityError, match="positions for 49 tokens, with a class token, and no config"):
        load_encoder(found, path)
    assert torch.equal(found.positions, before)
    (path.parent / "config.json").write_text(json.dumps({"image_size": [64, 64]}))
    with pytest.raises(IntegrityError, match=r"positions for 49 tokens.*tells 8 x 8 patches"):
        load_encoder(found, path)


@pytest.mark.parametrize(
    "told",
    [
        {"image_size": [64, 48]},
        {"model_args": {"img_size": [64, 48]}},
        {"pretrained_cfg": {"input_size": [3, 64, 48]}},
    ],
)
@pytest.mark.parametrize("own_place", [True, False])
def test_positions_are_resampled_from_the_shape_that_is_told(encoder, path, told, own_place):
    network, found = timms(**OBLONG, no_embed_class=not own_place), encoder()
    torch.save(network.state_dict(), path)
    (path.parent / "config.json").write_text(json.dumps(told))
    load_encoder(found, path)
    grid = network.pos_embed[:, 1:] if own_place else network.pos_embed
    expected = resample_abs_pos_embed(grid, [8, 8], old_size=[8, 6], num_prefix_tokens=0)
    torch.testing.assert_close(found.positions[:, 1:], expected)
    assert torch.equal(found.positions[:, 0], network.pos_embed[:, 0]) == own_place


@pytest.mark.parametrize("size", [-64, 0, [64], [64, "48"], [1e9, 2], 10**30])
def test_a_shape_that_cannot_be_is_not_believed(encoder, path, size):
    torch.save(timms(**OBLONG).state_dict(), path)
    (path.parent / "config.json").write_text(json.dumps({"image_size": size}))
    with pytest.raises(IntegrityError, match="positions for 49 tokens"):
        load_encoder(encoder(), path)


@pytest.mark.parametrize("class_token", [True, False])
def test_positions_that_are_missing_are_made(encoder, path, capsys, class_token):
    state = timms().state_dict()
    del state["pos_embed"]
    torch.save(state, path)
    found = encoder(class_token=class_token)
    torch.nn.init.normal_(found.trunk.pos_embed)
    load_encoder(found, path)
    assert "weights.pth holds no positions; sines and cosines are taken" in capsys.readouterr().err
    if class_token:
        assert not found.positions[:, 0].any()
    ours = position_embedding(WIDTH, 8)  # the row first; those who leave positions out put the column first
    theirs = torch.cat([ours[:, WIDTH // 2 :], ours[:, : WIDTH // 2]], dim=1)
    assert torch.equal(found.positions[0, int(class_token) :], theirs)


def test_images_that_were_not_normalised_are_what_the_file_says(encoder, path):
    network, found, plain = timms(), encoder(), encoder()
    torch.save(network.state_dict(), path)
    load_encoder(plain, path)
    told = {"do_normalize": False, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (path.parent / "preprocessor_config.json").write_text(json.dumps(told))
    load_encoder(found, path)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    first, other = (each.trunk.patch_embed for each in (found, plain))
    torch.testing.assert_close(first(pixels * 2 - 1), other(pixels))


def test_of_two_encoders_in_a_file_the_one_that_is_taken_is_named(encoder, path, capsys):
    states = {"base_encoder": timms().state_dict(), "momentum_encoder": timms().state_dict()}
    torch.save({f"{of}.{name}": value for of, state in states.items() for name, value in state.items()}, path)
    load_encoder(encoder(), path)
    assert "2 encoders are in the file, and 'base_encoder.' is taken" in capsys.readouterr().err
