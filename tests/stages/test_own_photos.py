"""What a folder of somebody's own photos holds, and the settings that fit it."""

import pytest

from facemae import config
from facemae.core.errors import DataError
from facemae.stages import own_photos
from facemae.stages.own_photos import Found

PICTURE = b"\xff\xd8\xff\xe0"
RANDOM = ["random"]


def folder(home, people, photos):
    for person in range(people):
        place = home / "faces" / f"Zoë {person} Łęcka"
        place.mkdir(parents=True)
        for number in range(photos):
            (place / f"a photo {number}.jpg").write_bytes(PICTURE)
    return home / "faces"


def experiment(people, photos, tmp_path, masks=("random",)):
    found = Found({f"p{number}": photos for number in range(people)})
    chosen = own_photos.settings(tmp_path / "faces", tmp_path / "out", found, masks)
    content = config.merge(config.content_of([]), chosen)
    return config.parse(content), chosen, found


def test_a_folder_is_counted_with_stray_files_beside_the_photos(tmp_path):
    place = folder(tmp_path, 4, 3)
    (place / "Zoë 0 Łęcka" / "notes.txt").write_text("no photo")
    (place / "Thumbs.db").write_text("no photo")
    (place / "group.jpg").write_bytes(PICTURE)
    found = own_photos.look(place)
    assert sorted(found.people.values()) == [3, 3, 3, 3]
    assert (found.unnamed, found.photos, found.ignored.total()) == (1, 13, 2)
    assert "4 people, 3 to 3 each; 13 photos; 1 photos of nobody" in str(found)
    own_photos.require_enough(found, place, "photos")


@pytest.mark.parametrize(("people", "photos"), [(3, 9), (4, 2), (0, 0), (10_000, 1)])
def test_too_few_are_told_before_any_work_with_what_is_missing(people, photos, tmp_path):
    found = Found({f"p{number}": photos for number in range(people)})
    with pytest.raises(DataError, match="have 3 photos or more, and 4 are needed") as told:
        own_photos.require_enough(found, tmp_path, "photos")
    assert ("too few of: p0, p1" in str(told.value)) == (0 < photos < 3)


@pytest.mark.parametrize(
    ("people", "photos", "folds", "evaluated"), [(4, 3, 1, 2), (5, 3, 1, 2), (10, 6, 2, 5), (105, 50, 5, 52)]
)
def test_settings_fit_the_people(people, photos, folds, evaluated, tmp_path):
    made, _, _ = experiment(people, photos, tmp_path)
    assert made.split.folds == folds
    assert round(made.split.evaluation_fraction * people) == evaluated
    assert evaluated >= 2 * folds
    assert people - evaluated >= 2
    assert made.run_names == ["scratch", "random"]
    assert ("fisherfaces" in made.baselines) == (people >= 8)


def test_more_faces_get_more_steps_and_a_limit_of_minutes_shortens_them(tmp_path):
    few, many = (experiment(people, 50, tmp_path) for people in (4, 105))
    assert few[0].defaults.pretrain.steps < many[0].defaults.pretrain.steps
    chosen = many[1]
    needed = own_photos.scaled(chosen, {"pretrain": 1.0, "finetune": 1.0}, minutes=10, side_by_side=2)
    assert needed == 10
    steps = {stage: chosen["defaults"][stage]["steps"] for stage in ("pretrain", "finetune")}
    assert 2 * 2 * (steps["pretrain"] + steps["finetune"]) / 2 / 60 == pytest.approx(10, rel=0.05)
    assert "52 people evaluated on weighs 2%" in own_photos.expectation(chosen, many[2])
    assert "expect the verdict undecided" in own_photos.expectation(*few[1:])


def test_several_masks_are_compared_with_scratch_and_the_first_in_the_same_minutes(tmp_path):
    made, chosen, _ = experiment(20, 10, tmp_path, ["block", "region"])
    assert made.run_names == ["scratch", "block", "region"]
    assert [made.run(name).pretrain.mask for name in ("block", "region")] == ["block", "region"]
    assert made.primary_pairs == [("block", "scratch"), ("region", "scratch"), ("region", "block")]
    own_photos.scaled(chosen, {"pretrain": 1.0, "finetune": 1.0}, minutes=10, side_by_side=1)
    steps = {stage: chosen["defaults"][stage]["steps"] for stage in ("pretrain", "finetune")}
    assert 2 * 3 * (steps["pretrain"] + steps["finetune"]) / 60 == pytest.approx(10, rel=0.05)


def test_from_scratch_is_trained_for_as_long_as_pretraining_and_fine_tuning_take(tmp_path):
    _, chosen, _ = experiment(20, 10, tmp_path)
    seconds = {"pretrain": 0.5, "finetune": 2.0}
    own_photos.scaled(chosen, seconds, minutes=60, side_by_side=2)
    made = config.parse(config.merge(config.content_of([]), chosen))
    pretrained, scratch = made.run("random"), made.run("scratch")
    whole = pretrained.pretrain.steps * 0.5 + pretrained.finetune.steps * 2.0
    assert scratch.pretrain is None
    assert scratch.finetune.steps * 2.0 == pytest.approx(whole, abs=2.0)


def test_results_go_beside_those_of_other_photos_and_on_with_their_own(tmp_path):
    mine, others, wanted = tmp_path / "mine", tmp_path / "others", tmp_path / "results-mine"
    assert own_photos.free_folder(wanted, mine, RANDOM) == wanted
    own_photos.write(wanted, own_photos.data_settings(mine, wanted))
    assert own_photos.free_folder(wanted, mine, RANDOM) == wanted
    assert own_photos.free_folder(wanted, others, RANDOM) == tmp_path / "results-mine-2"


def test_other_masks_go_to_results_of_their_own(tmp_path):
    _, chosen, _ = experiment(20, 10, tmp_path)
    wanted = tmp_path / "out"
    own_photos.write(wanted, chosen)
    assert own_photos.free_folder(wanted, tmp_path / "faces", RANDOM) == wanted
    assert own_photos.free_folder(wanted, tmp_path / "faces", ["random", "block"]) == tmp_path / "out-2"
    own_photos.write(wanted, own_photos.data_settings(tmp_path / "faces", wanted))  # killed before it chose
    assert own_photos.free_folder(wanted, tmp_path / "faces", ["block"]) == wanted


def test_an_earlier_start_is_found_also_where_its_folder_was_moved(tmp_path):
    place = tmp_path / "faces"
    own_photos.write(tmp_path / "out", own_photos.data_settings(place, tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert own_photos.free_folder(tmp_path / "moved", place, RANDOM) == tmp_path / "moved"
    assert own_photos.earlier(tmp_path / "moved")["results"] == str(tmp_path / "moved")
    assert own_photos.free_folder(tmp_path / "moved", tmp_path / "others", RANDOM) == tmp_path / "moved-2"


@pytest.mark.parametrize("content", ["{}", "[]", '{"data": 3}'])
def test_settings_that_are_not_ours_are_left_alone(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text(content)
    assert own_photos.earlier(tmp_path / "out") == {}
    assert own_photos.free_folder(tmp_path / "out", tmp_path / "faces", RANDOM) == tmp_path / "out-2"


def test_folders_of_people_that_lie_too_deep_are_said_to(tmp_path):
    place = folder(tmp_path / "export", 4, 3)
    with pytest.raises(DataError, match=f"12 photos lie too deep .*: name {place}"):
        own_photos.require_enough(own_photos.look(tmp_path / "export"), tmp_path / "export", "photos")
