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

from ..schemas.errors import InvalidConfig, InvalidData
from ..schemas.splits import TRAIN, VALID, drawn_anew, groups_of
from .training_frames import Frames, frames_of

if TYPE_CHECKING:
    import xarray as xr

    from .training_config import Training

OWN, REPLAYED = "Default", "pt_head"


@dataclass
class HeadFrames:
    """The frames of one head, as mace-torch's functions read them (some take it for a ``HeadConfig``).

    Attributes
    ----------
    head_name : str
        ``Default`` or ``pt_head``, the names of mace-torch.
    train, valid : Frames
        Frames with their labels and weights.
    energies : mapping
        Energies of isolated atoms (eV) by atomic number, as the training set has them.
    """

    head_name: str
    train: Frames
    valid: Frames
    energies: Mapping[int, float] = field(default_factory=dict)
    compute_avg_num_neighbors: bool = True
    avg_num_neighbors: float | None = None
    std: float | None = None

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers of all frames."""
        return sorted({*self.train.numbers, *self.valid.numbers})


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
        split = drawn_anew(split, groups_of(dataset, split), config.split_seed)
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
    train, valid = (frames_of(dataset, np.flatnonzero(split == code), where, weight=weight) for code in (TRAIN, VALID))
    return HeadFrames(name, train, valid, isolated_energies(dataset))


def isolated_energies(dataset: xr.Dataset) -> dict[int, float]:
    """Energies of isolated atoms (eV) by atomic number, that a training set carries."""
    text = dataset.attrs.get("isolated_atom_energies_eV")
    return {} if text is None else {int(z): float(energy) for z, energy in json.loads(str(text)).items()}


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
            energies = mace_data.compute_average_E0s(_with_energy(head), table)
        elif config.E0s == "estimated":
            energies = mace_data.estimate_e0s_from_foundation(
                foundation_model=foundation,
                foundation_e0s=of_foundation,
                collections_train=_with_energy(head),
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


def _with_energy(head: HeadFrames) -> list[mace_data.Configuration]:
    return [one for one in head.train.configurations(head.head_name) if one.properties["energy"] is not None]


def _foundation_energies(foundation: Any) -> dict[int, float]:
    energies = foundation.atomic_energies_fn.atomic_energies.detach().cpu().numpy()
    energies = energies.reshape(-1, energies.shape[-1])[0]
    return {int(z): float(e) for z, e in zip(foundation.atomic_numbers, energies, strict=True)}
