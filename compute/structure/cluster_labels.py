"""Clusters as they were cut, and the energies that they get afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import ComputeFailed
from ...schemas.kinds import CLUSTERS
from .frames import structures_dataset
from .single_points import Label

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

_UNKNOWN = MappingProxyType({"energy": np.nan, "forces": np.nan})


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One cluster as it was cut from some frames.

    Attributes
    ----------
    systems : sequence of Atoms
        The cluster of each frame, to be evaluated.
    values, attributes : mapping
        Everything else that is known of them.
    """

    systems: Sequence[Atoms]
    values: Mapping[str, Any]
    attributes: Mapping[str, Any]

    def dataset(self, labels: Sequence[Label] | None = None) -> xr.Dataset:
        """A dataset of ``CLUSTERS``; with labels of the systems also their energies and forces, NaN where it failed."""
        more = self.values if labels is None else {**self.values, **_energies(self.systems, labels)}
        return structures_dataset(self.systems, more, self.attributes, kind=CLUSTERS)


def with_labels(cuts: Mapping[str, Cut], labels: Sequence[Label] | None, *, needed: bool) -> dict[str, xr.Dataset]:
    """Clusters as datasets, with their energies and forces where they were evaluated.

    Parameters
    ----------
    cuts : mapping of str to Cut
        Of ``SubsystemCutter.pieces``.
    labels : sequence of Label, optional
        Those of all their systems, cluster by cluster.
    needed : bool
        Whether it is an error if there are none but failures.

    Raises
    ------
    ComputeFailed
        The first failure, if all are.
    """
    if labels is None:
        return {name: cut.dataset() for name, cut in cuts.items()}
    failures = [label for label in labels if isinstance(label, ComputeFailed)]
    if needed and failures and len(failures) == len(labels):
        raise failures[0]
    rest = iter(labels)
    return {name: cut.dataset(list(itertools.islice(rest, len(cut.systems)))) for name, cut in cuts.items()}


def _energies(systems: Sequence[Atoms], labels: Sequence[Label]) -> dict[str, Any]:
    energies, forces = [], [np.zeros((0, 3))]
    for system, label in zip(systems, labels, strict=True):
        found = _UNKNOWN if isinstance(label, ComputeFailed) else label
        energies.append(found["energy"])
        forces.append(np.broadcast_to(found["forces"], (len(system), 3)))
    return {"energy": np.array(energies, dtype=np.float64), "forces": np.concatenate(forces)}
