"""Taking over a result that the same run made elsewhere in the store."""

from __future__ import annotations

from dataclasses import replace

from ..schemas.kinds import kind_named
from ..schemas.run import Run
from ..store.prepare import Storage
from ..store.store import Store
from .commit import RunTransaction
from .plan import Plan
from .standing import Elsewhere, as_found


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
            with store.at(entry) as (reader, path):
                growing = bool(reader.layout(path).grows)
            transaction.write(
                plan.key(name),
                store.dataset(entry.reference),
                kind_named(entry.kind),
                run=found.run.id,
                new_version=plan.new_version,
                storage=Storage(growing=growing),
                origin={"reused": entry.reference},
                expect=replace(entry, version=1),
            )
    return as_found(found.run, plan, {name: store.entry(plan.key(name)) for name in found.entries})
