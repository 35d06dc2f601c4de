"""Keeps one HDF5 file open between uses, and decides when commits are merged into it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..schemas.errors import H5mlError, LockTimeout, NotAStore
from .hdf5_session import Session, token
from .lock import WriterLock, holders
from .pages import write_failed

_LOGGER = logging.getLogger(__name__)

MERGE_EVERY_S = 0.25
"""Commits that follow each other faster are merged into the data file together, this long after the first."""
RETRY_S = 1.0
"""How soon to try again when a reader keeps the file open."""
_PATIENCE_S = (0.05, 0.02)
"""How long a merge waits for readers that only open the file for a moment: first, and after a vain attempt."""
_VAIN_WARN = 4
"""After so many vain attempts, say who has the file open."""
_VAIN_MANY = 20
"""After so many, only try now and then."""
_WAL_BYTES = 32 * 1024 * 1024
"""The redo log is merged at this length in any case."""


class Keeper:
    """The open file of one engine in one process.

    Opening HDF5 and its journal costs more than a small commit, so a session stays open as long as nobody else
    committed. It holds no lock in between, is never used in another process than its own, and shows only the
    committed state.

    Parameters
    ----------
    path : Path
        The data file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = os.getpid()
        self._mutex = threading.RLock()
        self._session: Session | None = None
        self._timer: threading.Timer | None = None
        self._merged = 0.0
        self._vain = 0
        self._writing = False

    @contextlib.contextmanager
    def mutex(self) -> Iterator[None]:
        """One thread at a time; a forked child starts anew."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._mutex = threading.RLock()
            self._timer, self._writing = None, False
            if self._session is not None:
                self._session.close()
                self._session = None
        with self._mutex:
            yield

    # ---- reading

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that shows the committed state, with the data file's lock held as a reader."""
        with self.mutex(), contextlib.ExitStack() as stack:
            if self._writing:
                session = Session(self.path, writable=False)
                stack.callback(session.close)
                stack.enter_context(session.locked())
            else:
                session = self._shown(stack)
            yield session

    def _shown(self, stack: contextlib.ExitStack) -> Session:
        """The kept session if nobody committed since, or a new one."""
        kept = self._session
        if kept is not None and kept.own and not kept.paged.closed:
            stack.callback(self._leave, kept)
            if stack.enter_context(kept.locked()) or kept.views > 1:  # a view within a view shows the same
                return kept
            stack.close()
        self.drop()
        session = self._session = Session(self.path, writable=False)
        stack.callback(self._leave, session)
        stack.enter_context(session.locked())
        return session

    def _leave(self, session: Session) -> None:
        """Close a session that a transaction replaced while it was being read."""
        if session is not self._session and not session.views:
            session.close()

    def drop(self) -> None:
        """Forget the session without touching the files."""
        session, self._session = self._session, None
        if session is None:
            return
        if session.views:
            session.paged.session_disk.detached = True  # a view is still using it and will close it
        else:
            session.close()

    # ---- writing

    @contextlib.contextmanager
    def writing(self, timeout_s: float, *, make: bool = False) -> Iterator[Session]:
        """A session of the committed state to write in, under the writer lock."""
        with self.mutex():
            if self._writing:
                raise RuntimeError("a transaction cannot begin inside another one of the same store")
            if self.path.is_dir() or not (make or self.path.exists()):
                raise NotAStore("There is no such store.", key=self.path, hint="check the path")
            lock = WriterLock(self.path, timeout_s)
            try:
                lock.acquire()
            except OSError as error:
                if isinstance(error, H5mlError):
                    raise
                raise write_failed(self.path, "locking", error) from error
            self._writing = True
            try:
                session = self._writable()
                if not (make or session.paged.committed_length):
                    raise NotAStore("Nothing was committed to this store yet.", key=self.path)
                with session.locked():
                    yield session
            finally:
                self._writing = False
                lock.release()
            self._remind()

    def _writable(self) -> Session:
        session = self._session
        if session is not None:
            if session.writable and not session.views:
                with session.locked() as current:
                    if current:
                        return session
            self.drop()
        session = self._session = Session(self.path, writable=True)
        self._merged = 0.0
        return session

    def commit(self, session: Session) -> None:
        """Commit, and merge unless that was done a moment ago."""
        session.commit()
        now = time.monotonic()
        if now - self._merged >= MERGE_EVERY_S or session.paged.log_bytes > _WAL_BYTES:
            self._try_merge(session)

    def roll_back(self, session: Session) -> None:
        """Forget what was not committed; a session that cannot go on is dropped."""
        try:
            session.roll_back()
        except (H5mlError, OSError, RuntimeError, ValueError) as error:
            _LOGGER.debug("the open file is dropped: %s", error)
            self.drop()

    # ---- merging later

    def _try_merge(self, session: Session) -> None:
        """Merge, with less patience the longer a reader has kept the file open; say so once."""
        patience = _PATIENCE_S[0] if not self._vain else _PATIENCE_S[1] if self._vain < _VAIN_MANY else 0.0
        done = session.apply(patience)
        self._merged = time.monotonic()
        self._vain = 0 if done else self._vain + 1
        if self._vain == _VAIN_WARN:
            message = session.paged.waiting_message()
            _LOGGER.warning("%s; they are durable and are merged when it is closed", message)

    def _remind(self) -> None:
        """See to it that waiting commits are merged soon, even if no other transaction comes."""
        session = self._session
        if self._timer is None and session is not None and session.writable and session.paged.pending:
            self._timer = threading.Timer(RETRY_S if self._vain >= _VAIN_MANY else MERGE_EVERY_S, self._merge)
            self._timer.daemon = True
            self._timer.start()

    def _merge(self) -> None:
        with self.mutex():
            self._timer = None
            session = self._session
            if session is None or not session.writable or not session.paged.pending or session.views:
                self._remind()
                return
            with contextlib.suppress(LockTimeout, OSError), WriterLock(self.path, 0.0):
                with session.locked() as current:
                    if current:
                        self._try_merge(session)
                if not current:
                    self.drop()
            self._remind()

    def merge(self, session: Session, timeout_s: float) -> None:
        """Merge now, within a transaction's lock, or say who stands in the way."""
        if not session.apply(timeout_s):
            raise LockTimeout(
                f"{self.path} is open in another program; gave up after {timeout_s:g} s",
                key=self.path,
                found=", ".join(map(str, holders(self.path))) or None,
                hint="close it there, then try again",
            )

    def close(self) -> None:
        """Merge what waits and close everything."""
        with self.mutex():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            session = self._session
            if session is None or self._writing:
                return
            if session.writable and not session.views:
                with contextlib.suppress(LockTimeout, OSError), WriterLock(self.path, 1.0):
                    with session.locked() as current:
                        pass
                    if current:
                        self._session = None
                        session.close(apply=True)
                        return
            self.drop()

    def state(self) -> tuple[int, ...]:
        """See `h5ml.store.hdf5_session.token`."""
        return token(self.path)
