"""Rollout against a second computation, hidden regions against embedding by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from results_folder import make_experiment

from facemae.core.errors import UsageError
from facemae.masking.mask import hide_highest
from facemae.masking.regions import REGIONS, region_map
from facemae.models.build import build_embedder
from facemae.models.embedder import Embedder, embed
from facemae.models.patches import to_input
from facemae.models.vit import Vit
from facemae.recognition import explanation
from facemae.training.objectives import mask_guides

SIZE = 64


def model(**changes: object) -> Embedder:
    """Return a small embedder whose batch normalisation is not the identity."""
    torch.manual_seed(0)
    settings = (
        make_experiment(Path("unused")).run("random").model.model_copy(update={"patch_size": 8} | changes)
    )
    found = build_embedder(settings, SIZE)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(4)  # attention that is far from even
    found.eval()
    return found


def faces(count: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 255, (count, 8, 8, 3), np.uint8)
    return list(coarse.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2))


def images() -> torch.Tensor:
    return to_input(torch.from_numpy(np.stack(faces())))


def own_attention(encoder: Vit, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Compute softmax(q k / sqrt(d)) of every block from the weights."""
    tokens, found = encoder.embed(pictures), []
    for block in encoder.trunk.blocks:
        layer, normed = block.attn, block.norm1(tokens)
        query, key, _ = (
            part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
            for part in torch.nn.functional.linear(normed, layer.qkv.weight, layer.qkv.bias).chunk(3, dim=-1)
        )
        found.append((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1))
        tokens = block(tokens)
    return found


@pytest.mark.parametrize("class_token", [False, True])
def test_attention_agrees_with_softmax_of_queries_and_keys(class_token: bool) -> None:
    encoder = model(class_token=class_token).encoder
    assert isinstance(encoder, Vit)
    fused = [block.attn.fused_attn for block in encoder.trunk.blocks]
    with torch.inference_mode():
        found, wanted = explanation.attention_weights(encoder, images()), own_attention(encoder, images())
    assert len(found) == len(wanted) == len(encoder.trunk.blocks)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
    assert found[-1].std() > 1e-3
    assert [block.attn.fused_attn for block in encoder.trunk.blocks] == fused
    assert not any(block.attn.attn_drop._forward_hooks for block in encoder.trunk.blocks)


def test_the_last_blocks_attention_is_that_which_leads_a_mask() -> None:
    encoder = model(class_token=False).encoder
    assert isinstance(encoder, Vit)
    *blocks, last = encoder.trunk.blocks
    with torch.inference_mode():
        tokens = encoder.embed(images())
        for block in blocks:
            tokens = block(tokens)
        received = mask_guides.attention_received(last, tokens, 0)
        found = explanation.attention_weights(encoder, images())[-1].mean(dim=(1, 2))
    torch.testing.assert_close(found, received)


def test_rolling_two_layers_by_hand() -> None:
    first = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])  # two heads
    second = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]]])
    # Means over heads: [[.5, .5], [1, 0]] and [[.5, .5], [0, 1]]; with the residual
    # [[.75, .25], [.5, .5]] and [[.75, .25], [0, 1]], the second times the first.
    wanted = torch.tensor([[[0.75 * 0.75 + 0.25 * 0.5, 0.75 * 0.25 + 0.25 * 0.5], [0.5, 0.5]]])
    torch.testing.assert_close(explanation.roll([first, second]), wanted)


def test_rolling_keeps_sums_of_one_and_never_mixes_what_attends_to_itself() -> None:
    weights = [torch.rand(3, 2, 5, 5).softmax(-1) for _ in range(4)]
    torch.testing.assert_close(explanation.roll(weights).sum(-1), torch.ones(3, 5))
    alone = [torch.eye(5).expand(3, 2, 5, 5)] * 4
    torch.testing.assert_close(explanation.roll(alone), torch.eye(5).expand(3, 5, 5))


@pytest.mark.parametrize(("class_token", "pool"), [(False, "mean"), (True, "mean"), (True, "class")])
def test_rollout_starts_from_what_is_pooled(class_token: bool, pool: str) -> None:
    embedder = model(class_token=class_token, pool=pool)
    encoder = embedder.encoder
    assert isinstance(encoder, Vit)
    found, prefix, sides = explanation.rollout(embedder, images()), int(class_token), []
    for flipped in (False, True):
        pictures = images().flip(-1) if flipped else images()
        with torch.inference_mode():
            steps = [
                0.5 * each.mean(1) + 0.5 * torch.eye(each.shape[-1])
                for each in own_attention(encoder, pictures)
            ]
        flow = steps[0]
        for step in steps[1:]:
            flow = step @ flow
        row = (flow[:, 0] if pool == "class" else flow[:, prefix:].mean(1))[:, prefix:]
        row = (row / row.sum(1, keepdim=True)).view(-1, encoder.side, encoder.side)
        sides.append(row.flip(-1) if flipped else row)
    torch.testing.assert_close(found, (sides[0] + sides[1]) / 2)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))
    assert found.std() > 1e-4


def test_rollout_of_a_mirrored_face_is_mirrored() -> None:
    embedder = model()
    torch.testing.assert_close(
        explanation.rollout(embedder, images().flip(-1)), explanation.rollout(embedder, images()).flip(-1)
    )


def test_rollout_is_refused_where_nothing_attends() -> None:
    with pytest.raises(UsageError, match=r"needs a vision Transformer.*mlp.*leaving regions out"):
        explanation.rollout(model(encoder="mlp"), images())


def test_covering_is_painting_and_embedding() -> None:
    embedder, (first, second) = model(), faces()
    side = embedder.encoder.side
    table = explanation.leave_out(embedder, first, second)
    assert table["photo"].tolist() == ["first"] * 6 + ["second"] * 6
    assert table["region"].tolist() == [*REGIONS, "elsewhere"] * 2
    assert table.groupby("photo")["share"].sum().tolist() == pytest.approx([1, 1])
    inside = (region_map(side) == 4).view(side, side).numpy()  # the mouth
    inside = inside.repeat(SIZE // side, 0).repeat(SIZE // side, 1)
    for photo, painted, other in (("first", first, second), ("second", second, first)):
        floats = painted.astype(np.float64) / 127.5 - 1
        floats[inside] = floats.mean((0, 1))
        pictures = torch.from_numpy(floats).permute(2, 0, 1)[None].float()
        vectors = embed(embedder, torch.cat([pictures, to_input(torch.from_numpy(other[None]))]))
        row = table[(table["photo"] == photo) & (table["region"] == "mouth")].iloc[0]
        assert row["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
        assert row["change"] == pytest.approx(
            row["score"] - explanation.score(embedder, first, second), abs=1e-6
        )
        assert row["share"] == inside.mean()
    assert table["change"].abs().max() > 1e-3


def test_dropping_keeps_patches_from_the_encoder_in_the_mirror_image_too() -> None:
    embedder, (first, second) = model(), faces()
    side = embedder.encoder.side
    table = explanation.leave_out(embedder, first, second, drop=True)
    hidden = region_map(side) == 3  # the nose
    masks = [hidden, hidden.view(side, side).flip(-1).flatten()]
    sides = [images()[1:], images()[1:].flip(-1)]
    with torch.inference_mode():
        vector = sum(
            embedder(picture, hide_highest(mask[None].float(), int(mask.sum())))
            for picture, mask in zip(sides, masks, strict=True)
        )
    wanted = torch.nn.functional.cosine_similarity(vector, embed(embedder, images()[:1]))
    row = table[(table["photo"] == "second") & (table["region"] == "nose")].iloc[0]
    assert row["score"] == pytest.approx(float(wanted), abs=1e-5)
    assert (table["change"] != explanation.leave_out(embedder, first, second)["change"]).all()


def test_what_has_no_patches_to_drop_is_told_to_cover() -> None:
    embedder = model(encoder="mlp")
    assert not explanation.can_drop(embedder)
    assert explanation.can_drop(model(head="flatten"))
    assert explanation.can_drop(model())
    with pytest.raises(UsageError, match="needs all of its patches"):
        explanation.leave_out(embedder, *faces(), drop=True)
    assert len(explanation.leave_out(embedder, *faces())) == 12


def test_a_face_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="32 x 32 pixels does not fit this model, which takes 64 x 64"):
        explanation.leave_out(model(), faces()[0][:32, :32], faces()[1])


def test_a_plain_face_does_not_react_to_being_covered_by_its_own_colour() -> None:
    plain = np.full((SIZE, SIZE, 3), 90, np.uint8)
    embedder = model()
    table = explanation.leave_out(embedder, plain, faces()[1])
    assert table.loc[table["photo"] == "first", "change"].abs().max() < 1e-5
    assert table.loc[table["photo"] == "second", "change"].abs().max() > 1e-4
    assert np.abs(explanation.sensitivity(embedder, plain, faces()[1])[0]).max() < 1e-5


@pytest.mark.parametrize(("side", "width"), [(4, 1), (7, 3), (8, 3), (14, 5), (16, 5), (28, 9)])
def test_the_square_is_odd_and_a_third_of_the_face_at_most(side: int, width: int) -> None:
    assert explanation.window(side) == width
    squares = explanation.squares(side).view(side, side, side, side)
    middle = side // 2
    assert squares[middle, middle].sum() == width**2
    assert squares[0, 0].sum() == (width // 2 + 1) ** 2
    assert all(squares[y, x, y, x] for y in range(side) for x in range(side))


def test_sensitivity_covers_the_square_around_each_patch() -> None:
    embedder, (first, second) = model(), faces()
    side = embedder.encoder.side
    found = explanation.sensitivity(embedder, first, second)
    assert found.shape == (2, side, side)
    patch, reach = SIZE // side, explanation.window(side) // 2
    painted = images()[1].clone()
    rows, columns = (slice(max(0, at - reach) * patch, (at + reach + 1) * patch) for at in (2, 7))
    painted[:, rows, columns] = images()[1].mean((1, 2))[:, None, None]
    vectors = embed(embedder, torch.stack([images()[0], painted]))
    change = float(vectors[0] @ vectors[1]) - explanation.score(embedder, first, second)
    assert found[1, 2, 7] == pytest.approx(change, abs=1e-5)


def test_photos_change_places_with_their_maps() -> None:
    embedder, (first, second) = model(), faces()
    there, back = (
        explanation.sensitivity(embedder, first, second),
        explanation.sensitivity(embedder, second, first),
    )
    np.testing.assert_allclose(there, back[::-1], atol=1e-5)


def test_a_model_by_others_is_shown_few_squares_and_says_how_far_it_is() -> None:
    given: list[int] = []

    def embed_by_others(pictures: np.ndarray) -> np.ndarray:
        given.append(len(pictures))
        vectors = pictures.reshape(len(pictures), -1, 3)[:, ::97].reshape(len(pictures), -1) / 255.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    first, second = np.random.default_rng(0).integers(0, 255, (2, 112, 112, 3), np.uint8)
    shares: list[float] = []
    network = explanation.watched(embed_by_others, shares.append)
    found = explanation.sensitivity(network, first, second)
    assert found.shape == (2, 5, 5)
    assert sum(given) == 2 * (1 + 25)
    explanation.leave_out(network, first, second)
    whole = explanation.score(network, first, second)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[-2] < 1
    painted = first.copy()
    painted[6 * 7 : 11 * 7, 12 * 7 :] = first.mean((0, 1)).round()  # 5 patches of 7 pixels, or to the edge
    vectors = embed_by_others(np.stack([painted, second]))
    assert found[0, 2, 4] == pytest.approx(float(vectors[0] @ vectors[1]) - whole, abs=1e-3)
