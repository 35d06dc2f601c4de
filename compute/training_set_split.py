"""How frames are divided into training, validation and test, and whether near-identical ones got apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData

TRAIN, VALID, TEST = 0, 1, 2
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_NEIGHBOURS = 4
_REACH = 6.0
_MOST_ATOMS = 32
_MOST_ALIKE = 8
_AT_ONCE = 512


def divide(
    group: Integers, shares: tuple[float, float], rng: np.random.Generator, what: str, left_out: str = ""
) -> Integers:
    """Give every frame to training (0), validation (1) or test (2), whole groups at a time.

    Parameters
    ----------
    group : array (frames,) of int
        Frames of equal number stay together; numbers from 0.
    shares : tuple of float
        Wanted shares of validation and test.
    rng : numpy.random.Generator
        Which groups.
    what, left_out : str
        What a group is, and which frames were left out before, for messages.

    Returns
    -------
    array (frames,) of int
        As near to the shares as groups taken in random order come; at least one group for each share above zero.

    Raises
    ------
    InvalidData
        If there are fewer groups than splits.
    """
    split = np.zeros(len(group), dtype=np.int64)
    sizes = np.bincount(group)
    wanted = [share > 0 for share in shares]
    if sum(wanted) and len(sizes) < 1 + sum(wanted):
        raise InvalidData(
            "There are too few frames for these splits." if what == "frame" else f"There are too few {what} groups.",
            expected=f"at least {1 + sum(wanted)} groups by {what}",
            found=f"{len(sizes)} of {len(group)} frames{'; left out: ' if left_out else ''}{left_out}",
            hint="split by something finer, or give the inputs valid and test",
        )
    left = rng.permutation(len(sizes)).tolist()
    for number, share in zip((VALID, TEST), shares, strict=True):
        if share <= 0:
            continue
        others = sum(wanted[number:]) + 1  # groups that the later splits and training need
        taken: list[int] = []
        target, count = share * len(group), 0
        for one in left:
            if count >= target or len(left) - len(taken) <= others:
                break
            if count + sizes[one] - target <= target - count:
                taken.append(one)
                count += int(sizes[one])
        taken = taken or [min(left, key=lambda one: sizes[one])]
        split[np.isin(group, taken)] = number
        left = [one for one in left if one not in set(taken)]
    return split


def fingerprint(numbers: Integers, positions: Floats, cell: Floats, pbc: NDArray[Any]) -> NDArray[np.float32]:
    """Distances (Angstrom) of atoms to their four nearest neighbours (or all, in a smaller molecule), with images.

    Parameters
    ----------
    numbers, positions, cell, pbc : array
        The structure.

    Returns
    -------
    array (distances,)
        Of at most 32 atoms, evenly spread. Turning or moving the structure does not matter, nor does the order of the
        atoms where ``order_matters`` is false: each distance is then sorted over the atoms of an element. Neighbours
        beyond 6 Angstrom count as 6 Angstrom away.
    """
    from scipy.spatial import cKDTree

    count = len(numbers)
    mine = np.linspace(0, count - 1, min(count, _MOST_ATOMS)).astype(np.int64)
    everything, centres = positions, positions
    if pbc.any():
        everything, centres = _images(positions, cell, pbc.astype(bool))
    nearest = _NEIGHBOURS if pbc.any() else min(_NEIGHBOURS, count - 1)
    if not nearest:
        return np.zeros(0, dtype=np.float32)
    places = np.arange(2, nearest + 2)  # the first is the atom itself
    found, _ = cKDTree(everything).query(centres[mine], k=places, distance_upper_bound=_REACH)
    distances = np.minimum(found, _REACH)
    if not order_matters(numbers):
        parts = [np.sort(distances[numbers == number], axis=0) for number in np.unique(numbers)]
        distances = np.concatenate(parts)
    flat: NDArray[np.float32] = distances.astype(np.float32).ravel()
    return flat


def order_matters(numbers: Integers) -> bool:
    """Whether fingerprints are those of atoms in their order: of more than 32 atoms, or more than 8 of an element.

    Sorted distances of many equal atoms are nearly the same in all frames, whatever each atom does.
    """
    return len(numbers) > _MOST_ATOMS or int(np.bincount(numbers).max()) > _MOST_ALIKE


def _images(positions: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Atoms with their images within reach, and the atoms wrapped into the cell."""
    from ase.geometry import complete_cell, wrap_positions

    whole = complete_cell(cell)
    wrapped = wrap_positions(positions, whole, pbc=pbc)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(whole), axis=0)
    reach = np.where(pbc, np.ceil(_REACH / heights), 0).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    images = (wrapped[None] + (shifts @ whole)[:, None]).reshape(-1, 3)
    low, high = wrapped.min(axis=0) - _REACH, wrapped.max(axis=0) + _REACH
    return images[((images >= low) & (images <= high)).all(axis=1)], wrapped


@dataclass(frozen=True, slots=True)
class Leak:
    """A frame that has a near-identical one in an earlier split.

    Attributes
    ----------
    frame, twin : int
        The two.
    distance : float
        Root mean square difference of their fingerprints (Angstrom).
    """

    frame: int
    twin: int
    distance: float


def leaks(
    prints: Sequence[NDArray[np.float32]], alike: Sequence[bytes], split: Integers, tolerance: float
) -> list[Leak]:
    """Frames of validation and test that are near-identical to one of training, or of test to one of validation.

    Parameters
    ----------
    prints : sequence of array
        Fingerprint of each frame.
    alike : sequence of bytes
        Only frames of equal value are compared.
    split : array (frames,) of int
        Where each frame is.
    tolerance : float
        Below which two are near-identical (Angstrom, root mean square).

    Returns
    -------
    list of Leak
        Each with its nearest twin, in the order of the frames.
    """
    groups: dict[bytes, list[int]] = {}
    for frame, value in enumerate(alike):
        groups.setdefault(value, []).append(frame)
    found = []
    for members in groups.values():
        mine = np.array(members, dtype=np.int64)
        for number in (VALID, TEST):
            probes, others = mine[split[mine] == number], mine[split[mine] < number]
            if len(probes) and len(others):
                found += _near(prints, probes, others, tolerance)
    return sorted(found, key=lambda leak: leak.frame)


def _near(prints: Sequence[NDArray[np.float32]], probes: Integers, others: Integers, tolerance: float) -> list[Leak]:
    """The nearest of others to each probe, where it is near enough; in blocks, so that memory stays bounded."""
    best, twin = np.full(len(probes), np.inf), np.zeros(len(probes), dtype=np.int64)
    for start in range(0, len(others), _AT_ONCE):
        block = others[start : start + _AT_ONCE]
        theirs = np.stack([prints[i] for i in block]).astype(np.float64)
        for first in range(0, len(probes), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            ours = np.stack([prints[i] for i in probes[part]]).astype(np.float64)
            squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2.0 * ours @ theirs.T
            nearest = squares.argmin(axis=1)
            found = squares[np.arange(len(ours)), nearest]
            better = found < best[part]
            best[part][better], twin[part][better] = found[better], block[nearest[better]]
    rms = np.sqrt(np.maximum(best, 0.0) / max(1, len(prints[int(probes[0])])))
    return [Leak(int(probes[i]), int(twin[i]), float(rms[i])) for i in np.flatnonzero(rms < tolerance)]
