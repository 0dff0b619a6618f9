"""The masking strategies' settings: typed and bounded, and known without loading a network.

Shares are of M, the patches that a mask hides, where nothing else is said.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from facemae.section import OpenShare, Section, Share

MaskName = Literal[
    "random",
    "block",
    "inverse_block",
    "grid",
    "pixel",
    "region",
    "region_proportional",
    "parts_first",
    "parts_last",
    "attention_high",
    "attention_hint",
    "attention_low",
    "hard_patches",
    "loss_ema",
    "ratio_curriculum",
    "part_curriculum",
    "adversarial",
]
# What the strategies need (strategies.py), for those who must not load torch to know it.
REGION_MASKS: frozenset[MaskName] = frozenset(
    {"region", "region_proportional", "parts_first", "parts_last", "part_curriculum"}
)
"""Those that look at face regions: faces have to be aligned to the template."""
PIXEL_MASKS: frozenset[MaskName] = frozenset({"pixel"})
"""Those that hide single pixels and save no tokens."""
MASK_GUIDES: dict[MaskName, str] = {
    "attention_high": "attention",
    "attention_hint": "attention",
    "attention_low": "attention",
    "hard_patches": "predicted_loss",
    "loss_ema": "position_loss",
    "adversarial": "adversarial",
}
"""Those that a network leads, and the guide that asks it."""

Aspect = Annotated[float, Field(gt=0, le=1)]


class NoParameters(Section):
    """Nothing to set."""


class BlockMask(Section):
    """Rectangles are hidden."""

    least_area: Annotated[float, Field(gt=0, le=1)]
    """Least area of a rectangle, share of all patches."""
    least_aspect: Aspect
    """Least height per width of a rectangle; the greatest is its inverse."""
    rounds: Annotated[int, Field(ge=1, le=100)]
    """Rectangles tried per image; what they leave is topped up at random."""


class InverseBlockMask(Section):
    """One rectangle stays visible."""

    least_aspect: Aspect
    """Least height per width of the rectangle; the greatest is its inverse."""


class AttentionMask(Section):
    """A teacher's attention leads."""

    least_led: Share
    """Least share that attention leads, drawn for each image anew; the rest is random."""
    most_led: Share
    """Greatest share that attention leads."""

    @model_validator(mode="after")
    def _in_order(self) -> AttentionMask:
        if self.least_led > self.most_led:
            raise ValueError(f"least_led is {self.least_led}, above most_led {self.most_led}; swap them")
        return self


class HintMask(AttentionMask):
    """A teacher's attention leads, and a few hints stay visible."""

    reveal: Share
    """Share of the led patches that stays visible, among as large a share of the most attended patches."""


class HardPatchMask(Section):
    """The predicted loss leads."""

    final_led: Share
    """Share that is led at the end of the training; it rises linearly from 0."""


class LossMask(Section):
    """The running mean of the error at each position of the template leads."""

    final_led: Share
    """Share that is led at the end of the training; it rises linearly from 0."""
    temperature: Annotated[float, Field(gt=0)]
    """In standard deviations of the error over the positions; small hides the hardest, great is random."""


class RatioCurriculum(Section):
    """The share to hide moves on a line during the training, in place of mask_ratio."""

    start: OpenShare
    """Share of the patches hidden at the start."""
    end: OpenShare
    """Share of the patches hidden at the end."""


class AdversarialMask(Section):
    """A network learns what is hard to predict."""

    temperature: Annotated[float, Field(ge=0)]
    """Factor on the Gumbel noise added to the learnt scores (logits); 0 is none."""


class Masks(Section):
    """One block per strategy; a run needs that of its own strategy only."""

    random: NoParameters | None = None
    block: BlockMask | None = None
    inverse_block: InverseBlockMask | None = None
    grid: NoParameters | None = None
    pixel: NoParameters | None = None
    region: NoParameters | None = None
    region_proportional: NoParameters | None = None
    parts_first: NoParameters | None = None
    parts_last: NoParameters | None = None
    attention_high: AttentionMask | None = None
    attention_hint: HintMask | None = None
    attention_low: AttentionMask | None = None
    hard_patches: HardPatchMask | None = None
    loss_ema: LossMask | None = None
    ratio_curriculum: RatioCurriculum | None = None
    part_curriculum: NoParameters | None = None
    adversarial: AdversarialMask | None = None

    def only(self, mask: MaskName) -> Masks:
        """Return the block of `mask` alone."""
        return Masks.model_validate({mask: getattr(self, mask)})

    def parameters(self, mask: MaskName) -> dict[str, Any]:
        """Return the parameters of `mask` by name.

        Raises:
            ValueError: there is no block for it.
        """
        block: Section | None = getattr(self, mask)
        if block is None:
            raise ValueError(f"the mask {mask} has no settings; give it a block under masks")
        return block.model_dump()
