"""The module md: its frames, its resuming and extending to the last bit, and its refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.units import GPa, fs

from h5ml.compute.md import MODULE
from h5ml.compute.module import Context
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.potentials.harmonic import Springs
from h5ml.schemas.errors import ComputeFailed, InvalidConfig, InvalidData
from h5ml.schemas.kinds import TRAJECTORY
from h5ml.tests.kits.dynamics import ALGORITHMS, LENNARD_JONES, SPRINGS, argon, drive, settings, structures
from h5ml.tests.kits.runner import FakeRunner

ALL = tuple(ALGORITHMS)


def rattled(repeat: int = 2) -> Atoms:
    atoms = argon(repeat)
    atoms.rattle(0.02, seed=5)
    return atoms


@pytest.mark.parametrize("algorithm", ALL)
def test_frames(algorithm):
    config = settings(algorithm, time_total_fs=60.0)
    run = drive(config, rattled())
    assert run.error is None
    found = run.trajectory
    TRAJECTORY.check(found)
    np.testing.assert_array_equal(found["time"], np.arange(7) * 10.0)
    np.testing.assert_array_equal(found["step"], np.arange(7) * 5)
    np.testing.assert_array_equal(found["equilibration"], [1, 1, 0, 0, 0, 0, 0])
    assert [block["trajectory"].sizes["frame"] for block in run.blocks] == [4, 3]
    assert found.attrs["algorithm"] == algorithm
    assert found.attrs["n_degrees_of_freedom"] == 93
    np.testing.assert_allclose(found["temperature"], 2 * found["kinetic_energy"] / (93 * 8.617330337217213e-05))
    if algorithm != "velocity_verlet":
        np.testing.assert_array_equal(found["target_temperature"], 40.0)
    moved = not np.array_equal(found["cell"][0], found["cell"][-1])
    assert moved == (config.ensemble == "NPT")


@pytest.mark.parametrize("algorithm", ["csvr", "mtk_full"])
def test_each_frame_is_what_the_engine_says_of_it(algorithm):
    found = drive(settings(algorithm), rattled(), LENNARD_JONES).trajectory
    for k in (0, 3, 4, 15):
        frame = found.isel(frame=k)
        atoms = Atoms(frame["atomic_numbers"].values, frame["positions"].values, cell=frame["cell"].values, pbc=True)
        atoms.set_velocities(frame["velocities"].values / fs)
        atoms.calc = resolve_potential(LENNARD_JONES).fresh()
        assert atoms.get_potential_energy() == pytest.approx(float(frame["energy"]), abs=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), frame["forces"], atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(), frame["stress"], atol=1e-13)
        assert atoms.get_kinetic_energy() == pytest.approx(float(frame["kinetic_energy"]))
        assert atoms.get_volume() == pytest.approx(float(frame["volume"]))
        stress = atoms.get_stress(include_ideal_gas=True)
        assert -stress[:3].mean() / GPa == pytest.approx(float(frame["pressure"]))


def test_positions_are_not_wrapped():
    config = settings(temperature_K=3000.0, time_step_fs=2.0, time_total_fs=2000.0, sampling_interval_fs=50.0)
    found = drive(config, rattled(1), "harmonic:springs?k=0.0001&r0=2&rc=3").trajectory
    jumps = np.abs(np.diff(found["positions"].values, axis=0))
    assert np.ptp(found["positions"].values) > 8.0
    assert jumps.max() < 2.0


@pytest.mark.parametrize("model", [SPRINGS, LENNARD_JONES])
@pytest.mark.parametrize("algorithm", ALL)
def test_resuming_and_extending_repeat_every_bit(algorithm, model):
    config = settings(algorithm)
    whole = drive(config, rattled(), model)
    killed = drive(config, rattled(), model, blocks=2)
    assert killed.committed == {"trajectory": 8}
    resumed = drive(config, rattled(), model, after=killed)
    assert resumed.trajectory.identical(whole.trajectory)
    for length in (0.0, 100.0, 110.0):  # the first block cut, a later one cut, whole blocks
        short = drive(config.model_copy(update={"time_total_fs": length}), rattled(), model)
        extended = drive(config, rattled(), model, after=short)
        assert extended.trajectory.identical(whole.trajectory), length
        for name in whole.restart.data_vars:
            np.testing.assert_array_equal(extended.restart[name], whole.restart[name], err_msg=str(name))


@pytest.mark.parametrize("algorithm", ALL)
def test_without_memory_in_the_engine_blocks_leave_no_trace(algorithm):
    runs = [drive(settings(algorithm, block_frames=n), rattled()).trajectory for n in (1, 5, 1000)]
    assert runs[0].identical(runs[1])
    assert runs[0].identical(runs[2])


def test_an_engine_with_memory_is_rebuilt_at_each_block():
    runs = [drive(settings(block_frames=n), rattled(), LENNARD_JONES).trajectory for n in (3, 1000)]
    assert not np.array_equal(runs[0]["positions"], runs[1]["positions"])
    np.testing.assert_allclose(runs[0]["positions"], runs[1]["positions"], atol=1e-9)


def test_quantum_chemistry_resumes_and_extends_bit_for_bit():
    """GFN1-xTB starts its self-consistent field from the last one, so it remembers; one thread repeats its bits."""
    methane = molecule("CH4", vacuum=3.0)
    methane.pbc = True
    config = settings("mtk_full", time_step_fs=0.5, sampling_interval_fs=1.0, time_total_fs=7.0, block_frames=3)
    whole = drive(config, methane, "tblite:GFN1-xTB")
    assert whole.error is None
    resumed = drive(config, methane, "tblite:GFN1-xTB", after=drive(config, methane, "tblite:GFN1-xTB", blocks=1))
    assert resumed.trajectory.identical(whole.trajectory)
    short = drive(config.model_copy(update={"time_total_fs": 4.0}), methane, "tblite:GFN1-xTB")
    assert drive(config, methane, "tblite:GFN1-xTB", after=short).trajectory.identical(whole.trajectory)


def test_a_finished_run_has_nothing_left_to_do():
    done = drive(settings(), rattled())
    again = drive(settings(), rattled(), after=done)
    assert again.blocks == []
    assert again.error is None


def test_an_engine_that_does_not_repeat_itself_is_noticed(caplog):
    class Drifting(Springs):
        count = 0

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            Drifting.count += 1
            self.results["forces"] = self.results["forces"] + 1e-9 * Drifting.count

    model = Potential("drifting", "drifting", lambda: Drifting(k=0.05, r0=3.75, rc=4.6), {})
    short = drive(settings(time_total_fs=100.0), rattled(), model)
    with caplog.at_level(logging.WARNING):
        drive(settings(), rattled(), model, after=short)
    assert "does not repeat itself" in caplog.text


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_asked_to_stop_it_yields_a_cut_block_and_resumes_bit_for_bit(stop_after):
    config, inputs = settings("csvr"), {"crystal": structures(rattled()), "model": resolve_potential(LENNARD_JONES)}
    whole = FakeRunner(MODULE, config.canonical(), inputs).run()
    asked = iter([False] * stop_after + [True] * 1000)
    generator = MODULE.function(config, inputs, Context(stopping=lambda: next(asked)))
    first = next(generator)
    generator.close()
    cut = first.data["trajectory"]
    assert cut.sizes["frame"] == min(stop_after + 1, config.block_frames)
    rest = MODULE.function(config, inputs, Context(restart=first.restart, committed={"trajectory": cut.sizes["frame"]}))
    joined = [cut, *(block.data["trajectory"] for block in rest)]
    for name in ("positions", "velocities", "energy"):
        found = np.concatenate([block[name].values for block in joined])
        np.testing.assert_array_equal(found, whole.outputs["trajectory"][name].values)


def test_a_missing_restart_state_is_an_error():
    done = drive(settings(), rattled(), blocks=1)
    done.restart = None
    assert isinstance(drive(settings(), rattled(), after=done).error, ComputeFailed)


def test_seeds_differ_and_repeat():
    first, second, other = (drive(settings(), rattled(), seed=seed).trajectory for seed in (1, 1, 2))
    assert first.identical(second)
    assert not np.array_equal(first["velocities"], other["velocities"])


def test_several_conditions_and_replicas():
    config = settings(
        "mtk_isotropic", temperature_K=[30.0, 60.0], pressure_GPa=[0.0, 0.1], replicas=2, time_total_fs=30.0
    )
    run = drive(config, rattled())
    assert list(run.data) == [c.output for c in config.conditions()]
    assert set(MODULE.outputs(config)) == set(run.data)
    starts = np.array([found["velocities"].values[0, 0, 0] for found in run.data.values()])
    assert len(set(starts)) == 8
    assert run.progress[-1][0] == run.progress[-1][1]


def test_conditions_do_not_depend_on_their_neighbours_in_the_list():
    several = drive(settings(temperature_K=[30.0, 60.0], replicas=2), rattled())
    swapped = drive(settings(temperature_K=[60.0, 80.0, 30.0], replicas=3), rattled())
    alone = drive(settings(temperature_K=30.0), rattled()).trajectory
    name = "trajectories/crystal[dyn:T=30.00,r=001]"
    assert several.data[name].identical(swapped.data[name])
    assert several.data[name].identical(alone)


def test_several_trajectories_resume_and_extend_bit_for_bit():
    config = settings(temperature_K=[30.0, 60.0])
    whole = drive(config, rattled(), LENNARD_JONES)
    killed = drive(config, rattled(), LENNARD_JONES, blocks=5)
    resumed = drive(config, rattled(), LENNARD_JONES, after=killed)
    short = drive(config.model_copy(update={"time_total_fs": 50.0}), rattled(), LENNARD_JONES)
    extended = drive(config, rattled(), LENNARD_JONES, after=short)
    for name, found in whole.data.items():
        assert resumed.data[name].identical(found)
        assert extended.data[name].identical(found)


def test_temperature_ramp_resumes_bit_for_bit():
    for algorithm in ("csvr", "langevin", "nose_hoover_chain", "mtk_full"):
        config = settings(algorithm, temperature_end_K=80.0, temperature_ramp_fs=100.0)
        whole = drive(config, rattled())
        resumed = drive(config, rattled(), after=drive(config, rattled(), blocks=2))
        assert resumed.trajectory.identical(whole.trajectory)
        targets = whole.trajectory["target_temperature"].values
        np.testing.assert_allclose(targets, np.minimum(40.0 + 0.4 * whole.trajectory["time"], 80.0))


def test_the_ramp_heats():
    config = settings(
        temperature_K=20.0,
        temperature_end_K=120.0,
        temperature_ramp_fs=2000.0,
        time_total_fs=4000.0,
        sampling_interval_fs=50.0,
    )
    found = drive(config, rattled(), "harmonic:springs?k=0.5&r0=3.75&rc=4.6").trajectory["temperature"].values
    assert found[:10].mean() < 60.0
    assert found[45:].mean() == pytest.approx(120.0, rel=0.2)


def test_supercells():
    unit = rattled(1)
    cases = [({"supercell_matrix": [2, 1, 1]}, 8), ({"supercell_radius": 6.0}, 8), ({"supercell_radius": 5.0}, 4)]
    for given, count in cases:
        assert drive(settings(time_total_fs=0.0, **given), unit).trajectory.sizes["atom"] == count
    diagonal = settings(time_total_fs=0.0, supercell_radius=6.0, supercell_diagonal=True)
    found = drive(diagonal, unit).trajectory
    assert found.attrs["supercell_matrix"] == [2, 0, 0, 0, 2, 0, 0, 0, 2]


def test_fixed_atoms_stay_in_every_copy_and_keep_their_forces():
    found = drive(settings(supercell_matrix=[2, 2, 2], fixed_atoms=[1]), rattled(1)).trajectory
    fixed = np.arange(1, 32, 4)
    positions = found["positions"].values
    np.testing.assert_array_equal(positions[:, fixed], np.broadcast_to(positions[0, fixed], (16, 8, 3)))
    assert np.abs(found["forces"].values[-1, fixed]).max() > 0
    assert np.abs(np.delete(positions[-1] - positions[0], fixed, axis=0)).min(axis=0).max() > 0
    assert found.attrs["n_degrees_of_freedom"] == 72


def test_molecules_move_without_a_cell():
    water = molecule("H2O")
    run = drive(settings("csvr", supercell_radius=25.0), water, "harmonic:springs?k=5&r0=1&rc=1.3")
    assert run.error is None
    assert {"stress", "pressure", "volume"}.isdisjoint(run.trajectory.variables)
    np.testing.assert_array_equal(run.trajectory["pbc"], 0)
    assert run.trajectory.attrs["n_degrees_of_freedom"] == 6


def test_initial_velocities_of_the_structure_lose_their_drift():
    atoms = rattled()
    velocities = np.random.default_rng(0).normal(size=(32, 3)) * 1e-3
    run = drive(settings(initial_velocities="input"), structures(atoms, velocities=velocities + 0.5))
    start = run.trajectory["velocities"].values[0]
    np.testing.assert_allclose(start, velocities - velocities.mean(axis=0), atol=1e-12)


def test_initial_temperature():
    config = settings("velocity_verlet", initial_temperature_K=77.0, exact_initial_temperature=True, time_total_fs=0.0)
    assert float(drive(config, rattled()).trajectory["temperature"][0]) == pytest.approx(77.0)


def test_masses_charge_and_spin_reach_the_engine():
    seen = []

    class Looking(Springs):
        def calculate(self, atoms=None, properties=None, system_changes=()):
            seen.append(
                (atoms.get_initial_charges().sum(), atoms.get_initial_magnetic_moments().sum(), atoms.get_masses()[0])
            )
            super().calculate(atoms, properties, system_changes)

    crystal = structures(rattled(1), masses=np.full(4, 36.0), charge=[1.0], spin_multiplicity=[2])
    drive(settings(time_total_fs=0.0), crystal, Potential("x", "x", lambda: Looking(k=0.05, r0=3.75, rc=4.6), {}))
    assert seen[0] == pytest.approx((1.0, 1.0, 36.0))


def test_one_of_several_structures():
    crystal = structures(rattled(1), rattled(2))
    assert drive(settings(structure_index=1, time_total_fs=0.0), crystal).trajectory.sizes["atom"] == 32
    several = drive(settings(), crystal)
    assert isinstance(several.error, InvalidConfig)
    assert "structure_index" in str(several.error)
    assert "from 0 to 1" in str(drive(settings(structure_index=2), crystal).error)


SLAB = bulk("Ar", "fcc", a=5.3, cubic=True)
SLAB.pbc = (True, True, False)


@pytest.mark.parametrize(
    ("config", "crystal", "kind", "message"),
    [
        (settings("mtk_full"), molecule("H2O"), InvalidConfig, "periodic in all three"),
        (settings("mtk_full"), SLAB, InvalidConfig, "periodic in all three"),
        (settings(supercell_radius=10.0), SLAB, InvalidConfig, "supercell_matrix"),
        (settings(supercell_radius=500.0), argon(), InvalidConfig, "supercell_matrix"),
        (settings(supercell_matrix=[2, 2, 2]), SLAB, InvalidConfig, "not periodic"),
        (settings(fixed_atoms=[4]), SLAB, InvalidConfig, "from 0 to 3"),
        (settings(fixed_atoms=[0, 1, 2, 3]), SLAB, InvalidConfig, "free to move"),
        (settings(), Atoms("Ar"), InvalidConfig, "free to move"),
        (settings(initial_velocities="input"), SLAB, InvalidData, "no velocities"),
        (settings(initial_temperature_K=0.0), SLAB, InvalidConfig, "cannot start from rest"),
    ],
)
def test_structures_that_do_not_fit_the_settings(config, crystal, kind, message):
    run = drive(config, crystal)
    assert isinstance(run.error, kind)
    assert message in str(run.error)
    assert run.blocks == []


def test_a_slab_can_be_repeated_by_a_matrix():
    assert drive(settings(supercell_matrix=[2, 2, 1], time_total_fs=0.0), SLAB).trajectory.sizes["atom"] == 16


def test_an_explosion_keeps_the_frames_before_it_and_names_the_step():
    crystal = rattled()
    config = settings(time_step_fs=10.0, temperature_limit_K=300.0, time_total_fs=1000.0)
    run = drive(config, crystal, "harmonic:springs?k=50&r0=3.75&rc=4.6")
    assert isinstance(run.error, ComputeFailed)
    assert "after step" in str(run.error)
    assert "time_step_fs" in str(run.error)
    assert 1 <= run.trajectory.sizes["frame"] < 101
    assert np.isfinite(run.trajectory["positions"]).all()
    again = drive(config, crystal, "harmonic:springs?k=50&r0=3.75&rc=4.6", after=run)
    assert str(again.error) == str(run.error)
    assert again.blocks == []


class Failing(Springs):
    """Springs that give NaN, or raise, from the given call on."""

    after, error = 12, None

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        Failing.after -= 1
        if Failing.after < 0:
            if Failing.error:
                raise Failing.error
            self.results["forces"] = self.results["forces"] * np.nan


@pytest.mark.parametrize("error", [None, RuntimeError("SCF did not converge"), ValueError("bad")])
def test_an_engine_that_fails(error):
    Failing.after, Failing.error = 12, error
    run = drive(settings(), rattled(), Potential("f", "f", lambda: Failing(k=0.05, r0=3.75, rc=4.6), {}))
    assert isinstance(run.error, ComputeFailed)
    assert run.committed == {"trajectory": 3}
    assert (str(error) if error else "nan K") in str(run.error)


class NoStress(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def test_engines_without_stress():
    model = Potential("n", "n", NoStress, {})
    assert "stress" not in drive(settings(), rattled(), model).trajectory
    assert isinstance(drive(settings("mtk_full"), rattled(), model).error, InvalidConfig)


def test_progress_reaches_its_end():
    run = drive(settings(), rattled())
    assert run.progress[-1][:2] == (75, 75)
    assert "150.0 fs" in run.progress[-1][2]
