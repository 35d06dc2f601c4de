"""Choosing frames by the distances of their vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .subsample_config import Subsample

Vectors = NDArray[Any]
Integers = NDArray[np.int64]

_CACHED = 1 << 15  # numbers that one step of a distance calculation works on: they stay in the cache


class Chooser:
    """Chooses frames one by one and keeps how far every record is from those chosen.

    Parameters
    ----------
    vectors : array (records, features)
        In float32 or float64, in which the distances are computed.
    frame : array (records,) of int
        Frame of each record, 0, 1, 2 ...; a frame is chosen at most once, for the record that decided it, and then
        covers the surroundings of all its records.

    Attributes
    ----------
    records : list of int
        Chosen so far.
    distances : list of float
        Distance of each to the frames chosen before it; NaN for the first, and where it was not measured.
    nearest : array (records,)
        Squared distance of each record to the nearest record of a chosen frame.
    """

    def __init__(self, vectors: Vectors, frame: Integers) -> None:
        self.vectors, self.frame = np.ascontiguousarray(vectors), frame
        self.nearest = np.full(len(vectors), np.inf)
        self.is_free = np.ones(len(vectors), dtype=bool)
        self.records: list[int] = []
        self.distances: list[float] = []
        order = np.argsort(frame, kind="stable")
        self._members = np.split(order, np.flatnonzero(np.diff(frame[order])) + 1)
        self._step = max(1, _CACHED // max(1, vectors.shape[1]))

    def choose(self, record: int, *, measure: bool = True) -> None:
        """Take the frame of a record, and unless told otherwise measure how far all records are from it."""
        distance = float(np.sqrt(self.nearest[record]))
        self.records.append(record)
        self.distances.append(distance if np.isfinite(distance) else float("nan"))
        members = self.members(record)
        self.is_free[members] = False
        for member in members if measure else ():
            np.minimum(self.nearest, self.squared_distances(self.vectors[member]), out=self.nearest)

    def members(self, record: int) -> Integers:
        """All records of the frame of a record."""
        return self._members[int(self.frame[record])]

    def squared_distances(self, point: Vectors) -> NDArray[np.float64]:
        """Squared distances of all records to a point, from the differences themselves.

        The usual |x|^2 - 2 x.y + |y|^2 takes one matrix product but cancels for near duplicates, which matter here.
        """
        found = np.empty(len(self.vectors))
        buffer = np.empty((self._step, self.vectors.shape[1]), dtype=self.vectors.dtype)
        for start in range(0, len(found), self._step):
            part = self.vectors[start : start + self._step]
            difference = np.subtract(part, point, out=buffer[: len(part)])
            found[start : start + self._step] = np.einsum("ij,ij->i", difference, difference)
        return found

    def is_new(self, least: float | None) -> NDArray[np.bool_]:
        """Records of free frames that are no near duplicates of a chosen frame."""
        return self.is_free if least is None else self.is_free & (self.nearest > least**2)


def choose(chooser: Chooser, config: Subsample, count: int, rng: np.random.Generator) -> None:
    """Choose up to ``count`` frames: fewer where all others are near duplicates.

    Parameters
    ----------
    chooser : Chooser
        Has at least ``count`` frames.
    config : Subsample
        The method and its settings.
    count : int
        How many.
    rng : numpy.random.Generator
        For what is drawn.
    """
    if config.method == "farthest_point":
        _farthest_points(chooser, config, count, rng)
    elif config.method == "random":
        _random(chooser, config, count, rng)
    else:
        _medoids(chooser, config, count, rng)


def _farthest_points(chooser: Chooser, config: Subsample, count: int, rng: np.random.Generator) -> None:
    """Each next frame has the record that is farthest from all chosen frames; ties go to the lower record.

    T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985).
    """
    if config.first == "random":
        chooser.choose(int(rng.integers(len(chooser.frame))))
    else:
        spread = chooser.squared_distances(chooser.vectors.mean(axis=0, dtype=np.float64).astype(chooser.vectors.dtype))
        chooser.choose(int(np.argmin(spread) if config.first == "nearest_to_mean" else np.argmax(spread)))
    while len(chooser.records) < count:
        allowed = np.where(chooser.is_new(config.duplicate_distance), chooser.nearest, -1.0)
        record = int(np.argmax(allowed))
        if allowed[record] < 0.0:
            return
        chooser.choose(record)


def _random(chooser: Chooser, config: Subsample, count: int, rng: np.random.Generator) -> None:
    """Frames in a random order, whatever the number of their records; near duplicates of earlier ones are skipped."""
    least = config.duplicate_distance
    for record in rng.permutation(np.unique(chooser.frame, return_index=True)[1]):
        if len(chooser.records) == count:
            return
        new = [r for r in chooser.members(record) if least is None or chooser.nearest[r] > least**2]
        if new:
            chooser.choose(int(new[0]), measure=least is not None)


def _medoids(chooser: Chooser, config: Subsample, count: int, rng: np.random.Generator) -> None:
    """The member nearest to each k-means centre, the largest clusters first.

    A cluster whose members are all taken or rejected gives the nearest record of any other.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    different = len(np.unique(chooser.vectors, axis=0))
    seed = int(rng.integers(2**31 - 1))
    with threadpool_limits(limits=1):  # sums over threads would depend on their number and order
        model = KMeans(min(count, different), random_state=seed, n_init=1).fit(chooser.vectors)
    sizes = np.bincount(model.labels_, minlength=model.n_clusters)
    clusters = np.argsort(-sizes, kind="stable")
    while len(chooser.records) < count:
        before = len(chooser.records)
        for cluster in clusters[: count - before]:
            spread = chooser.squared_distances(model.cluster_centers_[cluster])
            fit = chooser.is_new(config.duplicate_distance)
            members = fit & (model.labels_ == cluster)
            allowed = np.where(members if members.any() else fit, spread, np.inf)
            if fit.any():
                chooser.choose(int(np.argmin(allowed)))
        if len(chooser.records) == before:
            return
