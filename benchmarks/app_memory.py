"""How much memory recognition keeps: the growth of a process over many recognitions, once it is warm."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import cores, finish, versions
from benchmarks.visitor import Visitor, enrol_demo, serving
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.core.progress import track
from facemae.data.sources.orl import orl_photos
from facemae.recognition.enrolment import template, until
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.recogniser import Recogniser, only_face
from facemae.recognition.threshold import Threshold
from facemae.recognition.trained_models import models

RECOGNITIONS, SERVED, WARM = 1000, 1000, 100
MOST_SECONDS = 900.0  # of one measurement after the warm-up; it ends there with what it has done
ENROLLED, TABS = 20, 5
STEPS = 10  # readings of the memory along the way


def growth(
    act: Callable[[int], object], count: int, process: psutil.Process, label: str,
    seconds: float = MOST_SECONDS,
) -> dict[str, Any]:  # fmt: skip
    """Do something `WARM` times and then `count` times, and return how resident memory grew meanwhile.

    Returns:
        `warm_mb`: after the first; `growth_mb`: at the end, above that; `along_mb`: on the way; `done`: how
        often after the first, which is less than `count` where the seconds did not suffice.
    """
    for number in range(WARM):
        act(number)
    warm, along, done = process.memory_info().rss, [], 0
    last = time.monotonic() + seconds
    for number in track(range(count), count, label, "recognitions"):
        act(WARM + number)
        done, late = number + 1, time.monotonic() >= last
        if late or done == count or done % max(1, count // STEPS) == 0:
            along.append(round((process.memory_info().rss - warm) / 1e6, 1))
        if late:
            break
    return {"warm_mb": round(warm / 1e6), "growth_mb": along[-1], "along_mb": along, "done": done}


def directly(results: Path, folder: Path, count: int) -> dict[str, Any]:
    """Recognise ORL's photos with the recogniser and a gallery, in this process."""
    found = models(Results(results))
    if not found:
        raise UsageError(f"{results} holds no trained model; name another folder with --results.")
    recogniser, photos = Recogniser(found[0], "cpu"), orl_photos()
    with Gallery(folder / "direct.sqlite") as gallery:
        for person in range(ENROLLED):
            face = only_face(recogniser.finder.find(photos[person * 10].path), "enrolment")
            made = template(recogniser, face.image, None, thumbnail=False)
            gallery.enrol(f"person {person}", [made], consent=True, retain_until=until(1))
        limit = Threshold(0.5)

        def recognise(number: int) -> object:
            data = photos[number % len(photos)].path.read_bytes()
            return recogniser.identify(recogniser.finder.find(data).faces, gallery, limit)

        return growth(recognise, count, psutil.Process(), "direct")


def served(results: Path, folder: Path, count: int, port: int) -> dict[str, Any]:
    """Upload ORL's photos to the Recognise page of a server, from tabs that are closed after a while.

    Raises:
        DataError: a face was not found, or not looked up among people enrolled.
    """
    environment = {"FACEMAE_RESULTS": str(results.resolve()), "FACEMAE_GALLERY": f"{folder}/served.sqlite"}
    photos, random_of = orl_photos(), random.Random(0)
    with serving(environment, port, "--server.disconnectedSessionTTL", "20") as (address, pid):
        enrol_demo(address)
        tabs = [_tab(address) for _ in range(TABS)]

        def recognise(number: int) -> None:
            place = number % TABS
            if random_of.random() < 0.05:
                tabs[place].close()
                tabs[place] = _tab(address)
            chosen = photos[number % len(photos)]
            tabs[place].upload("recognise_file", "photo.pgm", chosen.path.read_bytes(), "image/x-pgm")
            tabs[place].recognised()

        found = growth(recognise, count, psutil.Process(pid), "served")
        for tab in tabs:
            tab.close()
    return found


def _tab(address: str) -> Visitor:
    tab = Visitor(address)
    tab.open("recognise")
    tab.choose("recognise_from", "string_array_value", ["Your photo"])
    return tab


def measure(results: Path, count: int, count_served: int, port: int) -> dict[str, Any]:
    """Measure both, each with a gallery of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"cores": cores(), "recognitions": count, "served": count_served}
        found |= {f"direct_{name}": value for name, value in directly(results, Path(folder), count).items()}
        answered = served(results, Path(folder), count_served, port)
        found |= {f"server_{name}": value for name, value in answered.items()}
    return found | versions("streamlit", "torch", "pillow")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--recognitions", type=int, default=RECOGNITIONS)
    parser.add_argument("--served", type=int, default=SERVED)
    parser.add_argument("--port", type=int, default=8791)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    finish(lambda: measure(asked.results, asked.recognitions, asked.served, asked.port), asked.json)
