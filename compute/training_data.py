"""From a gathered training set to the frames that mace-torch trains on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import numpy as np
from ase.data import chemical_symbols
from mace import data as mace_data
from mace.tools import DefaultKeys
from numpy.typing import NDArray

from ..schemas.errors import InvalidConfig, InvalidData
from .structure.frames import iterate_atoms

if TYPE_CHECKING:
    import xarray as xr

    from .training_config import Training

TRAIN, VALID = 0, 1
OWN, REPLAYED = "Default", "pt_head"


@dataclass
class HeadFrames:
    """The frames of one head, as mace-torch's functions read them (some take it for a ``HeadConfig``).

    Attributes
    ----------
    head_name : str
        ``Default`` or ``pt_head``, the names of mace-torch.
    train, valid : list of Configuration
        Frames with their labels and weights.
    energies : mapping
        Energies of isolated atoms (eV) by atomic number, as the training set has them.
    """

    head_name: str
    train: list[mace_data.Configuration]
    valid: list[mace_data.Configuration]
    energies: Mapping[int, float] = field(default_factory=dict)
    compute_avg_num_neighbors: bool = True
    avg_num_neighbors: float | None = None
    std: float | None = None

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers of all frames."""
        return sorted({int(z) for config in (*self.train, *self.valid) for z in config.atomic_numbers})


def head_frames(dataset: xr.Dataset, config: Training, name: str = OWN, where: str = "training_set") -> HeadFrames:
    """Read the training and validation frames of a gathered training set.

    Parameters
    ----------
    dataset : xarray.Dataset
        Structures with ``energy``, ``forces``, ``split`` and, where known, ``stress``, ``dipole`` and ``weight``.
    config : Training
        Settings.
    name : str
        Head that they belong to.
    where : str
        The key, for messages.

    Raises
    ------
    InvalidData
        If there are no labels, or no frames to train on or to validate with.
    InvalidConfig
        If a batch is larger than the training set.
    """
    split = dataset["split"].to_numpy().astype(np.int64)
    if config.split_seed is not None:
        split = drawn_anew(split, _groups(dataset, split), config.split_seed)
    counts = {part: int((split == code).sum()) for part, code in (("train", TRAIN), ("valid", VALID))}
    for part, count in counts.items():
        if not count:
            raise InvalidData(
                f"The training set has no frames of the split {part}.",
                key=where,
                expected="frames to train on and frames to validate with",
                found=", ".join(f"{number} {one}" for one, number in counts.items()),
                hint="make the training set with a larger share of them",
            )
    if name == OWN and counts["train"] < config.batch_size and not config.lbfgs:
        raise InvalidConfig(
            "A batch is larger than the training set, so that there is none.",
            key=where,
            expected=f"batch_size of at most {counts['train']}",
            found=f"batch_size = {config.batch_size}",
            hint=f"set batch_size to {counts['train']} or less",
        )
    weight = config.weight_pt_head if name == REPLAYED else 1.0
    read = {code: _configurations(dataset, np.flatnonzero(split == code), name, weight, where) for code in (0, 1)}
    return HeadFrames(name, read[TRAIN], read[VALID], isolated_energies(dataset))


def isolated_energies(dataset: xr.Dataset) -> dict[int, float]:
    """Energies of isolated atoms (eV) by atomic number, that a training set carries."""
    text = dataset.attrs.get("isolated_atom_energies_eV")
    return {} if text is None else {int(z): float(energy) for z, energy in json.loads(str(text)).items()}


def drawn_anew(split: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Exchange training and validation frames, by whole groups; test frames stay where they are.

    Parameters
    ----------
    split : array (frame,)
        0 train, 1 valid, 2 test.
    groups : array (frame,)
        Frames of one number (a trajectory, a block of time) stay together.
    seed : int
        Of the draw.

    Returns
    -------
    array (frame,)
        At least as many validation frames as before, and at most all groups but one.
    """
    free = np.isin(split, (TRAIN, VALID))
    wanted = int((split == VALID).sum())
    order = np.random.default_rng(seed).permutation(np.unique(groups[free]))
    chosen: list[int] = []
    for group in order[:-1]:
        if int(np.isin(groups[free], chosen).sum()) >= wanted:
            break
        chosen.append(int(group))
    drawn = split.copy()
    drawn[free] = np.where(np.isin(groups[free], chosen), VALID, TRAIN)
    return drawn


def atomic_energies(
    config: Training, heads: Sequence[HeadFrames], numbers: Sequence[int], foundation: Any, device: Any
) -> dict[str, dict[int, float]]:
    """Energies of isolated atoms (eV) of each head, as ``E0s`` says.

    Raises
    ------
    InvalidData
        If those of an element are not known.
    """
    from mace.tools import AtomicNumberTable

    found: dict[str, dict[int, float]] = {}
    of_foundation = _foundation_energies(foundation) if foundation is not None else {}
    for head in heads:
        table = AtomicNumberTable(head.numbers)
        if head.head_name == REPLAYED or config.E0s == "foundation":
            energies = of_foundation
        elif config.E0s == "average":
            energies = mace_data.compute_average_E0s(head.train, table)
        elif config.E0s == "estimated":
            energies = mace_data.estimate_e0s_from_foundation(
                foundation_model=foundation,
                foundation_e0s=of_foundation,
                collections_train=head.train,
                z_table=table,
                device=device,
            )
        else:
            energies = dict(head.energies) if config.E0s == "set" else dict(config.E0s)
        missing = [z for z in head.numbers if z not in energies]
        if missing:
            raise InvalidData(
                "The energies of some isolated atoms are not known.",
                key="E0s",
                expected="one for each element of the training set",
                found="none for " + ", ".join(chemical_symbols[z] for z in missing),
                hint="give isolated_atoms to the training set, or set E0s to average or to Z=energy for each",
            )
        found[head.head_name] = {z: float(energies.get(z, 0.0)) for z in numbers}
    return found


def _foundation_energies(foundation: Any) -> dict[int, float]:
    energies = foundation.atomic_energies_fn.atomic_energies.detach().cpu().numpy()
    energies = energies.reshape(-1, energies.shape[-1])[0]
    return {int(z): float(e) for z, e in zip(foundation.atomic_numbers, energies, strict=True)}


def _groups(dataset: xr.Dataset, split: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frames that stay together: groups of the set, or neighbours in one source that it put into one split."""
    if "group" in dataset:
        return dataset["group"].to_numpy().astype(np.int64)
    if "source" not in dataset:
        return np.arange(len(split), dtype=np.int64)
    source, frame = dataset["source"].to_numpy(), dataset["source_frame"].to_numpy()
    order = np.lexsort((frame, source))
    starts = np.ones(len(split), dtype=bool)
    starts[1:] = (np.diff(source[order]) != 0) | (np.diff(split[order]) != 0)
    groups = np.empty(len(split), dtype=np.int64)
    groups[order] = np.cumsum(starts)
    return groups


def _configurations(
    dataset: xr.Dataset, indices: NDArray[np.int64], head: str, weight: float, where: str
) -> list[mace_data.Configuration]:
    """Frames as mace-torch reads them from a file: labels by the names of its keys, absent ones of no weight."""
    if "energy" not in dataset and "forces" not in dataset:
        raise InvalidData(
            "The training set has no labels.",
            key=where,
            expected="energy or forces",
            found=", ".join(map(str, dataset.data_vars)),
        )
    keys = mace_data.KeySpecification.from_defaults()
    of_frames = {
        label: dataset[label].to_numpy() for label in ("energy", "stress", "dipole", "weight") if label in dataset
    }
    forces = dataset["forces"].to_numpy() if "forces" in dataset else None
    ends = np.concatenate([[0], np.cumsum(dataset["n_atoms"].to_numpy())])
    found = []
    for index, atoms in zip(indices, iterate_atoms(dataset, indices), strict=True):
        labels = {
            "energy": (DefaultKeys.ENERGY.value, atoms.info),
            "stress": (DefaultKeys.STRESS.value, atoms.info),
            "dipole": (DefaultKeys.DIPOLE.value, atoms.info),
        }
        for label, (key, kept) in labels.items():
            if label in of_frames and np.isfinite(of_frames[label][index]).all():
                kept[key] = of_frames[label][index]
        if forces is not None and np.isfinite(forces[ends[index] : ends[index + 1]]).all():
            atoms.arrays[DefaultKeys.FORCES.value] = forces[ends[index] : ends[index + 1]]
        atoms.info["config_weight"] = weight * float(of_frames["weight"][index] if "weight" in of_frames else 1.0)
        found.append(mace_data.config_from_atoms(atoms, key_specification=keys, head_name=head))
    return found
