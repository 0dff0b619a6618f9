"""The masking strategies' settings: typed and bounded, and known without loading a network.

What a setting means stands beside it in config/defaults.yaml.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field, model_validator

from facemae.config.sections import Fraction, OpenFraction, Section

Aspect = Annotated[float, Field(gt=0, le=1)]


class MaskBlock(Section):
    """The settings of a strategy and, as class variables, what it needs; those stand nowhere else."""

    guide: ClassVar[str | None] = None
    """Key of `mask_guides.GUIDES`, where what a network has learnt leads the strategy."""
    regions: ClassVar[bool] = False
    """Whether it looks at the face regions: faces have to be aligned to the template."""
    pixels: ClassVar[bool] = False
    """Whether it hides single pixels and saves no tokens."""


class NoParameters(MaskBlock):
    """Nothing to set."""


class PixelMask(MaskBlock):
    """Pixels are hidden; nothing to set."""

    pixels = True


class RegionMask(MaskBlock):
    """The face regions lead; nothing to set."""

    regions = True


class BlockMask(MaskBlock):
    """Rectangles are hidden."""

    min_area: Annotated[float, Field(gt=0, le=1)]
    min_aspect: Aspect
    rounds: Annotated[int, Field(ge=1, le=100)]


class InverseBlockMask(MaskBlock):
    """One rectangle stays visible."""

    min_aspect: Aspect


class AttentionMask(MaskBlock):
    """A teacher's attention leads."""

    guide = "attention"

    min_led: Fraction
    max_led: Fraction

    @model_validator(mode="after")
    def _in_order(self) -> AttentionMask:
        if self.min_led > self.max_led:
            raise ValueError(f"min_led is {self.min_led}, above max_led {self.max_led}; swap them")
        return self


class HintMask(AttentionMask):
    """A teacher's attention leads, and a few hints stay visible."""

    reveal: Fraction


class HardPatchMask(MaskBlock):
    """The predicted loss leads."""

    guide = "predicted_loss"

    final_led: Fraction


class LossMask(MaskBlock):
    """The running mean of the error at each position of the template leads."""

    guide = "position_loss"

    final_led: Fraction
    temperature: Annotated[float, Field(gt=0)]


class RatioCurriculum(MaskBlock):
    """The fraction to hide moves on a line during the training, in place of mask_ratio."""

    start: OpenFraction
    end: OpenFraction


class Masks(Section):
    """One block per strategy; a run needs that of its own strategy only."""

    random: NoParameters | None = None
    block: BlockMask | None = None
    inverse_block: InverseBlockMask | None = None
    grid: NoParameters | None = None
    pixel: PixelMask | None = None
    region: RegionMask | None = None
    region_proportional: RegionMask | None = None
    parts_first: RegionMask | None = None
    parts_last: RegionMask | None = None
    attention_high: AttentionMask | None = None
    attention_hint: HintMask | None = None
    attention_low: AttentionMask | None = None
    hard_patches: HardPatchMask | None = None
    loss_ema: LossMask | None = None
    ratio_curriculum: RatioCurriculum | None = None
    part_curriculum: RegionMask | None = None

    def parameters(self, mask: str) -> dict[str, Any]:
        """Return the parameters of `mask`, which has a block, by name."""
        block: MaskBlock = getattr(self, mask)
        return block.model_dump()


BLOCKS: dict[str, type[MaskBlock]] = {
    name: get_args(field.annotation)[0] for name, field in Masks.model_fields.items()
}
"""The class of each strategy's block."""
REGION_MASKS = frozenset(name for name, block in BLOCKS.items() if block.regions)
PIXEL_MASKS = frozenset(name for name, block in BLOCKS.items() if block.pixels)
MASK_GUIDES = {name: block.guide for name, block in BLOCKS.items() if block.guide}
