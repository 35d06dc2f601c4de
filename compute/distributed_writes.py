"""Runs on workers whose store is in a bucket: each worker writes its data there itself, and nothing is staged.

The worker executes every transaction of its run on a fork (`ForkedStore`). What it changed, a few kilobytes without
the data, travels over dask to the committing process, whose `Desk` commits all that has come in one go and answers.
The worker waits for the answer, so that a block is durable when its ``yield`` returns, and no worker is ever more than
one transaction ahead. What dies on the way leaves chunks that no commit names; ``compact`` removes them.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..schemas.errors import H5mlError, Interrupted
from ..store.icechunk import IcechunkEngine
from ..store.icechunk_distributed import ForkedStore, Handover
from ..store.store import Store
from .commit import Displaced, RunTransaction
from .execution import Execution, Setting
from .hand_back import Outcome, WorkerRequests, outcome_of
from .identity import loaded_facts, process
from .plan import Plan
from .scheduler import Future, Scheduler, reporter
from .signals import LinkedStop, out_of_time, watchdog
from .standing import Start, look_up
from .workers import limited_threads

LOOK_SECONDS = 1.0
"""How often the committing process looks for what workers handed over where none of them rang."""
LISTEN_SECONDS = 2.0
"""How often a worker that waits for an answer looks whether its task was given up."""
ATTEMPTS = 3
"""How often a worker begins a run again that another one has gone on with."""
HELLO = b""
"""What a worker says first."""
LATE = "late"
"""The answer where an earlier worker was at this run until its time was up."""

Letter = tuple[str, str, bytes]
"""What a worker says: who it is, its run, and a packed `Handover` or ``HELLO``."""


@dataclass(frozen=True, slots=True)
class DistributedTask:
    """A run for a worker that writes the store itself.

    Attributes
    ----------
    store, plan, desk : Store, Plan, str
        Where to read and write, what to execute, and where to hand over what was written.
    needs : mapping
        What was asked of the worker; ``threads`` is kept to.
    time_limit_s : float or None
        After this time the worker ends itself.
    """

    store: Store
    plan: Plan
    desk: str
    needs: Mapping[str, float] = field(default_factory=dict)
    time_limit_s: float | None = None


# --- on the worker ---------------------------------------------------------------------------------------------------


class Line:
    """A worker's line to the desk: one question at a time, each of which is answered.

    Parameters
    ----------
    desk, run_id : str
        Whom to ask, and on behalf of what.
    """

    def __init__(self, desk: str, run_id: str) -> None:
        from distributed import Queue, get_client, get_worker

        self._worker = get_worker()
        self._task = self._worker.get_current_task()
        self._name, self._run = uuid.uuid4().hex, run_id
        client = get_client()
        self._up, self._down = Queue(desk, client=client), Queue(self._name, client=client)
        self.displaced = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        for queue in (self._up, self._down):
            with contextlib.suppress(Exception):  # the scheduler is gone
                queue.close()

    def given_up(self) -> bool:
        """Whether nobody waits for this task any more."""
        task = self._worker.state.tasks.get(self._task)
        return task is None or task.state not in ("executing", "long-running")

    def ask(self, text: bytes) -> str:
        """Say something to the desk, and wait for its answer.

        Raises
        ------
        Interrupted
            If nobody is there to answer.
        """
        try:
            if not self.given_up():
                self._up.put((self._name, self._run, text))
                self._worker.log_event(self._up.name, "ring")
            while not self.given_up():
                with contextlib.suppress(TimeoutError):
                    return str(self._down.get(timeout=LISTEN_SECONDS))
        except (OSError, KeyError) as error:  # the scheduler is gone, or the desk was closed
            raise Interrupted("The committing process is gone.", found=repr(error), hint="run again") from error
        raise Interrupted("The run was given up by the process that commits.", hint="run again")

    def hand_over(self, handover: Handover) -> str:
        """Wait until a transaction is committed; returns the root digest.

        Raises
        ------
        Displaced
            If somebody else is at this run, or has gone on with it.
        """
        said, _, rest = self.ask(pickle.dumps(handover)).partition(" ")
        if said == "done":
            return rest
        self.displaced = True
        raise Displaced("What a worker wrote was not committed.", found=rest, hint="run again")


class DistributedExecution(Execution):
    """An execution on a worker; that the run has begun was recorded by the process that commits."""

    def begin(self) -> None:
        """Remove partial outputs of an earlier attempt that nothing can go on from."""
        if self.start.stale:
            with RunTransaction(self.store, f"{self.plan.module.name} {self.plan.root_key}: again") as transaction:
                for reference in self.start.stale:
                    transaction.remove(reference)

    def _record_end(self, status: str, message: str) -> None:
        """A run that was given up is recorded by who gave it up."""
        if status != "interrupted":
            super()._record_end(status, message)

    def _environment(self) -> dict[str, Any]:
        known = self.store.catalogue.runs[self.plan.run_id].environment
        facts, here = loaded_facts(), process()
        worker = {"host": here["host"], "pid": here["pid"], "threads": facts["threads"]}
        return {"environment": {**known, "packages": facts["packages"], "worker": worker}}


def work(task: DistributedTask) -> Outcome:
    """Execute a run on a worker; called by dask."""
    report = reporter(task.plan.run_id)
    report(0.0, 0.0)
    with (
        Line(task.desk, task.plan.run_id) as line,
        limited_threads(task.needs.get("threads")),
        watchdog(task.time_limit_s),
    ):
        try:
            if line.ask(HELLO) == LATE and task.time_limit_s is not None:
                return "failed", str(out_of_time(task.time_limit_s, task.plan.root_key)), ""
        except Interrupted as error:
            return "interrupted", str(error), ""
        for _ in range(ATTEMPTS):
            engine = task.store.engine
            assert isinstance(engine, IcechunkEngine)
            store = ForkedStore(engine, line.hand_over)
            start = look_up(store, task.plan, owned=True)
            if not isinstance(start, Start):
                return "done", "", ""
            setting = Setting(LinkedStop(line.given_up), report)
            outcome = outcome_of(DistributedExecution(store, task.plan, start, setting, WorkerRequests))
            if not line.displaced:
                break
            line.displaced = False
        return outcome


# --- in the committing process ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Attempt:
    """A run that was sent to a worker.

    Attributes
    ----------
    time_limit_s : float or None
        How long it may take.
    line : str
        The worker that began it last; others are not listened to any more.
    began : float
        When that was.
    answers : distributed.Queue or None
        Where it waits for answers.
    """

    time_limit_s: float | None
    line: str = ""
    began: float = 0.0
    answers: Any = None


class Desk:
    """Commits what workers hand over: all that has come, of all runs, in one transaction.

    Parameters
    ----------
    main : Store
        In a bucket.
    logger : logging.Logger
        For warnings.
    """

    def __init__(self, main: Store, logger: logging.Logger) -> None:
        self._main, self._logger = main, logger
        self._name = ""
        self._client: Any = None
        self._letters: Any = None
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.RLock()
        self._rung = threading.Event()
        self._looked = 0.0

    def send(
        self, scheduler: Scheduler, plan: Plan, needs: Mapping[str, float], time_limit_s: float | None = None
    ) -> Future:
        """Begin a run on a worker."""
        from distributed import Queue

        with self._lock:
            if self._letters is None:
                self._name, self._client = f"h5ml-desk-{uuid.uuid4().hex}", scheduler.client
                self._letters = Queue(self._name, client=self._client)
                self._client.subscribe_topic(self._name, lambda _: self._rung.set())
            self._attempts[plan.run_id] = Attempt(time_limit_s)
        task = DistributedTask(self._main, plan, self._name, needs, time_limit_s)
        return scheduler.submit(work, task, needs)

    def clear(self, run_id: str) -> None:
        """Commit what came of a run, and listen to its workers no more."""
        with self._lock:
            self.serve(now=True)
            attempt = self._attempts.pop(run_id, None)
            if attempt is not None:
                _close(attempt.answers)

    def close(self) -> None:
        """Listen to nobody any more, until something is sent again."""
        with self._lock:
            if self._letters is None:
                return
            _close(self._letters)
            self._letters = None
            with contextlib.suppress(Exception):  # the scheduler is gone
                self._client.unsubscribe_topic(self._name)

    def serve(self, *, now: bool = False) -> None:
        """Commit what has come, and answer.

        Parameters
        ----------
        now : bool
            Whether to look also where no worker rang.
        """
        with self._lock:
            late = time.monotonic() - self._looked > LOOK_SECONDS
            if self._letters is None or not (now or late or self._rung.is_set()):
                return
            self._rung.clear()
            self._looked = time.monotonic()
            try:
                self._serve([tuple(letter) for letter in self._letters.get(batch=True)])
            except (OSError, KeyError) as error:  # the scheduler is gone; who looks after it says so
                self._logger.debug("the workers cannot be heard: %s", error)

    def _serve(self, letters: Sequence[Letter]) -> None:
        handed: list[Letter] = []
        for line, run_id, text in letters:
            if text == HELLO:
                self._welcome(line, run_id)
            elif run_id in self._attempts and self._attempts[run_id].line == line:
                handed.append((line, run_id, text))
        if handed:
            packed = [(run_id, pickle.loads(text)) for _, run_id, text in handed]  # noqa: S301 - from workers of ours
            for run_id, answer in self._commit(packed).items():
                self._attempts[run_id].answers.put(answer)

    def _welcome(self, line: str, run_id: str) -> None:
        """A worker begins with a run: from now on only this one is listened to."""
        from distributed import Queue

        attempt = self._attempts.get(run_id)
        if attempt is None:
            return
        spent = time.monotonic() - attempt.began
        late = bool(attempt.line) and attempt.time_limit_s is not None and spent >= attempt.time_limit_s
        _close(attempt.answers)
        attempt.line, attempt.began = line, time.monotonic()
        attempt.answers = Queue(line, client=self._client)
        attempt.answers.put(LATE if late else "welcome")

    def _commit(self, handed: Sequence[tuple[str, Handover]]) -> dict[str, str]:
        """Commit several in one transaction, or each by itself where that fails; answers by run."""
        said: dict[str, str] = {}
        message = handed[0][1].message + (f" (and {len(handed) - 1} more)" if len(handed) > 1 else "")
        transaction = RunTransaction(self._main, message)
        for run_id, handover in handed:
            transaction.adopt(handover, run_id, partial(said.__setitem__, run_id))
        try:
            digest = transaction.commit()
        except H5mlError as error:
            if len(handed) > 1:
                return {run_id: answer for one in handed for run_id, answer in self._commit([one]).items()}
            self._logger.warning("what a worker wrote could not be committed: %s", error.message)
            return {handed[0][0]: f"refused {error}"}
        return {run_id: f"refused {text}" if text else f"done {digest}" for run_id, text in said.items()}


def _close(queue: Any) -> None:
    if queue is not None:
        with contextlib.suppress(Exception):  # the scheduler is gone, and the queue with it
            queue.close()
