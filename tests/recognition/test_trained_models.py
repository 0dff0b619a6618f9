import shutil

import numpy as np
import pytest

from facemae.core import layout, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.data.images import in_grey
from facemae.evaluation.records import higher_is_better
from facemae.recognition import model as recognisers
from facemae.recognition.model import TrainingFaces
from facemae.recognition.trained_models import model_at, models
from facemae.report import tables


def test_the_best_run_comes_first_and_its_seeds_in_order(paths):
    setup = tables.experiment(paths)
    table = tables.leaderboard(paths)
    value = table[table["metric"] == setup.evaluate.primary].set_index("run")["value"]
    assert higher_is_better(setup.evaluate.primary)
    expected = value[setup.run_names].sort_values(ascending=False).index.tolist()
    found = models(paths)
    assert [each.name for each in found] == [f"{run}/{seed}" for run in expected for seed in setup.seeds]


def test_only_a_masked_autoencoder_comes_with_its_pretraining(paths):
    by_run = {each.run: each for each in models(paths)}
    assert by_run["scratch"].pretrained is None
    assert by_run["random"].pretrained == paths.stage("random", 1, "pretrain")


def test_an_untrained_seed_is_left_out(made, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    before = [each.name for each in models(Results(folder))]
    (folder / "random" / "1" / "finetune" / layout.EMBEDDER).unlink()
    assert [each.name for each in models(Results(folder))] == [n for n in before if n != "random/1"]


def test_without_a_leaderboard_the_runs_stand_as_configured(made, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    (folder / "leaderboard.parquet").unlink()
    assert models(Results(folder))[0].run == "scratch"


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(UsageError, match="is no model: it is neither a name that facemae models lists"):
        model_at(tmp_path)


def test_a_folder_or_its_parent_or_its_weights_name_a_model(paths):
    model = models(paths)[0]
    stage = model.finetuned
    for place in (stage, stage.parent, stage / layout.EMBEDDER):
        found = model_at(place)
        assert (found.run, found.seed, found.finetuned) == (model.run, model.seed, stage)


def test_the_fingerprint_follows_the_weights(made, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    one, other = (m for m in models(Results(folder)) if m.run == "random")
    before = one.fingerprint
    assert before != other.fingerprint
    assert before == model_at(made / "random" / str(one.seed)).fingerprint
    shutil.copy(other.finetuned / layout.EMBEDDER, one.finetuned / layout.EMBEDDER)
    assert one.fingerprint == other.fingerprint


def test_a_model_knows_what_it_was_trained_on_and_warns_where_that_is_little(paths):
    known = models(paths)[0].trained_on
    split = records.read_table(paths.data.split)
    learnt = split[split["role"] == layout.ROLE_TRAIN]
    assert (known.people, known.photos) == (learnt["person"].nunique(), len(learnt))
    warning = models(paths)[0].warning
    assert warning == f"{models(paths)[0].name} was trained on {known}: it will fail on yours."
    assert TrainingFaces(20, 200, True).warning("x") == (
        "x was trained on 200 grey photos of 20 people: it will fail on yours. "
        "It is given every photo in grey."
    )
    assert TrainingFaces(5000, 40_000).warning("x") == TrainingFaces().warning("x") == ""


@pytest.mark.parametrize("grey", [True, False])
def test_a_model_that_learnt_from_grey_faces_is_given_every_face_in_grey(paths, monkeypatch, grey):
    monkeypatch.setattr(recognisers, "all_grey", lambda *_: grey)
    model = models(paths)[0]
    assert model.trained_on.grey == grey
    colours = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    vectors = model.load("cpu")(np.concatenate([colours, in_grey(colours)]))
    assert np.allclose(vectors[:2], vectors[2:], atol=1e-5) == grey


def test_faces_that_runs_learnt_from_are_grey_if_all_of_some_are(paths):
    split = records.read_table(paths.data.split)
    learnt = split[split["role"] == layout.ROLE_TRAIN]
    assert not recognisers.all_grey(paths.data, learnt)
    assert not recognisers.all_grey(paths.data, learnt.head(0))


def test_a_threshold_that_belongs_to_other_weights_is_refused(made, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    one, other = (m for m in models(Results(folder)) if m.run == "random")
    assert one.card().people == 12
    shutil.copy(other.finetuned / layout.EMBEDDER, one.finetuned / layout.EMBEDDER)
    with pytest.raises(IntegrityError, match=r"was made with weights \w{16}, and the model's are \w{16}"):
        one.card()
    old = records.read_table(other.finetuned / layout.EMBEDDINGS, layout.EMBEDDING_COLUMNS)
    records.write_table(other.finetuned / layout.EMBEDDINGS, old, layout.EMBEDDING_COLUMNS)
    with pytest.raises(IntegrityError, match="made with weights that it does not name"):
        other.card()
