"""Figures of clusters, phonons and thermodynamics show what lies at the keys."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.units import GPa
from matplotlib.colors import to_rgba

from h5ml.cli.plots import ORANGE, save
from h5ml.cli.plots_clusters import cluster_figure
from h5ml.cli.plots_lattice import bands_figure, density_figure, thermodynamics_figure
from h5ml.cli.plots_volumes import volumes_figure
from h5ml.compute.lattice.equation_of_state import birch_murnaghan
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.schemas.kinds import CLUSTERS, PHONONS, TABLE, THERMODYNAMICS


def water_dimer() -> xr.Dataset:
    positions = [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0], [0, -2.8, 0], [0.76, -3.4, 0], [-0.76, -3.4, 0]]
    more = {"source_frame": [3], "n_molecules": [2], "molecule": [0, 0, 0, 1, 1, 1]}
    return structures_dataset([Atoms("OH2OH2", positions)], more, kind=CLUSTERS)


def test_a_cluster_shows_every_atom_and_rings_those_of_the_central_molecule(tmp_path) -> None:
    figure = cluster_figure(water_dimer(), "x")
    sticks, balls = figure.axes[0].collections[:2]
    rings = [tuple(edge) == to_rgba(ORANGE) for edge in balls.get_edgecolors()]
    assert (len(balls.get_paths()), sum(rings), len(sticks.get_segments())) == (6, 3, 4)
    save(figure, tmp_path / "c.png", 50)


def test_a_cluster_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidConfig, match="no such cluster"):
        cluster_figure(water_dimer(), "x", 1)
    with pytest.raises(InvalidData, match="no cluster to draw"):
        cluster_figure(water_dimer().isel(frame=slice(0), atom=slice(0)), "x")


def path(jump: bool) -> xr.Dataset:
    q = np.zeros((6, 3))
    q[:3, 0] = q[3:, 1] = [0.0, 0.25, 0.5]
    if jump:
        q[3:, 2] = 0.5
    frequency = np.column_stack([np.arange(6) - 1.0, np.arange(6) + 3.0])
    values = {
        "q_point": q,
        "frequency": frequency,
        "distance": (("q",), np.array([0.0, 0.1, 0.2, 0.2, 0.3, 0.4]), {"units": "1/Angstrom"}),
        "label": ["GAMMA", "", "X", "Z", "", "R"],
    }
    return PHONONS.dataset(values)


def test_bands_break_where_the_path_jumps_and_name_the_special_points() -> None:
    axes = bands_figure(path(jump=True), None, "x").axes[0]
    assert len([line for line in axes.lines if len(line.get_xdata()) == 3]) == 4
    assert [text.get_text() for text in axes.get_xticklabels()] == ["Γ", "X|Z", "R"]


def test_bands_say_how_many_modes_are_imaginary_and_stand_beside_their_density() -> None:
    density = TABLE.dataset(
        {
            "frequency": (("row",), np.arange(4.0), {"units": "THz"}),
            "density_of_states": (("row",), np.ones(4), {"units": "1/THz"}),
        }
    )
    figure = bands_figure(path(jump=False), density, "x")
    assert len(figure.axes) == 2
    assert "1 imaginary" in figure.get_suptitle()
    (curve,) = density_figure(density, "x").axes[0].lines
    assert np.array_equal(curve.get_xydata(), np.stack([np.arange(4.0), np.ones(4)], axis=1))


def test_missing_states_are_gaps_and_their_reasons_are_told() -> None:
    values = {
        "temperature": np.array([100.0, 200.0, 300.0]),
        "entropy": np.array([1e-3, np.nan, 3e-3]),
        "reason": np.array(["", "imaginary mode", ""], dtype=object),
    }
    figure = thermodynamics_figure(THERMODYNAMICS.dataset(values), "x")
    line = figure.axes[0].lines[0]
    assert np.isnan(line.get_ydata()[1])
    assert line.get_ydata()[0] == pytest.approx(96.4853, rel=1e-5)  # 1 meV/K in J/mol/K
    assert "1 of 3 rows missing: imaginary mode" in figure.get_suptitle()


@pytest.mark.parametrize("pressure", [0.0, 2.0])
def test_free_energies_lie_on_the_curve_that_was_fitted(pressure: float) -> None:
    volume, parameters = np.linspace(38.0, 44.0, 7), (-3.0, 41.0, 0.5, 4.0)
    energy = birch_murnaghan(volume, *parameters) - pressure * GPa * volume  # what is fitted is F + pV
    flags = {"units": "1"}
    sampled = TABLE.dataset(
        {
            "volume": (("row",), volume, {"units": "Angstrom^3"}),
            "static_energy": (("row",), energy, {"units": "eV"}),
            "used": (("row",), np.array([1, 1, 1, 1, 1, 1, 0], dtype=np.int8), flags),
            "temperature": (("temperature_index",), np.array([300.0]), {"units": "K"}),
            "free_energy": (("row", "temperature_index"), np.zeros((7, 1)), {"units": "eV"}),
        }
    )
    units = ("eV", "Angstrom^3", "eV/Angstrom^3", "1")
    names = ("energy", "volume", "bulk_modulus", "bulk_modulus_derivative")
    fits = TABLE.dataset(
        {
            "temperature": (("row",), np.array([300.0]), {"units": "K"}),
            "pressure": (("row",), np.array([pressure]), {"units": "GPa"}),
            "form": (("row",), np.array(["birch_murnaghan"], dtype=object)),
            "minimum_inside": (("row",), np.array([1], dtype=np.int8), flags),
            **{n: (("row",), np.array([p]), {"units": u}) for n, p, u in zip(names, parameters, units, strict=True)},
        }
    )
    figure = volumes_figure(sampled, fits, "x")
    points, curve = figure.axes[0].lines[:2]
    assert len(points.get_xdata()) == 6
    np.testing.assert_allclose(
        np.interp(points.get_xdata(), curve.get_xdata(), curve.get_ydata()), points.get_ydata(), atol=2e-3
    )
    assert "1 of 7 crystals not used" in figure.get_suptitle()
