import inspect
import subprocess
import sys

import pytest
import torch
from draws import PARAMETERS, drawn
from pydantic import ValidationError

from facemae.config.masks import BLOCKS, MASK_GUIDES, REGION_MASKS, Masks
from facemae.masking.strategies import RATIOS, STRATEGIES


def keywords(function):
    """Return the keyword-only parameters of a function and their types."""
    return {
        name: each.annotation
        for name, each in inspect.signature(function, eval_str=True).parameters.items()
        if each.kind is each.KEYWORD_ONLY
    }


def names_read(function):
    """Return the attributes that a function reads, with those that functions of its module read for it."""
    read, met, waiting = set(), set(), [function]
    while waiting:
        code = waiting.pop().__code__
        read |= set(code.co_names)
        own = {name: getattr(sys.modules[function.__module__], name, None) for name in code.co_names}
        found = {name: each for name, each in own.items() if inspect.isfunction(each) and name not in met}
        met |= found.keys()
        waiting += found.values()
    return read


def test_every_strategy_has_a_function_and_a_block():
    assert list(Masks.model_fields) == list(STRATEGIES) == list(BLOCKS)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_block_holds_what_its_function_asks_for(strategy):
    fields = {name: field.annotation for name, field in BLOCKS[strategy].model_fields.items()}
    assert fields == keywords(STRATEGIES[strategy])
    if strategy in RATIOS:
        assert fields == keywords(RATIOS[strategy])
    assert all(field.is_required() for field in BLOCKS[strategy].model_fields.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_that_reads_regions_or_a_signal_says_so(strategy):
    """Found in the source of its module: what a function takes of its context."""
    read = names_read(STRATEGIES[strategy])
    assert ("regions" in read) == (strategy in REGION_MASKS)
    assert ("signal" in read) == (strategy in MASK_GUIDES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_needs_is_no_setting(strategy):
    assert not {"guide", "regions", "pixels"} & BLOCKS[strategy].model_fields.keys()


def test_parameters_load_no_torch():
    code = "import sys, facemae.config.masks; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_blocks_give_their_parameters():
    masks = Masks.model_validate({"random": {}} | PARAMETERS)
    assert masks.parameters("block") == PARAMETERS["block"]
    assert masks.parameters("random") == {}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("block", {"min_area": 0.0}),
        ("block", {"min_area": 1.1}),
        ("block", {"min_aspect": 0.0}),
        ("block", {"rounds": 0}),
        ("block", {"rounds": 101}),
        ("inverse_block", {"min_aspect": 1.5}),
        ("attention_high", {"min_led": 0.7}),  # above max_led
        ("attention_hint", {"reveal": -0.1}),
        ("hard_patches", {"final_led": 1.2}),
        ("loss_ema", {"temperature": 0.0}),
        ("loss_ema", {"temperature": float("nan")}),
        ("ratio_curriculum", {"start": 0.0}),
        ("ratio_curriculum", {"end": 1.0}),
        ("random", {"unknown": 1}),
    ],
)
def test_values_out_of_range_are_refused(strategy, changes):
    with pytest.raises(ValidationError):
        Masks.model_validate({strategy: PARAMETERS.get(strategy, {}) | changes})


EXTREMES = [
    ("block", {"min_area": 1.0, "min_aspect": 1e-3, "rounds": 1}),
    ("inverse_block", {"min_aspect": 1e-3}),
    ("inverse_block", {"min_aspect": 1.0}),
    ("attention_hint", {"min_led": 1.0, "max_led": 1.0, "reveal": 1.0}),
    ("hard_patches", {"final_led": 1.0}),
    ("loss_ema", {"final_led": 1.0, "temperature": 1e-300}),
    ("loss_ema", {"final_led": 1.0, "temperature": 1e300}),
]


@pytest.mark.parametrize(("strategy", "extreme"), EXTREMES)
def test_values_at_their_bounds_draw_masks(strategy, extreme):
    Masks.model_validate({strategy: extreme})
    mask = drawn(strategy, 0.5, 16, progress=1.0, **extreme)
    assert torch.equal(mask.hidden.sum(dim=1), torch.full((16,), 32))
