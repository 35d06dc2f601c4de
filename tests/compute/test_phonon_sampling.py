"""Phonon sampling against the analytic ensemble, dense diagonalisation and phonopy; its errors; its continuation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.phonon.random_displacements import RandomDisplacements
from phonopy.structure.atoms import PhonopyAtoms

import h5ml
from h5ml.compute.lattice.force_constants import dataset_of
from h5ml.compute.lattice.modes import SupercellModes, fitting_points, normal_modes
from h5ml.compute.phonon_sampling import MODULE
from h5ml.compute.phonon_sampling_config import PhononSampling
from h5ml.compute.phonon_sampling_draw import SAMPLED, Draw, status_of
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.structure.frames import iterate_atoms
from h5ml.schemas.errors import ComputeFailed, H5mlError, InvalidConfig, InvalidData
from h5ml.tests.kits.lattice import SKEWED, copper_gold, dense_modes
from h5ml.tests.kits.runner import FakeResult, FakeRunner

ALL = {"k_point_mesh": "supercell", "freq_max_THz": None}
Floats = NDArray[np.float64]


@functools.cache
def alloy() -> xr.Dataset:
    return dataset_of(copper_gold())


def sampled(
    constants: xr.Dataset | None = None, model: Potential | None = None, seed: int = 0, **more: Any
) -> FakeResult:
    inputs = {"force_constants": alloy() if constants is None else constants, "model": model}
    return FakeRunner(MODULE, more, inputs, seed=seed).run()


def displacements(made: FakeResult) -> Floats:
    """Displacements (frame, 3 atoms) from the supercell of the alloy."""
    frames = np.array([atoms.positions for atoms in iterate_atoms(made.outputs["structures"])])
    return (frames - copper_gold().supercell.positions).reshape(len(frames), -1)


def mean_energy(frequency_THz: Floats, temperature_K: float, amplitude: str) -> Floats:
    """Of an oscillator (eV), with ASE's constants; independent of the code under test."""
    thermal = units.kB * temperature_K
    half = 0.5 * units._hplanck * 1e12 / units._e * frequency_THz
    return half / np.tanh(half / thermal) if amplitude == "quantum" else np.full_like(frequency_THz, thermal)


def dense_covariance(temperature_K: float, amplitude: str, *, gamma: bool, low: float, high: float) -> Floats:
    """Covariance (3 atoms, 3 atoms) of the modes of a window, from the dynamical matrix of the whole supercell."""
    phonon = copper_gold()
    values, vectors = dense_modes(phonon)
    frequencies = np.sqrt(np.abs(values)) * phonon.unit_conversion_factor
    if gamma:  # modes whose pattern is the same in all cells
        origin = np.array([phonon.primitive.p2p_map[s] for s in phonon.primitive.s2p_map])
        parts = vectors.reshape(len(origin), 3, -1)
        shares = sum(np.sum(parts[origin == k].sum(axis=0) ** 2, axis=0) / 12 for k in range(2))
        assert np.all((shares > 1 - 1e-6) | (shares < 1e-6))  # no mode is degenerate with one of another point
        kept = (shares > 0.5) & (frequencies > low) & (frequencies < high)
    else:
        kept = (frequencies > low) & (frequencies < high)
    squares = mean_energy(frequencies[kept], temperature_K, amplitude) / values[kept]
    masses = np.repeat(phonon.supercell.masses, 3)
    return (vectors[:, kept] * squares) @ vectors[:, kept].T / np.sqrt(np.outer(masses, masses))


def standard_scores(drawn: Floats, expected: Floats) -> Floats:
    """Deviation of each element of the sampled covariance in its standard errors, by Wick's theorem."""
    found = drawn.T @ drawn / len(drawn)
    errors = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(drawn))
    upper = np.triu_indices(len(expected))
    return ((found - expected) / errors)[upper]


# --- the ensemble ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude", ["quantum", "classical"])
@pytest.mark.parametrize("points", ["gamma", "supercell"])
def test_mean_energy_of_each_mode_and_covariance_of_atoms_are_the_analytic_ones(amplitude: str, points: str) -> None:
    window = {"k_point_mesh": points, "freq_min_THz": 0.1, "freq_max_THz": None}
    made = sampled(phonon_filter=window, amplitude=amplitude, n_frames=4000, temperature_K=120.0)
    drawn, phonon = displacements(made), copper_gold()
    expected = dense_covariance(120.0, amplitude, gamma=points == "gamma", low=0.1, high=np.inf)
    scores = standard_scores(drawn, expected)
    # thousands of correlated scores, of which 0.3 % may pass 3 by chance
    assert np.mean(np.abs(scores) > 3.0) < 0.012
    assert np.abs(scores).max() < 5.0
    # energy of each mode of the whole supercell, twice its potential part
    values, vectors = dense_modes(phonon)
    squares = (drawn * np.sqrt(np.repeat(phonon.supercell.masses, 3)) @ vectors) ** 2
    energies, kept = (values * squares).mean(axis=0), values > (0.1 / phonon.unit_conversion_factor) ** 2
    if points == "gamma":
        kept &= energies > 1e-9
        assert kept.sum() == 3
    wanted = mean_energy(np.sqrt(values[kept]) * phonon.unit_conversion_factor, 120.0, amplitude)
    errors = wanted * np.sqrt(2.0 / len(drawn))  # the square of a Gaussian number has the variance 2
    scores = (energies[kept] - wanted) / errors
    assert np.abs(scores).max() < 3.0  # by chance one of 69 modes passes 3 for every sixth seed
    assert points == "gamma" or 0.8 < scores.std() < 1.2
    table = made.outputs["modes"]
    total = float((table["mean_energy"] * table["weight"]).sum())
    assert total == pytest.approx(wanted.sum(), rel=1e-5)
    assert made.outputs["structures"]["harmonic_energy"].mean() == pytest.approx(energies[kept].sum() / 2, rel=1e-6)


def test_a_frequency_window_samples_its_modes_and_no_others() -> None:
    made = sampled(phonon_filter={"k_point_mesh": "supercell", "freq_min_THz": 2.0, "freq_max_THz": 4.0}, n_frames=3000)
    scores = standard_scores(displacements(made), dense_covariance(298.15, "quantum", gamma=False, low=2.0, high=4.0))
    assert np.mean(np.abs(scores) > 3.0) < 0.012
    assert np.abs(scores).max() < 5.0
    table = made.outputs["modes"]
    inside = (table["frequency"] > 2.0) & (table["frequency"] < 4.0)
    assert np.array_equal(table["status"] == SAMPLED, inside)


@pytest.mark.parametrize("amplitude", ["quantum", "classical"])
def test_the_covariance_that_is_drawn_from_is_that_of_phonopy(amplitude: str) -> None:
    phonon = copper_gold()
    modes = normal_modes(phonon, fitting_points(SKEWED))
    config = PhononSampling.parse({"amplitude": amplitude, "phonon_filter": ALL, "temperature_K": 77.0})
    draw = Draw(config, modes, status_of(modes, config.phonon_filter, config.cutoff_THz), 0)
    cell, covariance = SupercellModes(modes, phonon), 0.0
    for q, mode in draw.chosen:
        for part in (1.0, 1j)[: 1 + int(modes.paired[q])]:
            coordinates = np.zeros(modes.eigenvalues.shape, dtype=complex)
            coordinates[q, mode] = part * draw.deviations[q, mode]
            moved = cell.displacements(coordinates).ravel()
            covariance += np.outer(moved, moved)
    other = RandomDisplacements(
        phonon.supercell, phonon.primitive, phonon.force_constants, dist_func=amplitude, cutoff_frequency=0.05
    )
    other.run_correlation_matrix(77.0)
    # both take phonopy's frequencies; their constants differ by less than 1e-5
    assert np.allclose(covariance, other.uu.transpose(0, 2, 1, 3).reshape(72, 72), atol=1e-5 * np.abs(other.uu).max())


def test_frames_of_one_mode_alone_move_along_it() -> None:
    made = sampled(phonon_filter={"selected_modes": [4, 6]}, frames="per_mode", n_frames=1500)
    frames, table = made.outputs["structures"], made.outputs["modes"]
    assert frames.sizes["frame"] == 3000
    assert frames["mode"].to_numpy()[:4].tolist() == [4, 6, 4, 6]
    for mode in (4, 6):
        energies = 2.0 * frames["harmonic_energy"].to_numpy()[frames["mode"].to_numpy() == mode]
        wanted = float(table["mean_energy"][0, mode - 1])
        assert abs(energies.mean() - wanted) < 3.0 * wanted * np.sqrt(2.0 / 1500)
    one = displacements(made)[frames["mode"].to_numpy() == 4]
    assert np.linalg.matrix_rank(one, tol=1e-8) == 1


# --- the legacy scans -----------------------------------------------------------------------------------------------


def test_time_propagation_is_the_cosine_of_the_reference() -> None:
    made = sampled(
        phonon_filter={"selected_modes": [6]}, amplitude="legacy_time_propagation", n_frames=5, time_step_fs=40.0
    )
    phonon = copper_gold()
    phonon.run_qpoints([[0, 0, 0]], with_eigenvectors=True)
    frequency = phonon.qpoints.frequencies[0, 5]
    vector = phonon.qpoints.eigenvectors[0][:, 5].real.reshape(2, 3)
    origin = np.array([phonon.primitive.p2p_map[s] for s in phonon.primitive.s2p_map])
    # A = sqrt(E / m) / omega, in the units of the SI
    energy = mean_energy(frequency, 298.15, "quantum") * units._e
    amplitude = np.sqrt(energy / (phonon.primitive.masses * units._amu)) / (2e12 * np.pi * frequency) * 1e10
    still = (amplitude[:, None] * vector)[origin].ravel() / np.sqrt(12)
    phases = np.cos(2e-3 * np.pi * frequency * 40.0 * np.arange(5))
    found = displacements(made)
    sign = np.sign(found[0] @ still)
    assert np.allclose(found, sign * np.outer(phases, still), atol=1e-6)


@pytest.mark.parametrize(("amplitude", "factor"), [("legacy_time_propagation", 1 / 2), ("legacy_random", 1 / 3)])
def test_a_legacy_scan_has_the_variance_that_it_states(amplitude: str, factor: float) -> None:
    made = sampled(phonon_filter=ALL, amplitude=amplitude, frames="per_mode", n_frames=80, time_step_fs=37.3)
    frames, table = made.outputs["structures"], made.outputs["modes"]
    assert frames.attrs["variance_factor"] == pytest.approx(factor)
    energies = 2.0 * frames["harmonic_energy"].to_numpy().reshape(80, -1)
    chosen = table["status"].to_numpy() == SAMPLED
    canonical = (table["mean_energy"] * table["weight"]).to_numpy()[chosen]
    # 3 standard errors: the square of a uniform number from -1 to 1 has the variance 4/45 (a cosine comes closer)
    assert (energies / canonical).mean() == pytest.approx(factor, abs=3 * np.sqrt(4 / 45 / energies.size))
    # E = omega^2 <c^2>: the table states what was sampled
    omega = 2e12 * np.pi * table["frequency"].to_numpy()
    stated = omega**2 * table["mean_square_coordinate"].to_numpy() * units._amu * 1e-20 / units._e
    assert np.allclose(stated[chosen], factor * table["mean_energy"].to_numpy()[chosen], rtol=1e-5)


def test_an_equidistant_scan_goes_from_one_turning_point_to_the_other() -> None:
    made = sampled(phonon_filter={"selected_modes": [5]}, amplitude="legacy_equidistant", n_frames=5)
    found = displacements(made)
    assert np.allclose(found, np.outer([-1, -0.5, 0, 0.5, 1], found[-1]), atol=1e-12)
    assert np.mean(found**2, axis=0) == pytest.approx(
        made.outputs["structures"].attrs["variance_factor"] * found[-1] ** 2
    )
    with pytest.raises(InvalidConfig, match="one mode at a time"):
        sampled(amplitude="legacy_equidistant")


# --- energies and clusters ------------------------------------------------------------------------------------------


def test_energies_of_the_model_are_the_harmonic_ones_for_small_displacements() -> None:
    model = resolve_potential("ase:emt")
    made = sampled(model=model, phonon_filter=ALL, amplitude="classical", temperature_K=0.5, n_frames=6)
    frames = made.outputs["structures"]
    perfect = Atoms(
        numbers=copper_gold().supercell.numbers,
        positions=copper_gold().supercell.positions,
        cell=copper_gold().supercell.cell,
        pbc=True,
    )
    perfect.calc = model.fresh()
    rise = frames["energy"].to_numpy() - perfect.get_potential_energy()
    # the cubic terms are of the order of displacement over atomic distance, 1 %
    assert np.allclose(rise, frames["harmonic_energy"], rtol=0.03)
    assert frames["forces"].shape == (6 * 24, 3)
    plain = sampled(model=model, evaluate=False, n_frames=2)
    assert "energy" not in plain.outputs["structures"]
    assert plain.requests == ["Replace", "Block"]  # no map: such a run stays where it is


class Fails(EMT):
    """Fails where the first atom has moved to the right."""

    def calculate(self, atoms: Any = None, *more: Any) -> None:
        if atoms.positions[0, 0] > float(self.parameters.get("limit", 0.0)):
            raise CalculationFailed("too far")
        super().calculate(atoms, *more)


def test_a_frame_that_the_model_cannot_do_is_marked_and_kept() -> None:
    made = sampled(model=Potential("fails", "fails", Fails, {"engine": "fails"}), n_frames=8)
    frames = made.outputs["structures"]
    bad = frames["positions"].to_numpy().reshape(8, 24, 3)[:, 0, 0] > 0.0
    assert 0 < bad.sum() < 8
    assert np.array_equal(np.isnan(frames["energy"]), bad)
    assert np.array_equal(np.isnan(frames["forces"].to_numpy().reshape(8, -1)).all(axis=1), bad)


def test_blocks_of_failed_frames_are_kept_once_a_frame_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5ml.compute.phonon_sampling._EVALUATED_AT_ONCE", 1)
    right = sampled(evaluate=False, n_frames=8).outputs["structures"]["positions"].to_numpy().reshape(8, 24, 3)[:, 0, 0]
    bad = right > right[0] + 1e-9
    assert 0 < bad.sum() < 8
    some = functools.partial(Fails, limit=float(right[0]) + 1e-9)
    frames = sampled(model=Potential("fails", "fails", some, {"engine": "fails"}), n_frames=8).outputs["structures"]
    assert np.array_equal(np.isnan(frames["energy"]), bad)
    assert np.array_equal(np.isnan(frames["stress"].to_numpy()).all(axis=1), bad)


def test_a_model_that_fails_for_every_frame_stops_the_run() -> None:
    never = functools.partial(Fails, limit=-9.0)
    with pytest.raises(ComputeFailed):
        sampled(model=Potential("fails", "fails", never, {"engine": "fails"}), n_frames=2)


@functools.cache
def carbon_dioxide() -> xr.Dataset:
    """Solid CO2 (Pa-3, a = 5.62 Angstrom) with springs along its bonds and between its molecules."""
    off = 0.1185
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    axes = np.array([[1, 1, 1], [-1, 1, -1], [-1, -1, 1], [1, -1, -1]])
    scaled = np.concatenate([[c, c + off * a, c - off * a] for c, a in zip(corners, axes, strict=True)])
    phonon = Phonopy(
        PhonopyAtoms(symbols=["C", "O", "O"] * 4, scaled_positions=scaled, cell=5.62 * np.eye(3)),
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix=np.eye(3),
    )
    cell = Atoms(
        numbers=phonon.supercell.numbers, positions=phonon.supercell.positions, cell=phonon.supercell.cell, pbc=True
    )
    vectors = cell.get_all_distances(mic=True, vector=True)
    lengths = np.linalg.norm(vectors, axis=2)
    strength = np.select([lengths == 0.0, lengths < 1.3, lengths < 3.8], [0.0, 60.0, 0.3])
    along = vectors / np.where(lengths == 0.0, 1.0, lengths)[:, :, None]
    constants = -strength[:, :, None, None] * along[:, :, :, None] * along[:, :, None, :]
    constants[np.arange(len(cell)), np.arange(len(cell))] = -constants.sum(axis=1)
    phonon.force_constants = constants
    return dataset_of(phonon)


def test_clusters_are_cut_from_each_frame() -> None:
    rule = {"n_molecules": [1, 2, 4]}
    made = sampled(carbon_dioxide(), finite_subsystem_filter=rule, n_frames=3, temperature_K=100.0)
    assert set(made.outputs) == {
        "structures",
        "modes",
        "molecular_crystal",
        *(f"finite_subsystems/n={n}" for n in (1, 2, 4)),
    }
    assert made.outputs["molecular_crystal"].sizes["molecule"] == 32
    clusters = made.outputs["finite_subsystems/n=4"]
    assert clusters["source_frame"].to_numpy().tolist() == [0, 1, 2]
    assert clusters["n_atoms"].to_numpy().tolist() == [12] * 3
    frames = list(iterate_atoms(made.outputs["structures"]))
    for atoms, frame, cluster in zip(
        np.split(clusters["source_atom"].to_numpy(), 3), frames, iterate_atoms(clusters), strict=True
    ):
        there = frame.get_all_distances(mic=True)[np.ix_(atoms[:3], atoms[:3])]
        assert np.allclose(cluster.get_all_distances()[:3, :3], there)


# --- where frames come from -----------------------------------------------------------------------------------------


def test_frames_do_not_depend_on_interruptions_nor_on_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"phonon_filter": ALL, "n_frames": 9}
    inputs = {"force_constants": alloy(), "model": None}
    whole = FakeRunner(MODULE, settings, inputs, seed=5).run()
    monkeypatch.setattr("h5ml.compute.phonon_sampling._ATOMS_AT_ONCE", 50)  # two frames of 24 atoms a block
    parts = FakeRunner(MODULE, settings, inputs, seed=5)
    assert parts.run(blocks=2).outputs["structures"].sizes["frame"] == 4
    resumed = parts.resume()
    assert resumed.blocks == 5
    for name in ("structures", "modes"):
        assert resumed.digest(name) == whole.digest(name)
    other = FakeRunner(MODULE, settings, inputs, seed=6).run()
    assert other.digest("structures") != whole.digest("structures")


def test_a_run_is_extended_in_a_store(tmp_path: Path) -> None:
    store = h5ml.open(tmp_path / "phonons.h5", make=True)
    store.write("force_constants", alloy(), "force_constants")
    settings: dict[str, Any] = {"force_constants": "force_constants", "phonon_filter": ALL, "seed": 1}
    short = h5ml.run(store, MODULE, root_key="training/phonon_sampling", n_frames=3, **settings)
    longer = h5ml.run(store, MODULE, root_key="training/phonon_sampling", n_frames=7, **settings)
    direct = h5ml.run(store, MODULE, root_key="other", n_frames=7, new_version=True, **settings)
    assert longer.continues == short.id
    assert longer.outputs["structures"].digest == direct.outputs["structures"].digest
    scan = {**settings, "phonon_filter": {"selected_modes": [5]}, "amplitude": "legacy_equidistant"}
    h5ml.run(store, MODULE, root_key="scan", n_frames=3, **scan)
    with pytest.raises(InvalidConfig, match="cannot be extended"):
        h5ml.run(store, MODULE, root_key="scan", n_frames=5, **scan)


def test_the_settings_of_the_reference_are_taken_as_they_stand() -> None:
    config = PhononSampling.parse(
        {
            "temperature_K": 298.15,
            "phonon_filter": {"k_point_mesh": "gamma", "freq_min_THz": 0.1, "freq_max_THz": 8.0},
            "finite_subsystem_filter": {
                "selection_rule": "closest_to_central_molecule",
                "n_molecules": [1, 2, 3, 4, 5, 6, 7, 8],
            },
            "time_step_fs": 100.0,
            "n_frames": 20,
        }
    )
    assert config.phonon_filter == PhononSampling().phonon_filter
    assert set(MODULE.outputs(config)) >= {"structures", "modes", "molecular_crystal", "finite_subsystems/n=8"}
    assert PhononSampling.parse({"phonon_filter": {"k_point_mesh": 15}}).phonon_filter.k_point_mesh == 15.0
    assert PhononSampling.parse({"phonon_filter": {"k_point_mesh": [2, 1, 3]}}).phonon_filter.k_point_mesh == (2, 1, 3)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_mesh_that_does_not_fit_is_refused_or_gets_its_own_supercell() -> None:
    mesh = {"k_point_mesh": [2, 2, 2], "freq_max_THz": None}
    with pytest.raises(InvalidConfig, match="does not fit") as error:
        sampled(phonon_filter=mesh)
    assert "2 x 2 x 2 primitive cells, 16 atoms" in str(error.value)
    made = sampled(phonon_filter=mesh, supercell="commensurate", n_frames=2)
    assert made.outputs["structures"]["n_atoms"].to_numpy().tolist() == [16, 16]
    assert made.outputs["modes"]["weight"].to_numpy().tolist() == [1.0] * 8
    assert sampled(phonon_filter={**mesh, "k_point_mesh": [1, 1, 2]}, n_frames=1).done


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"phonon_filter": {"selected_modes": [1]}}, InvalidData, "translation of the whole crystal"),
        ({"phonon_filter": {"selected_modes": [7]}}, InvalidConfig, "no mode of that number"),
        ({"phonon_filter": {"freq_min_THz": 50.0, "freq_max_THz": 60.0}}, InvalidConfig, "No phonon mode is selected"),
        ({"phonon_filter": {"selected_modes": [0]}}, InvalidConfig, "counted from 1"),
        ({"phonon_filter": {"freq_min_THz": 5.0, "freq_max_THz": 5.0}}, InvalidConfig, "window is empty"),
        ({"phonon_filter": {"k_point_mesh": [0, 1, 1]}}, InvalidConfig, "at least 1"),
        ({"phonon_filter": {"k_point_mesh": "X"}}, InvalidConfig, "k_point_mesh"),
        ({"phonon_filter": {"k_point_mesh": 1e4}, "supercell": "commensurate"}, InvalidConfig, "too large"),
        ({"amplitude": "classical", "temperature_K": 0}, InvalidConfig, "0 K"),
        ({"cutoff_THz": 20.0}, InvalidConfig, "No phonon mode is selected"),
    ],
)
def test_a_choice_that_cannot_be_sampled_is_refused(settings: dict[str, Any], kind: type[H5mlError], said: str) -> None:
    with pytest.raises(kind) as error:
        sampled(**settings)
    assert said in str(error.value)


def test_imaginary_modes_are_marked_and_never_sampled() -> None:
    constants = alloy().copy(deep=True)
    constants["force_constants"] *= -1.0
    with pytest.raises(InvalidConfig, match="No phonon mode"):
        sampled(constants)
    with pytest.raises(InvalidData, match="imaginary"):
        sampled(constants, phonon_filter={"selected_modes": [2]})
    shifted = alloy().copy(deep=True)  # a spring of each atom to its place pushes the lowest modes down alone
    at = shifted["primitive_to_supercell"].to_numpy()
    shifted["force_constants"].to_numpy()[[0, 1], at] -= 0.6 * np.eye(3)
    made = sampled(shifted, phonon_filter=ALL, n_frames=2)
    table = made.outputs["modes"]
    imaginary = table["frequency"] < -0.05
    assert 0 < table.attrs["n_imaginary_modes"] < 48
    assert (table["mean_square_coordinate"].to_numpy()[imaginary] == 0.0).all()
    assert np.isfinite(displacements(made)).all()
