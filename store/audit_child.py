"""An audit in a child process: a damaged file can crash the HDF5 library, and that too must become a finding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import orjson

from .audit import Progress, audit, engine_at
from .findings import AuditReport, Finding

MOST_CRASHES = 50


def audit_isolated(
    location: str | Path,
    *,
    root: str | None = None,
    under: str = "",
    progress: Progress | None = None,
    timeout_s: float | None = None,
) -> AuditReport:
    """Audit a store in a child process; see ``audit``.

    A key at which the HDF5 library crashes (or does not come back within ``timeout_s``) becomes a finding ``crash``,
    and the audit is made again without it.

    Parameters
    ----------
    location : str or pathlib.Path
        Path or URL of the store.
    root, under, progress :
        As in ``audit``.
    timeout_s : float, optional
        For each attempt.

    Raises
    ------
    NotAStore
        If nothing lies there, or the name says no engine.
    """
    engine_at(location).close()
    crashes: list[Finding] = []
    skip: list[str] = []
    while True:
        report, at, how = _attempt(str(location), root, under, skip, progress, timeout_s)
        if report is not None:
            break
        what = at or str(location)
        message = f"{what} cannot be read: the HDF5 library {how} there; the file is damaged."
        crashes.append(Finding("crash", message, key=what, found=how, hint="take the store back from a backup"))
        if not at or at in skip or len(skip) >= MOST_CRASHES:
            report = AuditReport(str(location))
            break
        skip.append(at)
    report.add(crashes)
    report.sort()
    return report


def _attempt(
    location: str, root: str | None, under: str, skip: list[str], progress: Progress | None, timeout_s: float | None
) -> tuple[AuditReport | None, str, str]:
    """One child; its report, or where and how it ended without one."""
    order = orjson.dumps({"location": location, "root": root, "under": under, "skip": skip})
    command = [sys.executable, "-m", __name__]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    at = ""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(order)
            child.stdin.close()
            for line in _lines(child.stdout, deadline):
                message: dict[str, Any] = orjson.loads(line)
                if "report" in message:
                    return AuditReport.from_record(message["report"]), "", ""
                at = message["at"][2]
                if progress is not None:
                    progress(*message["at"])
        except TimeoutError:
            return None, at, f"did not end within {timeout_s:g} s"
        finally:
            if child.poll() is None:
                child.kill()
    code = child.returncode
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    return None, at, how


def _lines(stream: IO[bytes], deadline: float | None) -> Any:
    """Lines of a pipe until it closes.

    Raises
    ------
    TimeoutError
        If the deadline passes first.
    """
    import select

    waiting = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([stream], [], [], left)[0]:
            raise TimeoutError
        piece = os.read(stream.fileno(), 1 << 16)
        if not piece:
            return
        *whole, waiting = (waiting + piece).split(b"\n")
        yield from whole


def _main() -> None:
    order = orjson.loads(sys.stdin.buffer.read())
    output = sys.stdout.buffer

    def say(message: dict[str, Any]) -> None:
        output.write(orjson.dumps(message) + b"\n")
        output.flush()

    report = audit(
        order["location"],
        root=order["root"],
        under=order["under"],
        skip=order["skip"],
        progress=lambda done, total, at: say({"at": [done, total, at]}),
    )
    say({"report": report.record()})


if __name__ == "__main__":
    _main()
