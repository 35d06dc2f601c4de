"""Queries over the catalogue: conditions on kind, attributes, composition, counts, times and runs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from ..schemas.config import Config, Field
from ..schemas.key import Key
from .catalogue import Catalogue, Entry

_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?)?")


class Query(Config):
    """Conditions that an entry must fulfil, all of them."""

    under: str = Field("", description="Only keys below this path.")
    match: str | None = Field(None, description="Only keys that match this pattern with * and ?.")
    kind: str | None = Field(None, description="Only this kind.")
    level_of_theory: str | None = Field(None, description="Only data with this attribute level_of_theory.")
    attributes: dict[str, Any] = Field({}, description="Attributes and the values they must have.")
    formula: str | None = Field(None, description="Only data that hold this formula (Hill order, as CH4N2O).")
    elements: tuple[str, ...] = Field((), description="Only data that hold all these elements.")
    only_elements: tuple[str, ...] = Field((), description="Only data that hold no other elements than these.")
    min_records: int | None = Field(None, ge=0, description="At least so many records (frames, rows).")
    max_records: int | None = Field(None, ge=0, description="At most so many records (frames, rows).")
    since: str | None = Field(None, description="Changed at or after this time (ISO 8601, UTC).")
    until: str | None = Field(None, description="Changed at or before this time (ISO 8601, UTC).")
    module: str | None = Field(None, description="Only data that this module made.")
    status: str | None = Field(None, description="Only data whose run has this status.")
    tag: str | None = Field(None, description="Only entries with this tag.")
    versions: bool = Field(False, description="Older versions too.")

    @field_validator("since", "until")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = value.strip().replace(" ", "T").removesuffix("Z")
        if not _TIME.fullmatch(text):
            raise ValueError(f"no time: {value!r}; write for example 2026-11-30 or 2026-11-30T14:05")
        return text

    @field_validator("elements", "only_elements", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def select(catalogue: Catalogue, query: Query) -> Iterator[Entry]:
    """The entries of a catalogue that fulfil a query, in the order of the keys."""
    for entry in catalogue.all_versions() if query.versions else catalogue:
        if _name_fits(entry, query) and _content_fits(entry, query) and _run_fits(entry, query, catalogue):
            yield entry


def _name_fits(entry: Entry, query: Query) -> bool:
    return (
        (not query.under or Key(entry.key).is_under(query.under))
        and (query.match is None or fnmatch.fnmatchcase(entry.key, query.match))
        and (query.kind is None or entry.kind == query.kind)
        and (query.tag is None or query.tag in entry.tags)
        and (query.since is None or entry.modified >= query.since)
        and (query.until is None or entry.modified[: len(query.until)] <= query.until)
    )


def _content_fits(entry: Entry, query: Query) -> bool:
    wanted = dict(query.attributes)
    if query.level_of_theory is not None:
        wanted["level_of_theory"] = query.level_of_theory
    elements = set(entry.facts.get("elements", ()))
    return (
        all(str(entry.attributes.get(name)) == str(value) for name, value in wanted.items())
        and (query.formula is None or query.formula in entry.facts.get("formulas", ()))
        and elements.issuperset(query.elements)
        and (not query.only_elements or (bool(elements) and elements.issubset(query.only_elements)))
        and (query.min_records is None or entry.records >= query.min_records)
        and (query.max_records is None or entry.records <= query.max_records)
    )


def _run_fits(entry: Entry, query: Query, catalogue: Catalogue) -> bool:
    if query.module is None and query.status is None:
        return True
    run = catalogue.runs.get(entry.run or "")
    return (
        run is not None
        and (query.module is None or run.module == query.module)
        and (query.status is None or run.status == query.status)
    )
