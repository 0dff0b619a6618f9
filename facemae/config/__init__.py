"""What can be asked for: YAML in, frozen typed sections out."""

from facemae.config.experiment import (
    RESERVED_RUN_NAMES,
    Experiment,
    content_of,
    json_schema,
    load,
    merge,
    parse,
    parse_earlier,
)
from facemae.config.sections import (
    BASELINES_FROM_LABELS,
    BASELINES_WITHOUT_CHANCE,
    Baseline,
    Data,
    Evaluate,
    GallerySettings,
    LabelCurve,
    Light,
    Occlusion,
    Robustness,
    Split,
)
from facemae.config.training import (
    METHODS,
    SIZES,
    STRATEGIES,
    Finetune,
    Labels,
    Model,
    Pretrain,
    Run,
    Training,
    Views,
)

__all__ = [
    "BASELINES_FROM_LABELS", "BASELINES_WITHOUT_CHANCE", "METHODS", "RESERVED_RUN_NAMES", "SIZES",
    "STRATEGIES", "Baseline", "Data", "Evaluate", "Experiment", "Finetune", "GallerySettings", "LabelCurve",
    "Labels", "Light", "Model", "Occlusion", "Pretrain", "Robustness", "Run", "Split", "Training", "Views",
    "content_of", "json_schema", "load", "merge", "parse", "parse_earlier",
]  # fmt: skip
