"""The experiment as typed, validated values: `config.yaml` in, frozen sections out.

A run is only its differences from `defaults`; `Experiment.run(name)` returns it whole. The code
holds no default value: every key stands, commented, in `config/defaults.yaml`, over which
the files that a user names are laid.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from facemae.config import compatibility
from facemae.config.earlier import BEFORE, renamed
from facemae.config.messages import sentence
from facemae.config.sections import (
    ALL,
    BASELINES_WITHOUT_CHANCE,
    Attributes,
    Baseline,
    Data,
    Distinct,
    Evaluate,
    GallerySettings,
    LabelCurve,
    PathText,
    Robustness,
    Section,
    Split,
    distinct,
)
from facemae.config.training import Run
from facemae.config.yaml_file import check_plain, read_yaml
from facemae.core.errors import UsageError

DEFAULTS = Path(__file__).parents[2] / "config" / "defaults.yaml"
RESERVED_RUN_NAMES = ("data", "report", ALL, *get_args(Baseline))
RunName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class Experiment(Section):
    """Everything that `config/defaults.yaml` holds."""

    results: PathText
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "on", "off"]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1), AfterValidator(distinct)
    ]
    data: Data
    split: Split
    defaults: Run
    runs: Annotated[dict[RunName, dict[str, Any] | None], Field(min_length=1)]
    baselines: Distinct[Baseline]
    evaluate: Evaluate
    robustness: Robustness
    label_curve: LabelCurve
    attributes: Attributes
    gallery: GallerySettings

    def run(self, name: str) -> Run:
        """Return run `name` with the defaults filled in; a UsageError where there is none."""
        differences = self.runs.get(name)
        if differences is None:
            raise UsageError(f"runs.{name}: there is no such run; there are {', '.join(self.run_names)}.")
        return _validate(Run, merge(self.defaults.model_dump(), differences), f"runs.{name}")

    def check_name(self, name: str) -> None:
        """Stop with a UsageError unless `name` is a run or a baseline."""
        if name not in self.baselines:
            self.run(name)

    @property
    def run_names(self) -> list[str]:
        """Return the names of the runs, in the order of the file."""
        return [name for name, differences in self.runs.items() if differences is not None]

    @property
    def names(self) -> list[str]:
        """Return the names of the runs and baselines."""
        return [*self.run_names, *self.baselines]

    def chosen(self, runs: list[str]) -> list[str]:
        """Return the runs and baselines that a list names, where [all] is every one."""
        return self.names if runs == [ALL] else list(runs)

    def chosen_runs(self, runs: list[str]) -> list[str]:
        """Return what a list names, where [all] is every run and no baseline."""
        return self.run_names if runs == [ALL] else list(runs)

    @property
    def controls(self) -> list[str]:
        """Return the runs that `evaluate.against` names, without those that another file dropped."""
        return [name for name in self.evaluate.against if name in self.run_names]

    @property
    def primary_pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons that decide, each once: a masked run and the run it is held against."""
        masked = [name for name in self.run_names if self.run(name).masked]
        pairs = [(run, control) for control in self.controls for run in masked if run != control]
        return [pair for place, pair in enumerate(pairs) if pair[::-1] not in pairs[:place]]

    def seeds_of(self, name: str) -> list[int]:
        """Return the seeds of a run or baseline; a baseline without chance has one."""
        return self.seeds[:1] if name in BASELINES_WITHOUT_CHANCE else self.seeds

    def embedding_stage(self, name: str) -> str:
        """Return the stage that embeds the evaluation people with a run or baseline."""
        return "embed" if name in self.baselines else "finetune"

    def label_seed(self, subset: int) -> int:
        """Return the seed that a subset of the labels is trained with: they take turns."""
        return self.seeds[subset % len(self.seeds)]

    @property
    def dataset(self) -> str:
        """Return the name of the labelled data set: its own, or its folder's."""
        name, _, path = self.data.labelled.partition(":")
        return name if path and "/" not in name else Path(self.data.labelled).absolute().name


def load(paths: Iterable[Path]) -> Experiment:
    """Read YAML files ("-" is stdin) over the defaults, later over earlier ones, and check them (`parse`)."""
    return parse(content_of(paths))


def content_of(paths: Iterable[Path]) -> dict[str, Any]:
    """Return the defaults with the YAML files laid over them, not yet checked; a UsageError if unreadable."""
    return reduce(merge, map(read_yaml, paths), copy.deepcopy(_defaults()))


@cache
def _defaults() -> dict[str, Any]:
    """Return what DEFAULTS holds, not to be changed: reading it takes longer than checking it."""
    return read_yaml(DEFAULTS)


def parse(content: Mapping[str, Any]) -> Experiment:
    """Check the content of a configuration; a UsageError begins with the YAML path of the first problem."""
    check_plain(content)
    experiment = _validate(Experiment, content, "")
    if re.search(r"[{}]", experiment.results):
        raise UsageError(
            f"results: braces stand for wildcards in the workflow, got {experiment.results}; choose another."
        )
    if "random_weights" in experiment.baselines:
        _check_together(experiment, experiment.defaults, "defaults")
    if not experiment.run_names:
        raise UsageError("runs: every run is null; keep at least one.")
    for name in experiment.run_names:
        if name in RESERVED_RUN_NAMES:
            taken = ", ".join(RESERVED_RUN_NAMES)
            raise UsageError(f"runs.{name}: this name is taken ({taken}); choose another.")
        _check_together(experiment, experiment.run(name), f"runs.{name}")
    _check_chosen(experiment)
    for name in experiment.evaluate.against:  # one that another file dropped with null is left out in silence
        if name not in experiment.runs:
            raise UsageError(
                f"evaluate.against: there is no run {name} to compare masked runs with; known are "
                f"{', '.join(experiment.run_names)}."
            )
    return experiment


def parse_earlier(content: Mapping[str, Any]) -> tuple[Experiment, list[str]]:
    """Check a configuration that an earlier version may have written, as `parse`, to show its results.

    Returns it with today's keys and defaults for what it lacks, and the keys that this concerns.
    """
    check_plain(content)
    changed: list[str] = []
    current = renamed(content, changed)
    try:
        Experiment.model_validate_json(json.dumps(current))
    except ValidationError as error:
        for problem in error.errors():
            *parents, last = place = problem["loc"]
            with contextlib.suppress(LookupError, TypeError):
                if problem["type"] == "missing":
                    default = copy.deepcopy(_at(_defaults(), place))
                    _at(current, parents)[last] = BEFORE.get(str(last), default)
                    changed.append(".".join(map(str, place)))
    return parse(current), changed


def _at(content: Any, place: Iterable[int | str]) -> Any:
    return reduce(getitem, place, content)


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `difference` laid over it, section by section.

    A section over `null` (or `null` over a section) replaces it whole.
    """
    merged = dict(base)
    for key, value in difference.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


S = TypeVar("S", bound=Section)


def _validate(section: type[S], content: Mapping[str, Any], where: str) -> S:
    try:
        # Through JSON, since YAML's types are JSON's and pydantic is strict about Python's own.
        return section.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise UsageError(sentence(error, section, where)) from error


def _check_chosen(experiment: Experiment) -> None:
    """Refuse what stages besides training are asked for and cannot do, such as runs that are none."""
    trained, robustness, attributes = experiment.run_names, experiment.robustness, experiment.attributes
    lists = {
        "robustness.runs": (robustness.runs, experiment.names),
        "label_curve.runs": (experiment.label_curve.runs, trained),
        # A run from scratch has the encoder of random_weights, and all tokens of it are looked at.
        "attributes.runs": (attributes.runs, [each for each in experiment.names if each != "random_weights"]),
    }
    for path, (named, known) in lists.items():
        for name in named:
            if name not in known and named != [ALL]:
                raise UsageError(f"{path}: there is no run {name}; known are {', '.join(known)}, or [all].")
    for name in experiment.chosen_runs(experiment.label_curve.runs):
        own = experiment.run(name).finetune
        if own.mode == "knn" or own.teacher or own.labels.fraction < 1 or own.labels.per_person:
            raise UsageError(
                f"label_curve.runs: {name} is by itself fine-tuned on no labels, or on fewer than there are; "
                "leave it out."
            )
    lit, covered = robustness.illumination, robustness.occlusions and robustness.areas
    if robustness.runs and not (covered or (robustness.lights and robustness.strengths) or lit):
        raise UsageError("robustness.runs: nothing is tested; name occlusions with areas, or lights, or [].")
    if attributes.runs and not attributes.tasks:
        raise UsageError(
            "attributes.runs: attributes.tasks names nothing to tell; name a task, or no run: []."
        )
    if lit is not None and lit not in experiment.data.tested:
        raise UsageError(
            f"robustness.illumination: {lit} is not among data.tested ({', '.join(experiment.data.tested)}); "
            "name it there, or set illumination to null."
        )
    data = (experiment.data.labelled, *experiment.data.unlabelled, *experiment.data.tested)
    for task, source in attributes.tasks.items():
        if source not in data:
            raise UsageError(
                f"attributes.tasks.{task}: {source} is not among the data ({', '.join(data)}); name it under "
                "data.tested."
            )


def _check_together(experiment: Experiment, run: Run, where: str) -> None:
    aligned = experiment.data.align != "crop"
    size = experiment.data.image_size
    found = compatibility.problem(run.model, run.pretrain, run.finetune, size, aligned=aligned)
    if found:
        raise UsageError(f"{where}.{found}")


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`, which the workflow checks its files against."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    for name in _reached(definitions, "Run"):  # a run need not name every key
        partial = {key: value for key, value in definitions[name].items() if key != "required"}
        definitions[f"Partial{name}"] = json.loads(json.dumps(partial).replace("#/$defs/", "#/$defs/Partial"))
    schema["properties"]["runs"]["patternProperties"] = {
        RunName.__metadata__[0].pattern: {"anyOf": [{"$ref": "#/$defs/PartialRun"}, {"type": "null"}]}  # type: ignore[attr-defined]
    }
    schema["properties"]["runs"]["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _reached(definitions: Mapping[str, Any], name: str) -> list[str]:
    """Return the definitions that one refers to, itself first."""
    names = [name]
    for each in names:
        found = re.findall(r"#/\$defs/(\w+)", json.dumps(definitions[each]))
        names += [other for other in dict.fromkeys(found) if other not in names]
    return names
