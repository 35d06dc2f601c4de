"""Descriptors, energies and forces of batches of structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ..schemas.errors import InvalidConfig, InvalidData, MissingPackage
from .features_config import Features
from .structure.evaluation import evaluated

if TYPE_CHECKING:
    from ase import Atoms

    from .potentials import Potential
    from .potentials.mace_batch import LearnedModel

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a batch.

    Attributes
    ----------
    descriptors : array (atoms, features)
        Of all atoms, end to end.
    energies : array (structures,) or None
        Total energies (eV).
    forces : array (atoms, 3) or None
        Forces (eV/Angstrom).
    """

    descriptors: Floats
    energies: Floats | None = None
    forces: Floats | None = None


class Describer(Protocol):
    """Describes batches of structures."""

    def __call__(self, systems: Sequence[Atoms]) -> Described:
        """The descriptors of all atoms, and energies and forces where they are wanted."""


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
        return _Mace(config, _torch_face(model, elements))
    if model is not None and not config.evaluate:
        raise InvalidConfig(
            "SOAP does not use a model.",
            expected="no model, or evaluate = true for its energies and forces",
            found=model.spec,
        )
    soap = _Soap(config, elements)
    if model is None:
        return soap
    return _Both(soap, model, _torch_face(model, elements) if model.is_learned else None)


def _torch_face(model: Potential, elements: Mapping[int, str]) -> LearnedModel:
    if not model.is_learned:
        raise InvalidConfig(
            "MACE descriptors need a MACE model.",
            key=model.spec,
            expected="file:PATH.model, mace-mp:NAME or mace-off:NAME",
            found=f"the engine {model.fingerprint()['engine']}",
            hint="or set descriptor = soap",
        )
    learned = model.module()
    _check_elements(elements, learned.elements, "the model", "take a model that was trained on this element")
    return learned


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


class _Mace:
    """Descriptors of a MACE model, with energies and forces of the same pass."""

    def __init__(self, config: Features, model: LearnedModel) -> None:
        if config.num_layers is not None and config.num_layers > model.n_layers:
            raise InvalidConfig(
                "The model has fewer layers.", expected=f"num_layers up to {model.n_layers}", found=config.num_layers
            )
        self.config, self.model = config, model

    def __call__(self, systems: Sequence[Atoms]) -> Described:
        found = self.model.evaluate(systems, forces=self.config.evaluate, n_layers=self.config.num_layers)
        return Described(found.descriptors, found.energies if self.config.evaluate else None, found.forces)


class _Soap:
    """The SOAP power spectrum of dscribe.

    A. P. Bartok, R. Kondor and G. Csanyi, Phys. Rev. B 87, 184115 (2013), with Gaussian-type radial functions as in
    L. Himanen et al., Comput. Phys. Commun. 247, 106949 (2020).
    """

    def __init__(self, config: Features, elements: Mapping[int, str]) -> None:
        try:
            from dscribe.descriptors import SOAP
        except ImportError as error:
            raise MissingPackage("SOAP needs dscribe.", found=str(error), hint='pip install "h5ml[soap]"') from error
        species = [atomic_numbers[symbol] for symbol in config.elements] or list(elements)
        _check_elements(elements, frozenset(species), "SOAP", "add it to elements")
        settings = {"r_cut": config.r_cut_A, "n_max": config.n_max, "l_max": config.l_max, "sigma": config.sigma_A}
        self._by_periodicity = {flag: SOAP(species=species, periodic=flag, **settings) for flag in (False, True)}

    def __call__(self, systems: Sequence[Atoms]) -> Described:
        found = [self._by_periodicity[bool(atoms.pbc.any())].create(atoms) for atoms in systems]
        return Described(np.concatenate(found))


class _Both:
    """SOAP, with energies and forces of any potential: a MACE model in batches, others one by one and cold."""

    def __init__(self, soap: _Soap, potential: Potential, learned: LearnedModel | None) -> None:
        self.soap, self.potential, self.learned = soap, potential, learned

    def __call__(self, systems: Sequence[Atoms]) -> Described:
        descriptors = self.soap(systems).descriptors
        if self.learned is not None:
            found = self.learned.evaluate(systems)
            return Described(descriptors, found.energies, found.forces)
        labels = [evaluated(atoms, self.potential, stress=False) for atoms in systems]
        energies, forces = ([label[name] for label in labels] for name in ("energy", "forces"))
        return Described(descriptors, np.array(energies, dtype=np.float64), np.concatenate(forces))
