"""The catalogue: what the events of the commit log add up to. Held in memory, rebuilt from the log at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..schemas.errors import StoreDamaged, UnknownKey, nearest
from ..schemas.key import parse_reference
from ..schemas.run import DataRef, Run
from .log import GENESIS, Commit, Event

VERSIONS = ".h5ml/versions"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a key.

    Attributes
    ----------
    key, version : str, int
        Its name.
    kind, schema_version : str, int
        What lies there.
    run : str or None
        Id of the run that made it; None for data put in by hand or by import.
    digest : str
        Content digest as of the last commit that touched it.
    sizes : dict
        Dimension lengths.
    attributes : dict
        Attributes of the dataset.
    facts : dict
        ``formulas`` and ``elements`` for queries.
    chains : dict
        Hash chains that an append goes on from.
    created, modified : str
        UTC times.
    path : str
        Where the group lies in the engine.
    purged : bool
        Whether only lineage and digests are kept.
    tags, notes : list
        What people said of it.
    """

    key: str
    version: int
    kind: str
    schema_version: int
    run: str | None
    digest: str
    sizes: dict[str, int]
    attributes: dict[str, Any]
    facts: dict[str, Any]
    chains: dict[str, str]
    created: str
    modified: str
    path: str
    records: int = 0
    purged: bool = False
    tags: list[str] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """``KEY@VERSION``."""
        return f"{self.key}@{self.version}"

    @property
    def ref(self) -> DataRef:
        """Key, version, kind and digest, as a run records them."""
        return DataRef(key=self.key, version=self.version, kind=self.kind, digest=self.digest)


def version_path(key: str, version: int) -> str:
    """Where an older version lies."""
    return f"{VERSIONS}/{key}@{version}"


class Catalogue:
    """Keys, versions, runs, restart states and commits, folded from the log."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[int, Entry]] = {}
        self.runs: dict[str, Run] = {}
        self.restarts: dict[str, dict[str, Any]] = {}
        self.stashes: dict[str, dict[str, Any]] = {}
        self.marks: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, str] = {}
        self.interior: Counter[str] = Counter()
        self.head = GENESIS
        self.commits = 0
        self.size = 0
        self.last_time = ""
        self._removed_versions: dict[str, int] = {}
        self._appliers: dict[str, Callable[[Event, Commit], None]] = {
            "write": self._write,
            "append": self._append,
            "replace": self._replace,
            "run": self._run,
            "restart": self._restart,
            "forget": self._forget,
            "stash": self._stash,
            "mark": self._mark,
            "move": self._move,
            "alias": self._alias,
            "remove": self._remove,
            "purge": self._purge,
            "restore": self._restore,
            "tag": self._tag,
            "note": self._note,
        }

    # --- reading -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Entry]:
        """The newest version of every key, in the order of the keys."""
        for key in sorted(self.entries):
            yield self.newest(key)

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def newest(self, key: str) -> Entry:
        """The newest version of a key that exists."""
        versions = self.entries[key]
        return versions[max(versions)]

    def all_versions(self) -> Iterator[Entry]:
        """Every version of every key."""
        for key in sorted(self.entries):
            for version in sorted(self.entries[key]):
                yield self.entries[key][version]

    def entry(self, reference: str) -> Entry:
        """The entry of ``KEY`` (newest) or ``KEY@VERSION``; names that were moved and aliases are followed.

        Raises
        ------
        UnknownKey
            Names the nearest keys.
        """
        key, version = parse_reference(reference)
        name = self.resolve(key)
        if name not in self.entries:
            below = [k for k in self.entries if k.startswith(f"{key}/")]
            hint = nearest(key, self.entries) or ("`h5ml ls` shows the keys" if self.entries else "the store is empty")
            if below:
                others = f", and {len(below) - 1} more" if len(below) > 1 else ""
                hint = f"below it lies {min(below)}{others}"
            raise UnknownKey("There is no such key.", key=key, hint=hint)
        if version is None:
            return self.newest(name)
        if version not in self.entries[name]:
            known = ", ".join(f"@{v}" for v in sorted(self.entries[name]))
            raise UnknownKey("There is no such version.", key=reference, expected=known, found=f"@{version}")
        return self.entries[name][version]

    def resolve(self, key: str) -> str:
        """Follow moves and aliases from an old name to the present one; a key that exists is itself."""
        seen = set()
        while key not in self.entries and key in self.aliases and key not in seen:
            seen.add(key)
            key = self.aliases[key]
        return key

    def locate(self, ref: DataRef) -> Entry | None:
        """The entry that a run's reference meant, followed through moves; None once it is gone."""
        versions = self.entries.get(self.resolve(ref.key), {})
        found = versions.get(ref.version)
        if found is not None:
            return found
        return next((entry for entry in self.all_versions() if entry.digest == ref.digest), None)

    def next_version(self, key: str) -> int:
        """The number that the next version of a key gets; numbers are never used twice."""
        return max([*self.entries.get(key, {}), self._removed_versions.get(key, 0)], default=0) + 1

    def made_by(self, run_id: str) -> list[Entry]:
        """Every entry that a run made."""
        return [entry for entry in self.all_versions() if entry.run == run_id]

    def copied(self) -> Catalogue:
        """A copy that can go its own way."""
        other = Catalogue()
        other.entries = {key: dict(versions) for key, versions in self.entries.items()}
        other.stashes = {
            name: {**stash, "items": dict(stash["items"]), "pieces": list(stash["pieces"])}
            for name, stash in self.stashes.items()
        }
        other.marks = {name: dict(marks) for name, marks in self.marks.items()}
        other.runs, other.restarts, other.aliases = dict(self.runs), dict(self.restarts), dict(self.aliases)
        other.interior, other._removed_versions = Counter(self.interior), dict(self._removed_versions)
        other.head, other.commits, other.size, other.last_time = self.head, self.commits, self.size, self.last_time
        return other

    # --- folding -------------------------------------------------------------------------------------------------

    def apply(self, commit: Commit, nbytes: int) -> None:
        """Add one commit.

        Raises
        ------
        StoreDamaged
            If it does not follow the last one, or holds an event that cannot be.
        """
        if commit.number != self.commits + 1 or commit.previous != self.head:
            raise StoreDamaged(
                "The commit log is broken: a commit is missing or out of order.",
                expected=f"commit {self.commits + 1} after {self.head[:12]}",
                found=f"commit {commit.number} after {commit.previous[:12]}",
                hint="run `h5ml audit`",
            )
        for event in commit.events:
            self.apply_event(event, commit)
        self.advance(commit, nbytes)

    def apply_event(self, event: Event, commit: Commit) -> None:
        """Add one event of a commit (a transaction does so as it goes)."""
        applier = self._appliers.get(event.get("event", ""))
        if applier is None:
            raise StoreDamaged(
                "The commit log holds an unknown event.",
                expected=", ".join(sorted(self._appliers)),
                found=str(event.get("event")),
                hint="the store may have been written by a newer h5ml",
            )
        try:
            applier(event, commit)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamaged(
                f"Commit {commit.number} of the log cannot be understood.",
                found=f"{event.get('event')}: {error!r}",
                hint="run `h5ml audit`",
            ) from None

    def advance(self, commit: Commit, nbytes: int) -> None:
        """Make a commit, whose events were applied, the newest."""
        self.head, self.commits, self.last_time = commit.digest, commit.number, commit.time
        self.size += nbytes

    def _write(self, event: Event, commit: Commit) -> None:
        key, version = event["key"], event["version"]
        if key not in self.entries:
            self._count_parents(key, 1)
        older = self.entries.setdefault(key, {})
        for number, entry in list(older.items()):
            older[number] = replace(entry, path=version_path(key, number))
        older[version] = Entry(
            key=key,
            version=version,
            kind=event["kind"],
            schema_version=event["schema_version"],
            run=event.get("run"),
            digest=event["digest"],
            sizes=dict(event["sizes"]),
            attributes=dict(event["attributes"]),
            facts=dict(event.get("facts", {})),
            chains=dict(event.get("chains", {})),
            created=event.get("created", commit.time),
            modified=commit.time,
            path=key,
            records=event.get("records", 0),
            origin=dict(event.get("origin", {})),
        )
        self.aliases.pop(key, None)

    def _count_parents(self, key: str, step: int) -> None:
        while "/" in key:
            key = key.rpartition("/")[0]
            self.interior[key] += step
            if not self.interior[key]:
                del self.interior[key]

    def _change(self, event: Event, **changes: Any) -> None:
        """Put a changed copy in the place of an entry: those handed out before stay as they were."""
        versions = self.entries[event["key"]]
        versions[event["version"]] = replace(versions[event["version"]], **changes)

    def _known(self, event: Event) -> Entry:
        return self.entries[event["key"]][event["version"]]

    def _append(self, event: Event, commit: Commit) -> None:
        entry = self._known(event)
        self._change(
            event,
            digest=event["digest"],
            modified=commit.time,
            records=event["records"],
            sizes={**entry.sizes, **event["sizes"]},
            chains={**entry.chains, **event["chains"]},
            facts=event.get("facts", entry.facts),
            run=event.get("run", entry.run),
        )

    def _replace(self, event: Event, commit: Commit) -> None:
        self._change(
            event,
            digest=event["digest"],
            modified=commit.time,
            records=event.get("records", 0),
            sizes=event["sizes"],
            attributes=event["attributes"],
            facts=event.get("facts", {}),
            chains=event.get("chains", {}),
            run=event.get("run", self._known(event).run),
        )

    def _run(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        record = event["run"]
        known = self.runs.get(record["id"])
        self.runs[record["id"]] = Run.model_validate(record) if known is None else _updated(known, record)

    def _restart(self, event: Event, commit: Commit) -> None:
        self.restarts[event["id"]] = {**event, "time": commit.time}

    def _forget(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        for table in (self.restarts, self.stashes, self.marks):
            if table is not self.restarts or event.get("restart"):
                table.pop(event["id"], None)

    def _stash(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        stash = self.stashes.setdefault(event["id"], {"size": 0, "items": {}, "pieces": []})
        stash["pieces"].append(tuple(event["piece"]))
        for name, index, start, stop in event["items"]:
            stash["items"][name, index] = (start, stop)
            stash["size"] = max(stash["size"], stop)

    def _mark(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        self.marks.setdefault(event["id"], {})[event["name"]] = event["value"]

    def _move(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        source, target = event["source"], event["target"]
        moved = self.entries.pop(source)
        self._count_parents(source, -1)
        self._count_parents(target, 1)
        self.entries[target] = {
            version: replace(entry, key=target, path=target if entry.path == source else version_path(target, version))
            for version, entry in moved.items()
        }
        self.aliases[source] = target
        self.aliases.pop(target, None)
        self._removed_versions[target] = max(
            self._removed_versions.get(target, 0), self._removed_versions.pop(source, 0)
        )

    def _alias(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        self.aliases[event["source"]] = event["target"]

    def _remove(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        key, version = event["key"], event["version"]
        del self.entries[key][version]
        self._removed_versions[key] = max(self._removed_versions.get(key, 0), version)
        if self.entries[key]:
            newest = self.newest(key)
            self.entries[key][newest.version] = replace(newest, path=key)
        else:
            del self.entries[key]
            self._count_parents(key, -1)

    def _purge(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        self._change(event, purged=True)

    def _restore(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        self._change(event, purged=False)

    def _tag(self, event: Event, commit: Commit) -> None:  # noqa: ARG002
        others = [tag for tag in self._known(event).tags if tag != event["tag"]]
        self._change(event, tags=others if event.get("remove") else [*others, event["tag"]])

    def _note(self, event: Event, commit: Commit) -> None:
        note = {"time": event.get("time", commit.time), "author": event.get("author", ""), "text": event["text"]}
        self._change(event, notes=[*self._known(event).notes, note])


def _updated(run: Run, record: Mapping[str, Any]) -> Run:
    return Run.model_validate({**run.record(), **record})
