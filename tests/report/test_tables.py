"""What is read of the photos and their faces, beside the same tables read by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from results_folder import (
    CROPS,
    DOUBTFUL_NAMES,
    HOSTILE_PHOTO,
    LANDMARKS,
    PEOPLE,
    SHOTS,
    make_experiment,
    make_results,
)
from sklearn.metrics import r2_score

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.data.images import open_image
from facemae.data.sources.manifest import read_photo
from facemae.masking.regions import REGIONS, region_map
from facemae.report import tables

FOUND = PEOPLE * SHOTS


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made")
    make_results(folder)
    return Results(folder)


def test_every_photo_has_an_outcome_and_its_source(paths: Results) -> None:
    table = tables.outcomes(paths).set_index("sample_id")
    assert table["source"].value_counts().to_dict() == {"labelled": FOUND + 1, "unlabelled": CROPS}
    assert table.loc[HOSTILE_PHOTO, "code"] == "NO_FACE"
    assert (table["code"] == "OK").sum() == FOUND + CROPS


def test_the_tally_counts_by_source(paths: Results) -> None:
    rows = tables.tally(paths).to_dict("records")
    assert rows == [
        {"source": "labelled", "photos": FOUND + 1, "faces": FOUND, "doubtful": 3, "OK": FOUND, "NO_FACE": 1},
        {"source": "unlabelled", "photos": CROPS, "faces": CROPS, "doubtful": 0, "OK": CROPS, "NO_FACE": 0},
    ]


def test_quality_has_known_doubts_shares_of_the_side_and_nothing_for_what_was_not_measured(
    paths: Results,
) -> None:
    table = tables.quality(paths).set_index("sample_id")
    assert table.loc[DOUBTFUL_NAMES, "doubts"].tolist() == ["TURNED, ODD", "TURNED", "UNSURE"]
    size = tables.experiment(paths).data.image_size
    assert table.loc[DOUBTFUL_NAMES[0], "residual"] == pytest.approx(12 / size)
    cropped = table[table["source"] == "unlabelled"]
    assert cropped[["score", "face_px", "residual", "yaw"]].isna().all(axis=None)
    assert cropped["sharpness"].notna().all()


def test_an_unknown_doubt_is_left_out(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    files.write_json(own.config, records.read_json(paths.config))
    index = pd.read_parquet(paths.data.faces)
    index = index.assign(doubts=[["<b>", "ODD"]] * len(index))
    records.write_table(own.data.faces, index, list(index.columns))
    assert set(tables.quality(own)["doubts"]) == {"ODD"}


def test_faces_are_found_in_their_shards_and_those_that_are_not_there_left_out(paths: Results) -> None:
    names = records.read_table(paths.data.faces)["sample_id"].to_list()
    cache = np.load(paths.data.cache)
    chosen = [names[0], names[-1], names[51]]
    found = tables.aligned(paths, [*chosen, "gone", HOSTILE_PHOTO])
    assert found.keys() == set(chosen)
    for name in chosen:
        np.testing.assert_array_equal(np.asarray(open_image(found[name])), cache[names.index(name)])
    with pytest.raises(IntegrityError):
        tables.face(paths, "gone")


def test_a_face_leads_to_its_photo(paths: Results) -> None:
    photo, landmarks = tables.origin(paths, DOUBTFUL_NAMES[0])
    assert photo.sample_id == DOUBTFUL_NAMES[0]
    assert open_image(read_photo(photo)).size == (64, 64)
    np.testing.assert_allclose(landmarks, LANDMARKS * 6.4)
    assert tables.origin(paths, "unlabelled/0.png")[1] is None
    with pytest.raises(IntegrityError):
        tables.origin(paths, "gone")


def test_one_of_several_faces_of_a_photo_leads_to_it_too(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    index = pd.read_parquet(paths.data.faces).head(1)
    index = index.assign(sample_id=index["sample_id"] + "#2", face=1)
    records.write_table(own.data.faces, index, list(index.columns))
    files.atomic_write(own.data.photos, paths.data.photos.read_bytes())
    assert tables.origin(own, index["sample_id"][0])[0].sample_id == DOUBTFUL_NAMES[0]


def test_photos_may_be_part_of_a_file(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    table = pd.read_parquet(paths.data.photos)
    table.loc[0, ["offset", "length"]] = [7, 100]
    records.write_table(own.data.photos, table, layout.PHOTO_COLUMNS)
    names = table["sample_id"].to_list()
    found = tables.photos(own, [names[0], names[1], "gone"])
    assert found.keys() == set(names[:2])
    assert [(found[name].offset, found[name].length) for name in names[:2]] == [(7, 100), (0, None)]


@pytest.mark.parametrize("content", [[], {}, [{"name": "a"}], ["a"], [{"ignored": 3}], None, "twice"])
def test_sources_that_cannot_be_understood_are_one_sentence(
    paths: Results, tmp_path: Path, content: object
) -> None:
    known = records.read_json(paths.data.sources)
    files.write_json(Results(tmp_path).data.sources, known[:1] * 2 if content == "twice" else content)
    with pytest.raises(IntegrityError, match=r"^The sources in this results folder cannot be read"):
        tables.sources(Results(tmp_path))


def test_credits_name_every_source(paths: Results) -> None:
    sentences = tables.credits(paths)
    assert len(sentences) == 2
    assert all("Credit: us. Licence: that of [nobody](https://example.org)." in each for each in sentences)


def test_masks_are_told_by_run_with_their_cost(paths: Results) -> None:
    table = tables.masks(paths).set_index("run")
    assert list(table.index) == ["random", "region"]
    side = 112 // 14
    assert table["visible"].to_dict() == {"random": side * side // 4, "region": side * side // 4}
    shown = tables.reconstructions(paths, "region", 0)
    nose = region_map(side).numpy() == 1 + list(REGIONS).index("nose")
    assert table.loc["region", "hidden_nose"] == pytest.approx(shown.hidden[:, nose].mean())
    assert table["error"].tolist() == [0.5, 0.5]
    assert table["seconds"].tolist() == [10.5, 10.5]  # of two seeds, 10 and 11


def test_no_error_under_a_common_mask_for_masks_over_pixels(tmp_path: Path) -> None:
    make_results(tmp_path, runs={"region": {"pretrain": {"mask": "pixel"}}})
    table = tables.masks(Results(tmp_path)).set_index("run")
    assert table["error"].isna().to_dict() == {"random": False, "region": True}


@pytest.mark.parametrize(("table", "column"), [("leaderboard", "condition"), ("summary", "amount")])
def test_a_table_of_an_older_version_is_one_sentence(
    paths: Results, tmp_path: Path, table: str, column: str
) -> None:
    own = Results(tmp_path)
    files.atomic_write(own.config, paths.config.read_bytes())
    old = pd.read_parquet(getattr(paths, table)).drop(columns=column)
    records.write_table(getattr(own, table), old, list(old.columns))
    with pytest.raises(IntegrityError, match=f"^The {table} .* made by another version"):
        getattr(tables, table)(own)


def test_the_verdict_has_its_claims(paths: Results) -> None:
    found = tables.verdict(paths)
    assert len(found.claims) > 5
    assert all(claim.sentence.startswith(claim.finding.capitalize() + ": ") for claim in found.claims)
    assert found.setting


def test_a_verdict_of_an_older_version_has_none(paths: Results, tmp_path: Path) -> None:
    content = records.read_json(paths.verdict)
    del content["claims"], content["setting"]
    files.write_json(Results(tmp_path).verdict, content)
    assert tables.verdict(Results(tmp_path)).claims == []


@pytest.mark.parametrize("damage", [{"finding": "<b>"}, {"difference": "much"}, None])
def test_a_claim_that_cannot_be_understood_is_one_sentence(
    paths: Results, tmp_path: Path, damage: dict[str, str] | None
) -> None:
    content = records.read_json(paths.verdict)
    content["claims"] = [content["claims"][0] | damage] if damage else [3]
    files.write_json(Results(tmp_path).verdict, content)
    with pytest.raises(IntegrityError, match=r"^The verdict in this results folder cannot be read"):
        tables.verdict(Results(tmp_path))


def test_runs_are_in_the_order_they_are_held_against_each_other(tmp_path: Path) -> None:
    setup = make_experiment(
        tmp_path,
        runs={
            "views": {"pretrain": {"method": "simclr"}},
            "erasing": {"pretrain": None, "finetune": {"erasing": 0.5}},
            "scratch": None,
            "plain": {"pretrain": None},
        },
    )
    assert tables.run_names(setup) == ["plain", "erasing", "random", "region", "views"]
    assert tables.masked(setup) == ["random", "region"]


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
    found = tables.patch_errors(paths, "random")
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
    found = tables.patch_errors(paths, "random")
    shown = [tables.reconstructions(paths, "random", seed) for seed in (0, 1)]
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
    found = tables.patch_errors(paths, "random")
    assert found.grey.shape == (tables.PIXEL_GRID, tables.PIXEL_GRID)
    assert found.grey[0, 0] == pytest.approx(30)
    assert found.grey[4, 4] == 0
    assert np.isnan(found.grey).sum() == tables.PIXEL_GRID**2 - 2


def test_errors_by_region_are_means_of_its_known_patches() -> None:
    missed = np.array([[0.2, np.nan], [0.6, 0.1]])
    errors = tables.PatchErrors(missed, missed, np.ones((2, 2), int), np.zeros((2, 2, 3), np.uint8), 1, 1)
    found = tables.region_errors(errors, np.array([1, 1, 0, 1]), ["brows", "eyes"])
    assert list(found) == ["brows", "eyes", "rest"]
    assert found["brows"] == pytest.approx(0.15)
    assert np.isnan(found["eyes"])
    assert found["rest"] == pytest.approx(0.6)


def test_the_roster_is_the_leaderboards(paths: Results) -> None:
    roster, board = tables.roster(tables.experiment(paths)), tables.leaderboard(paths)
    columns = ["run", "kind", "strategy"]
    expected = board.drop_duplicates("run")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(roster[columns], expected, check_dtype=False)


def test_settings_that_differ_are_side_by_side(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    found = tables.differences(experiment, "random", "region").values.tolist()
    assert found == [
        ["pretrain.mask", '"random"', '"region"'],
        ["pretrain.masks.random", "{}", tables.NOT_SET],
        ["pretrain.masks.region", tables.NOT_SET, "{}"],
    ]
    assert tables.differences(experiment, "random", "random").empty
    whole = tables.differences(experiment, "scratch", "random").set_index("setting")
    assert whole.loc["pretrain"].to_list() == ["null", tables.IN_PARTS]
    assert whole.loc["pretrain.mask"].to_list() == [tables.NOT_SET, '"random"']
    with pytest.raises(UsageError, match="there is no such run"):
        tables.differences(experiment, "random", "gone")


def test_the_curve_of_two_perfect_networks_is_perfect():
    """One's impostors score above the other's genuine pairs; pooled, half of the pairs would be mistaken."""
    genuine = np.tile(np.repeat([True, False], [10, 40]), 2)
    part = np.repeat([0, 1], 50)
    scores = pd.DataFrame({"genuine": genuine, "score": genuine * 0.1 + part * 0.5, "part": part})
    curve = tables._roc(scores)
    assert (curve["tar"] == 1).all()
    assert curve["far"].iloc[[0, -1]].to_list() == pytest.approx([1 / 40, 1])
    assert (tables._roc(scores.assign(part=0))["tar"].iloc[:10] <= 0.5).all()
