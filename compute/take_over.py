"""Taking over a result that the same run made elsewhere in the store."""

from __future__ import annotations

from dataclasses import replace

from ..schemas.kinds import kind_named
from ..schemas.run import Run
from ..store.catalogue import Entry
from ..store.prepare import Storage
from ..store.store import Store
from .commit import RunTransaction
from .plan import Plan
from .standing import Elsewhere, as_found, is_left_behind


def take_over(store: Store, plan: Plan, found: Elsewhere) -> Run:
    """Copy the outputs of a run to another root, without computing anything.

    The copies keep the id of the run that made them, and say in their ``origin`` where they were taken over from; the
    record of the run stays what it is, the account of the one execution there was.

    Returns
    -------
    Run
        The record as it stands at the new root, with ``reused`` set.
    """
    with RunTransaction(store, f"{plan.module.name} {plan.root_key}: taken over") as transaction:
        for name, entry in found.entries.items():
            _copy(store, transaction, plan, found, plan.key(name), entry)
        if found.extends is not None:
            keys = set(map(plan.key, found.entries))
            if is_left_behind(store.catalogue, found.extends, keys):
                transaction.forget(found.extends, restart=True)
    return as_found(store.catalogue, found.run, plan, {name: store.entry(plan.key(name)) for name in found.entries})


def _copy(store: Store, transaction: RunTransaction, plan: Plan, found: Elsewhere, key: str, entry: Entry) -> None:
    with store.at(entry) as (reader, path):
        grows = tuple(reader.layout(path).grows)
    dataset, kind, run_id = store.dataset(entry.reference), kind_named(entry.kind), found.run.id
    here = store.entry(key) if key in store.catalogue else None
    if here is None or here.run == run_id or plan.new_version:
        transaction.write(
            key,
            dataset,
            kind,
            run=run_id,
            new_version=plan.new_version,
            storage=Storage(growing=bool(grows)),
            origin={"reused": entry.reference},
            expect=replace(entry, version=1),
        )
        return
    if grows:
        rest = dataset.isel({dim: slice(here.sizes[dim], None) for dim in grows})
        transaction.extend(key, rest, run_id, here.records)
    else:
        transaction.replace(key, dataset, kind, run=run_id)
    transaction.verify(key, entry.digest)
