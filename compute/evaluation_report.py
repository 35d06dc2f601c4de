"""What an evaluation writes: errors by group, parity data, spread and calibration, and the predictions themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols
from numpy.typing import NDArray

from ..schemas.kinds_training import EVALUATION, LABELS
from .evaluation_calibration import Calibration, calibrate, spread
from .evaluation_config import Evaluation
from .evaluation_errors import Collected, error_table
from .evaluation_sample import Sample
from .evaluation_source import SPLITS, Part, Source

if TYPE_CHECKING:
    import xarray as xr

    from .potentials import Potential

Array = NDArray[Any]
_EV, _FORCE, _STRESS, _ONE = (
    {"units": "eV"},
    {"units": "eV/Angstrom"},
    {"units": "eV/Angstrom^3"},
    {"units": "1"},
)


class Report:
    """Takes predictions part by part, and keeps of them what does not grow with the number of atoms.

    Parameters
    ----------
    config : Evaluation
        Settings.
    models : sequence of Potential
        What predicted.
    sources : sequence of Source
        The labels.
    seed : int
        Of what is drawn at random.

    Attributes
    ----------
    n_frames, n_failed : int
        Frames so far, and those of them that could not be predicted.
    """

    def __init__(self, config: Evaluation, models: Sequence[Potential], sources: Sequence[Source], seed: int) -> None:
        self.config, self.models, self.seed = config, list(models), seed
        self.n_frames = self.n_failed = 0
        self._collected = Collected()
        self._parity = Sample(config.parity_components, np.random.default_rng([seed, 1]))
        self._pairs = Sample(config.calibration_atoms, np.random.default_rng([seed, 3]))
        self._groups: dict[str, list[str]] = {"source": [], "composition": []}
        if any("split" in source.dataset for source in sources):
            self._groups["split"] = []
        self._tables: dict[tuple[str, str], int] = {}
        for source in sources:
            for entry in source.reference(np.zeros(0, dtype=np.int64))[0]:
                self._tables.setdefault(entry, len(self._tables))
        self._seconds = np.zeros(len(self.models))

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several models."""
        return len(self.models) > 1

    def add(self, part: Part, result: xr.Dataset) -> xr.Dataset:
        """Compare some predictions with their labels.

        Returns
        -------
        xarray.Dataset
            The predictions, of the kind ``labels``.
        """
        n_atoms = part.n_atoms
        of = {name: np.asarray(result[name].to_numpy()) for name in ("energy", "forces", "stress")}
        mean = {name: values.mean(axis=0) for name, values in of.items()}
        numbers, forces, stress = part.values("atomic_numbers"), part.values("forces"), part.values("stress")
        energy = part.values("energy")
        assert numbers is not None
        assert energy is not None
        nothing = np.full((len(n_atoms), 6), np.nan)
        table, source, frame = part.source.reference(part.work.frames)
        source = np.array([self._tables[entry] for entry in table], dtype=np.int64)[source]
        frames = {
            "n_atoms": n_atoms,
            "energy_reference": energy,
            "energy_predicted": mean["energy"],
            "stress_reference": stress if stress is not None else nothing,
            "stress_predicted": mean["stress"],
            "source": source,
            "source_frame": frame,
        }
        reference = forces if forces is not None else np.full_like(mean["forces"], np.nan)
        error = mean["forces"] - reference
        self._draw(numbers, reference, error)
        force_spread = None
        if self.is_ensemble:
            force_spread = spread(of["forces"])
            frames["energy_spread"] = spread(of["energy"])
            frames["largest_force_spread"] = np.maximum.reduceat(force_spread, np.cumsum(n_atoms) - n_atoms)
            self._pair(n_atoms, error, force_spread)
        self._collected.add(frames, numbers, error)
        self._group(part, numbers, n_atoms)
        self._seconds += result["seconds"].to_numpy()
        self.n_frames += len(n_atoms)
        self.n_failed += int((~np.isfinite(mean["energy"])).sum())
        return self._predictions(part, frames, force_spread, mean)

    def _draw(self, numbers: Array, reference: Array, error: Array) -> None:
        """Keep components of forces for parity plots."""
        columns = {"number": np.repeat(numbers, 3), "reference": reference.ravel(), "error": error.ravel()}
        self._parity.add(columns, np.isfinite(columns["error"]))

    def _pair(self, n_atoms: Array, error: Array, force_spread: Array) -> None:
        """Keep errors of forces with their spread."""
        size = np.sqrt(np.mean(error**2, axis=1))
        frame = self.n_frames + np.repeat(np.arange(len(n_atoms)), n_atoms)
        self._pairs.add({"frame": frame, "error": size, "spread": force_spread}, np.isfinite(size + force_spread))

    def _group(self, part: Part, numbers: Array, n_atoms: Array) -> None:
        ends = np.cumsum(n_atoms)
        pieces = (numbers[end - count : end] for count, end in zip(n_atoms, ends, strict=True))
        self._groups["composition"] += [sys.intern(Symbols(piece).get_chemical_formula("hill")) for piece in pieces]
        self._groups["source"] += [part.source.name] * len(n_atoms)
        if "split" in self._groups:
            split = part.values("split")
            names = ["none"] * len(n_atoms) if split is None else [SPLITS[i] for i in split.tolist()]
            self._groups["split"] += names

    def _predictions(
        self, part: Part, frames: dict[str, Any], force_spread: Array | None, mean: dict[str, Array]
    ) -> xr.Dataset:
        done = np.isfinite(mean["energy"])
        values: dict[str, Any] = {
            name: part.values(name) for name in ("positions", "atomic_numbers", "cell", "pbc", "charge")
        }
        values |= {
            "n_atoms": frames["n_atoms"],
            "energy": mean["energy"],
            "forces": mean["forces"],
            "stress": mean["stress"],
            "converged": done,
            "status": np.where(done, 0, 3),
            "source": frames["source"],
            "source_frame": frames["source_frame"],
            **self._source_tables(),
        }
        if force_spread is not None:
            values["energy_spread"] = (("frame",), frames["energy_spread"], _EV)
            values["forces_spread"] = (("atom",), force_spread, _FORCE)
        return LABELS.dataset(values, self._attributes())

    def _source_tables(self) -> dict[str, Array]:
        keys, digests = [key for key, _ in self._tables], [digest for _, digest in self._tables]
        return {"source_key": np.array(keys, dtype=object), "source_digest": np.array(digests, dtype=object)}

    def _attributes(self) -> dict[str, Any]:
        prints = [model.fingerprint() for model in self.models]
        name = " ".join(dict.fromkeys(model.name for model in self.models))
        return {"level_of_theory": name, "model": prints[0] if len(prints) == 1 else {"members": prints}}

    # --- the whole ---------------------------------------------------------------------------------------------------

    def dataset(self) -> xr.Dataset:
        """All errors, of the kind ``evaluation``."""
        found = self._collected
        along = ("frame",)
        values: dict[str, Any] = dict(error_table(found, self._groups))
        for name, unit in (("energy_reference", _EV), ("energy_predicted", _EV)):
            values[name] = (along, found.of_frames(name), unit)
        for name in ("stress_reference", "stress_predicted"):
            values[name] = (("frame", "voigt"), found.of_frames(name), _STRESS)
        for name, column in (("frame_n_atoms", "n_atoms"), ("source", "source"), ("source_frame", "source_frame")):
            values[name] = (along, found.of_frames(column), _ONE)
        values["composition"] = (along, np.array(self._groups["composition"], dtype=object))
        if "split" in self._groups:
            values["split"] = (along, np.array(self._groups["split"], dtype=object))
        values |= {name: (("source_index",), table) for name, table in self._source_tables().items()}
        values |= self._force_parity()
        attributes = self._attributes()
        attributes["n_failed"] = self.n_failed
        if self.is_ensemble:
            values |= self._calibration()
            attributes |= {"alpha": self.config.alpha, "n_members": len(self.models)}
        total = int(found.of_frames("n_atoms").sum())
        values["seconds_per_atom"] = (("member",), self._seconds / total, {"units": "s", "volatile": 1})
        return EVALUATION.dataset(values, attributes)

    def _force_parity(self) -> dict[str, Any]:
        """Components of forces, drawn at random where there are many."""
        found, along = self._parity, ("component",)
        return {
            "force_reference": (along, found["reference"], _FORCE),
            "force_predicted": (along, found["reference"] + found["error"], _FORCE),
            "force_element": (along, np.array(chemical_symbols, dtype=object)[found["number"]]),
        }

    def _calibration(self) -> dict[str, Any]:
        """Spread against error, of energies per atom and of forces."""
        found, alpha = self._collected, self.config.alpha
        n_atoms = found.of_frames("n_atoms")
        frame = np.arange(len(n_atoms))
        energy_error = np.abs(found.of_frames("energy_predicted") - found.of_frames("energy_reference")) / n_atoms
        energy_spread = found.of_frames("energy_spread") / n_atoms
        pairs, rng = self._pairs, np.random.default_rng([self.seed, 2])
        values: dict[str, Any] = {"energy_spread": (("frame",), found.of_frames("energy_spread"), _EV)}
        values["largest_force_spread"] = (("frame",), found.of_frames("largest_force_spread"), _FORCE)
        for name, unit, error, uncertainty, of in (
            ("energy", _EV, energy_error, energy_spread, frame),
            ("force", _FORCE, pairs["error"], pairs["spread"], pairs["frame"]),
        ):
            values |= _named(calibrate(error, uncertainty, of, alpha, rng), name, unit)
        return values


def _named(found: Calibration, name: str, unit: dict[str, str]) -> dict[str, Any]:
    scalars = {
        "conformal_factor": found.factor,
        "coverage": found.coverage,
        "plain_coverage": found.plain_coverage,
        "correlation": found.correlation,
    }
    values: dict[str, Any] = {f"{name}_{what}": ((), np.float64(value), _ONE) for what, value in scalars.items()}
    values[f"{name}_bin_spread"] = (("bin",), found.bin_spread, unit)
    values[f"{name}_bin_error"] = (("bin",), found.bin_error, unit)
    return values
