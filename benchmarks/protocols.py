"""Verification and identification at LFW's size: `python -m benchmarks.protocols --json`.

Random embeddings of as many people and images as LFW has, with about as many images for each person. How
many seconds, and how many megabytes at most, do the exact values of all 87.5 million pairs take, the
bootstrap over people, and every protocol together? Each part runs in a process of its own, so that its memory
is its own; loading the package and making the embeddings is in no time, but in every memory.

Then, on a million pairs, ours over scikit-learn's `roc_auc_score` and `roc_curve`: both are given the same
scores and take turns in every round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from benchmarks.common import cores, finish, versions
from facemae.core.progress import say
from facemae.evaluation.pairs import EveryPair, SortedScores
from facemae.evaluation.protocols import all_pairs, identification
from facemae.evaluation.statistics import identity_weights

# The numbers of Huang et al., Labeled Faces in the Wild, 2007: all people and images, those with one image,
# and the images of whoever has most.
PEOPLE, SINGLES, IMAGES, MOST = 5749, 4069, 13233, 530
FEATURES = 512
FAR_TARGETS = (0.1, 0.01, 0.001)
MILLION = 1415  # images that make a million pairs
CHILD = "import sys; from benchmarks.protocols import child; child(*sys.argv[1:])"


def sizes(people: int = PEOPLE, singles: int = SINGLES, images: int = IMAGES, most: int = MOST) -> np.ndarray:
    """Return how many images each person has, `(people,)`, falling as a power of the rank as in LFW."""
    rank = np.arange(1, people - singles + 1)

    def drawn(power: float) -> np.ndarray:
        return np.maximum(2, np.rint(most * rank**-power)).astype(int)

    low, high = 0.1, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if drawn(middle).sum() > images - singles else (low, middle)
    found = drawn(high)
    found[1 : 1 + images - singles - found.sum()] += 1  # what rounding left over
    return np.concatenate([found, np.ones(singles, int)])


def faces(images: np.ndarray, features: int = FEATURES) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings around one direction for each person, and whose they are."""
    random = np.random.default_rng(0)
    identity = np.repeat(np.arange(len(images)), images)
    centre = random.normal(size=(len(images), features)).astype(np.float32)
    noise = random.normal(size=(len(identity), features)).astype(np.float32)
    return centre[identity] + 2.5 * noise, identity


def _values(embeddings: np.ndarray, identity: np.ndarray, resamples: int) -> None:
    drawn_once = np.ones((1, int(identity.max()) + 1), np.int64)
    all_pairs.measure(EveryPair.of(embeddings, identity), drawn_once, FAR_TARGETS)


def _bootstrap(embeddings: np.ndarray, identity: np.ndarray, resamples: int) -> None:
    weights = identity_weights(int(identity.max()) + 1, resamples, 0)
    all_pairs.measure(EveryPair.of(embeddings, identity), weights, FAR_TARGETS)


def _identification(embeddings: np.ndarray, identity: np.ndarray, resamples: int) -> None:
    weights = identity_weights(int(identity.max()) + 1, resamples, 0)
    enrolled = np.zeros(len(identity), bool)
    enrolled[np.unique(identity, return_index=True)[1]] = True
    identification.closed_set(embeddings, identity, enrolled, weights)
    identification.open_set(embeddings, identity, enrolled & (identity % 2 == 0), weights)
    identification.low_far(embeddings, identity)


def _everything(embeddings: np.ndarray, identity: np.ndarray, resamples: int) -> None:
    _bootstrap(embeddings, identity, resamples)
    _identification(embeddings, identity, resamples)


PARTS: dict[str, Callable[[np.ndarray, np.ndarray, int], None]] = {
    "values": _values,
    "bootstrap": _bootstrap,
    "identification": _identification,
    "everything": _everything,
}


def child(part: str, images: str, resamples: str) -> None:
    """Print the seconds, those of all processors together, and the most megabytes of one part, as JSON."""
    embeddings, identity = faces(np.array(json.loads(images)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clocks = time.perf_counter, time.process_time
    started = [clock() for clock in clocks]
    PARTS[part](embeddings, identity, int(resamples))
    seconds, busy = (clock() - start for clock, start in zip(clocks, started, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"seconds": round(seconds, 2), "processor_s": round(busy, 2)}
    print(json.dumps({**found, "peak_mb": round(peak), "before_mb": round(before)}))


def measure(
    images: np.ndarray,
    resamples: int,
    rounds: int,
    names: Sequence[str] = tuple(PARTS),
    million: int = MILLION,
) -> dict[str, Any]:
    """Return the figures."""
    pairs = int(images.sum()) * (int(images.sum()) - 1) // 2
    parts = {}
    for part in names:
        say("protocols", f"{part} of {pairs} pairs, {resamples} resamples")
        command = [sys.executable, "-c", CHILD, part, json.dumps(images.tolist()), str(resamples)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        parts[part] = json.loads(told.splitlines()[-1])
    return {
        "people": len(images),
        "images": int(images.sum()),
        "pairs": pairs,
        "resamples": resamples,
        "parts": parts,
        **compare(million, rounds),
        "load": round(os.getloadavg()[0], 1),
        "cores": cores(),
        "versions": versions("facemae", "numpy", "scikit-learn"),
    }


def compare(images: int, rounds: int) -> dict[str, Any]:
    """Let scikit-learn and ours measure the same scores in turn; return the ratio of their seconds.

    Raises:
        RuntimeError: they disagree.
    """
    scores = EveryPair.of(*faces(sizes(images // 2, images // 4, images, images // 10))).scores
    score = np.concatenate([scores.genuine, scores.impostor])
    order = np.random.default_rng(0).permutation(len(score))
    score, genuine = score[order], (np.arange(len(score)) < len(scores.genuine))[order]
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(rounds):
        values = {}
        for name, each in (("ours", _ours), ("peer", _peer))[:: -1 if turn % 2 else 1]:
            started = time.process_time()
            values[name] = each(score, genuine)
            seconds[name].append(time.process_time() - started)
        if not np.allclose(values["ours"], values["peer"], rtol=0, atol=1e-12):
            raise RuntimeError(f"ours and scikit-learn's values differ: {values}")
    ratios = np.divide(seconds["peer"], seconds["ours"])
    return {
        "compared_pairs": len(score),
        "ratio": round(float(np.median(ratios)), 1),
        "ratio_range": [round(float(edge), 1) for edge in (ratios.min(), ratios.max())],
        **{f"ms_{name}": round(1000 * statistics.median(each), 1) for name, each in seconds.items()},
    }


def _ours(score: np.ndarray, genuine: np.ndarray) -> list[float]:
    """Sort the scores, which the protocol does once for all values, and return area and rates."""
    owner = np.zeros(int(genuine.sum()), np.int64)
    scores = SortedScores(np.sort(score[genuine]), owner, np.sort(score[~genuine]))
    at_far = [all_pairs.tar_at_far(scores, far)[0] for far in FAR_TARGETS]
    return [all_pairs.roc_auc(scores), *at_far, all_pairs.equal_error_rate(scores)]


def _peer(score: np.ndarray, genuine: np.ndarray) -> list[float]:
    """Return the same by scikit-learn; its curve has no EER, which is taken between the points around it."""
    far, tar, _ = sklearn.metrics.roc_curve(genuine, score, drop_intermediate=False)
    at_far = [float(tar[np.flatnonzero(far <= target)[-1]]) for target in FAR_TARGETS]
    after = int(np.argmax(far + tar >= 1))
    excess = (far + tar - 1)[after - 1 : after + 1]
    eer = far[after - 1] - excess[0] / (excess[1] - excess[0]) * (far[after] - far[after - 1])
    return [float(sklearn.metrics.roc_auc_score(genuine, score)), *at_far, float(eer)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocols", description=lines[0])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11, help="turns of ours and of scikit-learn")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(sizes(), options.resamples, options.rounds), options.json)


if __name__ == "__main__":
    main()
