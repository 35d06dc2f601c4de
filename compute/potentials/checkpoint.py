"""Stored models: the datasets of the kind ``checkpoint``, and the potentials that they are.

A checkpoint holds one model, or several of one architecture (a committee: the mean counts), and optionally a baseline
whose energies, forces and stresses are added (a delta model). Tensors are variables, everything else is one JSON text:
no pickle, and nothing that could run code when it is read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig, InvalidData
from ...schemas.kinds_training import CHECKPOINT
from .base import Potential, facts
from .mace_engine import mace_guard, usable_device

if TYPE_CHECKING:
    import xarray as xr
    from ase.calculators.calculator import Calculator

    from .mace_batch import LearnedModel

FORMAT = 1
_TEXT = "description"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model: what rebuilds it, and its tensors.

    Attributes
    ----------
    description : mapping
        Plain JSON: ``class``, ``arguments`` of its constructor, ``dtype`` of its weights, ``built_in`` (the dtype its
        constants were computed in) and ``head``.
    tensors : mapping
        Name to array: all of its ``state_dict``.
    """

    description: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Engine:
    """A baseline that is no stored model: its ``engine:method``, and its fingerprint when it was chosen."""

    spec: str
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a dataset of the kind ``checkpoint`` holds.

    Attributes
    ----------
    models : tuple of StoredModel
        One, or the members of a committee.
    baseline : Checkpoint or Engine or None
        What the models are a correction to.
    """

    models: tuple[StoredModel, ...]
    baseline: Checkpoint | Engine | None = None

    def dataset(self, attributes: Mapping[str, Any] | None = None) -> xr.Dataset:
        """As a dataset that a store keeps.

        Parameters
        ----------
        attributes : mapping, optional
            Facts for people; nothing depends on them.
        """
        text, variables = self._parts("")
        values: dict[str, Any] = {_TEXT: ((), json.dumps({"format": FORMAT, **text}, sort_keys=True), {})}
        values |= {name: (_dims(array.shape), array, {"units": "1"}) for name, array in variables.items()}
        return CHECKPOINT.dataset(values, attributes)

    def _parts(self, prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        variables = {
            f"{prefix}model{number}.{name}": np.asarray(array)
            for number, model in enumerate(self.models)
            for name, array in model.tensors.items()
        }
        text: dict[str, Any] = {"models": [dict(model.description) for model in self.models], "baseline": None}
        if isinstance(self.baseline, Engine):
            text["baseline"] = {"potential": self.baseline.spec, "fingerprint": dict(self.baseline.fingerprint)}
        elif self.baseline is not None:
            text["baseline"], below = self.baseline._parts(f"{prefix}baseline.")  # noqa: SLF001 - its own class
            variables |= below
        return text, variables

    @classmethod
    def of(cls, dataset: xr.Dataset, where: str = "checkpoint") -> Checkpoint:
        """Read a dataset of the kind ``checkpoint``.

        Raises
        ------
        InvalidData
            If its description is none that this h5ml knows.
        """
        try:
            text = json.loads(str(dataset[_TEXT].to_numpy()[()]))
            if text["format"] != FORMAT:
                raise ValueError(f"format {text['format']}")
            arrays = {str(name): dataset[name].to_numpy() for name in dataset.data_vars if name != _TEXT}
            return cls._of(text, arrays, "")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidData(
                "This checkpoint has no description that rebuilds it.",
                key=where,
                expected=f"a text of the format {FORMAT} in the variable {_TEXT!r}",
                found=str(error)[:200],
                hint="import the model's file again",
            ) from None

    @classmethod
    def _of(cls, text: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str) -> Checkpoint:
        def tensors(number: int) -> dict[str, NDArray[Any]]:
            begin = f"{prefix}model{number}."
            return {name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)}

        models = tuple(StoredModel(dict(one), tensors(number)) for number, one in enumerate(text["models"]))
        if not models:
            raise ValueError("no models")
        below = text["baseline"]
        if below is None:
            return cls(models)
        if "potential" in below:
            return cls(models, Engine(below["potential"], below["fingerprint"]))
        return cls(models, cls._of(below, arrays, f"{prefix}baseline."))


def committee(members: Sequence[Checkpoint]) -> Checkpoint:
    """One checkpoint of several, whose predictions are the mean over them.

    Raises
    ------
    InvalidData
        If they differ in cutoff or elements, or are corrections to different baselines.
    """
    first = members[0]
    for other in members[1:]:
        if not _same_baseline(first.baseline, other.baseline):
            raise InvalidData(
                "The members of an ensemble are corrections to different baselines.",
                expected="one baseline, or none",
                found=f"{_name(first.baseline)} and {_name(other.baseline)}",
            )
    models = tuple(model for member in members for model in member.models)
    told = [model.description["arguments"] for model in models]
    reaches = {(float(one["r_max"]), tuple(one["atomic_numbers"])) for one in told}
    if len(reaches) > 1:
        raise InvalidData(
            "The members of an ensemble do not know the same.",
            expected="one cutoff and one set of elements",
            found="; ".join(f"{cutoff:g} Angstrom, elements {list(numbers)}" for cutoff, numbers in sorted(reaches)),
        )
    return Checkpoint(models, first.baseline)


def stored_potential(dataset: xr.Dataset, spec: str, digest: str, *, device: str = "cpu") -> Potential:
    """The potential that a checkpoint is.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of the kind ``checkpoint``.
    spec : str
        What the user named: ``KEY@VERSION``.
    digest : str
        Content digest of the dataset.
    device : str
        ``cpu`` or ``cuda``.

    Raises
    ------
    InvalidData
        If the model cannot be rebuilt from what is stored.
    """
    found = potential_of(Checkpoint.of(dataset, spec), spec, digest, device=device)
    found.level_of_theory = str(dataset.attrs.get("level_of_theory") or "")
    return found


def potential_of(checkpoint: Checkpoint, spec: str, digest: str, *, device: str = "cpu") -> Potential:
    """The potential of a checkpoint in memory; see ``stored_potential``."""
    dtype = str(checkpoint.models[0].description["dtype"])
    members = len(checkpoint.models)
    identity = facts(
        "checkpoint",
        str(checkpoint.models[0].description["class"]),
        version("mace-torch"),
        dtype=dtype,
        weights=f"blake3:{digest}",
        parameters={"members": members} if members > 1 else {},
    )
    plain = members == 1 and checkpoint.baseline is None
    build = _Build(checkpoint, spec, device)
    return Potential(spec, spec.partition("@")[0].rpartition("/")[2], build, identity, _learned if plain else None)


def checkpoint_of(potential: Potential) -> Checkpoint:
    """A learned potential as a checkpoint: what an import keeps, and a baseline that is a model.

    Raises
    ------
    InvalidConfig
        If it is no learned model.
    """
    if isinstance(potential.build, _Build):
        return potential.build.checkpoint
    module = potential.module().module
    with mace_guard(), quiet():
        from .checkpoint_models import described

        return Checkpoint((described(module),))


def baseline_of(potential: Potential) -> Checkpoint | Engine:
    """A potential as the baseline of delta models: a learned one is kept whole, any other by its name."""
    if isinstance(potential.build, _Build) or potential.is_learned:
        return checkpoint_of(potential)
    return Engine(potential.spec, potential.fingerprint())


class _Build:
    """Makes calculators around torch modules that are rebuilt once per process."""

    def __init__(self, checkpoint: Checkpoint, spec: str, device: str) -> None:
        self.checkpoint, self._spec, self._device = checkpoint, spec, device
        self._modules: list[Any] = []
        self._below: Potential | None = None

    def __call__(self) -> Calculator:
        correction = self._models()
        if self.checkpoint.baseline is None:
            return correction
        from ase.calculators.mixing import SumCalculator

        total: Any = SumCalculator([self._baseline().fresh(), correction])
        return total  # type: ignore[no-any-return]

    def _models(self) -> Calculator:
        with mace_guard(), quiet():
            from .checkpoint_models import MODEL_TYPES, rebuilt
            from .mace_arithmetic import SteadyCalculator

            models = self.checkpoint.models
            if not self._modules:
                self._modules = [rebuilt(model, self._spec).to(usable_device(self._device)) for model in models]
            told = models[0].description
            return SteadyCalculator(
                models=list(self._modules),
                device=self._device,
                default_dtype=told["dtype"],
                model_type=MODEL_TYPES[told["class"]],
                head=told["head"],
            )

    def _baseline(self) -> Potential:
        baseline = self.checkpoint.baseline
        if self._below is None and isinstance(baseline, Engine):
            from .registry import resolve_potential

            self._below = resolve_potential(baseline.spec, device=self._device)
            if self._below.fingerprint() != dict(baseline.fingerprint):
                raise InvalidConfig(
                    "The baseline of this delta model is another one here than where it was trained.",
                    key=self._spec,
                    expected=dict(baseline.fingerprint),
                    found=self._below.fingerprint(),
                    hint="install the versions that it was trained with, or train it again",
                )
        elif self._below is None and baseline is not None:
            assert isinstance(baseline, Checkpoint)
            self._below = potential_of(baseline, self._spec, "", device=self._device)
        assert self._below is not None
        return self._below

    def __getstate__(self) -> dict[str, Any]:
        """Travel between processes without torch modules."""
        return {**self.__dict__, "_modules": [], "_below": None}


def _learned(calculator: Calculator) -> LearnedModel:
    with mace_guard():
        from .mace_batch import LearnedModel

        return LearnedModel(calculator)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what mace-torch tells the root logger, and what torch warns mace-torch of, out of the user's log."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


def _same_baseline(one: Checkpoint | Engine | None, other: Checkpoint | Engine | None) -> bool:
    if isinstance(one, Checkpoint) and isinstance(other, Checkpoint):
        return bool(one.dataset().identical(other.dataset()))
    return one == other


def _name(baseline: Checkpoint | Engine | None) -> str:
    return baseline.spec if isinstance(baseline, Engine) else "none" if baseline is None else "a stored model"


def _dims(shape: Sequence[int]) -> tuple[str, ...]:
    """Axes named by their length, told apart where one length comes twice."""
    seen: dict[int, int] = {}
    found = []
    for size in shape:
        seen[size] = seen.get(size, 0) + 1
        found.append(f"n{size}" if seen[size] == 1 else f"n{size}_{seen[size]}")
    return tuple(found)
