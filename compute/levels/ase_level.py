"""Any calculator of ASE by its name; Quantum ESPRESSO, ABINIT, Octopus and CP2K with their commands."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from ...schemas.errors import H5mlError, InvalidConfig
from ..potentials.ase_engine import ase_potential
from ..potentials.registry import EngineRequest
from .external import OutOfTime, TimedProfile, check_command, end, line_with, tail, threads_of_children, version_of
from .level import SCF_FAILED, Capabilities, Level, Outcome, System, failed, mesh_of
from .level_config import LevelSettings
from .results import outcome_of, said

_PROFILES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "espresso": ("EspressoProfile", frozenset({"pseudo_dir"})),
        "abinit": ("AbinitProfile", frozenset({"pp_paths"})),
        "octopus": ("OctopusProfile", frozenset()),
    }
)
_VERSIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "espresso": ("", r"Program PWSCF\s*v\.(\S+)"),
        "cp2k": ("--version", r"CP2K version (\S+)"),
        "abinit": ("--version", r"(\d+\.\S+)"),
        "octopus": ("--version", r"octopus\s*(\S+)"),
    }
)
_UNCONVERGED = ("convergence NOT achieved", "SCF run NOT converged", "SCF not converged")
_OUTPUTS = ("espresso.pwo", "espresso.err", "CRASH", "cp2k.out", "abinit.log", "octopus.out")
_K_POINTS = frozenset({"espresso", "abinit"})


class AseLevel(Level):
    """A calculator of ASE; keywords are its own, with the folder of pseudopotentials among them."""

    helps: ClassVar = None

    def __init__(self, settings: LevelSettings) -> None:
        super().__init__(settings)
        self._name = settings.method_name.lower()
        own = settings.keywords
        self._files = self._name in _PROFILES
        if self._files or self._name == "cp2k":
            self._class = _class_of(self._name)
            self._command = check_command(settings.command, self._name, _configured(self._name))
        else:
            self._refuse_command()
            built = ase_potential(EngineRequest(f"ase:{self._name}", self._name, dict(own)))
            self._class = type(built.fresh())
        if settings.kpts is not None and self._name not in _K_POINTS:
            raise InvalidConfig(
                "This calculator takes k-points by a keyword of its own.",
                key="kpts",
                expected=f"kpts with {' and '.join(sorted(_K_POINTS))}",
                found=f"kpts = {settings.kpts} with {self._name}",
                hint="set keywords",
            )

    def facts(self) -> dict[str, Any]:
        """The calculator, its keywords, k-points, versions, and digests of pseudopotentials."""
        import ase

        apart = _PROFILES[self._name][1] if self._files else frozenset()
        found: dict[str, Any] = {
            "method": self._name,
            "keywords": {name: value for name, value in self.settings.keywords.items() if name not in apart},
            "kpts": self.settings.kpts,
            "spin_treatment": self.settings.spin_treatment,
            "version": ase.__version__,
        }
        if self._name in _VERSIONS:
            option, pattern = _VERSIONS[self._name]
            words = [word for word in shlex.split(self._command) if word not in ("-s", "--shell")]
            found["program_version"] = version_of([*words, *([option] if option else [])], pattern)
        if "pseudopotentials" in self.settings.keywords:
            found["pseudopotential_digests"] = self._pseudopotentials()
        return found

    def capabilities(self) -> Capabilities:
        """What the calculator implements."""
        implemented = self._class.__dict__.get("implemented_properties", self._class.implemented_properties)
        if self._files:
            implemented = _template_of(self._class).implemented_properties
        able = frozenset(implemented) & frozenset({"energy", "forces", "stress", "dipole", "charges"})
        directions = frozenset({3}) if self._name == "espresso" else frozenset({0, 1, 2, 3})
        knows = self._name in ("espresso", "cp2k")
        return Capabilities(able, able - {"dipole"}, directions, charge=knows, spin=knows)

    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """A single point of a new calculator."""
        atoms = system.atoms()
        problem: BaseException | None = None
        try:
            with self._calculator(system, changes, folder) as calculator:
                atoms.calc = calculator
                atoms.get_potential_energy()
                for name in sorted(properties - {"energy"}):
                    calculator.get_property(name, atoms)
                found = dict(calculator.results)
        except H5mlError:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign calculator may fail in any way
            problem = error
        text = tail(folder, _OUTPUTS)
        unconverged = line_with(folder, _OUTPUTS, _UNCONVERGED)
        if unconverged:
            return failed(f"{text}\n{unconverged}", SCF_FAILED)
        if problem is not None:
            return failed(f"{text}\n{said(problem)}")
        return outcome_of(found, properties)

    @contextlib.contextmanager
    def _calculator(self, system: System, changes: Mapping[str, Any], folder: Path) -> Iterator[Any]:
        settings = self.settings
        given = {**settings.keywords, **changes}
        if self._name == "cp2k":
            with (
                threads_of_children(settings.threads),
                _cp2k_shell(
                    self._class,
                    self._command,
                    {**given, **self._cp2k_state(system)},
                    folder,
                    settings.calculation_limit_s,
                ) as calculator,
            ):
                yield calculator
            return
        if not self._files:
            yield self._class(**given)
            return
        name, apart = _PROFILES[self._name]
        kind = type("Timed", (TimedProfile, getattr(inspect.getmodule(self._class), name)), {})
        configured = _configured(self._name)
        own = {word: given.pop(word, configured.get(word)) for word in apart}
        profile = kind(self._command, **own).limit(settings.calculation_limit_s, settings.threads)
        if self._name == "espresso":
            given["input_data"] = self._espresso_state(system, given.get("input_data", {}))
        if settings.kpts is not None:
            given["kpts"] = mesh_of(settings.kpts, system.cell)
        yield self._class(profile=profile, directory=folder, **given)

    def _is_open(self, system: System) -> bool:
        treatment = self.settings.spin_treatment
        return treatment == "unrestricted" or (treatment == "auto" and system.multiplicity != 1)

    def _cp2k_state(self, system: System) -> dict[str, Any]:
        return {"charge": system.charge, "multiplicity": system.multiplicity, "uks": self._is_open(system)}

    def _espresso_state(self, system: System, given: Mapping[str, Any]) -> dict[str, Any]:
        """The input with charge and spin; a flat one stays flat, a nested one nested."""
        state: dict[str, Any] = {"tot_charge": system.charge} if system.charge else {}
        if self._is_open(system):
            state |= {"nspin": 2, "tot_magnetization": system.multiplicity - 1}
        nested = any(isinstance(value, Mapping) for value in given.values())
        if not nested:
            return {"tprnfor": True, "tstress": True, **given, **state}
        control = {"tprnfor": True, "tstress": True, **given.get("control", {})}
        return {**given, "control": control, "system": {**given.get("system", {}), **state}}

    def _pseudopotentials(self) -> dict[str, str]:
        from blake3 import blake3

        folder = self.settings.keywords.get("pseudo_dir", _configured(self._name).get("pseudo_dir", "."))
        found = {}
        for element, name in sorted(self.settings.keywords["pseudopotentials"].items()):
            file = Path(folder).expanduser() / name
            if not file.is_file():
                raise InvalidConfig(
                    "A pseudopotential is not there.",
                    key=f"pseudopotentials.{element}",
                    expected="a file in pseudo_dir",
                    found=str(file),
                )
            found[element] = blake3(file.read_bytes()).hexdigest()
        return found

    def _refuse_command(self) -> None:
        for name in ("command", "calculation_limit_s"):
            if getattr(self.settings, name) is not None:
                raise InvalidConfig(
                    f"The setting {name} goes with calculators that run a program.",
                    key=name,
                    expected=", ".join([*_PROFILES, "cp2k"]),
                    found=self._name,
                    hint=f"leave {name} out; what the calculator needs goes into keywords",
                )


@contextlib.contextmanager
def _cp2k_shell(
    kind: Any, command: str, keywords: Mapping[str, Any], folder: Path, limit_s: float | None
) -> Iterator[Any]:
    """The shell of CP2K, ended after the limit whatever it is at."""
    late = threading.Event()
    calculator = kind(command=f"exec setsid {command}", label=str(folder / "cp2k"), **keywords)
    process = calculator._shell._child  # noqa: SLF001 - ASE offers no other way to end it

    def stop() -> None:
        late.set()
        end(process)

    timer = threading.Timer(limit_s or 0.0, stop)
    if limit_s is not None:
        timer.start()
    try:
        yield calculator
    except Exception as error:
        if late.is_set():
            raise OutOfTime(f"ended after the time limit of {limit_s:g} s") from error
        raise
    finally:
        timer.cancel()
        calculator._shell.isready = calculator._shell.isready and process.poll() is None  # noqa: SLF001
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it says that it ends the program
            calculator.close()
        end(process)


def _class_of(name: str) -> Any:
    from ase.calculators.calculator import get_calculator_class

    return get_calculator_class(name)


def _template_of(kind: Any) -> Any:
    """The template that a calculator of files is made with; its class stands beside it."""
    module = inspect.getmodule(kind)
    return getattr(module, f"{kind.__name__}Template")()


def _configured(name: str) -> dict[str, str]:
    """The section of a program in ASE's configuration file, and its command in the environment."""
    from ase.config import cfg

    found = dict(cfg.parser[name]) if name in cfg.parser else {}
    if name == "cp2k" and "command" not in found:
        found["command"] = found.get("cp2k_shell", os.environ.get("ASE_CP2K_COMMAND", ""))
    return found
