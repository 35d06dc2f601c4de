"""Run: the provenance record of one execution of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["running", "done", "failed", "interrupted"]


class DataRef(BaseModel):
    """A dataset as an input or output: where it lies and what it held.

    Attributes
    ----------
    key, version : str, int
        Where it lies.
    kind : str
        Its kind.
    digest : str
        The content digest of what was read or written.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    version: int = 1
    kind: str
    digest: str


class CallRef(BaseModel):
    """A call whose outputs its caller received.

    Attributes
    ----------
    name : str
        As the caller named it: it lies at ``ROOT/name``.
    run : str
        Id of its run.
    outputs : dict
        Output name to what was received.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    run: str
    outputs: dict[str, DataRef] = Field(default_factory=dict)


class Run(BaseModel):
    """The provenance record of one execution.

    Attributes
    ----------
    id : str
        Digest of module, module version, canonical config, input digests and seed: the same id, the same result.
    prefix_id : str
        The same without the horizon fields: what a longer run continues.
    module, module_version : str
        What was executed.
    root_key : str
        Where its outputs lie.
    config : dict
        All settings.
    seed : int
        Of all random numbers.
    inputs : dict
        Input name to references of stored keys.
    engines : dict
        Input name to the fingerprint of a potential that is no stored key.
    outputs : dict
        Output name to reference.
    calls : list of CallRef
        The calls whose outputs it received, by name. They follow from the inputs, so they are no part of the id.
    status : {"running", "done", "failed", "interrupted"}
        How it stands.
    started, ended : str
        UTC, ISO 8601.
    wall_s, cpu_s : float
        Time used, summed over resumptions.
    resumed : int
        How many times it went on after an interruption.
    continues : str or None
        Id of the shorter run that this one extends.
    reused : str or None
        Root key of the earlier run whose result was taken over unchanged.
    parent : str or None
        Id of the orchestrating run.
    error : str or None
        The message of a failed run.
    environment : dict
        Facts that do not change the result: versions, host, threads, user, git commit.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    prefix_id: str
    module: str
    module_version: str
    root_key: str
    config: dict[str, Any]
    seed: int = 0
    inputs: dict[str, list[DataRef]] = Field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = Field(default_factory=dict)
    outputs: dict[str, DataRef] = Field(default_factory=dict)
    calls: list[CallRef] = Field(default_factory=list)
    status: Status = "running"
    started: str = ""
    ended: str | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    resumed: int = 0
    continues: str | None = None
    reused: str | None = None
    parent: str | None = None
    error: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return self.model_dump(mode="json")

    def received(self) -> Iterator[tuple[str, DataRef]]:
        """Names of its calls, with every output that it received from each."""
        for call in self.calls:
            for ref in call.outputs.values():
                yield call.name, ref

    def identity(self) -> dict[str, Any]:
        """What the run id is computed from."""
        return run_identity(
            self.module,
            self.module_version,
            self.config,
            {name: [ref.digest for ref in refs] for name, refs in self.inputs.items()},
            self.engines,
            self.seed,
        )


def run_identity(
    module: str,
    module_version: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, list[str]],
    engines: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """The facts that decide a result, as one JSON object."""
    return {
        "module": module,
        "module_version": module_version,
        "config": dict(config),
        "inputs": {name: list(digests) for name, digests in inputs.items()},
        "engines": {name: dict(fingerprint) for name, fingerprint in engines.items()},
        "seed": seed,
    }
