"""Hartree-Fock and density functional theory with PySCF: molecules in any basis, crystals with pseudopotentials."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TextIO

import numpy as np

from ...schemas.errors import H5mlError, InvalidConfig, MissingPackage, nearest
from .level import SCF_FAILED, Capabilities, Level, Outcome, System, failed, mesh_of
from .level_config import LevelSettings
from .results import outcome_of, said

_MOLECULE_KEYWORDS = frozenset({"grid_level", "density_fit", "ecp", "symmetry"})
_CRYSTAL_KEYWORDS = frozenset({"pseudo", "ke_cutoff", "mesh", "precision", "exp_to_discard", "smearing_Ha"})
_HELPS = frozenset({"max_cycle", "level_shift", "damp", "diis_space", "diis_start_cycle", "init_guess", "second_order"})
_WHOLE = frozenset({"max_cycle", "diis_space", "diis_start_cycle"})
_NUMBERS = frozenset({"level_shift", "damp", "ke_cutoff", "precision", "exp_to_discard", "smearing_Ha"})
_SWITCHES = frozenset({"density_fit", "second_order"})
_GUESSES = ("minao", "atom", "huckel", "mod_huckel", "vsap", "sap", "hcore", "1e")
_FINEST_GRID = 9
_TIGHT = 1e-9
_OUTPUT = "pyscf.out"


class PyscfLevel(Level):
    """HF, or a functional by its name in libxc.

    Keywords are ``grid_level``, ``density_fit``, ``ecp`` and ``symmetry`` of molecules, ``pseudo``, ``ke_cutoff``
    (Hartree), ``mesh``, ``precision``, ``exp_to_discard`` and ``smearing_Ha`` of crystals, and those that help it
    converge: ``level_shift``, ``damp``, ``diis_space``, ``diis_start_cycle``, ``init_guess``, ``second_order``.
    """

    helps: ClassVar = _HELPS
    fallbacks: ClassVar = (
        MappingProxyType({"damp": 0.4, "level_shift": 0.3, "diis_space": 12, "max_cycle": 300}),
        MappingProxyType({"second_order": True, "max_cycle": 100}),
    )

    def __init__(self, settings: LevelSettings) -> None:
        self._pyscf = _pyscf().__version__
        super().__init__(settings)
        known = _MOLECULE_KEYWORDS | _CRYSTAL_KEYWORDS | _HELPS
        unknown = sorted(set(settings.keywords) - known)
        if unknown:
            raise InvalidConfig(
                "The engine pyscf has no such keyword.",
                key="keywords of pyscf",
                expected=", ".join(sorted(known)),
                found=", ".join(unknown),
                hint=nearest(unknown[0], known),
            )
        for given in (settings.keywords, *(settings.fallbacks or ())):
            _check_keywords(given)
        self._check_method()
        _check_basis(settings.basis)
        self._dispersion = "" if settings.dispersion is None else _check_dispersion(settings)

    def facts(self) -> dict[str, Any]:
        """Method, basis, dispersion, k-points, spin, convergence, keywords and versions."""
        settings = self.settings
        return {
            "method": settings.method_name,
            "basis": settings.basis or {"finite": "def2-SVP", "periodic": "gth-dzvp"},
            "dispersion": settings.dispersion,
            "dispersion_version": self._dispersion,
            "kpts": settings.kpts,
            "spin_treatment": settings.spin_treatment,
            "conv_tol": settings.conv_tol or _TIGHT,
            "keywords": {name: value for name, value in settings.keywords.items() if name not in _HELPS},
            "version": self._pyscf,
        }

    def capabilities(self) -> Capabilities:
        """Stress of crystals only, dipole and Mulliken charges of molecules only."""
        finite = frozenset({"energy", "forces", "dipole", "charges"})
        return Capabilities(molecules=finite, crystals=frozenset({"energy", "forces", "stress"}))

    def refuse(self, system: System) -> str:
        """Elements without a basis; hybrids and dispersion of crystals, which it does not know or does too slowly."""
        if system.n_periodic:
            if self._is_hybrid():
                return f"{self.settings.method_name} of periodic structures: LDA and GGA functionals only"
            if self.settings.dispersion is not None:
                return "dispersion of periodic structures"
            if self.settings.spin_treatment == "restricted" and system.multiplicity != 1:
                return f"multiplicity {system.multiplicity} of a periodic structure with spin_treatment = restricted"
            if system.charge:
                return f"the charge {system.charge:+d} of a periodic structure"
        basis = self._basis(system)
        if basis is not None:
            for number in np.unique(system.numbers):
                why = _without_basis(basis, int(number))
                if why:
                    return why
        return ""

    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """A single point."""
        from pyscf import lib

        with (
            (folder / _OUTPUT).open("w") as output,
            contextlib.redirect_stderr(output),  # its warnings
            lib.with_omp_threads(self.settings.threads),
        ):
            try:
                return self._compute(system, properties, changes, output)
            except _OutOfTime as error:
                return failed(str(error))
            except H5mlError:
                raise
            except Exception as error:  # noqa: BLE001 - a calculation may fail in any way
                return failed(said(error))

    def _compute(
        self, system: System, properties: frozenset[str], changes: Mapping[str, Any], output: TextIO
    ) -> Outcome:
        from ase.units import Bohr, Debye, Hartree

        mean_field = self._crystal(system) if system.n_periodic else self._molecule(system)
        mean_field.stdout, mean_field.verbose = output, 4
        for name, value in self._help(changes).items():
            setattr(mean_field, name, value)
        if changes.get("second_order", self.settings.keywords.get("second_order", False)):
            mean_field = mean_field.newton()
        mean_field.callback = _Clock(self.settings.calculation_limit_s)
        energy = float(mean_field.kernel())
        cycles = int(getattr(mean_field, "cycles", -1))
        if not mean_field.converged:
            output.flush()
            last = Path(output.name).read_text(errors="replace")
            return failed(f"{last}\nnot converged in {cycles} cycles: energy {energy:.6f} Hartree", SCF_FAILED)
        found: dict[str, Any] = {"energy": energy * Hartree}
        if properties & {"forces", "stress"}:
            gradients = mean_field.nuc_grad_method()
            found["forces"] = -gradients.kernel() * (Hartree / Bohr)
            if "stress" in properties:
                found["stress"] = gradients.get_stress() * (Hartree / Bohr**3)
        if "dipole" in properties:
            found["dipole"] = mean_field.dip_moment(unit="Debye", verbose=0) * Debye
        if "charges" in properties:
            found["charges"] = mean_field.mulliken_pop(verbose=0)[1]
        return outcome_of(found, properties, cycles)

    def _molecule(self, system: System) -> Any:
        from pyscf import dft, gto, scf

        keywords = self.settings.keywords
        molecule = gto.M(
            atom=_listed(system),
            unit="Angstrom",
            basis=self._basis(system),
            ecp=keywords.get("ecp", self._basis(system) if self._has_core(system) else {}),
            charge=system.charge,
            spin=system.multiplicity - 1,
            symmetry=keywords.get("symmetry", False),
            verbose=0,
        )
        is_open = self._is_open(system)
        if self._is_hartree_fock():
            mean_field = (scf.UHF if is_open else scf.RHF)(molecule)
        else:
            mean_field = (dft.UKS if is_open else dft.RKS)(molecule, xc=self.settings.method_name)
            mean_field.grids.level = keywords.get("grid_level", 3)
        if self.settings.dispersion is not None:
            mean_field.disp = self.settings.dispersion
        if keywords.get("density_fit", False):
            mean_field = mean_field.density_fit()
        return mean_field

    def _crystal(self, system: System) -> Any:
        from pyscf.pbc import dft, gto

        keywords = self.settings.keywords
        cell = gto.Cell(
            atom=_listed(system),
            a=system.cell,
            unit="Angstrom",
            basis=self._basis(system),
            pseudo=keywords.get("pseudo", f"gth-{self.settings.method_name.lower()}"),
            spin=system.multiplicity - 1,
            verbose=0,
        )
        for name in _CRYSTAL_KEYWORDS - {"pseudo", "smearing_Ha"}:
            if name in keywords:
                setattr(cell, name, keywords[name])
        cell.build()
        points = cell.make_kpts(mesh_of(self.settings.kpts, system.cell))
        mean_field = (dft.KUKS if self._is_open(system) else dft.KRKS)(cell, points)
        mean_field.xc = self.settings.method_name
        if self._is_open(system):  # PySCF counts electrons and spin over all k-points together
            electrons, unpaired = cell.tot_electrons(len(points)), cell.spin * len(points)
            mean_field.nelec = ((electrons + unpaired) // 2, (electrons - unpaired) // 2)
        if "smearing_Ha" in keywords:
            mean_field = mean_field.smearing(sigma=keywords["smearing_Ha"])
        return mean_field

    def _help(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        own = {"conv_tol": self.settings.conv_tol or _TIGHT, "max_cycle": self.settings.max_cycles or 100}
        given = {**self.settings.keywords, **changes}
        return {**own, **{name: given[name] for name in _HELPS - {"second_order"} if name in given}}

    def _is_open(self, system: System) -> bool:
        treatment = self.settings.spin_treatment
        return treatment == "unrestricted" or (treatment == "auto" and system.multiplicity != 1)

    def _is_hartree_fock(self) -> bool:
        return self.settings.method_name.upper() in ("HF", "UHF", "RHF", "ROHF")

    def _is_hybrid(self) -> bool:
        from pyscf.dft import libxc

        name = self.settings.method_name
        return self._is_hartree_fock() or libxc.is_hybrid_xc(name) or libxc.xc_type(name) not in ("LDA", "GGA")

    def _basis(self, system: System) -> str:
        return self.settings.basis or ("gth-dzvp" if system.n_periodic else "def2-svp")

    def _has_core(self, system: System) -> bool:
        """Whether the basis comes with core potentials: the def2 sets do so from Rb on."""
        return self._basis(system).lower().startswith("def2") and bool(system.numbers.max() > 36)

    def _check_method(self) -> None:
        from pyscf.dft import libxc

        try:
            if not self._is_hartree_fock():
                libxc.parse_xc(self.settings.method_name)
        except (KeyError, ValueError) as error:
            raise InvalidConfig(
                "PySCF knows no such functional.",
                key="method",
                expected="HF, or a functional by its name in libxc: PBE, B3LYP, r2SCAN, wB97X-V ...",
                found=self.settings.method_name,
                hint=nearest(self.settings.method_name.upper(), libxc.XC_CODES) or str(error).strip("\"'"),
            ) from None


class _OutOfTime(Exception):
    """The self-consistent field took too long."""


class _Clock:
    """Looks at the time after each cycle."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s, self._end = limit_s, time.monotonic() + (limit_s or 0.0)

    def __call__(self, state: Mapping[str, Any]) -> None:
        del state
        if self._limit_s is not None and time.monotonic() > self._end:
            raise _OutOfTime(f"ended after the time limit of {self._limit_s:g} s")


def _listed(system: System) -> list[tuple[int, list[float]]]:
    return [(int(z), place.tolist()) for z, place in zip(system.numbers, system.positions, strict=True)]


def _check_keywords(given: Mapping[str, Any]) -> None:
    """Refuse keywords whose values PySCF cannot use; it would fail at each structure, or take another one silently."""
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _SWITCHES and not isinstance(value, bool):
            expected = "true or false"
        elif name in _WHOLE and not (number and int(value) == value and value >= 1):
            expected = "a whole number of at least 1"
        elif name in _NUMBERS and not (number and value >= 0):
            expected = "a number of at least 0"
        elif name == "grid_level" and not (number and int(value) == value and 0 <= value <= _FINEST_GRID):
            expected = f"a whole number from 0 to {_FINEST_GRID}"
        elif name == "init_guess" and value not in _GUESSES:
            expected = ", ".join(_GUESSES)
        else:
            continue
        raise InvalidConfig("This keyword has no such value.", key=f"keywords.{name}", expected=expected, found=value)


def _check_basis(name: str | None) -> None:
    """Refuse a basis that PySCF has for no element."""
    from pyscf.gto.basis import ALIAS, GTH_ALIAS

    why = "" if name is None else _without_basis(name, 1)
    if name is not None and "Unknown basis" in why:
        raise InvalidConfig(
            "PySCF knows no such basis.",
            key="basis",
            expected="the name of a basis set: def2-SVP, cc-pVTZ, 6-31G*, gth-dzvp ...",
            found=name,
            hint=nearest(name.lower().replace("-", ""), {**ALIAS, **GTH_ALIAS}),
        )


@functools.cache
def _without_basis(basis: str, number: int) -> str:
    """Why an element has no such basis; empty where it has."""
    import warnings

    from ase.data import chemical_symbols
    from pyscf.gto.basis import load

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it recommends a package where it fails
            load(basis, chemical_symbols[number])
    except Exception as error:  # noqa: BLE001 - it raises several kinds, by the place where it looked
        return f"the element {chemical_symbols[number]} with the basis {basis}: {' '.join(str(error).split())[:200]}"
    return ""


def _check_dispersion(settings: LevelSettings) -> str:
    """The version of the dispersion library; refuses what it does not know."""
    try:
        from pyscf.dispersion import dftd3, dftd4
    except ImportError as error:
        raise MissingPackage(
            "Dispersion with the engine pyscf needs another package.",
            key="dispersion",
            expected="the package pyscf-dispersion",
            found=str(error),
            hint='pip install "h5ml[pyscf]"',
        ) from error
    from importlib.metadata import version

    from pyscf import gto

    name = str(settings.dispersion)
    molecule = gto.M(atom="He", basis="sto-3g", verbose=0)
    functional = settings.method_name.lower()
    try:
        if name.startswith("d4"):
            dftd4.DFTD4Dispersion(molecule, xc=functional).get_dispersion()
        else:
            dftd3.DFTD3Dispersion(molecule, xc=functional, version=name.removesuffix("atm").removesuffix("2b"))
    except Exception as error:  # noqa: BLE001 - it raises several kinds
        raise InvalidConfig(
            "There is no such dispersion for this functional.",
            key="dispersion",
            expected="d3bj, d3zero, d3bjm, d3zerom or d4, with a functional that it has parameters for",
            found=f"{name} with {settings.method_name}",
            hint=None if isinstance(error, KeyError) else " ".join(str(error).split())[:200],
        ) from None
    return version("pyscf-dispersion")


def _pyscf() -> Any:
    try:
        import pyscf
    except ImportError as error:
        raise MissingPackage(
            "The engine pyscf is not installed.",
            expected="the package pyscf",
            found=str(error),
            hint='pip install "h5ml[pyscf]"',
        ) from error
    return pyscf
