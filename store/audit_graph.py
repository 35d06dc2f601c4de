"""Runs and what they read and made: edited records, missing and stale inputs, labels and splits not to be relied on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..schemas.errors import H5mlError
from ..schemas.key import parse_reference
from ..schemas.run import CallRef, DataRef, Run
from .catalogue import Catalogue, Entry
from .digest import digest_json
from .engine import Array, Reader
from .findings import Finding
from .staleness import Staleness


def check_runs(catalogue: Catalogue, runs: Iterable[Run]) -> Iterator[Finding]:
    """Whether records give their ids, and inputs, outputs and what calls gave are what was recorded.

    What a run read is asked for where something that it made is there: a copy of a call brings the record of its
    caller along, but not all that the caller read.
    """
    makers = {entry.run for entry in catalogue.all_versions()}
    for run in runs:
        yield from _check_identity(run)
        if run.id in makers:
            for name, refs in run.inputs.items():
                for ref in refs:
                    yield from _check_input(catalogue, run, name, ref)
            for call in run.calls:
                yield from _check_call(catalogue, run, call)
        yield from _check_outputs(catalogue, run)
        if run.status == "running":
            told = f"Run {run.id[:16]} of {run.root_key} is recorded as running since {run.started}."
            hint = "wait for it, or execute it again: it goes on from its last commit"
            yield Finding("running", told, key=run.root_key, run=run.id, hint=hint)


def _check_identity(run: Run) -> Iterator[Finding]:
    found = digest_json(run.identity())
    if found != run.id:
        yield Finding(
            "run_edited",
            f"The record of run {run.id[:16]} does not give its id: module, settings, inputs or seed were edited.",
            key=run.root_key,
            run=run.id,
            expected=run.id,
            found=found,
            hint="the record of this run is not to be trusted; compare with a backup",
        )


def _check_input(catalogue: Catalogue, run: Run, name: str, ref: DataRef) -> Iterator[Finding]:
    told = f"{ref.key}@{ref.version}"
    facts: dict[str, Any] = {"key": told, "run": run.id}
    entry = catalogue.locate(ref)
    if entry is None:
        message = f"{told}, input {name} of run {run.id[:16]} ({run.root_key}), is not in the store."
        hint = "it was removed, or copied without its ancestors: `h5ml copy` brings them"
        yield Finding("input_missing", message, **facts, expected=ref.digest, hint=hint)


def _check_call(catalogue: Catalogue, run: Run, call: CallRef) -> Iterator[Finding]:
    """One finding for what is gone, and one for each output that is there and changed."""
    told = f"received by run {run.id[:16]} ({run.root_key}) from its call {call.name}"
    found = {name: catalogue.locate(ref) for name, ref in call.outputs.items()}
    gone = [name for name, entry in found.items() if entry is None]
    if gone:
        first = call.outputs[gone[0]]
        message = f"{', '.join(gone)}, {told}, {'is' if len(gone) == 1 else 'are'} not in the store."
        hint = "they were removed, or copied without their ancestors: `h5ml copy` brings them"
        facts: dict[str, Any] = {"key": f"{first.key}@{first.version}", "run": run.id}
        yield Finding("input_missing", message, **facts, expected=first.digest, hint=hint)
    for name, entry in found.items():
        ref = call.outputs[name]
        if entry is not None and entry.digest != ref.digest:
            message = f"{entry.reference}, {told}, has grown or changed since."
            facts = {"key": entry.reference, "run": run.id, "hint": f"see `h5ml log {entry.key}`"}
            yield Finding("received_changed", message, **facts, expected=ref.digest, found=entry.digest)


def _check_outputs(catalogue: Catalogue, run: Run) -> Iterator[Finding]:
    if run.status != "done":
        return
    for name, ref in run.outputs.items():
        entry = catalogue.locate(ref)
        if entry is not None and entry.run == run.id and entry.digest != ref.digest:
            yield Finding(
                "output_differs",
                f"{entry.reference} is not what run {run.id[:16]} recorded as its output {name}.",
                key=entry.reference,
                run=run.id,
                expected=ref.digest,
                found=entry.digest,
                hint=f"something was appended or replaced after the run ended; see `h5ml log {entry.key}`",
            )


def check_entries(catalogue: Catalogue, entries: Iterable[Entry]) -> Iterator[Finding]:
    """Whether the runs that made entries are recorded, and which entries are stale."""
    staleness = Staleness(catalogue)
    for entry in entries:
        if entry.run is None:
            continue
        if entry.run not in catalogue.runs:
            message = f"{entry.reference} names run {entry.run[:16]}, which has no record."
            yield Finding("run_missing", message, key=entry.reference, run=entry.run, hint="its origin is unknown")
        for why in staleness.of(entry):
            hint = "compute it again: `h5ml run` does so for all that is stale"
            yield Finding("stale", f"{entry.reference} is stale: {why}", key=entry.reference, run=entry.run, hint=hint)


# --- training sets ---------------------------------------------------------------------------------------------------


def check_training_set(reader: Reader, catalogue: Catalogue, entry: Entry) -> Iterator[Finding]:
    """Leakage between splits, and unconverged or missing labels among the frames of a training set."""
    columns = {name: reader.read(entry.path, name, (slice(None),)) for name in ("source", "source_frame", "split")}
    names = [str(text) for text in reader.read(entry.path, "source_key", (slice(None),))]
    sources = [_located(catalogue, name) for name in names]
    yield from _leakage(entry, names, sources, columns)
    for index in np.unique(columns["source"]).tolist():
        chosen = columns["source"] == index
        frames = np.unique(columns["source_frame"][chosen])
        source = sources[index] if 0 <= index < len(sources) else None
        if source is None:
            name = names[index] if 0 <= index < len(names) else f"source {index}"
            message = f"{entry.reference} refers to {name}, which is not in the store."
            yield Finding("source_missing", message, key=entry.reference, expected=name, hint="copy it into the store")
        elif len(frames) and (frames[0] < 0 or frames[-1] >= source.records > 0):
            message = f"{entry.reference} refers to frames that {source.reference} does not have."
            there, asked = f"frames 0 to {source.records - 1}", f"{frames[0]} to {frames[-1]}"
            yield Finding("source_missing", message, key=entry.reference, expected=there, found=asked)
        else:
            for labels in _labels_of(catalogue, entry, source):
                yield from _unconverged(reader, entry, labels, frames)
    yield from _check_baseline(reader, entry, names, sources)


def _check_baseline(reader: Reader, entry: Entry, names: list[str], sources: list[Entry | None]) -> Iterator[Finding]:
    """Unconverged or missing labels among those that are subtracted: they are as much a part of the targets."""
    if "baseline" not in reader.layout(entry.path).arrays:
        return
    columns = [reader.read(entry.path, name, (slice(None),)) for name in ("baseline", "baseline_frame")]
    for index in np.unique(columns[0]).tolist():
        frames = np.unique(columns[1][columns[0] == index])
        labels = sources[index] if 0 <= index < len(sources) else None
        if labels is None or (len(frames) and (frames[0] < 0 or frames[-1] >= labels.records > 0)):
            name = names[index] if 0 <= index < len(names) else f"source {index}"
            message = f"{entry.reference} refers to labels of its baseline that are not in the store."
            yield Finding("source_missing", message, key=entry.reference, expected=name, hint="copy it into the store")
        else:
            yield from _unconverged(reader, entry, labels, frames)


def _located(catalogue: Catalogue, name: str) -> Entry | None:
    try:
        key, version = parse_reference(name)
        return catalogue.entry(name if version is not None else str(key))
    except H5mlError:
        return None


def _leakage(
    entry: Entry, names: list[str], sources: list[Entry | None], columns: dict[str, Array]
) -> Iterator[Finding]:
    """The same frame of the same data in two splits; copies of a dataset count as the same."""
    identity = {i: (source.digest if source else names[i]) for i, source in enumerate(sources)}
    numbers = {digest: n for n, digest in enumerate(dict.fromkeys(identity.values()))}
    table = np.array([numbers[identity[i]] for i in range(len(sources))], dtype=np.int64)
    known = (columns["source"] >= 0) & (columns["source"] < len(sources))
    rows = np.stack([table[columns["source"][known]], columns["source_frame"][known], columns["split"][known]], axis=1)
    rows = np.unique(rows, axis=0)
    if len(rows) < 2:
        return
    twice = np.flatnonzero((rows[1:, :2] == rows[:-1, :2]).all(axis=1))
    if len(twice):
        source, frame = int(rows[twice[0], 0]), int(rows[twice[0], 1])
        name = next(names[i] for i in range(len(names)) if table[i] == source)
        yield Finding(
            "leakage",
            f"{len(twice)} frames of {entry.reference} stand in more than one of its splits.",
            key=entry.reference,
            run=entry.run,
            found=f"for example frame {frame} of {name} in splits {rows[twice[0], 2]} and {rows[twice[0] + 1, 2]}",
            hint="split by frame or by trajectory, not by record",
        )


def _labels_of(catalogue: Catalogue, entry: Entry, source: Entry) -> list[Entry]:
    """Labels of the source: itself, or inputs of the training set's run that were made from it."""
    if source.kind == "labels":
        return [source]
    run = catalogue.runs.get(entry.run or "")
    found = []
    for ref in (ref for refs in (run.inputs if run else {}).values() for ref in refs if ref.kind == "labels"):
        labels = catalogue.locate(ref)
        maker = catalogue.runs.get(labels.run or "") if labels else None
        read = {r.digest for refs in (maker.inputs if maker else {}).values() for r in refs}
        if labels is not None and source.digest in read and labels.records == source.records:
            found.append(labels)
    return found


def _unconverged(reader: Reader, entry: Entry, labels: Entry, frames: Array) -> Iterator[Finding]:
    if labels.purged:
        return
    converged = reader.read(labels.path, "converged", (slice(None),))
    bad = frames[converged[frames] == 0]
    if len(bad):
        yield Finding(
            "unconverged",
            f"{entry.reference} refers to {len(bad)} labels of {labels.reference} that did not converge.",
            key=entry.reference,
            run=entry.run,
            found=f"frames {', '.join(map(str, bad[:10].tolist()))}{' ...' if len(bad) > 10 else ''}",
            hint="leave them out, or label them again",
        )
