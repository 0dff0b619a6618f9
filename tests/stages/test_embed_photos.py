"""Folders of photos that a model of ours embeds."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.evaluation.embedding_file import read_embeddings, sidecar
from facemae.models.build import build_embedder
from facemae.models.weights import load_embedder, save_weights
from facemae.recognition.trained_models import model_at
from facemae.stages import embed_photos as module
from facemae.stages.embed_photos import embed_photos


@pytest.fixture
def stage(tmp_path, experiment):
    """A folder of results with an untrained embedder."""
    folder = tmp_path / "results" / "random" / "0" / "finetune"
    folder.mkdir(parents=True)
    model = experiment.defaults.model
    save_weights(build_embedder(model, 32), folder / layout.EMBEDDER)
    files.write_json(folder / layout.CONFIG, {"model": model.model_dump(), "image_size": 32})
    return folder


@pytest.fixture
def photos(tmp_path, orl_images):
    """A folder of eight people with two photos each, and what is no photo."""
    for number, image in enumerate(orl_images):
        path = tmp_path / "photos" / f"p{number // 2}" / f"{number % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "photos" / "p0" / "bad.jpg").write_text("no picture")
    return tmp_path / "photos"


def test_photos_become_embeddings_that_can_be_read(stage, photos, tmp_path, orl_images, compute, capsys):
    out = tmp_path / "e.parquet"
    lists = embed_photos(str(photos), model_at(stage), out, align="crop", where="cpu")
    assert lists.empty
    written = pd.read_parquet(out)
    assert written.columns.to_list() == ["sample_id", "person", "embedding", "model"]
    assert written["sample_id"].to_list() == [f"p{n // 2}/{n % 2}.png" for n in range(16)]
    assert written["person"].to_list() == [f"p{n // 2}" for n in range(16)]
    assert written["model"].unique().tolist() == [files.sha256_of(stage / layout.EMBEDDER)[:16]]
    known = records.read_json(sidecar(out))
    assert (known["name"], known["device"]) == ("random/0", "cpu, float32")
    assert [row["sample_id"] for row in known["without_face"]] == ["p0/bad.jpg"]
    assert known["without_face"][0]["reason"]
    assert "no face was found in 1 photos: p0/bad.jpg" in capsys.readouterr().err
    found = read_embeddings(out)
    assert found.without_face == {"p0/bad.jpg": "p0"}
    from facemae.models.embedder import embed
    from facemae.models.patches import to_input

    network = load_embedder(stage)
    expected = embed(network, to_input(module_tensor(orl_images))).numpy()
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


def test_a_folder_may_have_a_name_that_looks_like_nobody(stage, photos, tmp_path):
    for number, name in enumerate(["null", "nan", "None", "N_A"]):
        (photos / f"p{number}").rename(photos / name)
    embed_photos(str(photos), model_at(stage), tmp_path / "e.parquet", align="crop")
    found = read_embeddings(tmp_path / "e.parquet")
    assert set(found.people) == {"null", "nan", "None", "N_A", "p4", "p5", "p6", "p7"}
    assert found.without_face == {"null/bad.jpg": "null"}


def module_tensor(images):
    import torch

    return torch.from_numpy(images)


def test_a_list_of_pairs_in_the_folder_goes_by_the_same_names(stage, photos, tmp_path):
    (photos / "pairs.csv").write_text("first,second,same\np0/0.png,p0/1.png,1\np0/0.png,p1/0.png,0\n")
    lists = embed_photos(str(photos), model_at(stage), tmp_path / "e.parquet", align="crop")
    assert lists[["first", "second", "genuine"]].to_numpy().tolist() == [
        ["p0/0.png", "p0/1.png", True], ["p0/0.png", "p1/0.png", False],
    ]  # fmt: skip


def test_people_that_the_model_was_trained_on_are_known(stage, photos, tmp_path, capsys):
    """By role, and of several models the first, which has seen the people of the other parts."""
    split = pd.DataFrame({
        "sample_id": ["a", "b", "c"], "person": ["P1.", "p2", "p3"],
        "role": ["train", "evaluation", "evaluation"], "fold": [None, 0, 1], "part": [None, 0, 1],
        "trainable": True, "enrolled": False, "sha256": ["a", "b", "c"],
    })  # fmt: skip
    (tmp_path / "results" / "data").mkdir()
    split.to_parquet(layout.DataFolder(tmp_path / "results" / "data").split)
    embed_photos(str(photos), model_at(stage), tmp_path / "e.parquet", align="crop")
    assert read_embeddings(tmp_path / "e.parquet").trained_on == {"p1", "p3"}
    assert "2 people are named like some that the model was trained on: p1" in capsys.readouterr().err


def test_what_is_wrong_with_the_model_is_told_before_the_faces_are_looked_for(stage, photos, tmp_path):
    out = tmp_path / "e.parquet"
    with pytest.raises(UsageError, match=r"does not end in \.parquet"):
        embed_photos(str(photos), model_at(stage), tmp_path / "e.csv")
    with pytest.raises(UsageError, match="nothing"):
        embed_photos(str(tmp_path / "nothing"), model_at(stage), out)
    (stage / layout.EMBEDDER).write_bytes(b"no weights")
    with pytest.raises(IntegrityError, match="cannot be read as weights"):
        embed_photos(str(photos), model_at(stage), out, align="crop")
    (stage / layout.CONFIG).write_text(json.dumps({"image_size": 32}))
    with pytest.raises(IntegrityError, match="not the configuration of a trained run"):
        embed_photos(str(photos), model_at(stage), out, align="crop")
    assert not any(path.name.endswith(".faces") for path in tmp_path.iterdir())


def test_a_folder_without_a_single_face_ends_with_the_reason(stage, tmp_path):
    (tmp_path / "photos" / "p").mkdir(parents=True)
    (tmp_path / "photos" / "p" / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"1 of 1 photos \(100.0%\) have no usable face"):
        embed_photos(str(tmp_path / "photos"), model_at(stage), tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


def test_many_faces_are_embedded_in_pieces(stage, photos, tmp_path, monkeypatch):
    embed_photos(str(photos), model_at(stage), tmp_path / "one.parquet", align="crop")
    monkeypatch.setattr(module, "FACES_AT_A_TIME", 5)
    embed_photos(str(photos), model_at(stage), tmp_path / "other.parquet", align="crop")
    one, other = (read_embeddings(tmp_path / f"{name}.parquet") for name in ("one", "other"))
    assert one.sample_ids == other.sample_ids
    np.testing.assert_allclose(one.vectors, other.vectors, atol=0.02)
