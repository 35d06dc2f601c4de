"""The commit log: one line of JSON per commit, each sealed with the digest of itself and all before it.

The log is the store's memory of what lies where and why: keys, their versions, other names (aliases) and digests, runs,
tags and notes are what its events add up to (``catalogue.py``). It is an ordinary growing array, ``.h5ml/log`` variable
``bytes``, so that any tool can read it. A line is ``JSON <tab> BLAKE3 hex <newline>``, and the JSON holds the digest of
the line before: a changed, deleted or reordered commit breaks the chain. The digest of the last line is the root
digest of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from blake3 import blake3

from ..schemas.errors import NotAStore, StoreDamaged
from .engine import ArrayLayout, GroupLayout, Reader, Writer

LOG_PATH = ".h5ml/log"
FORMAT = 1
GENESIS = "0" * 64
CHUNK = 1 << 14

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Commit:
    """One line of the log.

    Attributes
    ----------
    number : int
        From 1.
    previous, digest : str
        The chain.
    time : str
        UTC, ISO 8601.
    message : str
        Why it was made.
    events : list of dict
        What it changed.
    """

    number: int
    previous: str
    digest: str
    time: str
    message: str
    events: Sequence[Event]


def encode(number: int, previous: str, time: str, message: str, events: Sequence[Event]) -> tuple[bytes, str]:
    """A log line and its digest."""
    record = {"n": number, "previous": previous, "time": time, "message": message, "events": events}
    body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    digest = blake3(body).hexdigest()
    return body + b"\t" + digest.encode() + b"\n", digest


def decode(line: bytes, *, verify: bool = False) -> Commit:
    """Read one line (without its newline).

    Raises
    ------
    StoreDamaged
        If it is no such line, or (with ``verify``) if its digest is wrong.
    """
    body, tab, digest = line.rpartition(b"\t")
    try:
        if not tab or (verify and blake3(body).hexdigest() != digest.decode()):
            raise ValueError("the digest of the line does not match its text")
        record = orjson.loads(body)
        return Commit(
            record["n"], record["previous"], digest.decode(), record["time"], record["message"], record["events"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(
            "A line of the commit log cannot be read.", found=f"{line[:80]!r}: {error}", hint="run `h5ml audit`"
        ) from None


def make_log(writer: Writer, store_id: str) -> None:
    """Make the log of a new store."""
    layout = GroupLayout(
        {"bytes": ArrayLayout(("byte",), (0,), "|u1", {"units": "1"}, (CHUNK,))},
        {"byte": 0},
        {"h5ml_format": FORMAT, "store_id": store_id, "about": "commit log of h5ml: JSON, tab, BLAKE3, newline"},
        ("byte",),
    )
    writer.create(LOG_PATH, layout)


def check_log(reader: Reader, location: str) -> int:
    """Bytes in the log.

    Raises
    ------
    NotAStore
        If there is no log, or it is of a newer format.
    """
    if not reader.exists(LOG_PATH):
        raise NotAStore(
            "This is no h5ml store.",
            key=location,
            expected=f"a group {LOG_PATH}",
            found="none",
            hint="`h5ml init PATH` makes a store; `h5ml import` reads other files into one",
        )
    layout = reader.layout(LOG_PATH)
    found = layout.attributes.get("h5ml_format")
    if found != FORMAT:
        raise NotAStore(
            "The store has another format than this h5ml knows.",
            key=location,
            expected=f"format {FORMAT}",
            found=f"format {found}",
            hint="install a newer h5ml" if isinstance(found, int) and found > FORMAT else "run `h5ml upgrade`",
        )
    return int(layout.sizes["byte"])


def read_bytes(reader: Reader, start: int = 0) -> bytes:
    """The log from a byte on."""
    return np.asarray(reader.read(LOG_PATH, "bytes", (slice(start, None),)), dtype=np.uint8).tobytes()


def append(writer: Writer, size: int, line: bytes) -> None:
    """Add a line to the log whose size is known."""
    writer.grow(LOG_PATH, {"byte": size + len(line)})
    writer.write(LOG_PATH, "bytes", np.frombuffer(line, dtype=np.uint8), size)


def split_lines(text: bytes) -> list[bytes]:
    """The lines of a piece of log, without newlines."""
    lines = text.split(b"\n")
    return lines[:-1] if lines and not lines[-1] else lines


def event_of(name: str, /, **facts: Any) -> Event:
    """An event of the log; facts that are None are left out."""
    return {"event": name, **{key: value for key, value in facts.items() if value is not None}}
