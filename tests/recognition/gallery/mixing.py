"""What the processes of the tests do to a gallery: enrol until killed, and all operations mixed."""

import random
import sys
from datetime import UTC, datetime, timedelta

import numpy as np

from facemae.core.errors import UsageError
from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery

SHARED = [f"shared {number}" for number in range(5)]
COMMON = "common"


def template(random_numbers, size=8):
    return Template(random_numbers.normal(size=size).astype(np.float32), "model-a")


def enrol_for_ever(address, prefix, size):
    """Print the name of each person once `enrol` has returned."""
    numbers = np.random.default_rng(0)
    until = datetime.now(UTC).date() + timedelta(days=30)
    with Gallery(address) as gallery:
        for number in range(1_000_000):
            name = f"{prefix}-{number}"
            gallery.enrol(name, [template(numbers, size)], consent=True, retain_until=until)
            print(name, flush=True)


def mix(address, worker, operations):
    """Do operations at random; return this worker's people with their templates, and what it did to others'.

    Its own names are its own, so what they end as does not depend on the order of the processes.
    """
    draw, numbers = random.Random(worker), np.random.default_rng(worker)
    until = datetime.now(UTC).date() + timedelta(days=30)
    agreed = {"consent": True, "retain_until": until}
    own, won, added = {}, [], 0
    with Gallery(address) as gallery:
        for number in range(operations):
            kind = draw.choice(["enrol", "enrol", "add", "rename", "merge", "remove", "search", "shared"])
            name = draw.choice(list(own)) if own else None
            fresh = f"worker {worker} person {number}"
            if kind == "shared":
                gallery.enrol(COMMON, [template(numbers)], **agreed, add=True)
                added += 1
                try:
                    gallery.enrol(draw.choice(SHARED), [template(numbers)], **agreed)
                    won.append(number)
                except UsageError as error:
                    if "enrolled already" not in str(error):
                        raise
            elif kind == "search":
                for candidates in gallery.search(numbers.normal(size=(2, 8)), "model-a"):
                    scores = [candidate.score for candidate in candidates]
                    assert scores == sorted(scores, reverse=True)
            elif kind == "enrol" or name is None:
                gallery.enrol(fresh, [template(numbers)], **agreed)
                own[fresh] = 1
            elif kind == "add":
                gallery.enrol(name, [template(numbers)], **agreed, add=True)
                own[name] += 1
            elif kind == "rename":
                gallery.rename(name, fresh)
                own[fresh] = own.pop(name)
            elif kind == "remove":
                gallery.remove(name)
                del own[name]
            elif len(own) > 1:
                into = draw.choice([each for each in own if each != name])
                gallery.merge(name, into)
                own[into] += own.pop(name)
    return own, len(won), added


if __name__ == "__main__":
    enrol_for_ever(sys.argv[1], sys.argv[2], int(sys.argv[3]))
