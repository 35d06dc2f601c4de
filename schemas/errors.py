"""Errors: each says what was expected, what was found, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class H5mlError(Exception):
    """Base of all errors that h5ml raises for a user to read.

    Parameters
    ----------
    message : str
        What is wrong, in one sentence.
    key : str, optional
        The store key (or file) concerned.
    expected, found : str, optional
        What was needed and what was there instead.
    hint : str, optional
        The next step to take.

    Attributes
    ----------
    exit_code : int
        The exit code of the command line for this kind of error.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        key: object = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.key = None if key is None else str(key)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        rows = (("key", self.key), ("expected", self.expected), ("found", self.found), ("next", self.hint))
        lines += [f"  {name + ':':<10}{text}" for name, text in rows if text is not None]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes (dask) with all they say."""
        return (_rebuild, (type(self), self.message, self.key, self.expected, self.found, self.hint))


def _rebuild(
    cls: type[H5mlError],
    message: str,
    key: str | None,
    expected: str | None,
    found: str | None,
    hint: str | None,
) -> H5mlError:
    return cls(message, key=key, expected=expected, found=found, hint=hint)


class InvalidKey(H5mlError, ValueError):
    """A text that cannot be a key."""

    exit_code = 2


class InvalidConfig(H5mlError, ValueError):
    """A setting that is unknown, out of bounds or of the wrong type."""

    exit_code = 2


class UnknownKey(H5mlError, KeyError):
    """No such key (or version) in the store."""

    exit_code = 3

    __str__ = H5mlError.__str__


class KeyTaken(H5mlError):
    """A key already exists, made by a different run."""

    exit_code = 4


class WrongKind(H5mlError, TypeError):
    """The data at a key are of another kind than needed."""

    exit_code = 5


class InvalidData(H5mlError, ValueError):
    """Data that do not fit their kind: a missing variable, a wrong unit, NaN where none may be."""

    exit_code = 5


class NotAStore(H5mlError):
    """The file or folder is no h5ml store, or of a newer format."""

    exit_code = 6


class NotMadeYet(NotAStore):
    """The making of the store was broken off, or goes on at this moment."""


class StoreDamaged(H5mlError):
    """The store's bytes are not what h5ml wrote."""

    exit_code = 7


class LockTimeout(H5mlError, TimeoutError):
    """Another process holds the store."""

    exit_code = 8


class StoreWriteFailed(H5mlError, OSError):
    """The operating system refused a write; the last commit is intact."""

    exit_code = 9

    __str__ = H5mlError.__str__


class ComputeFailed(H5mlError):
    """A module could not finish; what it had committed is kept."""

    exit_code = 10


class Interrupted(H5mlError):
    """A run was stopped by a signal; what it had committed is kept and it can be resumed."""

    exit_code = 75


class MissingPackage(H5mlError, ImportError):
    """An optional package is not installed."""

    exit_code = 11


class AuditFailed(H5mlError):
    """An audit had findings."""

    exit_code = 1


def nearest(name: str, names: Iterable[str], count: int = 3) -> str | None:
    """A hint that names the nearest of the existing names.

    Parameters
    ----------
    name : str
        What was asked for.
    names : iterable of str
        What exists.
    count : int
        How many to name at most.

    Returns
    -------
    str or None
        ``did you mean ...?``, or nothing when no name is near.
    """
    close = get_close_matches(name, list(names), n=count, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else None
