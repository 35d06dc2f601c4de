"""Energies of isolated atoms: the ground state by a scan of the spin, computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.build import molecule

import h5ml
from h5ml.compute.isolated_atoms import MODULE
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import ComputeFailed, InvalidConfig
from h5ml.store.store import Store
from h5ml.tests.kits.runner import FakeRunner

PBE = {"engine": "pyscf", "method": "PBE", "basis": "def2-SVP"}


def atoms_of(settings: dict[str, Any], **inputs: Any) -> Any:
    """The outputs without a store."""
    return FakeRunner(MODULE, settings, inputs).run().outputs


@pytest.mark.parametrize(
    ("symbol", "energy", "multiplicity", "around"),
    # UKS PBE/def2-SVP; the singlet of carbon and the like do not converge, so the scan is short for all but nitrogen
    [("H", -13.568, 2, 1), ("C", -1027.263, 3, 0), ("N", -1482.111, 4, 0), ("O", -2038.532, 3, 0)],
)
def test_ground_states_of_hydrogen_carbon_nitrogen_oxygen(
    symbol: str, energy: float, multiplicity: int, around: int
) -> None:
    pytest.importorskip("pyscf")
    found = atoms_of({**PBE, "elements": (symbol,), "multiplicities_around": around})["energies"]
    assert found["element"].to_numpy().tolist() == [symbol]
    assert found["energy"].item() == pytest.approx(energy, abs=0.005)
    assert found["spin_multiplicity"].item() == multiplicity


def test_the_scan_finds_the_triplet_of_oxygen_below_its_quintet() -> None:
    pytest.importorskip("pyscf")
    made = atoms_of({**PBE, "elements": ("O",), "max_cycles": 12})
    labels = made["labels"]
    assert labels["spin_multiplicity"].to_numpy().tolist() == [1, 3, 5]
    energy = labels["energy"].to_numpy()
    assert energy[1] < energy[2]
    assert made["energies"]["energy"].item() == energy[1]
    assert made["energies"]["identity"].item() == labels["identity"].to_numpy()[1]


def test_elements_come_from_frames_and_known_atoms_are_not_computed_again(hdf5_store: Store) -> None:
    pytest.importorskip("tblite")
    hdf5_store.write("pool", structures_dataset([molecule("CH3OH")]), "structures")
    gfn2 = {"engine": "tblite"}
    h5ml.run(hdf5_store, MODULE, root_key="E0", frames="pool", config=gfn2)
    found = hdf5_store["E0/energies"].load()
    assert found["element"].to_numpy().tolist() == ["H", "C", "O"]
    assert not hdf5_store["E0/labels"]["reused_from"].to_numpy().any()
    h5ml.run(hdf5_store, MODULE, root_key="more", frames="pool", config={**gfn2, "elements": ["N", "h"]})
    labels = hdf5_store["more/labels"].load()
    new = labels["label"].to_numpy().astype(str) == "N"
    assert ((labels["reused_from"].to_numpy().astype(str) == "") == new).all()
    more = hdf5_store["more/energies"].load()
    assert more["energy"].to_numpy()[[0, 1, 3]].tolist() == found["energy"].to_numpy().tolist()
    assert more.attrs["level_of_theory_id"] == found.attrs["level_of_theory_id"]


def test_an_engine_without_spin_computes_each_element_once() -> None:
    made = atoms_of({"engine": "potential", "elements": ("Cu", "Au")}, model=resolve_potential("ase:emt"))
    assert made["labels"]["label"].to_numpy().tolist() == ["Cu", "Au"]
    assert np.isfinite(made["energies"]["energy"]).all()


def test_bad_elements_and_atoms_that_do_not_converge_are_said() -> None:
    pytest.importorskip("tblite")
    with pytest.raises(InvalidConfig, match="no such element"):
        atoms_of({"elements": ("Xx",)})
    with pytest.raises(InvalidConfig, match="no elements"):
        atoms_of({})
    with pytest.raises(ComputeFailed, match="No multiplicity"):
        atoms_of({"elements": ("Fe",), "max_cycles": 1})
