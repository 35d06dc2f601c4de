"""Single points on their way through a map: the same bits, and failures that say why."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT

from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.structure.evaluation import evaluated
from h5ml.compute.structure.single_points import Engine, labels_of, single_point, single_points
from h5ml.schemas.errors import ComputeFailed
from h5ml.store.blob import pack, unpack


class Picky(EMT):
    """Cannot do copper with a vacancy."""

    def calculate(self, atoms: Any = None, *more: Any) -> None:
        if len(atoms) == 7:
            raise CalculationFailed("a vacancy")
        super().calculate(atoms, *more)


def systems() -> list[Atoms]:
    whole = bulk("Cu", a=3.55).repeat(2)
    free = whole.copy()
    free.pbc = False
    return [whole, whole[1:], free]


def travelled(potential: Potential, *, stress: bool = True) -> list[Any]:
    items = pickle.loads(pickle.dumps(single_points(systems(), potential, stress=stress)))
    return labels_of([unpack(pack(single_point(item))) for item in items])


def test_what_comes_back_is_what_the_engine_gave_to_the_last_bit() -> None:
    potential = resolve_potential("ase:emt")
    for stress in (True, False):
        for atoms, found in zip(systems(), travelled(potential, stress=stress), strict=True):
            wanted = evaluated(atoms, potential, stress=stress)
            assert found.keys() == wanted.keys()
            assert ("stress" in found) == (stress and bool(atoms.pbc.all()))
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name])


def test_a_failure_comes_back_as_the_error_that_it_was() -> None:
    good, bad, free = travelled(Potential("picky", "picky", Picky, {"engine": "picky"}))
    assert isinstance(bad, ComputeFailed)
    with pytest.raises(ComputeFailed) as error:
        evaluated(systems()[1], Potential("picky", "picky", Picky, {"engine": "picky"}))
    assert str(bad) == str(error.value)
    assert "a vacancy" in str(bad)
    assert np.isfinite(good["energy"])
    assert np.isfinite(free["energy"])


def test_a_process_keeps_one_potential_of_those_that_arrive_equal() -> None:
    emt, other = resolve_potential("ase:emt"), resolve_potential("ase:lj?sigma=2.8")
    first, again, third = (pickle.loads(pickle.dumps(Engine(potential))) for potential in (emt, emt, other))
    assert first is again
    assert third is not first
    assert third.potential.spec == other.spec
    assert Engine(emt).potential is emt  # where it is made it is what was given
