import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import make_folder

from facemae.core import layout, records
from facemae.core.errors import PreemptedError, StorageError, UsageError
from facemae.data.faces.cache import open_faces
from facemae.evaluation.baselines import off_the_shelf
from facemae.models.weights import load_embedder
from facemae.stages import finetune as stages
from facemae.stages import teacher
from facemae.stages.finetune import finetune
from facemae.stages.task import Task

SIZE, WIDTH = 32, 16


def _die(name, faces):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(teacher, "_in_process", _die)
    with (
        pytest.raises(StorageError, match="A worker was killed, most likely"),
        teacher._embedding("toy", 2) as embed,
    ):
        embed([np.zeros((1, SIZE, SIZE, 3), np.uint8)])


class Toy:
    """A recogniser that counts the faces it is shown: a face's embedding is its grey values at 16 places."""

    def __init__(self, weights):
        self.weights, self.seen, self.stops_after = weights, 0, None

    def embed(self, faces):
        self.seen += len(faces)
        if self.stops_after is not None and self.seen > self.stops_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return faces[:, 4::8, 4::8].mean(axis=3).reshape(len(faces), -1).astype(np.float32) + 1


@pytest.fixture
def toy(monkeypatch, tmp_path):
    weights = tmp_path / "toy.dat"
    weights.write_bytes(b"weights")
    toy = Toy(weights)
    made = off_the_shelf.OffTheShelf(lambda: weights, lambda path: toy.embed, "as they are")
    monkeypatch.setitem(off_the_shelf.RECOGNISERS, "toy", made)
    return toy


@pytest.fixture
def store(tmp_path, orl_images):
    """Two people to train on, two without names, four to evaluate: one is the last unlabelled face too."""
    images = orl_images.copy()
    images[7] = images[8]
    folder = make_folder(tmp_path / "store", SIZE, people=8, shots=2, images=images)
    table = records.read_table(folder.split)
    unnamed = table["person"].isin(["p2", "p3"])
    table.loc[unnamed, "role"], table.loc[unnamed, "person"] = layout.ROLE_UNLABELLED, None
    records.write_table(folder.split, table, layout.SPLIT_COLUMNS)
    return folder


@pytest.fixture
def task(small, store, tmp_path):
    def make(out="out", seed=0, **changes):
        changed = {"teacher": "toy", "steps": 4, **changes}
        run = {"model": {"embedding": WIDTH}, "pretrain": None, "finetune": changed}
        return Task(
            small(runs={"random": run}, baselines=[]), "random", seed, store, tmp_path / out / "finetune"
        )

    return make


def test_a_student_learns_from_all_faces_but_an_evaluation_persons(task, toy):
    rows, vectors, left_out = teacher.taught(task(), 0, set())
    assert list(rows["role"].value_counts().items()) == [("train", 4), ("unlabelled", 4)]
    assert left_out == 0
    faces = open_faces(task().data, rows).loaded().images
    torch.testing.assert_close(
        vectors, torch.from_numpy((toy.embed(faces) + toy.embed(faces[:, :, ::-1])) / 2)
    )


def test_faces_that_the_teacher_takes_for_an_evaluation_persons_are_left_out(task, toy):
    rows, vectors, left_out = teacher.taught(task(teacher_apart=0.99999), 0, set())
    assert (len(rows), len(vectors), left_out) == (7, 7, 1)
    assert "p3/1" not in set(rows["sample_id"])
    assert set(rows["role"]) == {"train", "unlabelled"}


def test_held_out_people_are_not_learnt_from(task, toy):
    rows, _, _ = teacher.taught(task(), 0, {"p1"})
    assert set(rows["person"].dropna()) == {"p0"}


def test_a_stop_keeps_what_is_done_and_another_seed_does_it_no_more(task, toy, monkeypatch):
    monkeypatch.setattr(teacher, "BATCH", 2)
    expected = teacher.taught(task(), 0, set())[1]
    for path in task().data.root.glob(".teacher-toy-*/*"):
        path.unlink()
    toy.seen, toy.stops_after = 0, 5  # in the second batch, after the first face alone and both its images
    with pytest.raises(PreemptedError, match=r"teacher stopped at step 2 and was saved"):
        teacher.taught(task(), 0, set())
    before, toy.stops_after = toy.seen, None
    torch.testing.assert_close(teacher.taught(task(), 0, set())[1], expected, rtol=0, atol=0)
    assert toy.seen - before == 2 * 6
    teacher.taught(task(seed=1), 0, set())
    assert toy.seen - before == 2 * 6


def test_several_processes_embed_as_one_does(task, monkeypatch):
    pytest.importorskip("dlib", reason="dlib is not installed")
    one = task(teacher="dlib")
    runs = {"random": {**one.experiment.runs["random"], "model": {"embedding": 128}}}
    experiment = one.experiment.model_copy(update={"runs": runs})
    found = []
    monkeypatch.setattr(teacher, "BATCH", 3)
    for threads in (1, 2):
        for path in one.data.root.glob(".teacher-dlib-*/*"):
            path.unlink()
        wide = replace(one, experiment=experiment, threads=threads)
        found.append(teacher.taught(wide, 0, set())[1])
    assert found[0].shape == (8, 128)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_stage_is_distilled_and_says_of_how_many_faces(task, toy):
    finetune(stage := task(teacher_apart=0.99999), None)
    metrics = records.read_json(stage.out / layout.METRICS)
    told = {each["name"]: each for each in metrics["metrics"]}["distilled_faces"]
    assert (told["value"], told["note"]) == (7, "1 more look like an evaluation person to the teacher")
    assert metrics["labels"] == [{"faces": 0, "people": 0}]
    assert metrics["health"][0]["people"] == 2
    assert load_embedder(stage.out)(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, WIDTH)


def test_a_student_stays_as_its_teacher_taught_it(task, toy, monkeypatch):
    monkeypatch.setattr(stages, "whiten", lambda *_: pytest.fail("whitened"))
    finetune(stage := task(), None)
    assert (stage.out / layout.EMBEDDER).exists()


def test_a_student_of_other_dimensions_is_refused_before_the_work(task, toy, monkeypatch, small):
    run = small(runs={"random": {"finetune": {"teacher": "toy"}}}, baselines=[])
    narrow = Task(run, "random", 0, task().data, task().out)
    with pytest.raises(
        UsageError, match=rf"model.embedding is \d+, .* {WIDTH} dimensions; set it to {WIDTH}"
    ):
        teacher.taught(narrow, 0, set())
    assert toy.seen == 2


def test_a_teacher_that_there_is_not_is_named_with_those_that_there_are(task):
    with pytest.raises(UsageError, match=r"There is no recogniser nobody; known are dlib"):
        finetune(task(teacher="nobody"), None)
