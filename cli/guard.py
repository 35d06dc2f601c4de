"""Run the rest of a command in a child process, so that a crash inside a C library becomes a message.

A damaged HDF5 file can crash libhdf5 with a signal that no Python code can catch. The parent forks before anything
heavy is imported, waits, passes signals on, and says what a signal meant.
"""

from __future__ import annotations

import os
import signal
import sys
import time

CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS})
FORWARDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
DAMAGED, TIMED_OUT = 7, 124
_PR_SET_PDEATHSIG = 1
_SENT_BY_A_PROCESS = 0

_CRASH_MESSAGE = """The file is damaged: a library (libhdf5, as a rule) crashed while reading it ({name}).
  next:     `h5ml audit` finds what is hit; restore the store from a copy; the last commit is what it was"""
_TIMEOUT_MESSAGE = """The command did not end within {limit:g} s and was stopped.
  next:     raise --timeout (or H5ML_TIMEOUT); where the store is small, it is damaged: restore it from a copy"""
_KILLED_MESSAGE = """The command was killed ({name}); the last commit is intact.
  next:     where nobody did so, the machine ran out of memory"""


def supervise(timeout_s: float | None = None) -> None:
    """Fork; the child returns and goes on, the parent waits for it and exits with its code.

    Parameters
    ----------
    timeout_s : float, optional
        How long the child may take; without it, as long as it likes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *FORWARDED})
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = _wait(child, timeout_s)
    sys.stderr.flush()
    os._exit(code)


def _die_with(parent: int) -> None:
    """End this process when its parent ends, and leave no core file behind."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(DAMAGED)


def _wait(child: int, timeout_s: float | None) -> int:
    """Wait for the child, passing on signals that were meant for this process alone."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        found = signal.sigtimedwait({signal.SIGCHLD, *FORWARDED}, left)
        if found is not None and found.si_signo in FORWARDED and found.si_code == _SENT_BY_A_PROCESS:
            os.kill(child, found.si_signo)  # a terminal's Ctrl-C reaches the child by itself
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _meaning(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.stderr.write(_TIMEOUT_MESSAGE.format(limit=timeout_s) + "\n")
            return TIMED_OUT


def _meaning(status: int) -> int:
    """The exit code for a child's end; a signal is said in words."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number in CRASHES:
        sys.stderr.write(_CRASH_MESSAGE.format(name=number.name) + "\n")
        return DAMAGED
    if number == signal.SIGKILL:
        sys.stderr.write(_KILLED_MESSAGE.format(name=number.name) + "\n")
    return 128 + int(number)
