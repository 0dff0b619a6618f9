from dataclasses import replace

import numpy as np
import pytest
from stages import make_folder

from facemae.core import files, layout, records
from facemae.core.records import read_json, read_table
from facemae.data.faces import pairs
from facemae.stages.finetune import finetune
from facemae.stages.label_curve import Point, label_curve, points
from facemae.stages.task import Task

PEOPLE, SHOTS = 12, 4


def faces():
    """People whose faces differ in their colour, so that a few steps tell them apart somewhat."""
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (PEOPLE, 1, 1, 1, 3))
    images = colours + draw.integers(-40, 41, (PEOPLE, SHOTS, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8).reshape(-1, 32, 32, 3)


@pytest.fixture
def task(small, tmp_path):
    experiment = small(
        runs={"scratch": {"pretrain": None}}, evaluate={"resamples": 100},
        label_curve={"runs": ["scratch"], "fractions": [0.5], "per_person": [1]},
    )  # fmt: skip
    data = make_folder(tmp_path / "data", 32, PEOPLE, SHOTS, faces())
    split = read_table(data.split)
    drawn = pairs.generate(split[split["role"] == layout.ROLE_EVALUATION], seed=0)
    records.write_table(data.pairs, drawn, layout.PAIR_COLUMNS)
    task = Task(experiment, "scratch", 0, data, tmp_path / "scratch" / "0" / "finetune")
    finetune(task, None)
    return replace(task, out=tmp_path / "scratch" / "0" / "labels" / "1")


def curve(task):
    label_curve(task, 1, None, task.out.parent.with_name("finetune"))
    content = read_json(task.out / layout.METRICS)
    return content, {(each["condition"], each["amount"]): each for each in content["metrics"]}


def test_points_are_shares_and_then_faces_of_a_person_fewest_first(small):
    settings = small(label_curve={"fractions": [0.5, 0.1], "per_person": [4, 1]}).label_curve
    assert points(settings) == [
        Point("share", 0.1), Point("share", 0.5), Point("per_person", 1.0), Point("per_person", 4.0),
    ]  # fmt: skip


def test_every_number_of_labels_has_an_accuracy_and_says_what_it_saw(task, monkeypatch):
    monkeypatch.setattr("facemae.stages.label_curve._not_learnt", lambda folder: "")
    content, found = curve(task)
    assert set(found) == {("share", 1.0), ("share", 0.5), ("per_person", 1.0), ("", None)}
    trained = PEOPLE // 2
    steps = task.run.finetune.steps * task.run.finetune.batch_size

    def told(faces):
        return f"{faces} faces of {trained} people, each seen {steps / faces:.0f} times"

    assert found["share", 1.0]["note"].startswith(told(trained * SHOTS))
    assert found["share", 0.5]["note"].startswith(told(trained * SHOTS // 2))
    assert found["per_person", 1.0]["note"].startswith(told(trained))
    values = [each["value"] for (condition, _), each in found.items() if condition]
    assert found["", None]["name"] == "labels_accuracy"
    assert found["", None]["value"] == pytest.approx(np.mean(values))
    assert content["people"] == PEOPLE - trained
    influence = read_table(task.out / layout.INFLUENCE)
    assert set(influence) == {
        "first",
        "second",
        "accuracy@share=1",
        "accuracy@share=0.5",
        "accuracy@per_person=1",
        "labels_accuracy",
    }
    assert not task.out.with_name(".1").exists()


def test_a_curve_with_a_training_that_has_not_learnt_has_no_mean(task):
    path = task.out.parent.with_name("finetune") / layout.METRICS
    files.write_json(path, read_json(path) | {"health": [{"learnt": False, "reason": "it collapsed"}]})
    _, found = curve(task)
    assert found["", None]["value"] is None
    assert found["", None]["note"] == "a training has not learnt: it collapsed"
    assert found["share", 0.5]["value"] is not None


def test_a_point_that_was_trained_before_a_kill_is_not_trained_again(task, monkeypatch):
    trained = []

    def counted(given, pretrained):
        trained.append(given.out.parent.name.rpartition("-")[0])
        if len(trained) == 2:
            raise KeyboardInterrupt
        finetune(given, pretrained)

    monkeypatch.setattr("facemae.stages.label_curve.finetune", counted)
    with pytest.raises(KeyboardInterrupt):
        curve(task)
    assert not task.out.exists()
    curve(task)
    assert trained == ["share-0.5", "per_person-1", "per_person-1"]
