"""Provenance for other tools: W3C PROV-JSON through ``prov``, and RO-Crate folders through ``rocrate``."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..schemas.canonical import canonical_json
from ..schemas.errors import KeyTaken, MissingPackage
from ..schemas.run import DataRef, Run
from .catalogue import Entry
from .digest import digest_json
from .store import Store
from .transfer import choose, copy

if TYPE_CHECKING:
    from prov.model import ProvDocument
    from rocrate.rocrate import ROCrate

NAMESPACES = {
    "h5ml": "urn:h5ml:terms:",
    "key": "urn:h5ml:key:",
    "run": "urn:h5ml:run:",
    "engine": "urn:h5ml:engine:",
    "file": "urn:h5ml:file:",
    "agent": "urn:h5ml:agent:",
}
STORE_FILE, PROV_FILE = "store.h5", "provenance.json"


# --- PROV ------------------------------------------------------------------------------------------------------------


def export_prov(store: Store, keys: Collection[str] | None = None) -> ProvDocument:
    """The history of keys, with their ancestors, as a W3C PROV document.

    Versions of keys, engines and imported files are entities, runs are activities, people and modules are agents.

    Parameters
    ----------
    store : Store
        What is described.
    keys : collection of str, optional
        ``KEY``, ``KEY@VERSION`` or paths; everything by default.

    Returns
    -------
    prov.model.ProvDocument
        ``prov_json`` gives its text.
    """
    try:
        from prov.model import ProvDocument
    except ImportError as error:
        raise MissingPackage("PROV needs the package prov.", hint="pip install prov") from error

    document = ProvDocument()
    for prefix, uri in NAMESPACES.items():
        document.add_namespace(prefix, uri)
    entries = choose(store, keys, ancestors=True, versions=keys is None)
    for entry in entries:
        _prov_entry(document, entry)
    for run in runs_of(store, entries):
        _prov_run(document, store, run, entries)
    return document


def prov_json(store: Store, keys: Collection[str] | None = None, *, indent: int | None = 1) -> str:
    """The history of keys as PROV-JSON text; see ``export_prov``."""
    return str(export_prov(store, keys).serialize(format="json", indent=indent))


def runs_of(store: Store, entries: Iterable[Entry]) -> list[Run]:
    """The runs that made entries, in the order of their ids' first appearance, and calls whose outputs are gone."""
    runs = store.catalogue.runs
    found: dict[str, Run] = {}
    waiting = deque(entry.run for entry in entries if entry.run)
    while waiting:
        run = runs.get(waiting.popleft())
        if run is not None and run.id not in found:
            found[run.id] = run
            waiting.extend(call.run for call in run.calls)
    return list(found.values())


def _name(prefix: str, text: str) -> str:
    return f"{prefix}:{quote(text, safe='@')}"


def _when(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _prov_entry(document: ProvDocument, entry: Entry) -> None:
    facts: dict[str, Any] = {
        "prov:label": entry.reference,
        "prov:type": document.valid_qualified_name(_name("h5ml", entry.kind)),
        "h5ml:key": entry.key,
        "h5ml:version": entry.version,
        "h5ml:kind": entry.kind,
        "h5ml:digest": entry.digest,
        "h5ml:records": entry.records,
        "h5ml:created": entry.created,
    }
    if entry.purged:
        facts["h5ml:purged"] = True
    name = _name("key", entry.reference)
    document.entity(name, facts)
    if entry.origin:
        source = _name("file", digest_json(entry.origin))
        known: dict[Any, Any] = {f"h5ml:{quote(str(k), safe='')}": _plain(v) for k, v in entry.origin.items()}
        known["prov:label"] = str(entry.origin.get("file", "import"))
        document.entity(source, known)
        document.wasDerivedFrom(name, source)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else canonical_json(value)


def _prov_run(document: ProvDocument, store: Store, run: Run, entries: list[Entry]) -> None:
    name = _name("run", run.id)
    facts: dict[Any, Any] = {
        "prov:label": f"{run.module} {run.module_version} at {run.root_key}",
        "h5ml:module": run.module,
        "h5ml:module_version": run.module_version,
        "h5ml:root_key": run.root_key,
        "h5ml:config": canonical_json(run.config),
        "h5ml:seed": run.seed,
        "h5ml:status": run.status,
        "h5ml:environment": canonical_json(run.environment),
        "h5ml:wall_s": float(run.wall_s),
    }
    document.activity(name, _when(run.started), _when(run.ended), facts)
    _prov_agents(document, run, name)
    inputs = []
    for label, refs in run.inputs.items():
        for ref in refs:
            inputs.append(_prov_input(document, store, ref))
            document.used(name, inputs[-1], other_attributes={"prov:role": label})
    for label, ref in run.received():
        inputs.append(_prov_input(document, store, ref))
        document.used(name, inputs[-1], other_attributes={"prov:role": f"call {label}"})
    for label, fingerprint in run.engines.items():
        engine = _name("engine", digest_json(fingerprint))
        document.entity(engine, {"prov:label": label, "h5ml:fingerprint": canonical_json(fingerprint)})
        document.used(name, engine, other_attributes={"prov:role": label})
    for entry in entries:
        if entry.run == run.id:
            made = _name("key", entry.reference)
            document.wasGeneratedBy(made, name, _when(run.ended))
            for source in dict.fromkeys(inputs):
                document.wasDerivedFrom(made, source, name)
    for other in dict.fromkeys((run.continues, run.parent, *(call.run for call in run.calls))):
        if other in store.catalogue.runs:
            document.wasInformedBy(name, _name("run", str(other)))


def _prov_input(document: ProvDocument, store: Store, ref: DataRef) -> str:
    entry = store.catalogue.locate(ref)
    if entry is not None:
        return _name("key", entry.reference)
    name = _name("key", f"{ref.key}@{ref.version}")
    document.entity(name, {"prov:label": f"{ref.key}@{ref.version}", "h5ml:digest": ref.digest, "h5ml:missing": True})
    return name


def _prov_agents(document: ProvDocument, run: Run, name: str) -> None:
    module = _name("agent", f"module {run.module} {run.module_version}")
    label = f"h5ml module {run.module}, version {run.module_version}"
    document.agent(module, {"prov:type": document.valid_qualified_name("prov:SoftwareAgent"), "prov:label": label})
    document.wasAssociatedWith(name, module)
    user = run.environment.get("user")
    if user:
        person = _name("agent", f"person {user}")
        document.agent(person, {"prov:type": document.valid_qualified_name("prov:Person"), "prov:label": str(user)})
        document.wasAssociatedWith(name, person)


# --- RO-Crate --------------------------------------------------------------------------------------------------------


def export_crate(
    store: Store,
    folder: str | Path,
    keys: Collection[str] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    license: str | None = None,  # noqa: A002 - its name in RO-Crate
) -> ROCrate:
    """Pack keys with their whole history into an RO-Crate folder that can be published.

    The folder holds the data as an h5ml store of its own (``store.h5``, opens in xarray), the history as PROV-JSON
    and ``ro-crate-metadata.json``, where every run is a ``CreateAction`` with its inputs and outputs.

    Parameters
    ----------
    store : Store
        Where from.
    folder : path
        Must not exist, or be empty.
    keys : collection of str, optional
        ``KEY``, ``KEY@VERSION`` or paths; everything by default. Ancestors come along.
    name, description, license : str, optional
        What to say of the whole.

    Returns
    -------
    rocrate.rocrate.ROCrate
        As written.

    Raises
    ------
    KeyTaken
        If something lies at ``folder``.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise MissingPackage("RO-Crate needs the package rocrate.", hint="pip install rocrate") from error

    place = Path(folder)
    if place.exists() and any(place.iterdir()):
        raise KeyTaken("The folder for the crate is not empty.", key=place, hint="name a new one")
    place.mkdir(parents=True, exist_ok=True)
    entries = choose(store, keys, ancestors=True, versions=keys is None)
    _pack(store, place / STORE_FILE, keys)
    (place / PROV_FILE).write_text(prov_json(store, keys), encoding="utf-8")
    crate = ROCrate()
    crate.name = name or f"Data of {Path(store.location).name}"
    crate.description = description or f"{len(entries)} datasets with their provenance, exported by h5ml."
    crate.root_dataset["h5ml_root_digest"] = store.root_digest
    if license:
        crate.license = license
    file = crate.add_file(place / STORE_FILE, properties={"encodingFormat": "application/x-hdf5", "name": "all data"})
    prov = {"encodingFormat": "application/json", "name": "history as W3C PROV-JSON"}
    crate.add_file(place / PROV_FILE, properties=prov)
    parts = {entry.reference: _crate_entry(crate, entry, file) for entry in entries}
    file["hasPart"] = list(parts.values())
    actions = [_crate_run(crate, store, run, entries, parts) for run in runs_of(store, entries)]
    if actions:
        crate.root_dataset["mentions"] = actions
    crate.write(place)
    return crate


def _pack(store: Store, path: Path, keys: Collection[str] | None) -> None:
    from .opening import open_store

    with open_store(path, make=True) as target:
        copy(store, target, keys, versions=keys is None)
        target.engine.unlock()  # merges what waits beside the file
    for name in path.parent.glob(f"{path.name}-*"):
        name.unlink()


def _crate_entry(crate: ROCrate, entry: Entry, file: Any) -> Any:
    from rocrate.model.contextentity import ContextEntity

    properties = {
        "@type": "CreativeWork",
        "name": entry.reference,
        "additionalType": entry.kind,
        "identifier": f"blake3:{entry.digest}",
        "dateCreated": entry.created,
        "isPartOf": {"@id": file.id},
        "version": entry.version,
        "description": f"kind {entry.kind}, {entry.records} records, HDF5 group {entry.path}",
    }
    if entry.tags:
        properties["keywords"] = ", ".join(entry.tags)
    return crate.add(ContextEntity(crate, _crate_id(entry.reference), properties=properties))


def _crate_id(text: str) -> str:
    return "#" + quote(text, safe="@")


def _crate_run(crate: ROCrate, store: Store, run: Run, entries: list[Entry], parts: dict[str, Any]) -> Any:
    from rocrate.model.contextentity import ContextEntity

    tool_id = _crate_id(f"module-{run.module}-{run.module_version}")
    software = {"@type": "SoftwareApplication", "name": run.module, "softwareVersion": run.module_version}
    tool = crate.get(tool_id) or crate.add(ContextEntity(crate, tool_id, properties=software))
    refs = [*(ref for group in run.inputs.values() for ref in group), *(ref for _, ref in run.received())]
    located = [store.catalogue.locate(ref) for ref in refs]
    read = [parts[e.reference] for e in located if e is not None and e.reference in parts]
    action: dict[str, Any] = {
        "@type": "CreateAction",
        "name": f"{run.module} at {run.root_key}",
        "identifier": run.id,
        "startTime": run.started,
        "actionStatus": _STATUS.get(run.status, "http://schema.org/ActiveActionStatus"),
        "description": canonical_json({"config": run.config, "seed": run.seed, "engines": run.engines}),
    }
    if run.ended:
        action["endTime"] = run.ended
    entity = crate.add(ContextEntity(crate, _crate_id(f"run-{run.id}"), properties=action))
    entity["instrument"] = tool
    if read:
        entity["object"] = list({part.id: part for part in read}.values())
    entity["result"] = [parts[entry.reference] for entry in entries if entry.run == run.id]
    user = run.environment.get("user")
    if user:
        person_id = _crate_id(f"person-{user}")
        person = {"@type": "Person", "name": str(user)}
        entity["agent"] = crate.get(person_id) or crate.add(ContextEntity(crate, person_id, properties=person))
    return entity


_STATUS = {
    "done": "http://schema.org/CompletedActionStatus",
    "failed": "http://schema.org/FailedActionStatus",
    "interrupted": "http://schema.org/PotentialActionStatus",
}
