"""Settings of the module md: defaults of the reference, names of outputs, and clear refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from h5ml.compute.md_config import MolecularDynamics
from h5ml.schemas.errors import InvalidConfig
from h5ml.schemas.key import Key


def test_defaults_are_those_of_the_reference():
    config = MolecularDynamics()
    expected = {
        "ensemble": "NVT",
        "temperature_K": 298.15,
        "pressure_GPa": 1e-4,
        "time_total_fs": 50000.0,
        "time_step_fs": 0.5,
        "sampling_interval_fs": 50.0,
        "time_equilibration_fs": 5000.0,
        "nvt_algo": "csvr",
        "npt_algo": "mtk_full",
        "thermostat_time_fs": 100.0,
        "barostat_time_fs": 1000.0,
        "tchain": 3,
        "pchain": 3,
        "supercell_radius": 25.0,
        "supercell_matrix": None,
        "supercell_diagonal": False,
        "replicas": 1,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.n_frames == 1001
    assert config.steps_per_frame == 100


def test_only_the_length_extends():
    assert MolecularDynamics.horizon_fields() == ("time_total_fs",)


def test_every_field_says_what_it_is():
    for name, field in MolecularDynamics.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_one_condition_writes_one_trajectory():
    for temperature in (300.0, [300.0]):
        (condition,) = MolecularDynamics(ensemble="NPT", temperature_K=temperature).conditions()
        assert (condition.output, condition.temperature_K) == ("trajectory", 300.0)


def test_several_conditions_are_told_apart_by_name():
    config = MolecularDynamics(ensemble="NPT", temperature_K=[300, 350.5], pressure_GPa=[1e-4, 0.1], replicas=2)
    names = [c.output for c in config.conditions()]
    assert names[0] == "trajectories/crystal[dyn:T=300.00,p=0.00010,r=001]"
    assert names[-1] == "trajectories/crystal[dyn:T=350.50,p=0.10000,r=002]"
    assert len(set(names)) == 8
    assert all(Key(name) == name for name in names)
    nvt = MolecularDynamics(temperature_K=[300, 350]).conditions()
    assert nvt[0].output == "trajectories/crystal[dyn:T=300.00]"


def test_three_repeats_are_a_diagonal_matrix():
    first = MolecularDynamics(supercell_matrix=[1, 2, 3])
    second = MolecularDynamics(supercell_matrix=[[1, 0, 0], [0, 2, 0], [0, 0, 3]])
    assert first == second
    assert first.canonical() == second.canonical()


def test_a_config_survives_its_canonical_form():
    config = MolecularDynamics(temperature_K=[100, 200], supercell_matrix=[2, 2, 1], fixed_atoms=[3, 1])
    assert MolecularDynamics.parse(config.canonical()) == config
    assert config.fixed_atoms == (1, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature_K": -5}, "above 0 K"),
        ({"temperature_K": [300, -5]}, "above 0 K"),
        ({"temperature_K": []}, "at least one"),
        ({"temperature_K": float("nan")}, "finite"),
        ({"temperature_K": [300, 300.001]}, "told apart"),
        ({"time_total_fs": 120}, "not a multiple of sampling_interval_fs = 50; 100 would be"),
        ({"time_total_fs": -50}, "greater than or equal to 0"),
        ({"sampling_interval_fs": 0.75}, "not a multiple of time_step_fs"),
        ({"sampling_interval_fs": 0.25, "time_step_fs": 0.5}, "time_step_fs"),
        ({"time_step_fs": 0}, "greater than 0"),
        ({"pressure_GPa": [0.1, 0.2]}, "need ensemble = NPT"),
        ({"ensemble": "NPT", "fixed_atoms": [0]}, "fixed atoms"),
        ({"fixed_atoms": [-1]}, "counted from 0"),
        ({"temperature_end_K": 400}, "both temperature_end_K and temperature_ramp_fs"),
        ({"temperature_ramp_fs": 400}, "both temperature_end_K and temperature_ramp_fs"),
        ({"ensemble": "NVE", "temperature_end_K": 400, "temperature_ramp_fs": 100}, "thermostat"),
        ({"ensemble": "NVP"}, "'NVE', 'NVT' or 'NPT'"),
        ({"supercell_matrix": [1, 1, 0]}, "determinant"),
        ({"supercell_matrix": [[0, 1, 0], [1, 0, 0], [0, 0, 1]]}, "determinant"),
        ({"supercell_radius": -1}, "greater than 0"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"block_frames": 0}, "greater than or equal to 1"),
        ({"temprature_K": 300}, "did you mean temperature_K"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InvalidConfig) as caught:
        MolecularDynamics.parse(settings)
    assert message in str(caught.value)


def test_a_time_of_zero_is_one_frame():
    assert MolecularDynamics(time_total_fs=0).n_frames == 1


def test_times_that_are_no_exact_binary_fractions():
    config = MolecularDynamics(time_step_fs=0.1, sampling_interval_fs=0.7, time_total_fs=2.1)
    assert (config.steps_per_frame, config.n_frames) == (7, 4)


def test_the_ramp_does_not_depend_on_the_length():
    short = MolecularDynamics(temperature_K=100, temperature_end_K=300, temperature_ramp_fs=1000, time_total_fs=500)
    long = short.model_copy(update={"time_total_fs": 5000.0})
    for config in (short, long):
        (condition,) = config.conditions()
        found = [config.target_temperature(condition, t) for t in (0, 250, 1000, 4000)]
        assert found == [100, 150, 300, 300]


def test_options_are_printed_without_loading_anything_heavy():
    code = (
        "import sys; from h5ml.compute.md import MODULE; MODULE.config.model_fields; MODULE.outputs(MODULE.config());"
        "import h5ml.compute.potentials;"
        "print(sorted({'ase', 'xarray', 'torch', 'numpy', 'scipy', 'tblite'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
