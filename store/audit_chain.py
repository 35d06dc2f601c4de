"""The commit log read leniently: every break is found and named, and what can still be read is folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from blake3 import blake3

from ..schemas.errors import StoreDamaged
from .catalogue import Catalogue
from .findings import Finding
from .log import GENESIS, Commit, split_lines

_MERGED = re.compile(rb'(\{"events":.*?\})\t([0-9a-f]{64})')
_KEYS = re.compile(rb'"(?:key|source|target|root_key)":"((?:[^"\\]|\\.)*)"')
_RUNS = re.compile(rb'"id":"([^"\\]{6,80})"')
_NUMBER = re.compile(rb'"n":(\d+)')


@dataclass(slots=True)
class Line:
    """One line of the log as it lies there."""

    text: bytes
    recorded: str = ""
    computed: str = ""
    commit: Commit | None = None
    keys: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether it can be read and gives its digest."""
        return self.commit is not None and self.recorded == self.computed


@dataclass(slots=True)
class Chain:
    """What the log gives.

    Attributes
    ----------
    catalogue : Catalogue
        Folded from all commits that can be read.
    verified : list of str
        Digests of the commits up to the first break, oldest first.
    findings : list of Finding
        Breaks.
    commits : int
        Commits that can be read.
    """

    catalogue: Catalogue = field(default_factory=Catalogue)
    verified: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    commits: int = 0


def read_chain(text: bytes) -> Chain:
    """Check the chain of commits and fold what can be read.

    Parameters
    ----------
    text : bytes
        The log.
    """
    chain = Chain()
    lines = list(_lines(text))
    _name(lines)
    if text and not text.endswith(b"\n"):
        names, facts = _names(lines[-1])
        chain.findings.append(
            Finding("commit_edited", f"The last line of the log does not end ({names}).", **facts, hint=_HINT)
        )
    _check(lines, chain)
    _fold([line.commit for line in lines if line.commit is not None], chain)
    return chain


_HINT = "the log was changed outside h5ml; compare with a backup or a colleague's copy"


def _lines(text: bytes) -> Iterator[Line]:
    """Lines; pieces of lines that cannot be parsed are joined, and merged lines taken apart."""
    broken = b""
    for piece in split_lines(text):
        line = _parse(piece)
        if line.commit is None:
            broken += piece + b"\n"
            continue
        if broken:
            yield from _recover(broken)
            broken = b""
        yield line
    if broken:
        yield from _recover(broken)


def _parse(text: bytes) -> Line:
    body, _, digest = text.rpartition(b"\t")
    recorded = digest.decode("ascii", "replace")
    try:
        record = orjson.loads(body)
        number, events = record["n"], record["events"]
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError("the number is no integer")
        if not all(isinstance(event, dict) for event in events):
            raise TypeError("an event is no object")
        commit = Commit(number, str(record["previous"]), recorded, str(record["time"]), record["message"], events)
    except (ValueError, KeyError, TypeError):
        return Line(text, recorded)
    return Line(text, recorded, blake3(body).hexdigest(), commit)


def _recover(text: bytes) -> Iterator[Line]:
    yield Line(text)
    found = [_parse(match.group(0)) for match in _MERGED.finditer(text)]
    yield from (line for line in found if line.sound)


def names_of(events: Iterable[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Keys and run ids that events concern, in order."""
    keys: dict[str, None] = {}
    runs: dict[str, None] = {}
    for event in events:
        keys.update(dict.fromkeys(str(event[name]) for name in ("key", "source", "target") if event.get(name)))
        run = event.get("run")
        identity = run.get("id") if isinstance(run, dict) else run
        runs.update(dict.fromkeys(str(name) for name in (identity, event.get("id")) if name))
    return list(keys), list(runs)


def _name(lines: list[Line]) -> None:
    """Find the keys and runs that each line concerns; in unreadable ones also those that other lines name."""
    known_keys: dict[str, None] = {}
    known_runs: dict[str, None] = {}
    for line in lines:
        if line.commit is not None:
            line.keys, line.runs = names_of(line.commit.events)
            known_keys.update(dict.fromkeys(line.keys))
            known_runs.update(dict.fromkeys(line.runs))
    for line in lines:
        if line.commit is None or not (line.keys or line.runs):
            keys = [m.decode(errors="replace") for m in _KEYS.findall(line.text)]
            runs = [m.decode(errors="replace") for m in _RUNS.findall(line.text)]
            keys += [name for name in known_keys if _stands_in(name, line.text)]
            runs += [name for name in known_runs if _stands_in(name, line.text)]
            line.keys, line.runs = list(dict.fromkeys(keys)), list(dict.fromkeys(runs))


def _stands_in(name: str, text: bytes) -> bool:
    """Whether a text holds a name with a quotation mark on one side at least (the other may be what was changed)."""
    return f'"{name}'.encode() in text or f'{name}"'.encode() in text


def _names(line: Line) -> tuple[str, dict[str, Any]]:
    """What a line concerns: as text, and as fields of a finding."""
    keys, runs = line.keys, line.runs
    numbers = _NUMBER.findall(line.text)
    number = line.commit.number if line.commit is not None else int(numbers[-1][:18]) if numbers else None
    told = [f"key {key}" for key in keys[:4]] + [f"run {run[:16]}" for run in runs[:4]]
    more = len(keys) + len(runs) - len(told)
    text = ", ".join(told) + (f" and {more} more" if more > 0 else "") or "no name can be read in it"
    return text, {"key": keys[0] if keys else None, "run": runs[0] if runs else None, "commit": number}


def _check(lines: list[Line], chain: Chain) -> None:
    numbers = [line.commit.number for line in lines if line.commit is not None]
    present, seen = set(numbers), set[int]()
    expected: int | None = 1
    before: Line | None = None
    for line in lines:
        commit = line.commit
        names, facts = _names(line)
        if commit is None:
            at = f"Commit {facts['commit']}" if facts["commit"] else f"A line (after commit {max(seen, default=0)})"
            chain.findings.append(
                Finding("commit_unreadable", f"{at} of the log cannot be read ({names}).", **facts, hint=_HINT)
            )
            expected = None
        else:
            if not line.sound:
                chain.findings.append(_edited(line, names, facts))
            if commit.number in seen:
                message = f"Commit {commit.number} stands twice in the log ({names})."
                chain.findings.append(Finding("commit_reordered", message, **facts, hint=_HINT))
            elif expected is not None and commit.number != expected:
                chain.findings.append(_gap(expected, commit.number, present, line))
            elif expected is not None and commit.previous not in _links(before):
                chain.findings.append(_replaced(before, line))
            seen.add(commit.number)
            expected = commit.number + 1
        if not chain.findings and line.sound:
            chain.verified.append(line.computed)
        before = line


def _links(line: Line | None) -> set[str]:
    return {GENESIS} if line is None else {line.recorded, line.computed}


def _edited(line: Line, names: str, facts: dict[str, Any]) -> Finding:
    message = f"Commit {facts['commit']} was edited: its text does not give its digest ({names})."
    return Finding("commit_edited", message, **facts, expected=line.recorded, found=line.computed, hint=_HINT)


def _gap(expected: int, found: int, present: set[int], line: Line) -> Finding:
    names, facts = _names(line)
    between = range(expected, found) if found - expected < 1_000_000 else range(expected, expected)
    missing = [n for n in between if n not in present]
    if missing:
        told = f"Commit {missing[0]} is" if len(missing) == 1 else f"Commits {missing[0]} to {missing[-1]} are"
        message = f"{told} missing from the log, before commit {found} ({names})."
        return Finding("commit_missing", message, **{**facts, "commit": missing[0]}, hint=_HINT)
    message = f"Commit {found} stands where commit {expected} should ({names})."
    return Finding("commit_reordered", message, **facts, hint=_HINT)


def _replaced(before: Line | None, line: Line) -> Finding:
    names, facts = _names(before if before is not None else line)
    assert line.commit is not None
    what = f"Commit {facts['commit']} is not the one that commit {line.commit.number} was made after"
    if before is None:
        what = f"Commit {line.commit.number} is the first, but was not made as the first"
    return Finding(
        "commit_replaced",
        f"{what}: it was exchanged or edited together with its digest ({names}).",
        **facts,
        expected=line.commit.previous,
        found=before.computed if before is not None else GENESIS,
        hint=_HINT,
    )


def _fold(commits: list[Commit], chain: Chain) -> None:
    """Apply every event that can be applied, in the order of the numbers."""
    chain.commits = len(commits)
    told: set[str] = set()
    done: set[int] = set()
    for commit in sorted(commits, key=lambda c: c.number):
        if commit.number in done:
            continue
        done.add(commit.number)
        for event in commit.events:
            try:
                chain.catalogue.apply_event(event, commit)
            except (StoreDamaged, TypeError, OverflowError) as error:
                keys, runs = names_of([event])
                name = (keys or runs or ["?"])[0]
                if name not in told:
                    told.add(name)
                    chain.findings.append(_impossible(commit, name, keys, runs, error))
        chain.catalogue.advance(commit, 0)


def _impossible(commit: Commit, name: str, keys: list[str], runs: list[str], error: Exception) -> Finding:
    return Finding(
        "event_impossible",
        f"Commit {commit.number} says of {name} what cannot be at that point.",
        key=keys[0] if keys else None,
        run=runs[0] if runs else None,
        commit=commit.number,
        found=getattr(error, "found", None) or str(error),
        hint="a commit before it is missing or was changed",
    )
