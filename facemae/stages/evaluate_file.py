"""`facemae evaluate`: any embeddings, or photos and a model, measured and reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd

from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say
from facemae.data.faces.pairs import in_spelling_of
from facemae.data.sources import listing
from facemae.evaluation.baselines.off_the_shelf import RECOGNISERS
from facemae.evaluation.embedding_file import Embeddings, from_table, read_embeddings, read_pairs
from facemae.evaluation.embedding_report import Settings, as_json, as_text, evaluate
from facemae.models import shipped_models

if TYPE_CHECKING:
    from facemae.stages.embed_photos import NamedModel

PROTOCOLS = {"view1": "lfw-view1-test", "view2": "lfw-view2"}
CARD = "threshold_card.csv"


@dataclass(frozen=True)
class Options:
    """What to evaluate: a file of embeddings, or a model and its photos."""

    embeddings: Path | None = None
    images: str | None = None
    data: str | None = None
    """Or a data set with a list of pairs."""
    model: NamedModel | str | None = None
    """What embeds them, or the name of a control that learns."""
    pairs: Path | None = None
    protocol: str | None = None
    """Which of the lists that come with the photos or the data set."""
    raw_dir: str = "data/raw"
    cache: Path = Path("data/evaluated")
    """Folder that keeps aligned faces and embeddings for the next time."""
    workers: int = 1
    align: Literal["auto", "landmarks", "crop"] = "auto"
    """Whether photos are faces already (`embed_photos`)."""

    def check(self) -> None:
        """Stop with a UsageError unless the options go together."""
        if sum(each is not None for each in (self.embeddings, self.images, self.data)) != 1:
            raise UsageError(
                "Give one of --embeddings, --images and --data: a file, photos, or a data set with a list of "
                "pairs; the last two with --model."
            )
        if self.pairs and self.protocol:
            raise UsageError("--pairs and --protocol both choose a list of pairs; give one of them.")
        if self.embeddings and self.model:
            raise UsageError("--embeddings need no model; leave --model out, or name photos with --images.")
        if isinstance(self.model, str) and not self.data:
            raise UsageError(f"{self.model} learns from a data set with pairs; name it with --data.")
        if self.data and self.pairs:
            raise UsageError("--data takes a list of the data set's own; name it with --protocol.")
        if self.embeddings and self.protocol:
            raise UsageError("--embeddings have no lists of their own; name one with --pairs.")


def inputs(options: Options) -> tuple[Embeddings, pd.DataFrame | None]:
    """Return the embeddings that were asked for, made if need be, and the list of pairs, if there is one.

    Raises:
        UsageError: the options do not go together, or name what is not there.
        DataError, IntegrityError: what they name cannot be used.
    """
    options.check()
    pairs = read_pairs(options.pairs) if options.pairs else None
    if options.embeddings:
        return read_embeddings(options.embeddings), pairs
    name = options.model if isinstance(options.model, str) else getattr(options.model, "name", "")
    if options.data and (name == options.model or name in {*RECOGNISERS, *shipped_models.WEIGHTS}):
        return of_recogniser(
            name, options.data, options.protocol, options.raw_dir, options.cache, options.workers
        )
    from facemae.stages.embed_photos import embed_photos  # PyTorch takes seconds to load

    images = str(options.data) if options.images is None else options.images
    place = listing.as_text(str(Path(images).absolute()))
    path = options.cache / records.digest(place) / layout.EMBEDDINGS
    model, align = cast("NamedModel", options.model), "auto" if options.images is None else options.align
    lists = embed_photos(images, model, path, align=align, raw=options.raw_dir, workers=options.workers)
    if pairs is None and (len(lists) or options.protocol):
        pairs = of_protocol(lists, options.protocol)
    return read_embeddings(path), pairs


def of_recogniser(
    name: str, data: str, protocol: str | None, raw_dir: str, cache: Path, workers: int = 1
) -> tuple[Embeddings, pd.DataFrame | None]:
    """Return the embeddings that a recogniser makes of a data set, and its list of pairs.

    Without a protocol a model that comes with the package is evaluated on the people of its card, on pairs
    drawn from them. "view1" and "view2" are LFW's lists. Arguments and errors are those of `embeddings_of`; a
    DataError also where the data set shows nobody of a shipped model's card.
    """
    from facemae.stages import embed_dataset

    wanted = PROTOCOLS.get(protocol, protocol) if protocol else None
    shipped = name in shipped_models.WEIGHTS
    everybody = shipped and wanted is None
    table, pairs = embed_dataset.embeddings_of(
        name, data, raw_dir, cache, wanted, workers, everybody=everybody
    )
    known: dict[str, Any] = {"plain_names": True}
    if shipped:
        seen, people = shipped_models.people(name), table["person"].unique()
        known["trained_on"] = shipped_models.known_among(people, seen.training)
    if everybody:
        chosen = table[table["person"].isin(shipped_models.known_among(people, seen.evaluation))]
        if chosen.empty:
            raise DataError(
                f"Nobody of {data} is among the people of {name}'s card; name a list with --protocol."
            )
        return from_table(chosen, f"{name} on {data}", known), None
    listed = of_protocol(pairs, wanted)
    photos = set(listed["first"]) | set(listed["second"])
    known["without_face"] = dict.fromkeys(photos - set(table["sample_id"]))
    return from_table(table, f"{name} on {data}", known), listed


def of_protocol(pairs: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    """Return the pairs of one list; without a name one list alone, else a UsageError names them."""
    names = pd.unique(pairs["protocol"]).tolist()
    wanted = PROTOCOLS.get(protocol, protocol) if protocol else (names[0] if len(names) == 1 else None)
    if wanted not in names:
        there = ", ".join(names) or "none"
        raise UsageError(f"--protocol {protocol or '(not given)'}: the lists of pairs are {there}.")
    return pairs[pairs["protocol"] == wanted]


def run(options: Options, settings: Settings, out: Path | None, ends_with_json: bool) -> None:
    """Evaluate what was asked for, print the report, and write it and the threshold card as CSV."""
    embeddings, pairs = inputs(options)
    if pairs is not None:
        pairs = in_spelling_of(pairs, [*embeddings.sample_ids, *embeddings.without_face])
    report = evaluate(embeddings, pairs, settings)
    content = as_json(report, settings.level)
    print(as_text(report, settings.level))
    if out:
        known = {"schema_version": records.SCHEMA_VERSION, "versions": records.versions()}
        files.write_json(out / layout.METRICS, known | content)
        files.atomic_write(out / CARD, report.card.to_csv(index=False).encode())
        say("evaluate", f"{out / layout.METRICS}, {out / CARD}")
    if ends_with_json:
        print(json.dumps(content, allow_nan=False))
