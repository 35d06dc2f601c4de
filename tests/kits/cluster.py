"""A dask scheduler and its workers as processes of their own, each of which can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Cluster:
    """A scheduler and two workers, made anew where they were killed.

    Parameters
    ----------
    folder : Path
        For its own files.
    environment : mapping
        Of the processes, beside that of this one.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._file, self._environment = folder / "scheduler.json", {**os.environ, **environment}
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def address(self) -> str:
        """Where the scheduler listens; what was killed is started again."""
        if self._scheduler is None or self._scheduler.poll() is not None:
            self.close()
            self._file.unlink(missing_ok=True)
            self._scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
            deadline = time.monotonic() + 60
            while not self._file.exists():
                assert time.monotonic() < deadline, "the scheduler does not start"
                time.sleep(0.02)
            self._workers = [self._start("worker", "--nthreads", "1", "--no-dashboard") for _ in range(2)]
        import json

        return str(json.loads(self._file.read_text())["address"])

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, "--scheduler-file", str(self._file), *options]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=self._environment, stdout=quiet, stderr=quiet, start_new_session=True)

    def workers(self) -> list[psutil.Process]:
        """The processes that compute; their nannies start them again."""
        return [child for one in self._workers for child in spawned(one.pid)]

    def kill_scheduler(self) -> None:
        """End the scheduler at once."""
        if self._scheduler is not None:
            self._scheduler.kill()
            self._scheduler.wait()

    def close(self) -> None:
        """End all of it at once."""
        for process in (self._scheduler, *self._workers):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._scheduler, self._workers = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spawned(pid: int) -> list[psutil.Process]:
    """The processes below one that compute for dask."""
    try:
        found = psutil.Process(pid).children(recursive=True)
        return [one for one in found if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:
        return []
