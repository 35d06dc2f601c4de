"""Descriptors, energies and forces of batches of structures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..schemas.errors import ComputeFailed, InvalidConfig, InvalidData, MissingPackage
from .features_config import Features
from .features_frames import Integers, mean_over
from .structure.single_points import Engine, labels_of, single_point, single_points

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .potentials import Potential

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a batch.

    Attributes
    ----------
    descriptors : array (records, features)
        Of all records, end to end.
    energies : array (structures,) or None
        Total energies (eV).
    forces : array (atoms, 3) or None
        Forces (eV/Angstrom).
    """

    descriptors: Floats
    energies: Floats | None = None
    forces: Floats | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Structures that are described together.

    Attributes
    ----------
    systems : sequence of Atoms
        The structures.
    record_of_atom : array (atoms,) of int or None
        To which record each atom belongs, whose descriptor is the mean over its atoms; None: each is its own.
    """

    systems: Sequence[Atoms]
    record_of_atom: Integers | None = None

    def records(self, descriptors: Floats) -> Floats:
        """Descriptors of the records from those of the atoms."""
        return descriptors if self.record_of_atom is None else mean_over(descriptors, self.record_of_atom)


class Describer(Protocol):
    """Describes batches of structures; what a model shall evaluate for it is left to a map."""

    @property
    def function(self) -> Callable[[Any], xr.Dataset]:
        """The function of the map."""

    def items(self, batch: Batch) -> Sequence[Any]:
        """What is to be evaluated for a batch; nothing where energies are not wanted."""

    def __call__(self, batch: Batch, results: Iterator[xr.Dataset]) -> Described:
        """The descriptors, and energies and forces from the results of its items, which are taken off ``results``."""


def describer(config: Features, model: Potential | None, elements: Mapping[int, str]) -> Describer:
    """What describes frames with these settings.

    Parameters
    ----------
    config : Features
        Settings.
    model : Potential, optional
        A MACE model for its descriptors; any potential for energies and forces beside SOAP.
    elements : mapping of int to str
        Atomic numbers of the frames, each with a place where it occurs.

    Raises
    ------
    InvalidConfig
        If the model and the settings do not go together.
    InvalidData
        If the model, or the elements of SOAP, lack an element of the frames.
    MissingPackage
        If dscribe is needed and not installed.
    """
    if model is None and (config.descriptor == "mace" or config.evaluate):
        raise InvalidConfig(
            "A model is missing.",
            expected="--model file:PATH.model, or another MACE model",
            found="no model",
            hint="or descriptor = soap without evaluate, which needs none",
        )
    if config.descriptor == "mace":
        assert model is not None
        return _Mace(config, _learned(model, elements))
    if model is not None and not config.evaluate:
        raise InvalidConfig(
            "SOAP does not use a model.",
            expected="no model, or evaluate = true for its energies and forces",
            found=model.spec,
        )
    soap = _Soap(config, elements)
    if model is None:
        return soap
    return _WithPasses(soap, _learned(model, elements)) if model.is_learned else _WithSinglePoints(soap, model)


def _learned(model: Potential, elements: Mapping[int, str]) -> Engine:
    if not model.is_learned:
        raise InvalidConfig(
            "MACE descriptors need a MACE model.",
            key=model.spec,
            expected="file:PATH.model, mace-mp:NAME or mace-off:NAME",
            found=f"the engine {model.fingerprint()['engine']}",
            hint="or set descriptor = soap",
        )
    engine = Engine(model)
    _check_elements(elements, engine.module.elements, "the model", "take a model that was trained on this element")
    return engine


def _check_elements(elements: Mapping[int, str], known: frozenset[int], who: str, hint: str) -> None:
    for number, place in elements.items():
        if number not in known:
            raise InvalidData(
                f"An element is unknown to {who}.",
                key=place,
                expected=" ".join(chemical_symbols[z] for z in sorted(known)),
                found=chemical_symbols[number],
                hint=hint,
            )


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward and backward pass of a learned model.

    Attributes
    ----------
    engine : Engine
        Of a learned model.
    batch : Batch
        What it is for.
    described : bool
        Whether descriptors are wanted too.
    n_layers : int or None
        Layers of the descriptors; None: all.
    """

    engine: Engine
    batch: Batch
    described: bool = False
    n_layers: int | None = None


def evaluate_pass(item: Pass) -> xr.Dataset:
    """Energies, forces and, where wanted, descriptors of the records: the function of a map."""
    import xarray as xr

    found = item.engine.module.evaluate(item.batch.systems, n_layers=item.n_layers)
    values: dict[str, Any] = {"energy": (("frame",), found.energies), "forces": (("atom", "xyz"), found.forces)}
    if item.described:
        values["descriptors"] = (("record", "feature"), item.batch.records(found.descriptors))
    return xr.Dataset(values)


class _Mace:
    """Descriptors of a MACE model, with energies and forces of the same pass."""

    function = staticmethod(evaluate_pass)

    def __init__(self, config: Features, engine: Engine) -> None:
        layers = engine.module.n_layers
        if config.num_layers is not None and config.num_layers > layers:
            raise InvalidConfig(
                "The model has fewer layers.", expected=f"num_layers up to {layers}", found=config.num_layers
            )
        self.config, self.engine = config, engine

    def items(self, batch: Batch) -> list[Pass]:
        if not self.config.evaluate:
            return []
        return [Pass(self.engine, batch, described=True, n_layers=self.config.num_layers)]

    def __call__(self, batch: Batch, results: Iterator[xr.Dataset]) -> Described:
        if not self.config.evaluate:
            found = self.engine.module.evaluate(batch.systems, forces=False, n_layers=self.config.num_layers)
            return Described(batch.records(found.descriptors))
        values = next(results)
        return Described(*(values[name].to_numpy() for name in ("descriptors", "energy", "forces")))


class _Soap:
    """The SOAP power spectrum of dscribe.

    A. P. Bartok, R. Kondor and G. Csanyi, Phys. Rev. B 87, 184115 (2013), with Gaussian-type radial functions as in
    L. Himanen et al., Comput. Phys. Commun. 247, 106949 (2020).
    """

    function = staticmethod(single_point)

    def __init__(self, config: Features, elements: Mapping[int, str]) -> None:
        try:
            from dscribe.descriptors import SOAP
        except ImportError as error:
            raise MissingPackage("SOAP needs dscribe.", found=str(error), hint='pip install "h5ml[soap]"') from error
        species = [atomic_numbers[symbol] for symbol in config.elements] or list(elements)
        _check_elements(elements, frozenset(species), "SOAP", "add it to elements")
        settings = {"r_cut": config.r_cut_A, "n_max": config.n_max, "l_max": config.l_max, "sigma": config.sigma_A}
        self._by_periodicity = {flag: SOAP(species=species, periodic=flag, **settings) for flag in (False, True)}

    def items(self, batch: Batch) -> Sequence[Any]:
        del batch
        return []

    def __call__(self, batch: Batch, results: Iterator[xr.Dataset]) -> Described:
        del results
        found = [self._by_periodicity[bool(atoms.pbc.any())].create(atoms) for atoms in batch.systems]
        return Described(batch.records(np.concatenate(found)))


class _WithSinglePoints:
    """SOAP, with energies and forces of any potential, one by one and cold."""

    function = staticmethod(single_point)

    def __init__(self, soap: _Soap, potential: Potential) -> None:
        self.soap, self.potential = soap, potential

    def items(self, batch: Batch) -> Sequence[Any]:
        return single_points(batch.systems, self.potential, stress=False)

    def __call__(self, batch: Batch, results: Iterator[xr.Dataset]) -> Described:
        energies, forces = [], []
        for label in labels_of(itertools.islice(results, len(batch.systems))):
            if isinstance(label, ComputeFailed):
                raise label
            energies.append(label["energy"])
            forces.append(label["forces"])
        found = self.soap(batch, results)
        return Described(found.descriptors, np.array(energies, dtype=np.float64), np.concatenate(forces))


class _WithPasses:
    """SOAP, with energies and forces of a MACE model, batch by batch."""

    function = staticmethod(evaluate_pass)

    def __init__(self, soap: _Soap, engine: Engine) -> None:
        self.soap, self.engine = soap, engine

    def items(self, batch: Batch) -> Sequence[Any]:
        return [Pass(self.engine, batch)]

    def __call__(self, batch: Batch, results: Iterator[xr.Dataset]) -> Described:
        values = next(results)
        found = self.soap(batch, results)
        return Described(found.descriptors, values["energy"].to_numpy(), values["forces"].to_numpy())
