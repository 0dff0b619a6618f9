import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch

from facemae.compute.seeding import Noise
from facemae.core.errors import DataError, UsageError
from facemae.evaluation.corruptions.occlusion import OCCLUSIONS, occlude
from facemae.models.build import build_embedder, build_mae
from facemae.models.embedder import embed
from facemae.models.patches import to_input
from facemae.recognition import occluded

SIZE, PATCH, SIDE = 32, 8, 4
NOTHING = np.zeros((SIZE, SIZE), np.bool_)


@pytest.fixture(scope="module")
def faces(orl_images):
    return orl_images  # (16, 32, 32, 3): eight people, two photos each


@pytest.fixture(scope="module")
def people():
    return [f"p{number // 2}" for number in range(16)]


@pytest.fixture(scope="module")
def make(experiment):
    """Return a function that makes an untrained embedder, with changes of the model."""

    def embedder(**changes):
        torch.manual_seed(0)
        model = experiment.defaults.model.model_copy(update=changes)
        return build_embedder(model, SIZE).eval()

    return embedder


@pytest.fixture(scope="module")
def autoencoder_of(experiment):
    def autoencoder(encoder="vit", decoder="transformer", normalise=True, **changes):
        torch.manual_seed(1)
        model = experiment.defaults.model.model_copy(update={"encoder": encoder, **changes})
        pretrain = experiment.defaults.pretrain.model_copy(
            update={"decoder": decoder, "normalise_target": normalise}
        )
        return build_mae(model, pretrain, SIZE).eval(), pretrain

    return autoencoder


def spread(patches):
    """Return which pixels (N, H, H) lie in patches (N, side * side)."""
    grid = np.asarray(patches).reshape(-1, SIDE, SIDE)
    return grid.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


@pytest.fixture(scope="module")
def hidden(faces):
    """Hide whole patches, in some faces more than in others, in one none."""
    patches = np.random.default_rng(0).random((len(faces), SIDE * SIDE)) < 0.3
    patches[5] = False
    patches[6] = False
    patches[6, 3] = True
    return spread(patches)


def scrambled(faces, hidden):
    """Return faces with noise where they are hidden."""
    noise = np.random.default_rng(7).integers(0, 256, faces.shape, np.uint8)
    return np.where(hidden[..., None], noise, faces)


# --- something in front of a face ---


@pytest.mark.parametrize("kind", OCCLUSIONS)
def test_an_occluder_covers_its_area_and_nothing_else(faces, kind):
    image, hidden = occluded.cover(faces[0], kind, 0.25, seed=3)
    assert hidden.sum() == SIZE * SIZE / 4
    np.testing.assert_array_equal(image[~hidden], faces[0][~hidden])
    larger = occluded.cover(faces[0], kind, 0.5, seed=3)[1]
    assert (larger | ~hidden).all()
    again, _ = occluded.cover(faces[0], kind, 0.25, seed=3)
    np.testing.assert_array_equal(again, image)


def test_another_seed_is_another_occluder(faces):
    covered = {occluded.cover(faces[0], "block", 0.25, seed)[1].tobytes() for seed in range(5)}
    assert len(covered) == 5


def test_painted_cells_cover_their_pixels(faces):
    cells = np.zeros((4, 4), np.bool_)
    cells[1, 2] = True
    image, hidden = occluded.cover_painted(faces[0], cells)
    expected = np.zeros((SIZE, SIZE), np.bool_)
    expected[8:16, 16:24] = True
    np.testing.assert_array_equal(hidden, expected)
    assert (image[hidden] == occluded.PAINTED).all()
    np.testing.assert_array_equal(image[~hidden], faces[0][~hidden])


def test_painted_cells_that_do_not_divide_the_face_cover_it_all_the_same(faces):
    full = np.ones((occluded.CELLS, occluded.CELLS), np.bool_)
    assert occluded.cover_painted(faces[0], full)[1].all()
    half = full.copy()
    half[:, occluded.CELLS // 2 :] = False
    np.testing.assert_array_equal(occluded.cover_painted(faces[0], half)[1].sum(axis=1), SIZE // 2)


def test_which_patches_are_touched():
    hidden = np.zeros((1, 4, 4), np.bool_)
    hidden[0, 0, 0] = hidden[0, 0, 2:] = hidden[0, 2:, 2:] = True
    # Of four patches of 2 x 2 pixels: 1, 2, 0 and 4 pixels.
    assert occluded.touched(hidden, 2, 0.0).tolist() == [[True, True, False, True]]
    assert occluded.touched(hidden, 2, 0.25).tolist() == [[False, True, False, True]]
    assert occluded.touched(hidden, 2, 0.5).tolist() == [[False, False, False, True]]


# --- the mitigations ---


def test_no_aid_embeds_the_picture_as_it_is(make, faces, hidden):
    embedder = make()
    expected = embed(embedder, to_input(torch.from_numpy(faces))).numpy()
    np.testing.assert_allclose(occluded.embed_covered(embedder, faces, hidden, "none"), expected, atol=1e-6)


@pytest.mark.parametrize("mitigation", ["patch_drop", "reconstruct"])
def test_a_mitigation_does_nothing_where_nothing_is_covered(make, autoencoder_of, faces, mitigation):
    embedder, nothing = make(), np.zeros((len(faces), SIZE, SIZE), np.bool_)
    found = occluded.embed_covered(embedder, faces, nothing, mitigation, autoencoder_of())
    np.testing.assert_allclose(found, occluded.embed_covered(embedder, faces, nothing, "none"), atol=1e-6)


@pytest.mark.parametrize("model", [{}, {"encoder": "cnn"}, {"class_token": True, "pool": "class"}])
def test_what_is_dropped_has_no_influence(make, faces, hidden, model):
    embedder = make(**model)
    found = occluded.embed_covered(embedder, faces, hidden, "patch_drop")
    other = occluded.embed_covered(embedder, scrambled(faces, hidden), hidden, "patch_drop")
    np.testing.assert_allclose(found, other, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    plain = occluded.embed_covered(embedder, faces, hidden, "none")
    assert (np.abs(found - plain).max(axis=1) > 1e-3)[hidden.any(axis=(1, 2))].all()


def test_faces_that_hide_more_or_less_are_embedded_each_as_alone(make, autoencoder_of, faces, hidden):
    embedder, autoencoder = make(), autoencoder_of()
    for mitigation in ("patch_drop", "reconstruct"):
        together = occluded.embed_covered(embedder, faces, hidden, mitigation, autoencoder)
        alone = [
            occluded.embed_covered(embedder, faces[n : n + 1], hidden[n : n + 1], mitigation, autoencoder)[0]
            for n in range(len(faces))
        ]
        np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_the_mirror_image_has_the_mirrored_mask(make, faces, hidden):
    embedder = make()
    found = occluded.embed_covered(embedder, faces, hidden, "patch_drop")
    mirrored = occluded.embed_covered(embedder, faces[:, :, ::-1], hidden[:, :, ::-1], "patch_drop")
    np.testing.assert_allclose(found, mirrored, atol=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("encoder", "decoder"), [("vit", "transformer"), ("cnn", "deconv"), ("mlp", "mlp")])
def test_a_completed_face_does_not_depend_on_what_is_hidden(
    autoencoder_of, faces, hidden, encoder, decoder, normalise
):
    """Whole patches and parts of patches: an original that leaked would flatter."""
    autoencoder = autoencoder_of(encoder, decoder, normalise)
    _, part = occlude(faces, "sunglasses", 0.2, Noise(range(len(faces)), 0))
    for covered in (hidden, part):
        found = occluded.completed(autoencoder, faces, covered)
        np.testing.assert_array_equal(found[~covered], faces[~covered])
        # Not to the bit: how a sum rounds may depend on numbers that are multiplied by zero.
        other = occluded.completed(autoencoder, scrambled(faces, covered), covered)
        assert np.abs(found.astype(int) - other).max() <= 1
    assert (occluded.completed(autoencoder, faces, hidden)[hidden] != faces[hidden]).mean() > 0.5


def test_the_reconstruction_is_what_is_embedded(make, autoencoder_of, faces, hidden):
    embedder, autoencoder = make(), autoencoder_of()
    completed = occluded.completed(autoencoder, faces, hidden)
    np.testing.assert_array_equal(
        occluded.embed_covered(embedder, faces, hidden, "reconstruct", autoencoder),
        occluded.embed_covered(embedder, completed, hidden, "none"),
    )


@pytest.mark.parametrize(
    ("model", "mitigation", "sentence"),
    [
        ({"encoder": "mlp"}, "patch_drop", "reads all pixels at once"),
        ({}, "reconstruct", "this run has none"),
    ],
)
def test_what_a_model_cannot_do_is_refused(make, faces, hidden, model, mitigation, sentence):
    embedder = make(**model)
    assert sentence in occluded.obstacle(embedder, mitigation, None)
    with pytest.raises(UsageError, match=sentence):
        occluded.embed_covered(embedder, faces, hidden, mitigation)
    assert len(occluded.embed_covered(embedder, faces, hidden, "none")) == len(faces)


def test_what_a_model_can_do_is_not_refused(make, autoencoder_of):
    for model in ({}, {"encoder": "cnn"}, {"class_token": True}):
        assert [
            occluded.obstacle(make(**model), mitigation, autoencoder_of())
            for mitigation in occluded.MITIGATIONS
        ] == [""] * 3


@pytest.mark.parametrize("mitigation", ["patch_drop", "reconstruct"])
def test_a_face_that_is_all_covered_is_refused(make, autoencoder_of, faces, mitigation):
    covered = np.zeros((2, SIZE, SIZE), np.bool_)
    covered[1] = True
    with pytest.raises(UsageError, match="every one of the 16 patches"):
        occluded.embed_covered(make(), faces[:2], covered, mitigation, autoencoder_of())


# --- what the mitigations are worth ---


@pytest.fixture(scope="module")
def measured(make, autoencoder_of, faces, people):
    return occluded.measure(make(), autoencoder_of(), faces, people, "sunglasses", 0.2, 0.9, seed=4)


def test_rates_and_area_agree_with_a_second_computation(make, faces, people, measured):
    table = measured
    embedder = make()
    clean = occluded.embed_covered(embedder, faces, np.zeros((16, SIZE, SIZE), np.bool_), "none")
    covered, hidden = occlude(faces, "sunglasses", 0.2, Noise(range(16), 4, "cover", "sunglasses"))
    for row, probes in (
        ("clean", clean),
        ("none", occluded.embed_covered(embedder, covered, hidden, "none")),
    ):
        pairs = [
            (float(probes[i] @ clean[j]), people[i] == people[j])
            for i in range(16)
            for j in range(16)
            if i != j
        ]
        scores, genuine = map(np.array, zip(*pairs, strict=True))
        expected = sklearn.metrics.roc_auc_score(genuine, scores)
        assert table.loc[row, "roc_auc"] == pytest.approx(expected, abs=1e-6)
        assert table.loc[row, "tar"] == pytest.approx((scores[genuine] >= 0.9).mean())
        assert table.loc[row, "far"] == pytest.approx((scores[~genuine] >= 0.9).mean())


def test_a_measurement_has_its_intervals_and_gains(measured):
    table = measured
    assert list(table.index) == ["clean", "none", "patch_drop", "reconstruct"]
    assert (table["note"] == "").all()
    assert table[["probes", "people"]].drop_duplicates().to_numpy().tolist() == [[16, 8]]
    for name in occluded.COLUMNS:
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
        gains = table[name] - table.loc["none", name]
        np.testing.assert_allclose(table[f"{name}_gain"], gains, atol=1e-12)
        assert (table[f"{name}_gain_low"] <= table[f"{name}_gain"] + 1e-12).all()
        assert (table[f"{name}_gain"] <= table[f"{name}_gain_high"] + 1e-12).all()
    assert table.loc["none", "roc_auc_gain_low"] == table.loc["none", "roc_auc_gain_high"] == 0


def test_a_measurement_repeats(make, autoencoder_of, faces, people, measured):
    again = occluded.measure(make(), autoencoder_of(), faces, people, "sunglasses", 0.2, 0.9, seed=4)
    assert again.equals(measured)


def test_where_nothing_is_covered_every_aid_ties(make, autoencoder_of, faces, people):
    table = occluded.measure(make(), autoencoder_of(), faces, people, "mask", 0.0, 0.9)
    assert (table["roc_auc"] == table.loc["clean", "roc_auc"]).all()
    assert all("undecided" in occluded.verdict(table, mitigation) for mitigation in occluded.MITIGATIONS)


def test_a_mitigation_that_cannot_be_had_is_a_note(make, faces, people):
    table = occluded.measure(make(encoder="mlp"), None, faces, people, "mask", 0.3, 0.9)
    assert table["roc_auc"].isna().tolist() == [False, False, True, True]
    assert "all pixels at once" in occluded.verdict(table, "patch_drop")
    assert "this run has none" in occluded.verdict(table, "reconstruct")


@pytest.mark.parametrize("shown", [["a", "b"], ["a", "a", "b"], ["a", "a"], []])
def test_too_few_faces_to_measure_on_are_refused(make, faces, shown):
    with pytest.raises(DataError, match="at least 2 are needed"):
        occluded.measure(make(), None, faces[: len(shown)], shown, "mask", 0.3, 0.9)


@pytest.mark.parametrize(
    ("counts", "faces_of_each"),
    [([10] * 20, {10}), ([10] * 40, {5}), ([30] * 100, {4}), ([2] * 300, {2}), ([500, 500, 1], {100})],
)
def test_the_probes_are_evenly_of_people_with_several_faces(counts, faces_of_each):
    people = np.repeat([f"p{number}" for number in range(len(counts))], counts)
    chosen = occluded._chosen(people, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == occluded.MOST_PROBES
    _, found = np.unique(people[chosen], return_counts=True)
    assert set(found.tolist()) == faces_of_each
    assert occluded._chosen(people, seed=1).tolist() != chosen.tolist() or len(people) == len(chosen)


def row(area, gain, **others):
    cells = {"note": "", "tar": 0.5, "far": 0.01, "roc_auc": area}
    cells |= {f"roc_auc_gain{end}": value for end, value in zip(("", "_low", "_high"), gain, strict=True)}
    return cells | others


def test_verdicts_by_hand():
    table = pd.DataFrame.from_dict(
        {
            "clean": row(0.9, (0.2, 0.15, 0.25), tar=0.6),
            "none": row(0.7, (0, 0, 0)),
            "patch_drop": row(0.75, (0.05, 0.01, 0.09), far=0.02),
            "reconstruct": row(0.69, (-0.01, -0.03, 0.01)),
        },
        orient="index",
    )
    assert occluded.verdict(table, "none") == (
        "The occluder lowers the ROC AUC from 0.900 to 0.700 (interval of the difference -0.250 to -0.150); "
        "at the threshold, genuine pairs accepted go from 60.0% to 50.0% and impostor pairs from 1.0% to "
        "1.0%."
    )
    assert occluded.verdict(table, "patch_drop") == (
        "Patch drop raises the ROC AUC from 0.700 to 0.750 (interval of the difference +0.010 to +0.090); at "
        "the threshold, genuine pairs accepted go from 50.0% to 50.0% and impostor pairs from 1.0% to 2.0%."
    )
    assert "-0.030 to +0.010, includes 0: undecided" in occluded.verdict(table, "reconstruct")
    worse = table.assign(roc_auc_gain_high=-0.005)
    assert "Reconstruction lowers the ROC AUC" in occluded.verdict(worse, "reconstruct")
