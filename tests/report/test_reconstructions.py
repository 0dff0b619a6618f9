"""Faces as runs complete them: errors by hand and by scikit-learn, pictures, and masks in words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from results_folder import make_experiment, make_results
from sklearn.metrics import r2_score

from facemae.core import files, layout
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.masking.regions import REGIONS, region_map
from facemae.report import reconstructions


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made")
    make_results(folder)
    return Results(folder)


def test_masks_are_told_by_run_with_their_cost(paths: Results) -> None:
    table = reconstructions.masks(paths).set_index("run")
    assert list(table.index) == ["random", "region"]
    side = 112 // 14
    assert table["visible"].to_dict() == {"random": side * side // 4, "region": side * side // 4}
    shown = reconstructions.reconstructions(paths, "region", 0)
    nose = region_map(side).numpy() == 1 + list(REGIONS).index("nose")
    assert table.loc["region", "hidden_nose"] == pytest.approx(shown.hidden[:, nose].mean())
    assert table["error"].tolist() == [0.5, 0.5]
    assert table["seconds"].tolist() == [10.5, 10.5]  # of two seeds, 10 and 11


def test_no_error_under_a_common_mask_for_masks_over_pixels(tmp_path: Path) -> None:
    make_results(tmp_path, runs={"region": {"pretrain": {"mask": "pixel"}}})
    table = reconstructions.masks(Results(tmp_path)).set_index("run")
    assert table["error"].isna().to_dict() == {"random": False, "region": True}


def write_shown(
    paths: Results, run: str, seed: int, face: np.ndarray, hidden: np.ndarray, completed: np.ndarray
) -> None:
    content = safetensors.numpy.save(
        {"face": face, "hidden": hidden, "reconstruction": completed}, {layout.FACTS: '{"mask": {}}'}
    )
    files.atomic_write(paths.stage(run, seed, "pretrain") / layout.RECONSTRUCTIONS, content)


@pytest.fixture
def faces() -> tuple[np.ndarray, np.ndarray]:
    """Three faces of 2 x 2 patches of 2 x 2 pixels, and which of the patches are hidden: the first of all
    three, the second of two, the third of all three, the last of none."""
    patch = np.array([[0, 20], [20, 0]], np.uint8)  # its variance is 100
    face = np.zeros((3, 4, 4, 3), np.uint8)
    face[:, :2, :2] = face[:, :2, 2:] = patch[..., None]
    face[:, 2:, :2] = 70  # flat
    return face, np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0]], bool)


def test_errors_by_patch_by_hand(tmp_path: Path, faces: tuple[np.ndarray, np.ndarray]) -> None:
    experiment, paths = make_experiment(tmp_path, seeds=[0]), Results(tmp_path)
    files.write_json(paths.config, experiment.model_dump(), sort_keys=False)
    face, hidden = faces
    completed = face.copy()
    completed[0, :2, :2] += 5  # mean squared error 25
    completed[1, :2, :2] = 10  # the patch's mean: 100
    write_shown(paths, "random", 0, face, hidden, completed)
    found = reconstructions.patch_errors(paths, "random")
    assert found.times.tolist() == [[3, 2], [3, 0]]
    assert found.missed[0, 0] == pytest.approx((25 + 100 + 0) / 300)
    assert found.grey[0, 0] == pytest.approx(np.sqrt(125 / 3))
    assert np.isnan(found.missed[0, 1])  # hidden twice
    assert np.isnan(found.missed[1, 0])  # nothing to miss in a flat patch
    assert found.grey[1, 0] == 0
    assert np.isnan(found.missed[1, 1])
    assert (found.faces, found.seeds) == (3, 1)
    assert (found.face == face[0]).all()


def test_guessing_the_mean_misses_everything(tmp_path: Path) -> None:
    """A second way to compute it: scikit-learn's share of variance explained, over all hidden pixels."""
    random = np.random.default_rng(0)
    experiment, paths = make_experiment(tmp_path, seeds=[0, 1]), Results(tmp_path)
    files.write_json(paths.config, experiment.model_dump(), sort_keys=False)
    face = random.integers(0, 255, (5, 8, 8, 3), np.uint8)
    for seed in (0, 1):
        guess = random.integers(0, 255, face.shape, np.uint8)
        write_shown(paths, "random", seed, face, np.ones((5, 1), bool), guess)
    found = reconstructions.patch_errors(paths, "random")
    shown = [reconstructions.reconstructions(paths, "random", seed) for seed in (0, 1)]
    columns = np.concatenate(
        [each.face.reshape(5, 64, 3).transpose(1, 0, 2).reshape(64, 15) for each in shown], 1
    )
    guesses = np.concatenate(
        [each.reconstruction.reshape(5, 64, 3).transpose(1, 0, 2).reshape(64, 15) for each in shown], 1
    )
    explained = r2_score(columns, guesses, multioutput="variance_weighted")
    assert found.missed[0, 0] == pytest.approx(1 - explained)


def test_of_single_hidden_pixels_only_those_count(tmp_path: Path) -> None:
    experiment, paths = make_experiment(tmp_path, seeds=[0]), Results(tmp_path)
    files.write_json(paths.config, experiment.model_dump(), sort_keys=False)
    face = np.random.default_rng(0).integers(0, 200, (4, 16, 16, 3), np.uint8)
    hidden = np.zeros((4, 16, 16), bool)
    hidden[:, 0, 0] = hidden[:, 8, 9] = True
    completed = face.copy()
    completed[:, 0, 0] += 30
    completed[:, 5, 5] += 50  # was visible, so that this is no error of the completion
    write_shown(paths, "random", 0, face, hidden.reshape(4, -1), completed)
    found = reconstructions.patch_errors(paths, "random")
    assert found.grey.shape == (reconstructions.PIXEL_GRID, reconstructions.PIXEL_GRID)
    assert found.grey[0, 0] == pytest.approx(30)
    assert found.grey[4, 4] == 0
    assert np.isnan(found.grey).sum() == reconstructions.PIXEL_GRID**2 - 2


def test_errors_by_region_are_means_of_its_known_patches() -> None:
    missed = np.array([[0.2, np.nan], [0.6, 0.1]])
    errors = reconstructions.PatchErrors(
        missed, missed, np.ones((2, 2), int), np.zeros((2, 2, 3), np.uint8), 1, 1
    )
    found = reconstructions.region_errors(errors, np.array([1, 1, 0, 1]), ["brows", "eyes"])
    assert list(found) == ["brows", "eyes", "rest"]
    assert found["brows"] == pytest.approx(0.15)
    assert np.isnan(found["eyes"])
    assert found["rest"] == pytest.approx(0.6)


def test_masked_greys_out_hidden_patches_only() -> None:
    face = np.full((1, 4, 4, 3), 200, dtype=np.uint8)
    hidden = np.array([[True, False, False, False]])
    picture = reconstructions.masked(face, hidden)[0, ..., 0]
    assert (picture[:2, :2] == 128).all()
    assert (picture[2:] == 200).all()
    assert (picture[:2, 2:] == 200).all()


def test_strips_have_transparent_gaps() -> None:
    face = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    hidden = np.zeros((2, 4), dtype=bool)
    picture = reconstructions.reconstruction_strip(face, hidden, face)
    assert picture.shape == (3 * 8 + 2 * 4, 2 * 8 + 4, 4)
    assert picture[0, 0].tolist() == [200, 200, 200, 255]
    assert picture[9, 0, 3] == 0


def test_masks_in_words() -> None:
    masks = pd.DataFrame(
        {
            "run": ["random", "pixel"], "strategy": ["random", "pixel"], "visible": [16, 3136],
            "entropy": [0.811, 0.5], "clumping": [0.62, 0.6], "hidden_nose": [0.75, None],
            "error": [0.789, None], "seconds": [20.0, 60.0],
        }
    )  # fmt: skip
    assert reconstructions.mask_table(masks).to_dict("records") == [
        {
            "Run": "random", "Mask": "random", "Visible": "16", "Entropy": "0.81", "Clumping": "0.62",
            "Nose": "75%", "Error": "0.789", "Seconds": "20 (1.00x)",
        },
        {
            "Run": "pixel", "Mask": "pixel", "Visible": "3,136", "Entropy": "0.50", "Clumping": "0.60",
            "Nose": "", "Error": "", "Seconds": "60 (3.00x)",
        },
    ]  # fmt: skip
    alone = reconstructions.mask_table(masks[masks["run"] == "pixel"])
    assert alone["Seconds"].tolist() == ["60"]  # there is no random mask to hold it against
    assert reconstructions.mask_table(pd.DataFrame()).empty


def test_completions_on_the_way_are_read_by_their_step(tmp_path: Path) -> None:
    paths = Results(tmp_path)
    assert reconstructions.by_step(paths, "random", 0) == {}
    file = paths.stage("random", 0, "pretrain") / layout.PROGRESS
    pictures = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    content = {"step": np.array([10, 40]), "reconstruction": pictures}
    files.atomic_write(file, safetensors.numpy.save(content))
    found = reconstructions.by_step(paths, "random", 0)
    assert list(found) == [10, 40]
    np.testing.assert_array_equal(found[40], pictures[1])
    for damaged in (b"{}", safetensors.numpy.save(content | {"step": np.array([1])})):
        files.atomic_write(file, damaged)
        with pytest.raises(IntegrityError, match="cannot be read"):
            reconstructions.by_step(paths, "random", 0)


def test_the_best_completes_unseen_faces_with_the_least_error(paths: Results) -> None:
    assert reconstructions.best(paths) == "random"
