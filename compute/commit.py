"""Transactions of runs: outputs, restart state and record appear together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.key import Key
from ..schemas.kind import Kind
from ..schemas.run import Run
from ..store.icechunk_distributed import Handover, Outdated, adopt
from ..store.log import event_of
from ..store.prepare import Storage
from ..store.transaction import Transaction
from ..store.work import Work
from .identity import is_alive, process

if TYPE_CHECKING:
    import xarray as xr


class Displaced(ComputeFailed):
    """Another process is at a run, or wrote to its outputs."""


def busy(run: Run) -> Displaced:
    """The error that names the process that is at a run."""
    facts = run.environment
    return Displaced(
        "This run is being computed by a process that is alive.",
        key=run.root_key,
        found=f"process {facts.get('pid')} of {facts.get('user')} on {facts.get('host')}, since {run.started}",
        hint="wait for it, or stop it and run again: it goes on from its last commit",
    )


class RunTransaction(Transaction):
    """A transaction that can also check and record what is only known while it commits."""

    def claim(self, run_id: str) -> None:
        """Give up where another process took up the run just now."""

        def check(work: Work) -> None:
            known = work.catalogue.runs.get(run_id)
            if known is not None and is_alive(known):
                raise busy(known)

        self._operations.append(check)

    def expect(self, key: str, records: int) -> None:
        """Give up where the newest version of a key has not so many records: another process is at it."""

        def check(work: Work) -> None:
            found = work.catalogue.newest(key).records if key in work.catalogue else 0
            if found != records:
                raise Displaced(
                    "Another process wrote to an output of this run.",
                    key=key,
                    expected=f"{records} records",
                    found=f"{found} records",
                    hint="nothing was appended; stop one of the two and run again",
                )

        self._operations.append(check)

    def extend(self, key: str, dataset: xr.Dataset, run: str, records: int) -> None:
        """Append records to an output, on the condition that it has so many."""
        self.expect(key, records)
        self.append(key, dataset, run=run)

    def begin(self, key: str, dataset: xr.Dataset, kind: Kind, run: str, *, growing: bool, new_version: bool) -> None:
        """Make an output."""
        self.write(
            key, dataset, kind, run=run, new_version=new_version, storage=Storage(growing=growing and bool(kind.grows))
        )

    def verify(self, key: str, digest: str) -> None:
        """Give up where the newest version of a key has not come out with this digest."""

        def check(work: Work) -> None:
            found = work.catalogue.newest(key).digest
            if found != digest:
                raise ComputeFailed(
                    "Data that were taken over do not come out as they were recorded.",
                    key=key,
                    expected=digest[:16],
                    found=found[:16],
                    hint="nothing was changed; run `h5ml audit`, or take another root key",
                )

        self._operations.append(check)

    def also(self, operation: Callable[[Work], None]) -> None:
        """Do something that only the store's own parts can say."""
        self._operations.append(operation)

    def adopt(self, handover: Handover, run_id: str, answer: Callable[[str], None]) -> None:
        """Commit what a worker handed over, or leave it out where it does not fit any more.

        Parameters
        ----------
        handover : Handover
            What a transaction of a run did on a fork.
        run_id : str
            The run; it must still be this process that is at it.
        answer : callable
            Told why it was left out, or nothing (an empty text); again if the transaction is executed again.
        """
        here = process()

        def check(work: Work) -> None:
            run = work.catalogue.runs.get(run_id)
            if run is None or any(run.environment.get(name) != here[name] for name in ("host", "pid")):
                answer("Another process is at this run.")
                return
            try:
                adopt(work, handover)
            except Outdated as error:
                answer(str(error))
            else:
                answer("")

        self._operations.append(check)

    def done(self, record: Mapping[str, Any], keys: Mapping[str, str]) -> None:
        """Record the end of a run, with the references of its outputs as this transaction leaves them."""

        def emit(work: Work) -> None:
            outputs = {name: work.catalogue.newest(Key(key)).ref.model_dump() for name, key in keys.items()}
            work.emit(event_of("run", run={**record, "outputs": outputs}))

        self._operations.append(emit)
