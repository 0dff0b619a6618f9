import numpy as np
import pandas as pd
import pytest
import torch
from stages import make_folder

from facemae.compute.seeding import seed_of
from facemae.core import layout, records
from facemae.evaluation.baselines import closed_form
from facemae.models.build import build_encoder
from facemae.models.patches import to_input
from facemae.stages import token_head
from facemae.stages.finetune import finetune, start_embedder
from facemae.stages.task import Task
from facemae.stages.token_head import COMPONENTS, write_probe

SIZE = 32


@pytest.fixture(scope="module")
def store(tmp_path_factory, orl_images):
    return make_folder(tmp_path_factory.mktemp("store"), SIZE, people=8, shots=2, images=orl_images)


@pytest.fixture
def task(small, store, tmp_path):
    def make(out="out", data=store, rotations=1, parts=None, **model):
        runs = {"random": {"pretrain": {"decoder": "mlp"}, "model": model, "finetune": {"steps": 2}}}
        settings = small(runs=runs, baselines=[], split={"rotations": rotations})
        return Task(settings, "random", 0, data, tmp_path / out / "finetune", parts=parts)

    return make


@pytest.fixture
def probed(task):
    def run(**asked):
        made = task(**asked)
        entry = write_probe(made, start_embedder(made, None).encoder)
        return records.read_table(made.out / layout.PROBE), entry

    return run


def tokens(model, images):
    torch.manual_seed(seed_of(0, "weights"))
    encoder = build_encoder(model, SIZE).eval()
    with torch.inference_mode():
        encoding = encoder(to_input(torch.from_numpy(images)))
    return torch.cat([encoding.prefix, encoding.tokens], dim=1).flatten(1).numpy()


def cosines(vectors):
    unit = np.stack(vectors) / np.linalg.norm(np.stack(vectors), axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("encoder", ["vit", "cnn", "mlp"])
def test_the_head_is_fitted_to_the_tokens_of_the_training_people_alone(probed, task, orl_images, encoder):
    table, entry = probed(encoder=encoder)
    assert list(table.columns) == layout.EMBEDDING_COLUMNS
    assert table["sample_id"].tolist() == [f"p{person}/{shot}" for person in range(4, 8) for shot in range(2)]
    features = tokens(task(encoder=encoder).run.model, orl_images)
    people = [f"p{number // 2}" for number in range(8)]
    head = closed_form.fit(features[:8], people, COMPONENTS, "head")
    np.testing.assert_allclose(cosines(table["embedding"]), cosines(head(features[8:])), atol=0.02)
    assert entry["value"] == pytest.approx(head.held_out_auc, abs=0.1)


def test_twice_is_the_same_to_the_byte(task):
    written = []
    for out in ("a", "b"):
        made = task(out=out)
        write_probe(made, start_embedder(made, None).encoder)
        written.append((made.out / layout.PROBE).read_bytes())
    assert written[0] == written[1]


def test_each_part_has_a_head_of_its_own_people(probed, tmp_path, orl_images, monkeypatch):
    data = make_folder(tmp_path / "parts", SIZE, people=8, shots=2, images=orl_images)
    split = records.read_table(data.split)
    number = split["person"].str[1:].astype(int)
    split = split.assign(role=layout.ROLE_EVALUATION, part=number // 4, trainable=True)
    records.write_table(data.split, split, layout.SPLIT_COLUMNS)
    fitted, fit = [], closed_form.fit
    monkeypatch.setattr(
        closed_form, "fit", lambda x, people, *more: fitted.append(people) or fit(x, people, *more)
    )
    table, _ = probed(data=data, rotations=2)
    assert [sorted(set(people)) for people in fitted] == [["p4", "p5", "p6", "p7"], ["p0", "p1", "p2", "p3"]]
    assert table.groupby("part")["person"].unique().map(list).to_list() == [
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5", "p6", "p7"],
    ]


def test_too_few_people_are_told_and_give_no_number(probed, tmp_path):
    table, entry = probed(data=make_folder(tmp_path / "few", SIZE, people=6))
    assert table.empty
    assert list(table.columns) == layout.EMBEDDING_COLUMNS
    assert entry["value"] is None
    assert "learns from people with two photos or more" in entry["note"]


def test_more_tokens_than_memory_is_meant_for_are_told(probed, monkeypatch):
    monkeypatch.setattr(token_head, "MOST_BYTES", 100)
    table, entry = probed()
    assert table.empty
    assert "larger patches" in entry["note"]


def test_of_too_many_faces_some_whole_people_are_learnt_from(monkeypatch):
    monkeypatch.setattr(token_head, "MOST_FACES", 10)
    people = [f"p{number // 3}" for number in range(30)] + ["alone"]
    kept = token_head._some(pd.DataFrame({"person": people}))
    assert (kept["person"].value_counts() == 3).all()
    assert len(kept) == 9


def test_fine_tuning_writes_it_but_not_for_a_curve_over_labels(task):
    whole, curve = task(out="whole"), task(out="curve", parts=(0,))
    for each in (whole, curve):
        finetune(each, None)
    assert (whole.out / layout.PROBE).exists()
    assert not (curve.out / layout.PROBE).exists()
    names = [each["name"] for each in records.read_json(whole.out / layout.METRICS)["metrics"]]
    assert layout.PROBE_AUC in names


def test_an_encoder_is_looked_at_without_dropping_paths(task):
    made = task(drop_path=0.5)
    encoder = start_embedder(made, None).encoder.train()
    write_probe(made, encoder)
    assert not encoder.training
