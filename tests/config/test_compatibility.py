import dataclasses
import itertools
import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae import config
from facemae.config import compatibility
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, REGION_MASKS
from facemae.core.errors import UsageError

SIZE = 64
SMALL = 32  # side of the faces trained on
ENCODERS = get_args(config.Model.model_fields["encoder"].annotation)
DECODERS = get_args(config.Pretrain.model_fields["decoder"].annotation)
LOSSES = get_args(config.Pretrain.model_fields["loss"].annotation)
LOSSES_ON = get_args(config.Pretrain.model_fields["loss_on"].annotation)
# What a sentence offers in exchange for the value that it refuses.
OFFERED = {
    "model.patch_size": r"choose ([\d, or]+)\.",
    "model.network": r"choose ([\w, ]+)\.",
    "pretrain.decoder": r"choose ([\w, ]+)\.",
    "pretrain.mask": r"with encoder \w+ choose ([\w, ]+)\.",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Settings to ask about, all of them possible unless changed."""

    model: config.Model
    pretrain: config.Pretrain | None
    image_size: int = SIZE
    aligned: bool = True

    def with_(self, image_size=SIZE, aligned=True, **changes):
        """Return the case with other values of `model_key` and `pretrain_key`."""
        sections = {}
        for name in ("model", "pretrain"):
            section = getattr(self, name)
            own = {
                key.removeprefix(f"{name}_"): value
                for key, value in changes.items()
                if key.startswith(f"{name}_")
            }
            sections[name] = section and type(section).model_validate(config.merge(section.model_dump(), own))
        return Case(**sections, image_size=image_size, aligned=aligned)

    @property
    def problem(self):
        return compatibility.problem(self.model, self.pretrain, None, self.image_size, aligned=self.aligned)


@pytest.fixture(scope="module")
def usual(root):
    shipped = config.load([root / "config.yaml"]).defaults
    case = Case(shipped.model, shipped.pretrain)
    return case.with_(
        model_patch_size=8, model_width=16, model_depth=1, model_heads=2, pretrain_decoder_width=16,
        pretrain_decoder_heads=2,
    )  # fmt: skip


# --- what is refused, with what would do ---

REFUSED = [
    (
        {"model_patch_size": 7},
        "model.patch_size: data.image_size 64 is not divisible by 7; choose 4, 8, 16 or 32.",
    ),
    (
        {"model_encoder": "cnn", "model_network": "resnet101"},
        "model.network: resnet101 cannot be masked; choose "
        f"{', '.join([*compatibility.NETWORKS][:-1])} or resnet50.",
    ),
    (
        {"model_encoder": "cnn", "model_patch_size": 2},
        "model.patch_size: a cnn's is one of its strides that tile 64 pixels; choose 4, 8, 16 or 32.",
    ),
    (
        {"model_encoder": "mlp", "pretrain_decoder": "transformer"},
        "pretrain.decoder: transformer needs a token per patch, encoder mlp gives one vector per image; "
        "choose mlp.",
    ),
    (
        {"pretrain_decoder": "cross", "pretrain_mask": "pixel"},
        "pretrain.decoder: cross predicts hidden patches from visible ones, and the pixel mask hides no "
        "whole patch; choose transformer, deconv or mlp.",
    ),
    (
        {"pretrain_decoder": "cross", "pretrain_loss_on": "all"},
        "pretrain.loss_on: decoder cross predicts hidden patches only; choose loss_on hidden, or decoder "
        "transformer, deconv or mlp.",
    ),
    (
        {"pretrain_predict_ratio": 0.25, "pretrain_loss_on": "all"},
        "pretrain.predict_ratio: only hidden patches can be left out; choose 1, or loss_on hidden with a "
        "mask over patches.",
    ),
    (
        {"pretrain_predict_ratio": 0.25, "pretrain_mask": "pixel"},
        "pretrain.predict_ratio: only hidden patches can be left out; choose 1, or loss_on hidden with a "
        "mask over patches.",
    ),
    (
        {"model_encoder": "mlp", "pretrain_decoder": "mlp", "pretrain_perceptual": {"weight": 0.1}},
        "pretrain.perceptual.network: ema compares the features of places, encoder mlp has none; choose a "
        "timm network, or encoder vit or cnn.",
    ),
    (
        {"pretrain_mask_ratio": 0.001},
        "pretrain.mask_ratio: 0.001 of 64 patches leaves none hidden or none visible; choose another ratio "
        "or a smaller patch.",
    ),
    (
        {"pretrain_mask": "ratio_curriculum", "pretrain_masks": {"ratio_curriculum": {"start": 0.001}}},
        "pretrain.masks.ratio_curriculum.start: 0.001 of 64 patches leaves none hidden or none visible; "
        "choose another ratio or a smaller patch.",
    ),
    (
        {"pretrain_mask": "ratio_curriculum", "pretrain_masks": {"ratio_curriculum": {"end": 0.999}}},
        "pretrain.masks.ratio_curriculum.end: 0.999 of 64 patches leaves none hidden or none visible; choose "
        "another ratio or a smaller patch.",
    ),
    (
        {"pretrain_method": "moco", "pretrain_grad_accumulation": 2},
        "pretrain.grad_accumulation: moco compares all faces of the batch, parts of it would be another "
        "task; choose 1, and a smaller batch_size if memory is short.",
    ),
    (
        {"model_patch_size": 32, "pretrain_mask": "region"},
        "pretrain.mask: region masks need 4 x 4 patches to tell regions apart, there are 2 x 2; choose a "
        "smaller patch.",
    ),
    (
        {"pretrain_mask": "parts_last", "aligned": False},
        "pretrain.mask: parts_last looks for face regions where the alignment puts them, data.align crop "
        "does not align; choose align landmarks, or another mask.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=lambda part: str(part)[:50])
def test_what_cannot_work_is_refused_with_what_would(usual, changes, sentence):
    assert usual.with_(**changes).problem == sentence


@pytest.mark.parametrize("mask", MASK_GUIDES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_guide_asks_only_encoders_that_can_answer(usual, mask, encoder):
    decoder = compatibility.DECODERS[encoder][-1]
    found = usual.with_(pretrain_mask=mask, model_encoder=encoder, pretrain_decoder=decoder).problem
    guide = MASK_GUIDES[mask]
    if encoder in compatibility.GUIDED[guide]:
        assert found is None
    else:
        assert found.startswith(f"pretrain.mask: {mask} is led by {guide.replace('_', ' ')}, which takes")
        assert f"; with encoder {encoder} choose " in found


RIVALS = [method for method in config.METHODS if method != "mae"]


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_rival_takes_every_encoder_and_no_mask_or_decoder(usual, method, encoder):
    odd = {"pretrain_decoder": "cross", "pretrain_loss_on": "all", "pretrain_mask": "parts_last"}
    assert usual.with_(model_encoder=encoder, aligned=False, pretrain_method=method, **odd).problem is None
    assert usual.with_(model_encoder=encoder, aligned=False, **odd).problem is not None
    assert usual.with_(model_patch_size=7, pretrain_method=method).problem.startswith("model.patch_size")


def test_a_run_without_pretraining_asks_for_an_encoder_alone(usual):
    alone = dataclasses.replace(usual, pretrain=None)
    assert alone.problem is None
    assert alone.with_(model_patch_size=7).problem.startswith("model.patch_size")


def test_the_configuration_names_the_run(shipped):
    shipped["runs"] = {"mine": {"pretrain": {"decoder": "cross", "loss_on": "all"}}}
    with pytest.raises(UsageError, match=r"^runs\.mine\.pretrain\.loss_on: decoder cross"):
        config.parse(shipped)


# --- what is offered instead is possible ---


@settings(max_examples=300)
@given(
    data=st.data(),
    encoder=st.sampled_from(ENCODERS),
    decoder=st.sampled_from(DECODERS),
    mask=st.sampled_from(config.STRATEGIES),
    image_size=st.integers(32, 448) | st.sampled_from([64, 112, 128, 224]),
    patch_size=st.integers(1, 40) | st.sampled_from(compatibility.STRIDES),
    network=st.sampled_from(["resnet18", "resnet101"]),
    loss_on=st.sampled_from(LOSSES_ON),
    aligned=st.booleans(),
)
def test_what_a_sentence_offers_removes_its_problem(
    usual, data, encoder, decoder, mask, image_size, patch_size, network, loss_on, aligned
):
    case = usual.with_(
        model_encoder=encoder, model_patch_size=patch_size, model_network=network, pretrain_decoder=decoder,
        pretrain_mask=mask, pretrain_loss_on=loss_on, image_size=image_size, aligned=aligned,
    )  # fmt: skip
    found = case.problem
    if found is None:
        return
    assert re.fullmatch(r"[a-z_.]+: [^\s].*[^\s]\.", found)
    assert "  " not in found
    key = found.partition(":")[0]
    offered = re.search(OFFERED[key], found) if key in OFFERED else None
    if offered is None:
        return
    chosen = data.draw(st.sampled_from(re.split(r", | or ", offered[1])))
    value = int(chosen) if key == "model.patch_size" else chosen
    changed = {key.replace(".", "_", 1): value}
    after = case.with_(image_size=image_size, aligned=aligned, **changed).problem
    assert after is None or not after.startswith(f"{key}:"), f"{found} -> {value} -> {after}"
    if key == "pretrain.mask":  # nothing else is wrong then, or it had been told before
        assert after is None, f"{found} -> {value} -> {after}"


# --- what is possible works ---


def possible(usual):
    """Yield every combination of the choices that depend on each other."""
    for encoder, decoder, mask, loss_on, share in itertools.product(
        ENCODERS, DECODERS, ("random", "pixel"), LOSSES_ON, (1.0, 0.25)
    ):
        yield usual.with_(
            image_size=SMALL, model_encoder=encoder, model_network="resnet10t", model_patch_size=8,
            pretrain_decoder=decoder,
            pretrain_mask=mask, pretrain_loss_on=loss_on, pretrain_predict_ratio=share,
        )  # fmt: skip
    for encoder, mask, loss in itertools.product(ENCODERS, config.STRATEGIES, LOSSES):
        yield usual.with_(
            image_size=SMALL, model_encoder=encoder, model_network="resnet10t", model_patch_size=8,
            pretrain_mask=mask,
            pretrain_decoder=compatibility.DECODERS[encoder][0], pretrain_loss=loss,
        )  # fmt: skip


def test_every_possible_combination_trains(usual, compute):
    import torch

    from facemae.compute.distributed import ALONE
    from facemae.models.build import build_mae
    from facemae.training.objective import LOSS
    from facemae.training.objectives.mae import MaskedPretraining

    class Feed:
        faces = torch.randint(0, 256, (4, SMALL, SMALL, 3), dtype=torch.uint8)

        def batch(self, step, part):
            return self.faces[part]

    cases = [case for case in possible(usual) if case.problem is None]
    for case in cases:
        mae = build_mae(case.model, case.pretrain, SMALL)
        trained = MaskedPretraining(mae, case.pretrain, compute, seed=0)
        trained.feed = Feed()
        loss = trained.loss(1, slice(0, 2))[LOSS]
        loss.backward()
        assert loss.isfinite()
        assert any(weight.grad is not None and weight.grad.any() for weight in mae.encoder.parameters())
        trained.after_step(1, ALONE)
    assert len(cases) > 100


def test_what_is_refused_of_encoders_and_decoders_is_the_table(usual):
    for encoder, decoder in itertools.product(ENCODERS, DECODERS):
        found = usual.with_(model_encoder=encoder, pretrain_decoder=decoder).problem
        assert (found is None) == (decoder in compatibility.DECODERS[encoder])


def test_the_tables_know_every_name():
    from facemae.models.build import DECODERS as BUILT_DECODERS
    from facemae.models.build import ENCODERS as BUILT_ENCODERS
    from facemae.training.objectives.mask_guides import GUIDES

    assert tuple(BUILT_ENCODERS) == ENCODERS == tuple(compatibility.DECODERS)
    assert tuple(BUILT_DECODERS) == DECODERS
    assert {each for row in compatibility.DECODERS.values() for each in row} == set(DECODERS)
    assert tuple(GUIDES) == tuple(compatibility.GUIDED)
    assert set(MASK_GUIDES.values()) == set(GUIDES)


# --- docs/masking.md says the same ---


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "masking.md").read_text("utf-8")


def rows(page, heading):
    """Return the rows of the table under a heading as lists of cells, by the name in the first cell."""
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    return {row[0].strip("`"): row for row in cells[2:]}


@pytest.fixture(scope="module")
def strategy_rows(page):
    return {name: row for number in ("1", "2", "3") for name, row in rows_of_strategies(page, number).items()}


def rows_of_strategies(page, number):
    headings = [
        each for each in re.findall(r"^## (.+)$", page, re.MULTILINE) if each.startswith("Strategies")
    ]
    return rows(page, headings[int(number) - 1])


def test_the_page_has_a_row_for_every_strategy(strategy_rows):
    assert set(strategy_rows) == set(config.STRATEGIES)


@pytest.mark.parametrize("strategy", config.STRATEGIES)
def test_the_page_gives_the_defaults_of_config_yaml(strategy, strategy_rows, root):
    values = config.content_of([root / "config.yaml"])["defaults"]["pretrain"]["masks"][strategy]
    told = dict(re.findall(r"`(\w+)` ([\d.]+)", strategy_rows[strategy][2]))
    assert {name: float(value) for name, value in told.items()} == values


@pytest.mark.parametrize("strategy", config.STRATEGIES)
def test_the_page_says_what_a_strategy_needs(strategy, strategy_rows):
    row = " ".join(strategy_rows[strategy])
    if strategy in PIXEL_MASKS:
        assert "no token" in row


def test_the_page_says_which_strategies_need_what(page):
    def named(sentence):
        (line,) = [each for each in page.split("\n\n") if each.startswith(sentence)]
        return set(re.findall(r"`(\w+)`", line))

    assert named("**Face regions**") >= set(REGION_MASKS)
    assert not named("**Face regions**") & (set(config.STRATEGIES) - REGION_MASKS)


@pytest.mark.parametrize(
    ("heading", "names"),
    [("Encoders", ENCODERS), ("Decoders", DECODERS), ("Losses", LOSSES), ("Guides", compatibility.GUIDED)],
)
def test_the_page_lists_every(page, heading, names):
    assert set(rows(page, heading)) >= set(names)


def test_the_page_says_which_decoders_an_encoder_takes(page):
    for encoder, row in rows(page, "Encoders").items():
        assert re.findall(r"`(\w+)`", row[2]) == list(compatibility.DECODERS[encoder])


def test_the_page_says_which_encoders_a_guide_takes(page):
    for guide, row in rows(page, "Guides").items():
        assert re.findall(r"`(\w+)`", row[3]) == list(compatibility.GUIDED[guide])
        assert set(re.findall(r"`(\w+)`", row[2])) == {
            mask for mask, each in MASK_GUIDES.items() if each == guide
        }


# --- the networks of a cnn ---


@pytest.mark.parametrize("network", compatibility.NETWORKS)
def test_the_strides_are_those_of_every_network(network):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    with torch.device("meta"):
        stages = timm.create_model(network).feature_info[-4:]
    assert tuple(stage["reduction"] for stage in stages) == compatibility.STRIDES
