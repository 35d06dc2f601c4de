"""Log messages and warnings as short lines on stderr while a command runs."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LEVELS = {0: logging.WARNING, 1: logging.INFO}


class StderrHandler(logging.Handler):
    """Writes to the stderr of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message; its level stands before it, unless it only informs."""
        text = record.getMessage()
        _write(text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}")


def _write(text: str) -> None:
    """Write a line above a progress bar, where there is one (`click.echo` would write into it)."""
    print(text, file=sys.stderr)


class WarningLines:
    """Shows warnings as one line each.

    Parameters
    ----------
    everything : bool
        Whether the libraries' warnings for programmers (deprecations and the like) are shown too.
    """

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Show one."""
        del file, line
        where = f" ({filename}:{lineno})" if self._everything else ""
        if self._everything or category in (UserWarning, RuntimeWarning):
            _write(f"warning: {str(message).strip()}{where}")


@contextmanager
def messages(verbose: int) -> Iterator[None]:
    """Show log messages of h5ml and warnings on stderr.

    Parameters
    ----------
    verbose : int
        0: warnings; 1: what is going on; 2: everything.
    """
    handler = StderrHandler()
    logger = logging.getLogger("h5ml")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(LEVELS.get(verbose, logging.DEBUG))
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = WarningLines(everything=verbose > 1)
            yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
