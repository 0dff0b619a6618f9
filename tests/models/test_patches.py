import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

from facemae.models.patches import patchify, position_embedding, to_faces, to_input, unpatchify


@settings(max_examples=40)
@given(batch=st.integers(1, 3), side=st.integers(1, 5), patch=st.integers(1, 6), seed=st.integers(0, 99))
def test_patches_join_back_into_the_image(batch, side, patch, seed):
    images = torch.rand(batch, 3, side * patch, side * patch, generator=torch.manual_seed(seed))
    patches = patchify(images, patch)
    assert patches.shape == (batch, side * side, patch * patch * 3)
    assert torch.equal(unpatchify(patches, patch), images)
    assert torch.equal(patchify(unpatchify(patches, patch), patch), patches)


def test_patches_go_row_by_row_with_the_colours_innermost():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)  # rectangles can be cut too
    patches = patchify(images, 2)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                cut = images[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(patches[image, 3 * row + column], cut.permute(1, 2, 0).flatten())


def test_every_pixel_value_survives_the_way_to_the_network_and_back():
    faces = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    faces[..., 1] = 255 - faces[..., 1]
    images = to_input(faces)
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(to_faces(images), faces)


def test_what_a_network_overshoots_is_clipped_and_rounded():
    images = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_faces(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("width", "side"), [(4, 2), (16, 5), (128, 8), (64, 14)])
def test_positions_agree_with_timm(width, side):
    theirs = build_sincos2d_pos_embed([side, side], dim=width)
    sin_row, sin_column, cos_row, cos_column = theirs.split(width // 4, dim=1)  # timm's order of features
    ours = position_embedding(width, side)
    assert ours.shape == (side * side, width)
    torch.testing.assert_close(
        ours, torch.cat([sin_row, cos_row, sin_column, cos_column], dim=1), rtol=0, atol=1e-6
    )


def test_a_position_by_hand():
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]  # row 2, frequencies 1 and 0.01
    expected += [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]  # column 1
    assert position_embedding(8, 3)[2 * 3 + 1].tolist() == pytest.approx(expected, abs=1e-6)


def test_no_two_positions_are_alike():
    positions = position_embedding(16, 14)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.05
