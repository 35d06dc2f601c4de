"""FHI-aims through ASE: input and output files, the i-PI socket, or the library interface ASI."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ...schemas.errors import H5mlError, InvalidConfig, MissingPackage
from .aims_library import RESULTS
from .external import (
    OutOfTime,
    ProgramFailed,
    TimedProfile,
    check_command,
    end,
    run_program,
    start,
    tail,
    version_of,
)
from .level import FAILED, SCF_FAILED, Capabilities, Level, Outcome, System, failed, mesh_of
from .level_config import LevelSettings
from .results import outcome_of, said

_CONVERGED = "Self-consistency cycle converged."
_BEGUN = "Begin self-consistency loop"
_ENDED = "Have a nice day."
_CLOSING = 2000
_LAST_WORDS_S = 2.0
_OUTPUT, _ERRORS = "aims.out", "aims.err"
_DISPERSION: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "ts": {"vdw_correction_hirshfeld": True},
        "mbd": {"many_body_dispersion": ""},
        "mbd-nl": {"many_body_dispersion_nl": ""},
    }
)
_OURS = {"charge", "spin", "fixed_spin_moment", "k_grid", "kpts", "xc", "species_dir", "tier", "use_pimd_wrapper"}


class AimsLevel(Level):
    """FHI-aims; keywords are those of control.in."""

    helps: ClassVar = frozenset(
        "sc_iter_limit mixer charge_mix_param n_max_pulay ini_linear_mixing ini_linear_mix_param sc_init_iter "
        "preconditioner prec_mix_param spin_mix_param adjust_scf".split()
    )
    fallbacks: ClassVar = (MappingProxyType({"charge_mix_param": 0.02, "n_max_pulay": 16, "sc_iter_limit": 1000}),)

    def __init__(self, settings: LevelSettings) -> None:
        super().__init__(settings)
        ours = sorted(_OURS & set(settings.keywords))
        if ours:
            raise InvalidConfig(
                "These keywords of aims follow from settings of their own.",
                key="keywords of aims",
                expected="charge, spin_multiplicity, spin_treatment, kpts, method, species_dir and tier",
                found=", ".join(ours),
            )
        if settings.dispersion is not None and settings.dispersion not in _DISPERSION:
            raise InvalidConfig(
                "The engine aims has no such dispersion.",
                key="dispersion",
                expected=", ".join(_DISPERSION),
                found=settings.dispersion,
            )
        self._configured = _configured()
        self._species = self._species_folder()
        if settings.interface == "library":
            _check_library()
            self._command, self._version = "aims", Path(os.environ["ASI_LIB_PATH"]).name
        else:
            self._command = check_command(settings.command, "aims", self._configured)
            self._version = version_of(shlex.split(self._command), r"FHI-aims version\s*:\s*(\S+)")

    def facts(self) -> dict[str, Any]:
        """Method, species defaults with their tier, dispersion, k-points, spin, keywords, version and digest."""
        settings = self.settings
        keywords = {name: value for name, value in settings.keywords.items() if name not in self.helps}
        return {
            "method": settings.method_name,
            "basis": {"species": self._species.name, "digest": _digest(self._species), "tier": settings.tier},
            "dispersion": settings.dispersion,
            "kpts": settings.kpts,
            "spin_treatment": settings.spin_treatment,
            "conv_tol": settings.conv_tol,
            "keywords": keywords,
            "version": self._version,
        }

    def capabilities(self) -> Capabilities:
        """All; charges are those of Hirshfeld. The socket gives energy, forces and stress."""
        if self.settings.interface != "files":
            three = frozenset({"energy", "forces", "stress"})
            return Capabilities(molecules=three - {"stress"}, crystals=three)
        finite = frozenset({"energy", "forces", "dipole", "charges"})
        return Capabilities(molecules=finite, crystals=frozenset({"energy", "forces", "stress", "charges"}))

    def refuse(self, system: System) -> str:
        """Elements without species defaults."""
        from ase.data import chemical_symbols

        for number in np.unique(system.numbers):
            name = f"{number:02}_{chemical_symbols[number]}_default"
            if not (self._species / name).is_file():
                return f"the element {chemical_symbols[number]}: there is no {name} in {self._species}"
        return ""

    def compute(self, system: System, properties: frozenset[str], changes: Mapping[str, Any], folder: Path) -> Outcome:
        """A single point."""
        keywords = self._keywords(system, properties, changes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ASE announces that its interface to aims will move
            warnings.filterwarnings("ignore", "Subprocess exited", UserWarning)  # the label says so
            if self.settings.interface == "files":
                return self._with_files(system, properties, keywords, folder)
            if self.settings.interface == "socket":
                return self._with_socket(system, properties, keywords, folder)
            return self._with_library(system, properties, keywords, folder)

    # --- the three ways ------------------------------------------------------------------------------------------

    def _with_files(
        self, system: System, properties: frozenset[str], keywords: dict[str, Any], folder: Path
    ) -> Outcome:
        from ase.calculators.aims import Aims
        from ase.io.aims import read_aims_results

        calculator = Aims(profile=self._profile(), directory=folder, **keywords)
        problem = ""
        try:
            calculator.write_inputfiles(system.atoms(), sorted(properties))
            calculator.template.execute(folder, calculator.profile)
        except (OutOfTime, ProgramFailed, OSError) as error:
            problem = str(error)
        text = (folder / _OUTPUT).read_text(errors="replace") if (folder / _OUTPUT).exists() else ""
        last = f"{tail(folder, [_OUTPUT, _ERRORS])}\n{problem}"
        if problem or _ENDED not in text[-_CLOSING:]:
            return failed(last, SCF_FAILED if not problem and _is_unconverged(text) else FAILED)
        if _is_unconverged(text):
            return failed(last, SCF_FAILED)
        try:
            found = read_aims_results(folder / _OUTPUT)
        except Exception as error:  # noqa: BLE001 - an output may be cut or odd in any way
            return failed(f"{last}\n{said(error)}")
        named = {**found, "charges": found.get("hirshfeld_charges")}
        return outcome_of(named, properties, int(found.get("n_iter", -1)))

    def _with_socket(
        self, system: System, properties: frozenset[str], keywords: dict[str, Any], folder: Path
    ) -> Outcome:
        """Aims as an i-PI client: one process, one structure, so that each begins cold."""
        from ase.calculators.aims import AimsTemplate
        from ase.calculators.socketio import SocketIOCalculator

        name, atoms, profile = f"h5ml_{folder.name}_{os.getpid()}", system.atoms(), self._profile()
        template = AimsTemplate()
        started: list[subprocess.Popen[bytes]] = []

        def launch(atoms: Any, properties: Any, port: Any, unixsocket: Any) -> subprocess.Popen[bytes]:
            given = {**template.socketio_parameters(unixsocket, port), **keywords}
            template.write_input(profile, folder, atoms, given, properties)
            with (folder / _OUTPUT).open("wb") as output, (folder / _ERRORS).open("wb") as errors:
                process = start(shlex.split(self._command), folder, output, errors, self.settings.threads)
            started.append(process)
            return process

        limit_s = self.settings.calculation_limit_s
        calculator = SocketIOCalculator(unixsocket=name, timeout=limit_s, launch_client=launch)
        try:
            with _ended_after(limit_s, started) as late:
                found = _answered(calculator, atoms, properties)
        except H5mlError:
            raise
        except Exception as error:  # noqa: BLE001 - a broken connection shows in many ways
            text = (folder / _OUTPUT).read_text(errors="replace") if (folder / _OUTPUT).exists() else ""
            status = SCF_FAILED if _is_unconverged(text) and not late.is_set() else FAILED
            why = f"ended after the time limit of {limit_s:g} s" if late.is_set() else said(error)
            return failed(f"{tail(folder, [_OUTPUT, _ERRORS])}\n{why}", status)
        text = (folder / _OUTPUT).read_text(errors="replace")
        if _is_unconverged(text):
            return failed(tail(folder, [_OUTPUT]), SCF_FAILED)
        return outcome_of(found, properties)

    def _with_library(
        self, system: System, properties: frozenset[str], keywords: dict[str, Any], folder: Path
    ) -> Outcome:
        """Aims as a library: one process, one structure."""
        from ase.calculators.aims import AimsTemplate

        template = AimsTemplate()
        template.write_input(self._profile(), folder, system.atoms(), keywords, sorted(properties))
        command = [sys.executable, "-m", f"{__package__}.aims_library", str(folder), *sorted(properties)]
        problem = ""
        try:
            with (folder / _OUTPUT).open("wb") as output, (folder / _ERRORS).open("wb") as errors:
                run_program(command, folder, output, errors, self.settings.calculation_limit_s, self.settings.threads)
        except (OutOfTime, ProgramFailed, OSError) as error:
            problem = str(error)
        last = f"{tail(folder, ['asi.log', _OUTPUT, _ERRORS])}\n{problem}"
        if problem or not (folder / RESULTS).exists():
            return failed(last)
        found = json.loads((folder / RESULTS).read_text())
        return outcome_of(found, properties) if found["converged"] else failed(last, SCF_FAILED)

    # --- what is written -----------------------------------------------------------------------------------------

    def _profile(self) -> Any:
        from ase.calculators.aims import AimsProfile

        kind = type("TimedAims", (TimedProfile, AimsProfile), {})
        profile = kind(self._command, default_species_directory=str(self._species))
        return profile.limit(self.settings.calculation_limit_s, self.settings.threads)

    def _keywords(self, system: System, properties: frozenset[str], changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.settings
        is_open = settings.spin_treatment == "unrestricted" or (
            settings.spin_treatment == "auto" and system.multiplicity != 1
        )
        given: dict[str, Any] = {"xc": settings.method_name, "spin": "collinear" if is_open else "none"}
        if is_open:
            given |= {"fixed_spin_moment": system.multiplicity - 1}
            given |= {} if "default_initial_moment" in settings.keywords else {"default_initial_moment": "hund"}
        if system.charge:
            given["charge"] = system.charge
        if settings.conv_tol is not None:
            given["sc_accuracy_etot"] = settings.conv_tol
        if settings.max_cycles is not None:
            given["sc_iter_limit"] = settings.max_cycles
        if settings.dispersion is not None:
            given |= _DISPERSION[settings.dispersion]
        if settings.tier is not None:
            given["tier"] = settings.tier
        if system.n_periodic:
            given["k_grid"] = mesh_of(settings.kpts, system.cell)
        if "charges" in properties:
            given["output"] = ["hirshfeld", *settings.keywords.get("output", [])]
        return {**given, **{k: v for k, v in settings.keywords.items() if k not in given}, **changes}

    def _species_folder(self) -> Path:
        text = self.settings.species_dir or self._configured.get("default_species_directory", "")
        text = text or os.environ.get("AIMS_SPECIES_DIR", "")
        folder = Path(text).expanduser()
        if not text or not folder.is_dir():
            raise InvalidConfig(
                "There are no species defaults for aims.",
                key="species_dir",
                expected="a folder such as species_defaults/defaults_2020/light",
                found=text or "nothing",
                hint="set species_dir, or AIMS_SPECIES_DIR in the environment",
            )
        return folder.absolute()


@contextlib.contextmanager
def _ended_after(limit_s: float | None, started: Sequence[subprocess.Popen[Any]]) -> Iterator[threading.Event]:
    """End programs after the limit, and in any case at the end; ASE waits for one that never connects or answers.

    The event says whether the limit was reached.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        for process in started:
            end(process)

    timer = threading.Timer(limit_s or 0.0, stop)
    if limit_s is not None:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        for process in started:
            end(process)


def _answered(calculator: Any, atoms: Any, properties: frozenset[str]) -> dict[str, Any]:
    """What a client answers; where it does not, it may say its last words and is ended before ASE waits for it."""
    try:
        calculator.calculate(atoms, sorted(properties), ["positions"])
        return dict(calculator.results)
    except Exception:
        process = getattr(calculator.server, "proc", None)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS_S)
            end(process)
        raise
    finally:
        with contextlib.suppress(Exception):
            calculator.close()


def _is_unconverged(text: str) -> bool:
    """Whether the last self-consistency loop ran and did not converge; aims can end nicely all the same."""
    last = text.rfind(_BEGUN)
    return last >= 0 and text.find(_CONVERGED, last) < 0


def _configured() -> dict[str, str]:
    """The section of aims in ASE's configuration file."""
    from ase.config import cfg

    return dict(cfg.parser["aims"]) if "aims" in cfg.parser else {}


def _digest(folder: Path) -> str:
    """Of all species defaults of a folder."""
    from blake3 import blake3

    hasher = blake3()
    for file in sorted(folder.glob("*_default")):
        hasher.update(file.name.encode() + file.read_bytes())
    return hasher.hexdigest()


def _check_library() -> None:
    """Refuse the library interface where it is not installed."""
    library = os.environ.get("ASI_LIB_PATH", "")
    if importlib.util.find_spec("asi4py") is None or not Path(library).is_file():
        raise MissingPackage(
            "The library interface of aims is not there.",
            key="interface",
            expected="the package asi4py, and the environment variable ASI_LIB_PATH naming the library of aims",
            found=f"ASI_LIB_PATH = {library}" if library else "no ASI_LIB_PATH",
            hint="pip install asi4py; or set interface to files",
        )
