"""Frames of displaced supercells, and the table of their modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import ComputeFailed
from ..schemas.kinds_lattice import PHONONS
from .lattice.force_constants import phonopy_of
from .lattice.modes import SupercellModes, normal_modes
from .module import Context
from .phonon_sampling_config import PhononSampling
from .phonon_sampling_draw import IMAGINARY, STATUS, TRANSLATION, Draw, points_of, status_of
from .structure.frames import structures_dataset
from .structure.single_points import Label

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .potentials import Potential

_AMPLITUDE_UNIT = "amu*Angstrom^2"


class Frames:
    """The frames of one run.

    Parameters
    ----------
    config : PhononSampling
        Settings.
    constants : xarray.Dataset
        Force constants.
    potential : Potential, optional
        Evaluates the frames.
    context : Context
        Seed and logger.

    Attributes
    ----------
    draw : Draw
        The normal coordinates of each frame.
    status : array (q, mode)
        Which modes are sampled, else why not.
    count : int
        Number of frames.
    perfect : Atoms
        The supercell without displacements.
    """

    def __init__(
        self, config: PhononSampling, constants: xr.Dataset, potential: Potential | None, context: Context
    ) -> None:
        phonon = phonopy_of(constants)
        points = points_of(config, phonon)
        modes = normal_modes(phonon, points.q_points)
        self.config, self.potential, self.context = config, potential, context
        self.status = status_of(modes, config.phonon_filter, config.cutoff_THz)
        self.draw = Draw(config, modes, self.status, context.seed)
        self.count = self.draw.count
        self._cell = SupercellModes(modes, phonon, points.matrix)
        self.perfect = self._cell.atoms
        self._report(modes.frequencies)

    def _report(self, frequencies: NDArray[np.float64]) -> None:
        imaginary = self.status == IMAGINARY
        self.context.logger.info(
            "%d modes at %d q-points, %d atoms, %d frames",
            len(self.draw.chosen),
            len(self.status),
            len(self.perfect),
            self.count,
        )
        if imaginary.any():
            self.context.logger.warning(
                "%d imaginary modes are left out, down to %.3f THz: the crystal is not at a minimum of these force "
                "constants, and frames keep still along them",
                int(imaginary.sum()),
                float(frequencies[imaginary].min()),
            )
        numbers = self.config.phonon_filter.selected_modes or ()
        moving = self.status[:, [n - 1 for n in numbers]] == TRANSLATION
        if moving.any():
            self.context.logger.warning(
                "selected modes that are translations of the crystal at Gamma are left out there"
            )

    def drawn(self, indices: range) -> tuple[list[Atoms], list[float]]:
        """Some frames as structures, and their harmonic energies (eV)."""
        systems: list[Atoms] = []
        energies: list[float] = []
        for index in indices:
            coordinates = self.draw.coordinates(index)
            atoms = self.perfect.copy()
            atoms.positions += self._cell.displacements(coordinates)
            systems.append(atoms)
            energies.append(self._cell.energy(coordinates))
        return systems, energies

    def dataset(
        self, indices: range, systems: Sequence[Atoms], energies: Sequence[float], labels: Sequence[Label] | None
    ) -> xr.Dataset:
        """Some frames as a dataset, with what the model says of them.

        Raises
        ------
        ComputeFailed
            If it failed for each of the first frames: it will not do for the others.
        """
        moved = [np.linalg.norm(atoms.positions - self.perfect.positions, axis=1).max() for atoms in systems]
        more: dict[str, Any] = {
            "harmonic_energy": (("frame",), np.array(energies), {"units": "eV"}),
            "max_displacement": (("frame",), np.array(moved), {"units": "Angstrom"}),
        }
        if self.config.frames == "per_mode":
            alone = np.array([self.draw.mode_of(index) for index in indices], dtype=np.int64)
            more["q_index"] = (("frame",), alone[:, 0], {"units": "1"})
            more["mode"] = (("frame",), alone[:, 1] + 1, {"units": "1"})
        if labels is not None:
            more |= self._joined(indices, systems, labels)
        return structures_dataset(systems, more, self.attributes())

    def _joined(self, indices: range, systems: Sequence[Atoms], labels: Sequence[Label]) -> dict[str, Any]:
        """Energies, forces and stresses of some frames; NaN where the model failed."""
        good = [found for found in labels if not isinstance(found, ComputeFailed)]
        failures = {i: label for i, label in zip(indices, labels, strict=True) if isinstance(label, ComputeFailed)}
        for index, error in failures.items():
            self.context.logger.warning("frame %d has no energy: %s", index, error.message)
        if indices.start == 0 and not good:
            raise failures[0]
        unknown = {"energy": np.nan, "stress": np.full(6, np.nan)}
        rows = [
            {**unknown, "forces": np.full((len(atoms), 3), np.nan)} if isinstance(found, ComputeFailed) else found
            for found, atoms in zip(labels, systems, strict=True)
        ]
        more = {
            "energy": np.array([row["energy"] for row in rows], dtype=np.float64),
            "forces": np.concatenate([row["forces"] for row in rows]),
        }
        assert self.potential is not None
        if "stress" in (good[0] if good else self.potential.fresh().implemented_properties):
            more["stress"] = np.array([row["stress"] for row in rows])
        return more

    def attributes(self) -> dict[str, Any]:
        """What all frames have in common."""
        config = self.config
        found: dict[str, Any] = {
            "temperature_K": config.temperature_K,
            "amplitude": config.amplitude,
            "variance_factor": self.draw.variance_factor,
            "frames_of": config.frames,
            "supercell_matrix": self._cell.matrix.ravel().tolist(),
            "seed": self.context.seed,
        }
        if config.amplitude == "legacy_time_propagation":
            found["time_step_fs"] = config.time_step_fs
        return found


def modes_dataset(frames: Frames) -> xr.Dataset:
    """All modes at the q-points: frequency, whether each is sampled, and with what energy and amplitude.

    Returns
    -------
    xarray.Dataset
        Of the kind ``phonons``. ``mean_energy`` is that of a real oscillator in the canonical ensemble;
        ``mean_square_coordinate`` that of its normal coordinate as sampled, 0 where it is not; ``weight`` counts q
        and -q, which have one real oscillator each.
    """
    draw, modes = frames.draw, frames.draw.modes
    squares = draw.variance_factor * draw.deviations**2
    status = {"units": "1", "flag_values": list(STATUS), "flag_meanings": " ".join(STATUS.values())}
    dims = ("q", "mode")
    return PHONONS.dataset(
        {
            "q_point": modes.q_points,
            "weight": np.where(modes.paired, 2.0, 1.0),
            "frequency": modes.frequencies,
            "status": (dims, frames.status, status),
            "mean_energy": (dims, draw.energies, {"units": "eV"}),
            "mean_square_coordinate": (dims, squares, {"units": _AMPLITUDE_UNIT}),
        },
        {
            **frames.attributes(),
            "n_sampled_modes": len(draw.chosen),
            "n_imaginary_modes": int(np.sum(frames.status == IMAGINARY)),
        },
    )
