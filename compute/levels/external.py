"""Engines that are programs of their own: started, waited for, and ended where they take too long."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...schemas.errors import InvalidConfig, MissingPackage
from .level import TAIL_CHARACTERS

_GRACE_S = 2.0
_LEADER = """exec 3<&0 </dev/null
{ read -r _ <&3; kill -9 0; } & watcher=$!
"$@" 3<&- & wait $!
code=$?
{ kill $watcher; wait $watcher; } 2>/dev/null
exit $code"""
_VERSION_S = 30.0


class OutOfTime(Exception):
    """A program took longer than it may."""


class ProgramFailed(Exception):
    """A program ended with an error."""


class TimedProfile:
    """What a profile of ASE becomes: the program runs in a process group that can be ended, on so many threads.

    Mixed in before a profile class; ``limit`` is set after it was made.
    """

    _limit_s: float | None = None
    _threads: int = 1

    def limit(self, time_limit_s: float | None, threads: int) -> Any:
        """Set the time limit (s) and the number of threads."""
        self._limit_s, self._threads = time_limit_s, threads
        return self

    def run(
        self,
        directory: Path,
        inputfile: str | None,
        outputfile: str,
        errorfile: str | None = None,
        append: bool = False,
    ) -> None:
        """Run the program as ASE does, but not longer than the limit.

        Raises
        ------
        OutOfTime, ProgramFailed
            If it took too long, or ended with an error.
        """
        command: Sequence[str] = self.get_command(inputfile)  # type: ignore[attr-defined]
        mode = "ab" if append else "wb"
        with (
            (directory / outputfile).open(mode) as output,
            (directory / (errorfile or f"{outputfile}.err")).open(mode) as errors,
        ):
            run_program(command, directory, output, errors, self._limit_s, self._threads)


def run_program(
    command: Sequence[str], folder: Path, output: Any, errors: Any, limit_s: float | None, threads: int
) -> None:
    """Run a program in a folder, with its output in files; nothing of it is left running, however it ends.

    Raises
    ------
    OutOfTime, ProgramFailed
        If it took too long, or ended with an error.
    """
    process = start(command, folder, output, errors, threads)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"ended after the time limit of {limit_s:g} s") from None
    finally:
        end(process)
    if code != 0:
        raise ProgramFailed(f"{command[0]} ended with exit code {code}")


def start(command: Sequence[str], folder: Path, output: Any, errors: Any, threads: int) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, all of which dies with this process, however that ends.

    The group is led by a shell whose input is a pipe from here. It closes when this process ends, also by ``kill -9``
    or for lack of memory; then a second shell ends the group. No signal handler, no thread and no code between fork and
    exec takes part, and it holds for all that the program starts on this machine.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", _LEADER, "sh", *command], cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=errors,
        env=environment(threads), start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[Any]) -> None:
    """End a process with all that it started; politely at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            if number == signal.SIGTERM and not _has_group(process.pid):
                break
    if process.stdin is not None:
        process.stdin.close()


def environment(threads: int) -> dict[str, str]:
    """The environment of a program that shall use so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Set the number of threads in this process's environment, for programs that ASE starts itself."""
    wanted = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def check_command(command: str | None, engine: str, configured: Mapping[str, str]) -> str:
    """The command of a program, which must be on this machine.

    Parameters
    ----------
    command : str, optional
        As the user gave it.
    engine : str
        For messages.
    configured : mapping
        The section of ASE's configuration file, of use where no command was given.

    Raises
    ------
    InvalidConfig
        If there is none.
    MissingPackage
        If there is no such program.
    """
    text = command or configured.get("command", "")
    if not text:
        raise InvalidConfig(
            "There is no command for this engine.",
            key=engine,
            expected='the setting command, such as "mpirun -n 4 PROGRAM", or a section of ASE\'s configuration file',
            found="nothing",
            hint=f"give --command, or write `command = ...` below [{engine}] in that file",
        )
    program = shlex.split(text)[0]
    if shutil.which(program) is None:
        raise MissingPackage(
            f"The program of the engine {engine} is not on this machine.",
            key=engine,
            expected=program,
            found="no such program",
            hint="install it, or set command to its full path",
        )
    return text


@functools.cache
def _version_of(command: tuple[str, ...], pattern: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        with contextlib.suppress(OutOfTime, ProgramFailed, OSError), out.open("wb") as output:
            run_program(command, Path(folder), output, output, _VERSION_S, 1)
        found = re.search(pattern, out.read_text(errors="replace"))
    return found.group(1) if found else "unknown"


def version_of(command: Sequence[str], pattern: str) -> str:
    """The version that a program tells when it is started in an empty folder; ``unknown`` where it tells none."""
    return _version_of(tuple(command), pattern)


def tail(folder: Path, names: Sequence[str]) -> str:
    """The end of what a program wrote."""
    texts = []
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_size:
            texts.append(path.read_text(errors="replace")[-TAIL_CHARACTERS:].strip())
    return "\n".join(texts)


def line_with(folder: Path, names: Sequence[str], signs: Sequence[str]) -> str:
    """The last line of a program's output that holds one of some signs; empty where none does."""
    lines = [line for name in names if (folder / name).is_file() for line in _lines(folder / name)]
    return next((line.strip() for line in reversed(lines) if any(sign in line for sign in signs)), "")


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def _has_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
