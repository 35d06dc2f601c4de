"""Transactions apart: one process writes the data of a commit into the bucket, another commits it.

A fork of an Icechunk session collects what was changed: where chunks lie (their bytes are in the bucket already),
descriptions of groups, removals. It can travel, and be merged into a session of any later state of the branch, as long
as nobody has changed the same groups since: Icechunk does not check that, so whoever merges must.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from .icechunk_view import Change


@dataclass(frozen=True, slots=True)
class Changes:
    """What a function changed on a fork; small, since the chunks lie in the bucket.

    Attributes
    ----------
    session : bytes
        The fork, as Icechunk packs it; empty where nothing was changed.
    made, gone : tuple of str
        The groups that it made and removed.
    """

    session: bytes
    made: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def adopt(self, writer: Change) -> None:
        """Make the same changes in a transaction, by reference."""
        if self.session:
            writer.adopt(pickle.loads(self.session), self.made, self.gone)  # noqa: S301 - from a worker of ours


class ForkedChange(Change):
    """A transaction on a fork. It leaves folders alone: two forks that make the same one could not be merged."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._removed: set[str] = set()

    def changes(self) -> Changes:
        """What was changed so far."""
        if not self._session.has_uncommitted_changes:
            return Changes(b"")
        return Changes(pickle.dumps(self._session), tuple(sorted(self._made)), tuple(sorted(self._removed)))

    def remove(self, path: str) -> None:
        """Unlink a group."""
        super().remove(path)
        self._removed.add(path)

    def finish(self) -> None:
        """Folders that hold nothing any more are removed by who merges."""

    def _unknown_folders(self, path: str) -> list[str]:  # noqa: ARG002
        return []
