"""Which keys are stale: made of data that have changed since, or of data that are stale themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ..schemas.run import DataRef, Run
from .catalogue import Catalogue, Entry


class Staleness:
    """Tells why entries are stale; what it found out for one run it remembers.

    Parameters
    ----------
    catalogue : Catalogue
        Of the store, as it is now.

    Notes
    -----
    What was received from calls makes nothing stale: which calls there are, and what each gives, follows from the
    inputs, and a caller that is executed again finds its calls by their run ids, newer versions or not.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[str, list[str]] = {}

    def of(self, entry: Entry) -> list[str]:
        """Why an entry is stale, a sentence for each input; nothing where it is not, or is an older version."""
        run = self._catalogue.runs.get(entry.run or "")
        if run is None or not self._is_newest(entry):
            return []
        if run.id not in self._known:
            for each in self._in_order(run):
                self._known[each.id] = [why for name, refs in each.inputs.items() for why in self._why(name, refs)]
        return self._known[run.id]

    def _in_order(self, run: Run) -> Iterator[Run]:
        """The runs behind a run that are not known yet, each after those that it read from; no recursion."""
        path, begun = [run], set[str]()
        while path:
            last = path[-1]
            if last.id not in begun:
                begun.add(last.id)
                path += [maker for maker in self._makers(last) if maker.id not in begun and maker.id not in self._known]
                continue
            path.pop()
            if last.id not in self._known:
                yield last

    def _makers(self, run: Run) -> Iterator[Run]:
        for refs in run.inputs.values():
            for ref in refs:
                entry = self._locate(ref)
                maker = self._catalogue.runs.get(entry.run or "") if entry is not None else None
                if maker is not None:
                    yield maker

    def _why(self, name: str, refs: list[DataRef]) -> Iterator[str]:
        for ref in refs:
            entry = self._locate(ref)
            if entry is None:
                continue
            newest = self._catalogue.newest(entry.key)
            if newest.version > entry.version and newest.digest != ref.digest:
                yield f"its input {name}, {entry.reference}, has the newer version @{newest.version}."
            elif entry.digest != ref.digest:
                yield f"its input {name}, {entry.reference}, has grown or changed since it was read."
            elif self._is_newest(entry) and self._known.get(entry.run or ""):
                yield f"its input {name}, {entry.reference}, is stale."

    def _locate(self, ref: DataRef) -> Entry | None:
        """As ``Catalogue.locate``, quick also where many inputs are gone."""
        versions = self._catalogue.entries.get(self._catalogue.resolve(ref.key), {})
        return versions.get(ref.version) or self._by_digest.get(ref.digest)

    @cached_property
    def _by_digest(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for entry in self._catalogue.all_versions():
            found.setdefault(entry.digest, entry)
        return found

    def _is_newest(self, entry: Entry) -> bool:
        return self._catalogue.newest(entry.key).version == entry.version
