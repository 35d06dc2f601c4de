"""Files as mbe-automation writes them, in both layouts: made here, from real lattice dynamics and made-up frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

A, PER = "\u212b", "\u2215"  # the Angstrom sign and the division slash that stand in the names of such files
ROOT, LABEL, OPT = "training/md_sampling", "crystal[dyn:T=298.15,p=0.00010]", "crystal[opt:atoms,shape]"
PHONONS, SAMPLES = "training/quasi_harmonic/phonons", "training/phonon_sampling"
METHOD = "wB97M-V/def2-TZVP"
SUPERCELL = ((1, 1, -1), (-1, 1, 1), (1, -1, 1))  # cubic, and not symmetric: rows and columns cannot be mixed up
Array = NDArray[Any]

PLACES = {
    "seed": {
        "trajectory": f"{ROOT}/{LABEL}/trajectory",
        "crystal": f"{ROOT}/{LABEL}/molecular_crystal",
        "clusters": f"{ROOT}/{LABEL}/finite_subsystems/n=2",
        "force_constants": f"{PHONONS}/{OPT}/force_constants",
        "bands": f"{PHONONS}/{OPT}/brillouin_zone_path",
    },
    "head": {
        "trajectory": f"{ROOT}/trajectories/{LABEL}",
        "crystal": f"{ROOT}/molecular_crystals/{LABEL}",
        "clusters": f"{ROOT}/finite_subsystems/n=2/{LABEL}",
        "force_constants": f"{PHONONS}/force_constants/{OPT}",
        "bands": f"{PHONONS}/brillouin_zone_paths/{OPT}",
    },
}


def write_file(path: Path, layout: str) -> Path:
    """A file of the layout ``seed`` or ``head`` with one object of every class."""
    rng = np.random.default_rng(3)
    places = PLACES[layout]
    with h5py.File(path, "w") as file:
        _trajectory(file.create_group(places["trajectory"]), rng, layout)
        _crystal(file.create_group(places["crystal"]), rng, layout)
        _subsystem(file.create_group(places["clusters"]), rng, layout, LABEL)
        _subsystem(file.create_group(f"{SAMPLES}/finite_subsystems/n=1"), rng, layout, "one", count=1)
        _phonons(file, places, layout)
        _tables(file, rng, layout)
        _odd_things(file, rng)
    return path


def _fill(group: h5py.Group, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    for name, values in arrays.items():
        group.create_dataset(name, data=values)
    for name, value in attributes.items():
        group.attrs[name] = value


def _named(layout: str, name: str) -> dict[str, str]:
    """The attribute that the first files did not have."""
    return {"dataclass": name} if layout == "head" else {}


def _structure(group: h5py.Group, layout: str, positions: Array, numbers: Array, **more: Any) -> None:
    frames, atoms = (1, len(positions)) if positions.ndim == 2 else positions.shape[:2]
    cell = more.pop("cell", None)
    arrays = {f"positions ({A})": positions, "atomic_numbers": numbers, "masses (u)": Atoms(numbers).get_masses()}
    arrays |= {} if cell is None else {f"cell_vectors ({A})": cell}
    facts = {"n_frames": frames, "n_atoms": atoms, "periodic": cell is not None}
    facts |= {"feature_vectors_type": more.pop("feature_vectors_type", "none")}
    _fill(group, arrays | more, _named(layout, "Structure") | facts)


def molecules(rng: np.random.Generator, frames: int) -> tuple[Array, Array, Array]:
    """Positions, numbers and cell of three N2 molecules, the last one across a face of the cell but whole."""
    centres = np.array([[1.0, 1.0, 1.0], [4.0, 4.0, 4.0], [7.8, 2.0, 5.0]])
    bonds = rng.normal(size=(3, 3))
    bonds *= 0.55 / np.linalg.norm(bonds, axis=1, keepdims=True)
    positions = np.stack([centres - bonds, centres + bonds], axis=1).reshape(6, 3)
    noise = 0.01 * rng.normal(size=(frames, 6, 3))
    noise[0] = 0
    return positions + noise, np.full(6, 7), 8.0 * np.eye(3)


def _trajectory(group: h5py.Group, rng: np.random.Generator, layout: str) -> None:
    frames = 12
    positions, numbers, cell = molecules(rng, frames)
    cells = cell * (1 + 0.01 * rng.normal(size=(frames, 1, 1)))
    arrays = {
        "time (fs)": np.arange(frames) * 50.0,
        "T (K)": 300 + rng.normal(size=frames),
        "p (GPa)": 0.1 * rng.normal(size=frames),
        f"V ({A}³{PER}atom)": np.linalg.det(cells) / 6,
        f"forces (eV{PER}{A})": rng.normal(size=(frames, 6, 3)),
        f"velocities ({A}{PER}fs)": 0.01 * rng.normal(size=(frames, 6, 3)),
        f"E_kin (eV{PER}atom)": rng.random(frames),
        f"E_pot (eV{PER}atom)": -100 * rng.random(frames),
        f"E_trans_drift (eV{PER}atom)": 1e-6 * rng.random(frames),
        f"positions ({A})": positions,
        "atomic_numbers": numbers,
        "masses (u)": Atoms(numbers).get_masses(),
        f"cell_vectors ({A})": cells,
        "feature_vectors": rng.normal(size=(frames, 6, 4)).astype(np.float32),
    }
    attributes = {
        "ensemble": "NPT",
        "n_frames": frames,
        "n_atoms": 6,
        "periodic": True,
        "feature_vectors_type": "atomic_environments",
        "target_temperature (K)": 298.15,
        "target_pressure (GPa)": 1e-4,
        "time_equilibration (fs)": 150.0,
        "n_removed_trans_dof": 3,
        "n_removed_rot_dof": 0,
    }
    attributes |= {"level_of_theory": "mace-off23-small"} if layout == "head" else {}
    _fill(group, arrays, _named(layout, "Trajectory") | attributes)


def _crystal(group: h5py.Group, rng: np.random.Generator, layout: str) -> None:
    positions, numbers, cell = molecules(rng, 4)
    facts = {"n_molecules": 3, "identical_composition": np.True_, "central_molecule_index": 1}
    centres = positions[0].reshape(3, 2, 3).mean(axis=1)
    arrays = {
        f"centers_of_mass ({A})": centres,
        "index_map": np.arange(6).reshape(3, 2),
        f"min_distances_to_central_molecule ({A})": rng.random(3),
        f"max_distances_to_central_molecule ({A})": 1 + rng.random(3),
    }
    _fill(group, arrays, _named(layout, "MolecularCrystal") | facts)
    energies = {f"E_pot (eV{PER}atom)": -10 * rng.random(4)}
    _structure(group.create_group("supercell"), layout, positions, numbers, cell=cell, **energies)


def _subsystem(group: h5py.Group, rng: np.random.Generator, layout: str, label: str, count: int = 2) -> None:
    positions, numbers, _ = molecules(rng, 5)
    atoms = 2 * count
    facts = _named(layout, "FiniteSubsystem") | {"n_molecules": count}
    _fill(group, {"molecule_indices": np.arange(count)}, facts)
    inner = group.create_group("cluster_of_molecules")
    features = {"feature_vectors": rng.normal(size=(5, atoms, 3)), "feature_vectors_type": "atomic_environments"}
    _structure(inner, layout, positions[:, :atoms], numbers[:atoms], **features)
    truth = inner.create_group("ground_truth")
    name, status = METHOD.replace("/", PER), np.array([0, 0, 2, 1, 3])
    energies = np.where(status == 0, -3000 * rng.random(5) / 7, np.nan)
    forces = np.where((status == 0)[:, None, None], rng.normal(size=(5, atoms, 3)), np.nan)
    arrays = {f"E_{name} (eV{PER}atom)": energies, f"forces_{name} (eV{PER}{A})": forces, f"status_{name}": status}
    arrays |= {f"E_GFN2-xTB (eV{PER}atom)": -80 * rng.random(5)}
    _fill(truth, arrays, {"levels_of_theory": ["GFN2-xTB", METHOD], "label": label})


def copper() -> Phonopy:
    """Lattice dynamics of copper with EMT, in a supercell whose matrix is not symmetric."""
    atoms = bulk("Cu", "fcc", a=3.61)
    cell = PhonopyAtoms(symbols=atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell.array)
    phonons = Phonopy(cell, supercell_matrix=np.array(SUPERCELL) * 2)
    phonons.generate_displacements(distance=0.01)
    forces = []
    for displaced in phonons.supercells_with_displacements:
        image = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True, calculator=EMT())
        forces.append(image.get_forces())
    phonons.forces = forces
    phonons.produce_force_constants()
    paths = [np.linspace([0, 0, 0], [0.5, 0, 0.5], 5), np.linspace([0.5, 0.5, 0.5], [0, 0, 0], 4)]
    phonons.run_band_structure(paths, path_connections=[False, False], labels=["G", "X", "L", "G"])
    return phonons


def _phonons(file: h5py.File, places: Mapping[str, str], layout: str) -> None:
    phonons = copper()
    group = file.create_group(places["force_constants"])
    arrays = {f"force_constants (eV{PER}{A}²)": phonons.force_constants, "supercell_matrix": phonons.supercell_matrix}
    _fill(group, arrays, _named(layout, "ForceConstants"))
    for name, cell in (("primitive", phonons.primitive), ("supercell", phonons.supercell)):
        _structure(group.create_group(name), layout, cell.positions, cell.numbers, cell=cell.cell)
    bands = phonons.band_structure
    group = file.create_group(places["bands"])
    facts = {"n_segments": len(bands.frequencies), "n_bands": bands.frequencies[0].shape[1]}
    _fill(group, {"path_connections": np.array(bands.path_connections)}, _named(layout, "BrillouinZonePath") | facts)
    labels = np.array([name.encode() for name in bands.labels], dtype=object)
    group.create_dataset("labels", data=labels, dtype=h5py.string_dtype())
    for i in range(len(bands.frequencies)):
        group[f"frequencies_segment_{i} (THz)"] = bands.frequencies[i]
        group[f"distances_segment_{i}"] = bands.distances[i]
        group[f"kpoints_segment_{i}"] = bands.qpoints[i]


def _tables(file: h5py.File, rng: np.random.Generator, layout: str) -> None:
    """Data frames: one array per column; and the metadata of equations of state, with tables below them."""
    name = "thermodynamics_fixed_volume" if layout == "head" else "thermodynamics"
    frame = file.create_group(f"training/quasi_harmonic/{name}")
    arrays = {
        "T (K)": np.linspace(5.0, 300.0, 6),
        f"F_vib_crystal (kJ{PER}mol{PER}unit cell)": rng.normal(size=6),
        f"α_V (1{PER}K)": np.array([np.nan, *rng.random(5)]),
        f"V (\u00c5³{PER}unit cell)": 140 + rng.random(6),  # the other spelling of the Angstrom sign
        "system_label": np.array([f"crystal[eq:T={t}]".encode() for t in range(6)]),
        "real_freqs": np.array([True, False] * 3),
    }
    _fill(frame, arrays, {"n_atoms_unit_cell": 16, "all_freqs_real": np.False_})
    if layout == "seed":
        return
    group = file.create_group("training/quasi_harmonic/eos_metadata")
    keys = np.array([PLACES[layout]["force_constants"].encode()] * 2, dtype=object)
    group.create_dataset("force_constants_keys", data=keys, dtype=h5py.string_dtype())
    arrays = {"T (K)": np.linspace(5.0, 300.0, 3), "select_T": np.ones((2, 3), dtype=bool)}
    _fill(group, arrays, {"dataclass": "EOSMetadata", "equation_of_state": "spline"})
    _fill(group.create_group("eec"), {f"V_sampled ({A}³{PER}unit cell)": np.empty(0)}, {"dataclass": "EEC"})
    _fill(group.create_group("debye_model"), {}, {"dataclass": "DebyeModel", "ThetaD (K)": 142.5})


def _odd_things(file: h5py.File, rng: np.random.Generator) -> None:
    """What a user may have put beside them: nothing of it may be lost without a word."""
    file.attrs["about"] = "Å and ∕"
    group = file.create_group("notes")
    arrays = {
        "complex": rng.normal(size=3) + 1j * rng.normal(size=3),
        "half_nan": np.array([0x7D01], dtype=np.uint16).view(np.float16),
        "long": np.array([np.pi, np.nan], dtype=np.longdouble),
        "half": rng.normal(size=4).astype(np.float16),
        "big_endian": np.arange(3, dtype=">f8"),
        "short": np.array([1, -2], dtype=np.int16),
        "one": 2.5,
        "bytes": np.array([b"abc", b"\xff\xfe"]),
        "text": "a line of text",
        "nothing": h5py.Empty("f8"),
        "pairs": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    }
    attributes = {
        "nan": np.nan,
        "minus_zero": -0.0,
        "float32": np.float32(0.1),
        "list": [1, 2, 3],
        "one_of": ["x"],
        "bytes": np.bytes_(b"fixed"),
        "empty": h5py.Empty("f4"),
        "flag": True,
        "complex": 1 + 2j,
    }
    _fill(group, arrays, attributes)
    group["half"].attrs["unit"] = "none"
    file.create_group("empty/inside")
