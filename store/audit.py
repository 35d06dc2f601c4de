"""The audit: whether the store is what was committed, and whether what lies in it may be relied on.

Every byte of data is read and its digest recomputed; nothing is taken from a cache. What can be found is listed in
``findings.CODES``. Against a noted root digest, even data rewritten together with all digests are found, because the
chain of commits then no longer leads through the noted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ..schemas.errors import H5mlError, NotAStore
from . import log
from .audit_chain import Chain, read_chain
from .audit_data import check_entry, check_groups, check_kept, check_log_group, unreadable
from .audit_graph import check_entries, check_runs, check_training_set
from .catalogue import Entry
from .engine import Engine, Reader
from .findings import CODES, AuditReport, Finding
from .store import Store

__all__ = ["CODES", "AuditReport", "Finding", "audit"]

Progress = Callable[[int, int, str], None]
VIEW_SECONDS = 1.0  # how long a view is kept open, so that a running simulation can commit in between


def audit(
    store: Store | str | Path,
    *,
    root: str | None = None,
    under: str = "",
    skip: Collection[str] = (),
    progress: Progress | None = None,
) -> AuditReport:
    """Recompute all digests and check the whole history of a store.

    Parameters
    ----------
    store : Store or path
        A path or URL also works where the store is too damaged to be opened.
    root : str, optional
        A root digest noted earlier (at least its first 16 digits): it must be that of a commit of the verified chain.
    under : str
        Only data and runs of keys below this path; the chain is checked whole.
    skip : collection of str
        ``KEY@VERSION`` of entries that are not read (``audit_isolated`` leaves out what crashes).
    progress : callable, optional
        Called with entries done, entries in all, and the entry that comes next.

    Returns
    -------
    AuditReport
        Its ``findings``, ``ok`` and ``exit_code(strict=...)``; never raises for damage inside the store.

    Raises
    ------
    NotAStore
        If nothing lies there, or the name says no engine.

    Examples
    --------
    >>> h5ml.audit(store, root=noted_in_the_paper).raise_for_findings()  # doctest: +SKIP
    """
    engine = engine_at(store)
    wall, cpu = time.perf_counter(), time.process_time()
    report = AuditReport(engine.location)
    engine.close()  # nothing that was read before counts
    try:
        _Audit(engine, report, under.strip("/"), frozenset(skip), progress).perform(root)
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; that is what is reported
        told = f"{error.message} {error.found or ''}" if isinstance(error, H5mlError) else f"{error!r}"
        hint = error.hint if isinstance(error, H5mlError) and error.hint else "take the store back from a backup"
        message = f"The store {engine.location} cannot be read as a whole."
        report.add([Finding("store_unreadable", message, key=engine.location, found=told.strip(), hint=hint)])
    report.sort()
    report.wall_s, report.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return report


def engine_at(store: Store | str | Path) -> Engine:
    """The engine of a store, or of a place where something lies."""
    if isinstance(store, Store):
        return store.engine
    from .opening import engine_for

    engine = engine_for(store)
    if "://" not in str(store) and not Path(engine.location).exists():
        raise NotAStore("There is no store.", key=store)
    return engine


class _Audit:
    """One audit as it goes along."""

    def __init__(
        self, engine: Engine, report: AuditReport, under: str, skip: Collection[str], progress: Progress | None
    ) -> None:
        self._engine = engine
        self._report = report
        self._under = under
        self._skip = skip
        self._progress = progress
        self._chain = Chain()
        self._size = -1

    def perform(self, root: str | None) -> None:
        """Check everything."""
        with self._engine.reading() as reader:
            self._read_log(reader)
        self._report.add(self._chain.findings)
        self._check_root(root)
        self._check_all_entries()
        with self._engine.reading() as reader:
            self._read_log(reader)
            self._check_rest(reader)
        catalogue, report = self._chain.catalogue, self._report
        report.root, report.commits = catalogue.head, self._chain.commits

    def _read_log(self, reader: Reader) -> None:
        """Read the log of this view, if it is another than before."""
        try:
            size = log.check_log(reader, self._engine.location)
        except NotAStore:
            if not reader.exists(log.LOG_PATH):
                raise
            size = int(reader.layout(log.LOG_PATH).sizes["byte"])  # its attributes are told of later
        if size != self._size:
            self._chain = read_chain(log.read_bytes(reader))
            self._size = size

    def _check_root(self, root: str | None) -> None:
        if root is None:
            return
        wanted, verified = root.strip().lower(), self._chain.verified
        ages = [age for age, digest in enumerate(reversed(verified)) if digest.startswith(wanted)]
        if wanted == log.GENESIS:
            ages = [len(verified)]
        if len(wanted) >= 16 and ages and set(wanted) <= set("0123456789abcdef"):
            self._report.root_age = ages[0] + self._chain.commits - len(verified)
            return
        message = (
            f"No commit of {self._engine.location} has the noted root digest {wanted[:16]}: its history was rewritten, "
            "cut off, or the digest is of another store."
        )
        found = f"{len(verified)} verified commits, the last {verified[-1] if verified else 'none'}"
        hint = "compare with a copy of the store from when the digest was noted"
        self._report.add(
            [Finding("root_not_found", message, key=self._engine.location, expected=wanted, found=found, hint=hint)]
        )

    def _selected(self) -> list[Entry]:
        return [entry for entry in self._chain.catalogue.all_versions() if self._is_chosen(entry.key)]

    def _is_chosen(self, path: str) -> bool:
        return not self._under or path == self._under or path.startswith(f"{self._under}/")

    # --- data --------------------------------------------------------------------------------------------------------

    def _check_all_entries(self) -> None:
        waiting = [(entry.key, entry.version) for entry in self._selected() if entry.reference not in self._skip]
        total = len(waiting)
        waiting.reverse()
        while waiting:
            with self._engine.reading() as reader:
                self._read_log(reader)
                until = time.monotonic() + VIEW_SECONDS
                while waiting:
                    key, version = waiting.pop()
                    if self._progress is not None:
                        self._progress(total - len(waiting) - 1, total, f"{key}@{version}")
                    self._check_one(reader, key, version)
                    if time.monotonic() >= until:
                        break
        if self._progress is not None:
            self._progress(total, total, "")

    def _check_one(self, reader: Reader, key: str, version: int) -> None:
        """Check one entry as the log has it now; one that was removed in the meantime is passed over."""
        entry = self._chain.catalogue.entries.get(key, {}).get(version)
        if entry is None:
            return
        self._report.keys += 1
        if entry.purged:
            self._report.purged += 1
            return
        findings, size = check_entry(reader, self._engine, entry)
        if not findings and entry.kind == "training_set":
            try:
                findings = list(check_training_set(reader, self._chain.catalogue, entry))
            except Exception as error:  # noqa: BLE001 - its sources may be damaged in any way
                message = f"The sources of {entry.reference} cannot be checked."
                findings = [Finding("source_missing", message, key=entry.reference, found=repr(error)[:300])]
        self._report.add(findings)
        self._report.bytes += size

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _check_rest(self, reader: Reader) -> None:
        catalogue, report = self._chain.catalogue, self._report
        report.add(_safely("The log", check_log_group, reader))
        if not self._under:
            report.add(_safely("What runs keep", check_kept, reader, catalogue))
        report.add(_safely("The list of groups", self._groups, reader))
        entries = self._selected()
        makers = {entry.run for entry in entries}
        runs = [r for r in catalogue.runs.values() if not self._under or r.id in makers or self._is_chosen(r.root_key)]
        report.runs = len(runs)
        report.add(check_runs(catalogue, runs))
        report.add(check_entries(catalogue, entries))

    def _groups(self, reader: Reader) -> Iterator[Finding]:
        for finding in check_groups(reader.groups(), self._chain.catalogue):
            path = (finding.key or "").removeprefix(".h5ml/versions/")
            if self._is_chosen(path):
                yield finding


def _safely(what: str, check: Callable[..., Iterator[Finding]], *arguments: Any) -> list[Finding]:
    """Findings of a check, or one that says why it could not be made."""
    findings: list[Finding] = []
    try:
        findings += check(*arguments)
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way; the audit goes on
        findings.append(unreadable(what, error))
    return findings
