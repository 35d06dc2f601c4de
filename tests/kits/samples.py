"""One small valid dataset of every kind, and ways to cut them into pieces for appending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from h5ml.schemas.kind import Kind
from h5ml.schemas.kinds import BUILT_IN
from h5ml.store.store import Store

UREA = np.array([6, 8, 7, 7, 1, 1, 1, 1])
Values = dict[str, Any]


def sample(kind: str, n: int = 5, seed: int = 0) -> xr.Dataset:
    """A valid dataset of a kind with ``n`` records where the kind has records.

    Parameters
    ----------
    kind : str
        A name in ``BUILT_IN``.
    n : int
        Frames, rows, states or q-points.
    seed : int
        Other values, same shapes (ragged kinds: same numbers of atoms).
    """
    values, attributes = _MAKERS[kind](n, np.random.default_rng(seed))
    return BUILT_IN[kind].dataset(values, {"title": f"sample of {kind}", **attributes})


def samples(n: int = 5, seed: int = 0) -> dict[str, xr.Dataset]:
    """One dataset of every kind, by the name of the kind."""
    return {kind: sample(kind, n, seed) for kind in BUILT_IN}


def key_of(kind: str) -> str:
    """The key under which ``fill_store`` puts a kind; some hold brackets, commas and equal signs."""
    odd = {"trajectory": "crystal[dyn:T=300.00,p=0.00010]", "force_constants": "crystal[opt:atoms,shape]"}
    return f"{odd[kind]}/{kind}" if kind in odd else f"samples/{kind}"


def fill_store(store: Store, n: int = 5, seed: int = 0) -> dict[str, str]:
    """Write one dataset of every kind in one transaction; returns key by kind."""
    with store.transaction("samples") as transaction:
        for kind, dataset in samples(n, seed).items():
            transaction.write(key_of(kind), dataset, kind)
    return {kind: key_of(kind) for kind in BUILT_IN}


def records(dataset: xr.Dataset, kind: Kind | str, start: int, stop: int) -> xr.Dataset:
    """Records ``start ... stop`` of a dataset of a growing kind, ragged or not."""
    kind = BUILT_IN[kind] if isinstance(kind, str) else kind
    cuts = {kind.grows[0]: slice(start, stop)}
    if kind.ragged:
        ends = np.concatenate([[0], np.cumsum(dataset["n_atoms"].values)])
        cuts[kind.grows[1]] = slice(int(ends[start]), int(ends[stop]))
    return dataset.isel({dim: cut for dim, cut in cuts.items() if dim in dataset.sizes})


def count(dataset: xr.Dataset, kind: Kind | str) -> int:
    """Number of records of a dataset of a growing kind."""
    kind = BUILT_IN[kind] if isinstance(kind, str) else kind
    return int(dataset.sizes[kind.grows[0]])


# ----------------------------------------------------------------------------- the makers


def _cells(n: int, rng: np.random.Generator) -> Any:
    return np.diag([5.565, 5.565, 4.684]) + 0.01 * rng.normal(size=(n, 3, 3))


def _atoms(n: int) -> Any:
    return 3 + np.arange(n) % 6


def _structures(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    counts = _atoms(n)
    total = int(counts.sum())
    energy = rng.normal(size=n)
    energy[-1:] = np.nan
    values = {
        "n_atoms": counts,
        "positions": rng.normal(size=(total, 3)),
        "atomic_numbers": UREA[np.arange(total) % 8],
        "cell": _cells(n, rng),
        "pbc": np.ones((n, 3), np.int8),
        "energy": energy,
        "charge": np.zeros(n),
        "spin_multiplicity": np.ones(n, np.int64),
        "label": np.array([f"urea {i}: Å {'x' * i}" for i in range(n)], dtype=object),
    }
    return values, {"source": "made up", "weights": [0.25, 0.75]}


def _trajectory(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    shape = (n, 8, 3)
    values = {
        "positions": rng.normal(size=shape),
        "velocities": rng.normal(size=shape),
        "forces": rng.normal(size=shape),
        "energy": rng.normal(size=n),
        "kinetic_energy": rng.random(n),
        "temperature": 300 + rng.normal(size=n),
        "stress": rng.normal(size=(n, 6)),
        "cell": _cells(n, rng),
        "volume": 145 + rng.normal(size=n),
        "time": 10.0 * np.arange(n),
        "step": 20 * np.arange(n),
        "equilibration": (np.arange(n) < 2).astype(np.int8),
        "conserved_energy": np.full(n, np.nan),
        "atomic_numbers": UREA,
        "masses": np.where(UREA == 1, 1.008, 14.0),
        "pbc": np.ones(3, np.int8),
    }
    return values, {"level_of_theory": "tblite:GFN1-xTB", "temperature_K": 300.0, "steps": [20, 40]}


def _force_constants(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    del n
    values = {
        "force_constants": rng.normal(size=(2, 16, 3, 3)),
        "primitive_positions": rng.normal(size=(2, 3)),
        "primitive_cell": _cells(1, rng)[0],
        "primitive_numbers": UREA[:2],
        "supercell_positions": rng.normal(size=(16, 3)),
        "supercell_cell": _cells(1, rng)[0] * 2,
        "supercell_numbers": np.tile(UREA[:2], 8),
        "supercell_matrix": 2 * np.eye(3, dtype=np.int64),
        "primitive_to_supercell": np.array([0, 8]),
        "primitive_masses": np.array([12.011, 15.999]),
        "unitcell_scaled_positions": rng.random((2, 3)),
        "unitcell_cell": _cells(1, rng)[0],
        "unitcell_numbers": UREA[:2],
        "unitcell_masses": np.array([12.011, 15.999]),
        "primitive_matrix": np.eye(3),
        "born_charges": rng.normal(size=(2, 3, 3)),
        "dielectric_tensor": 2.0 * np.eye(3),
    }
    return values, {"displacement": 0.01}


def _phonons(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "q_point": rng.random((n, 3)),
        "weight": np.full(n, 1 / max(n, 1)),
        "frequency": rng.normal(size=(n, 6)),
        "distance": (("q",), 0.1 * np.arange(n), {"units": "1/Angstrom"}),
        "label": np.array([("Gamma", "", "X")[i % 3] for i in range(n)], dtype=object),
        "eigenvector_real": rng.normal(size=(n, 6, 6)),
        "eigenvector_imaginary": rng.normal(size=(n, 6, 6)),
    }
    return values, {}


def _thermodynamics(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    free_energy = rng.normal(size=n)
    free_energy[-1:] = np.nan
    values = {
        "temperature": 100.0 * np.arange(n),
        "reason": np.array([""] * (n - 1) + ["imaginary modes"] * min(n, 1), dtype=object),
        "free_energy": free_energy,
        "internal_energy": rng.normal(size=n),
        "entropy": rng.random(n),
        "heat_capacity": rng.random(n),
    }
    return values, {"pressure_GPa": 0.0001}


def _molecular_crystal(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    del n
    values = {
        "molecule_of_atom": np.repeat([0, 1], 8),
        "image": rng.integers(-1, 2, (16, 3)),
        "atomic_numbers": np.tile(UREA, 2),
        "center_of_mass": rng.normal(size=(2, 3)),
        "formula": np.array(["CH4N2O", "CH4N2O"], dtype=object),
        "charge": np.zeros(2),
        "positions": rng.normal(size=(16, 3)),
        "cell": _cells(1, rng)[0],
        "bond": np.array([[0, 1], [0, 2], [8, 9]]),
        "bond_shift": rng.integers(-1, 2, (3, 3)),
        "neighbor_molecule": np.array([1, 0, 0, 1]),
        "neighbor_image": rng.integers(-1, 2, (4, 3)),
        "neighbor_minimum_distance": rng.random(4),
        "neighbor_maximum_distance": 5.0 + rng.random(4),
        "neighbor_center_distance": 3.0 + rng.random(4),
    }
    return values, {"identical_molecules": True, "central_molecule": 1}


def _clusters(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values, attributes = _structures(n, rng)
    total = len(values["positions"])
    values["source_frame"] = np.arange(n)
    values["n_molecules"] = np.ones(n, np.int64)
    values["molecule"] = np.zeros(total, np.int64)
    values["source_molecule"] = np.zeros(total, np.int64)
    values["source_atom"] = np.arange(total) % 3
    values["source_image"] = rng.integers(-1, 2, (total, 3))
    values["intact"] = (np.arange(n) % 2).astype(np.int8)
    values["source_intact"] = np.zeros(n, np.int8)
    values["weight"] = rng.random(n)
    return values, attributes


def _features(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "features": rng.normal(size=(n, 7)),
        "source_frame": np.arange(n),
        "composition": np.array(["CH4N2O"] * n, dtype=object),
        "fingerprint": (("record", "bit"), rng.random((n, 4)).astype(np.float32), {"units": "1"}),
    }
    return values, {"descriptor": "made up"}


def _selection(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "source": np.arange(n) % 2,
        "source_frame": rng.integers(0, 9, n),
        "source_key": ["samples/structures@1", "samples/trajectory@1"],
        "source_digest": ["0" * 64, "1" * 64],
        "distance": rng.random(n),
        "feature_record": np.arange(n),
    }
    return values, {"method": "made up"}


def _labels(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values, _ = _structures(n, rng)
    total = len(values["positions"])
    values |= {
        "forces": rng.normal(size=(total, 3)),
        "stress": rng.normal(size=(n, 6)),
        "dipole": rng.normal(size=(n, 3)),
        "charges": rng.normal(size=total),
        "converged": np.isfinite(values["energy"]),
        "status": np.where(np.isfinite(values["energy"]), 0, 2),
        "iterations": 7 + np.arange(n),
        "attempt": np.arange(n) % 2,
        "identity": np.array([f"{i:064x}" for i in range(n)], dtype=object),
        "source": np.arange(n) % 2,
        "source_frame": rng.integers(0, 9, n),
        "source_key": np.array(["samples/structures@1", "samples/trajectory@1"], dtype=object),
        "source_digest": np.array(["0" * 64, "1" * 64], dtype=object),
        "message": np.array([""] * (n - 1) + ["not converged"] * min(n, 1), dtype=object),
        "reused_from": np.array([""] * n, dtype=object),
        "wall_time": rng.random(n),
    }
    return values, {"level_of_theory": '{"engine":"made up","method":"PBE0"}', "level_of_theory_id": "0" * 64}


def _phases(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {"phase": rng.integers(-1, 2, n), "phase_name": np.array(["liquid", "form I"], dtype=object)}
    return values, {}


def _checkpoint(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    del n
    values = {
        "layers.0.weight": (("rows", "columns"), rng.normal(size=(4, 3)).astype(np.float32), {"units": "1"}),
        "layers.0.bias": (("rows",), rng.normal(size=4), {"units": "1"}),
        "scale": ((), np.float64(1.5), {"units": "eV"}),
        "n_averaged": ((), np.int64(7), {"units": "1"}),
        "mask": (("columns",), np.array([1, 0, 1], np.int8), {"flag_values": [0, 1], "flag_meanings": "no yes"}),
        "nothing": (("none", "columns"), np.zeros((0, 3)), {"units": "1"}),
        "elements": (("element",), np.array(["H", "C", "Å∕🧪"], dtype=object)),
    }
    model = {"architecture": "toy", "options": {"layers": [1], "cutoff": 5.0, "gate": None}}
    return values, {"model": model, "epoch": 3, "finite": False, "loss": float("nan"), "heads": ["only"]}


def _training_set(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    del rng
    values = {
        "source": np.zeros(n, np.int64),
        "source_frame": np.arange(n),
        "split": (np.arange(n) % 3).astype(np.int8),
        "source_key": np.array([f"{key_of('trajectory')}@1"], dtype=object),
        "weight": np.linspace(1.0, 2.0, n),
        "group": np.arange(n) // 2,
        "composition": np.array(["CH4N2O"] * n, dtype=object),
    }
    return values, {"isolated_atom_energies_eV": '{"1":-13.6,"6":-1027.3}', "level_of_theory": "made up"}


def _evaluation(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "group_type": np.array(["all", "element"], dtype=object),
        "group_name": np.array(["all", "Å"], dtype=object),
        "n_frames": [n, n],
        "energy_mae": [0.01, np.nan],
        "force_rmse": rng.random(2),
        "energy_error": (("frame",), rng.normal(size=n), {"units": "eV"}),
        "rmse": ((), np.float64(0.01), {"units": "eV"}),
    }
    return values, {}


def _observables(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "density": (("record",), rng.random(n), {"units": "1"}),
        "tensor": (("record", "xyz", "xyz_2"), rng.normal(size=(n, 3, 3)), {"units": "1"}),
        "wall_time": (("record",), rng.random(n), {"units": "fs", "volatile": 1}),
    }
    return values, {}


def _table(n: int, rng: np.random.Generator) -> tuple[Values, Values]:
    values = {
        "row": (("row",), np.arange(n), {"units": "1"}),
        "name": (("row",), np.array([f"row {i}" for i in range(n)], dtype=object)),
        "value": (("row",), rng.normal(size=n), {"units": "eV", "comment": "Ångström\nsecond line"}),
        "good": (("row",), (rng.random(n) > 0.5).astype(np.int8), {"flag_values": [0, 1], "flag_meanings": "no yes"}),
    }
    return values, {"empty": "", "largest": 2**63 - 1, "nested": {"a": [1, [2]]}}


_MAKERS: dict[str, Callable[[int, np.random.Generator], tuple[Values, Values]]] = {
    "structures": _structures,
    "trajectory": _trajectory,
    "force_constants": _force_constants,
    "phonons": _phonons,
    "thermodynamics": _thermodynamics,
    "molecular_crystal": _molecular_crystal,
    "clusters": _clusters,
    "features": _features,
    "labels": _labels,
    "phases": _phases,
    "selection": _selection,
    "checkpoint": _checkpoint,
    "training_set": _training_set,
    "evaluation": _evaluation,
    "observables": _observables,
    "table": _table,
}
