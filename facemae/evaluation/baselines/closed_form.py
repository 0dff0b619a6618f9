"""The closed-form head: principal components, then a discriminant analysis, without a step of training.

Belhumeur, Hespanha and Kriegman, Eigenfaces vs. Fisherfaces, 1997: of the principal components of the
features the directions in which people differ most for how much the photos of a person do, each weighted by
the share of its variance that lies between people; embeddings are compared by cosine. Without weights the
many directions that say little outweigh the few that say much, and where to cut them off is a choice that
rounding can turn. Shapes: N faces, D features, C components, P people, K dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from facemae.core.errors import DataError
from facemae.evaluation.protocols.calibration import Calibration
from facemae.evaluation.protocols.calibration import fit as calibrated

LEAST_PEOPLE = 4  # with two photos each: two to learn from, two held out
FOLDS = 3  # of training people, for the choice of shrinkage
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6)
HELD_OUT_PHOTOS = 4  # of a person: with all of them a few people would decide
IMPOSTORS = 20_000  # pairs of a fold; its far fewer genuine ones limit what it can tell
SEED = 0

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Head:
    """A fitted head and how it was chosen.

    Attributes:
        mean, projection: (D,) of the training features, and (D, K).
        calibration: From the cosine of two embeddings to the probability of one person.
        shrinkage, held_out_auc: Of the covariances towards a sphere, 0 to 1, and the ROC AUC on the training
            people who were held out, mean over the folds.
    """

    mean: Floats
    projection: Floats
    calibration: Calibration
    shrinkage: float = 0.0
    held_out_auc: float = float("nan")

    def __str__(self) -> str:
        dimensions = f"{self.projection.shape[1]} dimensions"
        if np.isnan(self.held_out_auc):
            return dimensions
        return f"{dimensions}, shrinkage {self.shrinkage:g}, held-out ROC AUC {self.held_out_auc:.3f}"

    def __call__(self, features: Floats) -> Floats:
        """Return the embeddings (N, K), not of unit length, of features (N, D)."""
        found: Floats = features @ self.projection - self.mean @ self.projection
        return found


def fit(features: Floats, people: Sequence[str | None], components: int, what: str) -> Head:
    """Fit a head to features (N, D) of people (N,), those with two photos or more; None: not known.

    The shrinkage is that with the best verification of held-out people in a cross-validation over the
    training people, whose pairs also calibrate the cosine. The principal components, at most as many as asked
    for and as the faces less the people (the rank of the covariance within people), know no labels and are
    those of all training faces in every fold. A DataError, in which `what` learns: too few people have two
    photos, or the photos of each are all the same.
    """
    chosen, identity = shown_twice(people)
    count = int(identity.max(initial=-1)) + 1
    if count < LEAST_PEOPLE:
        known = len({person for person in people if person is not None})
        raise DataError(
            f"{what} learns from people with two photos or more, and of the {known} training people {count} "
            f"have them, where {LEAST_PEOPLE} are needed; add photos of the same people, or leave {what} out."
        )
    features = features if chosen.all() else features[chosen]
    mean, axes, _ = principal_components(features, min(components, len(features) - count))
    coordinates = (features @ axes - mean @ axes).astype(np.float64)
    within, total = covariances(coordinates, identity)
    if np.trace(within) <= 1e-12 * np.trace(total):
        raise DataError(
            f"{what} learns how the photos of a person differ, and those of each training person are the "
            "same; add other photos of them."
        )
    shrinkage, auc, calibration = _chosen(coordinates, identity)
    directions = weighted(discriminants(within, total, shrinkage)[:, : count - 1], within, total)
    return Head(mean, axes @ directions.astype(features.dtype), calibration, shrinkage, auc)


def whiten(features: Floats, people: Sequence[str | None], components: int, what: str) -> Head:
    """Return whitened principal components, which know no labels.

    Turk and Pentland, Eigenfaces for Recognition, 1991. The arguments are those of `fit`. There are no more
    than a third as many components as faces: the deviations along the last ones are hardly known, and
    whitening makes the most of the smallest. Labels calibrate the cosine alone, and not where too few people
    have two photos.
    """
    most = min(components, max(1, len(features) // 3))
    mean, axes, deviation = principal_components(features, most, exact=True)
    head = Head(mean, axes / deviation, Calibration(slope=1.0, offset=0.0))
    chosen, identity = shown_twice(people)
    if identity.max(initial=-1) + 1 < LEAST_PEOPLE:
        return head
    some = next(_folds(identity))[1]
    scores = _cosines(head(features[chosen][some]), _pairs(identity[some]))
    return replace(head, calibration=_calibration(*scores))


def shown_twice(people: Sequence[str | None]) -> tuple[NDArray[np.bool_], Integers]:
    """Tell which faces (N,) are of people with two photos or more, and number those faces' people from 0."""
    names = np.array(["" if person is None else str(person) for person in people])
    _, identity, sizes = np.unique(names, return_inverse=True, return_counts=True)
    chosen = (sizes[identity] > 1) & (names != "")
    return chosen, np.unique(identity[chosen], return_inverse=True)[1].astype(np.int64)


def principal_components(
    features: Floats, count: int, *, exact: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Return mean (D,), first axes (D, C) and the deviations along them (C,) of features (N, D).

    By a randomised decomposition (Halko, Martinsson and Tropp, 2011) with a fixed seed, whose last axes are
    near the true ones only; `exact` is for what divides by their deviations, and for some thousand features.
    """
    from sklearn.decomposition import PCA

    count = min(count, features.shape[1])
    solver = "full" if exact else "randomized"
    model = PCA(count, svd_solver=solver, iterated_power=2, random_state=SEED).fit(features)
    deviation = np.sqrt(model.explained_variance_)
    kept = deviation > 1e-6 * deviation[0]  # the rest is rounding
    return model.mean_, model.components_[kept].T, deviation[kept]


def covariances(coordinates: Floats, identity: Integers) -> tuple[Floats, Floats]:
    """Return the covariance within people and that of all faces, (C, C) each, of coordinates (N, C)."""
    order = np.argsort(identity, kind="stable")
    ordered, whose = coordinates[order], identity[order]
    sizes = np.bincount(whose)
    means = np.add.reduceat(ordered, np.concatenate([[0], np.cumsum(sizes)[:-1]])) / sizes[:, None]
    inner, centred = ordered - means[whose], ordered - ordered.mean(axis=0)
    return inner.T @ inner / len(inner), centred.T @ centred / len(centred)


def discriminants(within: Floats, total: Floats, shrinkage: float) -> Floats:
    """Return directions (C, C), the ones that part people best first; of P people P - 1 part any.

    They solve the generalised eigenproblem of the covariance between and within people, both shrunk, as
    scikit-learn's `LinearDiscriminantAnalysis(solver="eigen")` does; its loop over thousands of people, in
    every fold and for every shrinkage, would take minutes.
    """
    sphere = np.eye(len(within)) * shrinkage
    inner, whole = ((1 - shrinkage) * each + sphere * np.trace(each) / len(each) for each in (within, total))
    found: Floats = eigh(whole - inner, inner)[1][:, ::-1]
    return found


def weighted(directions: Floats, within: Floats, total: Floats) -> Floats:
    """Return the directions (C, K), each times the share of the variance along it that is between people."""
    inner, whole = ((directions * (each @ directions)).sum(axis=0) for each in (within, total))
    found: Floats = directions * (1 - inner / whole)
    return found


def _chosen(coordinates: Floats, identity: Integers) -> tuple[float, float, Calibration]:
    """Return the shrinkage, the AUC of held-out people that it reaches, and the calibration on those."""
    scores: dict[float, list[tuple[Floats, Floats]]] = {shrinkage: [] for shrinkage in SHRINKAGES}
    for learnt, held_out in _folds(identity):
        whose = np.unique(identity[learnt], return_inverse=True)[1]
        within, total = covariances(coordinates[learnt], whose)
        apart = coordinates[held_out] - coordinates[learnt].mean(axis=0)
        pairs = _pairs(identity[held_out])
        for shrinkage in SHRINKAGES:
            directions = weighted(discriminants(within, total, shrinkage)[:, : whose.max()], within, total)
            scores[shrinkage].append(_cosines(apart @ directions, pairs))
    auc = {shrinkage: float(np.mean([_auc(*each) for each in found])) for shrinkage, found in scores.items()}
    best = max(auc, key=auc.__getitem__)
    calibration = _calibration(*(np.concatenate(each) for each in zip(*scores[best], strict=True)))
    return best, auc[best], calibration


def _folds(identity: Integers) -> Iterator[tuple[NDArray[np.bool_], Integers]]:
    """Yield which faces a fold learns from (N,), and rows of the people it holds out."""
    random = np.random.default_rng(SEED)
    people = random.permutation(identity.max() + 1)
    order = random.permutation(len(identity))
    order = order[np.argsort(identity[order], kind="stable")]
    nth = np.empty(len(identity), np.int64)  # of its person's faces, in random order
    nth[order] = np.arange(len(order)) - np.searchsorted(identity[order], identity[order])
    for held_out in np.array_split(people, min(FOLDS, len(people) // 2)):
        is_held_out = np.isin(identity, held_out)
        yield ~is_held_out, np.flatnonzero(is_held_out & (nth < HELD_OUT_PHOTOS))


def _pairs(identity: Integers) -> tuple[Integers, Integers]:
    """Return all pairs of faces of one person, (G, 2), and some of two people, (I, 2)."""
    same = np.argwhere(np.triu(identity[:, None] == identity, k=1))
    drawn = np.random.default_rng(SEED).integers(len(identity), size=(IMPOSTORS, 2))
    return same, drawn[identity[drawn[:, 0]] != identity[drawn[:, 1]]]


def _cosines(vectors: Floats, pairs: tuple[Integers, Integers]) -> tuple[Floats, Floats]:
    """Return the cosines of the pairs of one person, and of those of two people, of vectors (N, K)."""
    length = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit = vectors / length
    genuine, impostor = (np.einsum("nk,nk->n", unit[rows[:, 0]], unit[rows[:, 1]]) for rows in pairs)
    return genuine, impostor


def _auc(genuine: Floats, impostor: Floats) -> float:
    """Return the chance that a genuine pair scores above an impostor pair; a tie counts one half."""
    ordered = np.sort(impostor)
    below, up_to = (np.searchsorted(ordered, genuine, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(ordered))


def _calibration(genuine: Floats, impostor: Floats) -> Calibration:
    """Fit a calibration to genuine pairs and as many impostor pairs, as lists of pairs have them."""
    count = min(len(genuine), len(impostor))  # both are in no order of their scores
    score = np.concatenate([genuine[:count], impostor[:count]])
    return calibrated(score, np.arange(2 * count) < count)
