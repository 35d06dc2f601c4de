"""Finding the bytes of an HDF5 store that mean something, and changing one of them at a time."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from h5ml.schemas.kinds import BUILT_IN
from h5ml.schemas.run import CallRef, DataRef, Run
from h5ml.store.digest import digest_json
from h5ml.store.opening import open_store
from h5ml.store.prepare import Storage
from h5ml.store.store import Store

from .samples import fill_store, key_of, records, sample

VOLATILE = {v.name for kind in BUILT_IN.values() for v in kind.variables if v.volatile}  # outside the digests


def toy_run(root: str, inputs: dict[str, list[DataRef]], outputs: dict[str, DataRef], **facts: Any) -> Run:
    """A finished run whose id is right."""
    run = Run(id="", prefix_id="p", module="toy", module_version="1", root_key=root, config={"T": 300.0, "n": [1, 2]})
    run = run.model_copy(update={"inputs": inputs, "outputs": outputs, "status": "done", **facts})
    identity = digest_json(run.identity())
    return run.model_copy(update={"id": identity, "prefix_id": identity})


def toy_calls(store: Store, root: str, modules: dict[str, int], inputs: dict[str, list[DataRef]]) -> Run:
    """A caller with ``ROOT/out``, and calls of modules, each of which made a table; its record."""
    calls, seed = [], 100 * sum(map(ord, root))
    for module, number in modules.items():
        for i in range(number):
            name = f"{module}/{i}"
            run = toy_run(f"{root}/{name}", inputs, {}, module=module, seed=seed + i)
            _make(store, f"{root}/{name}/table", run)
            ref = store.entry(f"{root}/{name}/table").ref
            calls.append(CallRef(name=name, run=run.id, outputs={"table": ref}))
    caller = toy_run(root, inputs, {}, module="caller", seed=seed, calls=calls, engines={"model": {"name": "ase:emt"}})
    _make(store, f"{root}/out", caller)
    return caller


def _make(store: Store, key: str, run: Run) -> None:
    with store.transaction() as transaction:
        transaction.record(run)
        transaction.write(key, sample("table", 3, seed=sum(map(ord, key))), "table", run=run.id)


def rich_store(store: Store) -> Store:
    """All kinds, two versions of one key, a grown one, runs with inputs, a restart state, a stash and notes."""
    fill_store(store)
    grown = sample("trajectory", 40, seed=3)
    store.write("md/grown", records(grown, "trajectory", 0, 10), storage=Storage(growing=True), kind="trajectory")
    for start in range(10, 40, 10):
        store.append("md/grown", records(grown, "trajectory", start, start + 10))
    read = store.entry(key_of("structures")).ref
    run = toy_run("md", {"crystal": [read]}, {})
    table = sample("table", 8, seed=5)
    with store.transaction("a run") as transaction:
        transaction.record(run.model_copy(update={"status": "running"}))
        transaction.write("md/table", table, "table", run=run.id)
        transaction.restart("prefix-of-a-run", sample("observables", 3))
        transaction.stash("run-at-work-0", "map", {0: b"first result" * 10, 1: b"second"})
    with store.transaction("end of the run") as transaction:
        done = {"id": run.id, "status": "done", "outputs": {"table": store.entry("md/table").ref.model_dump()}}
        transaction.record(done)
        transaction.tag("md/table", "good")
        transaction.note("md/table", "looks right", author="me")
    store.write("md/grown", sample("trajectory", 6, seed=8), "trajectory", new_version=True)
    return store


def places(path: Path) -> dict[str, list[range]]:
    """Byte ranges of a closed store by what they hold: ``data``, ``log`` and ``attributes``."""
    text = path.read_bytes()
    with h5py.File(path, "r") as file:
        found: dict[str, list[range]] = {"data": [], "log": [], "attributes": []}
        patterns: set[bytes] = set()

        def visit(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset) and item.size:
                where = "log" if name == ".h5ml/log/bytes" else "data"
                if name.rpartition("/")[2] not in VOLATILE and not item.attrs.get("NAME", b"").startswith(b"This is"):
                    found[where] += list(_raw(item))
                    if h5py.check_string_dtype(item.dtype) is not None:
                        values = np.asarray(item[()], dtype=object).reshape(-1)
                        patterns.update(value for value in values if len(value) >= 6)
            for attribute, value in item.attrs.items():
                if attribute not in ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "store_id", "_Netcdf4Dimid"):
                    patterns.update(_patterns(value))

        file.visititems(visit)
    taken = np.zeros(len(text), bool)
    for ranges in found.values():
        for part in ranges:
            taken[part.start : part.stop] = True
    for pattern in sorted(patterns):
        start = text.find(pattern)
        while start >= 0:
            if not taken[start : start + len(pattern)].any():
                found["attributes"].append(range(start, start + len(pattern)))
            start = text.find(pattern, start + 1)
    return found


def _raw(dataset: h5py.Dataset) -> list[range]:
    """Bytes in the file that hold elements of a dataset (not the unused ends of chunks)."""
    size = dataset.dtype.itemsize
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return [] if offset is None else [range(offset, offset + dataset.size * size)]
    parts: list[range] = []
    plain = dataset.compression is None and not dataset.id.get_create_plist().get_nfilters()
    for index in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(index)
        rows = min(dataset.chunks[0], dataset.shape[0] - info.chunk_offset[0])
        used = rows * int(np.prod(dataset.chunks[1:])) * size if plain else info.size
        if rows > 0 and dataset.chunks[1:] == dataset.shape[1:]:
            parts.append(range(info.byte_offset, info.byte_offset + used))
    return parts


def _patterns(value: Any) -> list[bytes]:
    if isinstance(value, str):
        return [value.encode()] if len(value) >= 6 else []
    if isinstance(value, bytes):
        return [value] if len(value) >= 6 else []
    if isinstance(value, float) and value not in (0.0, 1.0):
        return [struct.pack("<d", value)]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return [value.astype("<f8").tobytes()]
    return []


def choose(path: Path, count: int, seed: int) -> list[tuple[str, int, int]]:
    """Random changes of one byte: what is hit, where, and the bits to flip."""
    rng = random.Random(seed)
    found = places(path)
    chosen = []
    for i in range(count):
        where = list(found)[i % 3]
        part = rng.choices(found[where], [len(p) for p in found[where]])[0]
        chosen.append((where, rng.choice(part), rng.randrange(1, 256)))
    return chosen


def audit_changed(path: Path, changes: list[tuple[str, int, int]], folder: Path) -> list[list[dict[str, Any]] | None]:
    """Audit one copy for each change, in child processes; None where the child crashed."""
    results: list[list[dict[str, Any]] | None] = []
    while len(results) < len(changes):
        order = {"path": str(path), "folder": str(folder), "changes": changes[len(results) :]}
        child = subprocess.run(
            [sys.executable, "-m", __name__], input=json.dumps(order), capture_output=True, text=True, timeout=600
        )
        lines = child.stdout.splitlines()
        results += [json.loads(line) for line in lines]
        if child.returncode:
            if not lines and child.returncode > 0:
                raise RuntimeError(child.stderr)
            results.append(None)
    return results


def change(path: Path, target: Path, offset: int, bits: int) -> None:
    """Copy a file with one byte changed."""
    text = bytearray(path.read_bytes())
    text[offset] ^= bits
    target.write_bytes(text)


def _main() -> None:
    from h5ml.store.audit import audit

    order = json.loads(sys.stdin.read())
    for index, (_, offset, bits) in enumerate(order["changes"]):
        target = Path(order["folder"]) / f"changed-{offset}-{bits}-{index}.h5"
        change(Path(order["path"]), target, offset, bits)
        report = audit(target)
        sys.stdout.write(json.dumps([finding.record() for finding in report.findings]) + "\n")
        sys.stdout.flush()
        for file in target.parent.glob(target.name + "*"):
            file.unlink()


def closed(store: Store) -> Path:
    """Close a store and merge what waits in its log; its file."""
    path = Path(store.location)
    store.engine.unlock()
    store.close()
    assert len(BUILT_IN) <= len(open_store(path).keys())
    return path


if __name__ == "__main__":
    _main()
