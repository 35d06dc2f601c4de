"""Inputs of runs: stored datasets and potentials, in a form that can travel to a worker and be loaded there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig, UnknownKey
from ..schemas.run import DataRef
from ..store.catalogue import Entry
from ..store.store import Store
from .module import Output

if TYPE_CHECKING:
    import xarray as xr

    from .potentials import Potential


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A stored dataset as it was when the run was planned; it can travel to a worker.

    Attributes
    ----------
    store : Store
        Where to read it.
    ref : DataRef
        Key, version, kind and digest.
    sizes : mapping
        Its dimensions then; records that are appended later do not show.
    """

    store: Store = field(repr=False)
    ref: DataRef
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, store: Store, entry: Entry) -> StoredInput:
        """The input that an entry is now."""
        return cls(store, entry.ref, dict(entry.sizes))

    def load(self) -> xr.Dataset:
        """The data, read when looked at.

        Raises
        ------
        UnknownKey
            If they are gone by now.
        """
        entry = self.store.catalogue.locate(self.ref)
        if entry is None:
            raise UnknownKey("An input is gone.", key=f"{self.ref.key}@{self.ref.version}")
        if self.ref.kind in ("selection", "training_set"):
            from ..store.gather import gather

            return gather(self.store, entry)
        dataset = self.store.dataset(entry.reference)
        longer = {dim: size for dim, size in self.sizes.items() if dataset.sizes.get(dim, size) > size}
        return dataset.isel({dim: slice(0, size) for dim, size in longer.items()}) if longer else dataset

    def potential(self, device: str) -> Potential:
        """The potential that a stored checkpoint is.

        Raises
        ------
        UnknownKey
            If it is gone by now.
        InvalidData
            If it cannot be rebuilt from what is stored.
        """
        from .potentials.checkpoint import stored_potential

        spec = f"{self.ref.key}@{self.ref.version}"
        return stored_potential(self.load().load(), spec, self.ref.digest, device=device)


@dataclass(frozen=True, slots=True)
class EngineInput:
    """A potential that is named as ``engine:method``.

    Attributes
    ----------
    spec : str
        Its text.
    fingerprint : mapping
        What its results depend on.
    trust_pickle : bool
        Whether files that can run code may be read for it.
    device : str
        ``cpu`` or ``cuda``.
    """

    spec: str
    fingerprint: Mapping[str, Any]
    trust_pickle: bool = False
    device: str = "cpu"

    @classmethod
    def of(cls, spec: str, *, trust_pickle: bool, device: str) -> EngineInput:
        """Check a text by making the potential."""
        from .potentials import resolve_potential

        potential = resolve_potential(spec, trust_pickle=trust_pickle, device=device)
        return cls(spec, potential.fingerprint(), trust_pickle, device)

    def load(self) -> Potential:
        """A new, cold potential.

        Raises
        ------
        InvalidConfig
            If it is another one here than where the run was planned.
        """
        from .potentials import resolve_potential

        potential = resolve_potential(self.spec, trust_pickle=self.trust_pickle, device=self.device)
        if potential.fingerprint() != dict(self.fingerprint):
            raise InvalidConfig(
                "The potential differs between this process and the one that planned the run.",
                key=self.spec,
                expected=dict(self.fingerprint),
                found=potential.fingerprint(),
                hint="install the same versions on all workers",
            )
        return potential


Input = StoredInput | EngineInput


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """What an ``Output`` loads its data with."""

    source: StoredInput

    def __call__(self) -> xr.Dataset:
        """The data, read when looked at."""
        return self.source.load()


def located(output: Output) -> StoredInput:
    """The stored dataset behind an output of a finished call."""
    source = output.load
    if not isinstance(source, StoredOutput):
        raise InvalidConfig("An output of a call must come from a finished handle.", key=output.location)
    return source.source
