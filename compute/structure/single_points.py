"""Energies and forces of independent structures, each from a cold engine: what a module asks for as a map."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import ComputeFailed
from .evaluation import evaluated

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from ..potentials import Potential
    from ..potentials.mace_batch import LearnedModel

_DIMS: Mapping[str, tuple[str, ...]] = {"energy": (), "forces": ("atom", "xyz"), "stress": ("voigt",)}

Label = Mapping[str, Any] | ComputeFailed
"""``energy``, ``forces`` and perhaps ``stress`` of a structure, as ``evaluated`` gives them; or why there are none."""


class Engine:
    """A potential that travels to workers; each worker loads its weights once.

    Parameters
    ----------
    potential : Potential
        There, one of the same text and fingerprint that came before takes its place.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._identity = json.dumps([potential.spec, potential.fingerprint()], sort_keys=True, default=str)

    @functools.cached_property
    def module(self) -> LearnedModel:
        """The torch face of a learned model; see ``Potential.module``."""
        return self.potential.module()

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Engine) and other._identity == self._identity

    def __reduce__(self) -> tuple[object, ...]:
        """Travel, and be kept where it arrives."""
        return _arrived, (self.potential,)


def _arrived(potential: Potential) -> Engine:
    return _kept(Engine(potential))


@functools.lru_cache(maxsize=4)
def _kept(engine: Engine) -> Engine:
    return engine


@dataclass(frozen=True, slots=True)
class SinglePoint:
    """A structure to evaluate.

    Attributes
    ----------
    engine : Engine
        By what.
    atoms : Atoms
        The structure.
    stress : bool
        Whether the stress is wanted, where there is one.
    """

    engine: Engine
    atoms: Atoms
    stress: bool = True


def single_points(systems: Iterable[Atoms], potential: Potential, *, stress: bool = True) -> list[SinglePoint]:
    """The items of a map over structures; its function is ``single_point``."""
    engine = Engine(potential)
    return [SinglePoint(engine, atoms, stress) for atoms in systems]


def single_point(item: SinglePoint) -> xr.Dataset:
    """Evaluate a structure; the function of the map.

    Returns
    -------
    xarray.Dataset
        For ``labels_of``. A failure of the engine is a result too: computed again it would only fail again.
    """
    import xarray as xr

    found = labelled(item.atoms, item.engine.potential, stress=item.stress)
    if isinstance(found, ComputeFailed):
        told = {name: getattr(found, name) for name in ("message", "key", "expected", "found", "hint")}
        return xr.Dataset(attrs={name: text for name, text in told.items() if text is not None})
    return xr.Dataset({name: (_DIMS[name], np.asarray(value)) for name, value in found.items()})


def labelled(atoms: Atoms, potential: Potential, *, stress: bool = True) -> Label:
    """What ``evaluated`` gives, or why it fails."""
    try:
        return evaluated(atoms, potential, stress=stress)
    except ComputeFailed as error:
        return error


def labels_of(results: Iterable[xr.Dataset]) -> list[Label]:
    """The answers of ``single_point``, as ``evaluated`` would have given them."""
    return [_label(result) for result in results]


def _label(result: xr.Dataset) -> Label:
    if "energy" not in result:
        told = {str(name): str(text) for name, text in result.attrs.items()}
        return ComputeFailed(told.pop("message"), **told)
    return {name: result[name].to_numpy() for name in _DIMS if name in result}
