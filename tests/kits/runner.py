"""A fake runner: drives any module without a store, so that a module can be tested alone.

::

    from h5ml.tests.kits.runner import FakeRunner

    result = FakeRunner(MODULE, {"temperature_K": 300}, {"crystal": crystal, "model": potential}).run()
    result.outputs["trajectory"]  # one dataset, all blocks joined

``run(blocks=2)`` stops after two blocks, as a kill would; ``resume()`` goes on from the last restart state.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from h5ml.compute.module import Block, Call, Context, Handle, InputRef, Map, Module, Output, Recall, Replace, Wait
from h5ml.store.blob import pack, unpack
from h5ml.store.digest import DatasetHasher, digest_json, row_blocks
from h5ml.store.prepare import prepare


@dataclass
class FakeResult:
    """What a module made so far."""

    outputs: dict[str, xr.Dataset] = field(default_factory=dict)
    restart: xr.Dataset | None = None
    blocks: int = 0
    done: bool = False
    calls: dict[str, FakeResult] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    reports: list[tuple[float, float, str]] = field(default_factory=list)

    def digest(self, name: str) -> str:
        """The content digest of an output."""
        return digest_of(self.outputs[name])


class FakeRunner:
    """Executes a module as the runner does, and keeps what it makes in memory.

    Parameters
    ----------
    module : Module
        What to run.
    config : mapping
        Its settings.
    inputs : mapping
        Datasets, potentials, or lists of them.
    seed : int
        Its seed.
    modules : iterable of Module
        What its calls may name.
    backwards : bool
        Whether ``Wait(first=True)`` answers with the last handle instead of the first.
    stored : mapping
        What ``Recall`` finds, by ``KEY@VERSION``, newest first.
    """

    def __init__(
        self,
        module: Module,
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        modules: tuple[Module, ...] = (),
        backwards: bool = False,
        stored: Mapping[str, xr.Dataset] | None = None,
    ) -> None:
        self.stored = dict(stored or {})
        self.module, self.seed, self.backwards = module, seed, backwards
        self.config = module.config.parse(config or {})
        self.inputs = {name: (inputs or {}).get(name) for name in module.reads}
        self.modules = {m.name: m for m in (module, *modules)}
        self.kinds = module.outputs(self.config)
        self.result = FakeResult()

    def run(self, blocks: int | None = None) -> FakeResult:
        """Execute from the start or the last restart state, at most so many blocks."""
        with tempfile.TemporaryDirectory() as scratch:
            committed = {
                name: int(dataset.sizes.get(self.kinds[name].grows[0], 0)) if self.kinds[name].grows else 0
                for name, dataset in self.result.outputs.items()
            }
            context = Context(
                seed=self.seed,
                scratch=Path(scratch),
                logger=logging.getLogger("h5ml.fake"),
                progress=lambda done, total, text="": self.result.reports.append((done, total, text)),
                restart=self.result.restart,
                committed=committed,
            )
            made = self.module.function(self.config, self.inputs, context)
            final = self._drive(made, blocks) if isinstance(made, Generator) else made
        if final is not None:
            for name, dataset in final.items():
                self._check(name, dataset)
                self.result.outputs[name] = dataset
            missing = set(self.kinds) - set(self.result.outputs)
            assert not missing, f"the module ended without {sorted(missing)}"
            self.result.done = True
        return self.result

    resume = run

    def _drive(self, generator: Generator[Any, Any, Any], blocks: int | None) -> Mapping[str, xr.Dataset] | None:
        answer: Any = None
        count = 0
        while blocks is None or count < blocks:
            try:
                request = generator.send(answer)
            except StopIteration as end:
                return end.value or {}
            self.result.requests.append(type(request).__name__)
            answer = self._answer(request)
            count += isinstance(request, Block)
        generator.close()
        return None

    def _answer(self, request: Any) -> Any:
        if isinstance(request, Block | Replace):
            for name, dataset in request.data.items():
                self._check(name, dataset)
                old = self.result.outputs.get(name)
                joined = old is not None and isinstance(request, Block)
                self.result.outputs[name] = join(old, dataset, self.kinds[name].grows) if joined else dataset.load()
            if request.restart is not None:
                self.result.restart = unpack(pack(request.restart))
            self.result.blocks += isinstance(request, Block)
            return None
        if isinstance(request, Map):
            return [unpack(pack(request.function(item))) for item in request.items]
        if isinstance(request, Call):
            return self._call(request)
        if isinstance(request, Recall):
            return [
                (reference, dataset)
                for reference, dataset in self.stored.items()
                if all(dataset.attrs.get(name) == value for name, value in request.attributes.items())
            ]
        assert isinstance(request, Wait), f"{request!r} is no request"
        handles = [self._finished(handle) for handle in request.handles]
        return [handles[-1 if self.backwards else 0]] if request.first else handles

    def _call(self, request: Call) -> Handle:
        config = request.config if isinstance(request.config, Mapping) else request.config.canonical()
        inputs = {name: self._loaded(value) for name, value in request.inputs.items()}
        runner = FakeRunner(
            self.modules[request.module], config, inputs, seed=request.seed, modules=tuple(self.modules.values())
        )
        self.result.calls[request.name] = runner.run()
        return Handle(request.name, digest_json([request.module, config, request.seed, request.name]))

    def _loaded(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._loaded(item) for item in value]
        if isinstance(value, InputRef):
            return self.inputs[value.name]
        return value.load() if isinstance(value, Output) else value

    def _finished(self, handle: Handle) -> Handle:
        made = self.result.calls[handle.name]
        outputs = {
            name: Output(name, str(dataset.attrs.get("kind", "")), digest_of(dataset), name, lambda d=dataset: d)
            for name, dataset in made.outputs.items()
        }
        return Handle(handle.name, handle.run_id, outputs)

    def _check(self, name: str, dataset: xr.Dataset) -> None:
        assert name in self.kinds, f"the output {name!r} is not declared"
        self.kinds[name].check(dataset, key=name)


def join(old: xr.Dataset, new: xr.Dataset, grows: tuple[str, ...]) -> xr.Dataset:
    """Append records, variable by variable."""
    variables = {}
    for name in old.variables:
        first, second = old.variables[name], new.variables[name]
        grown = bool(first.dims) and first.dims[0] in grows
        variables[name] = xr.Variable.concat([first, second], first.dims[0]) if grown else first
    return xr.Dataset(variables, attrs=old.attrs)


def digest_of(dataset: xr.Dataset, kind: str = "table") -> str:
    """The content digest that a dataset would have in a store, whatever its kind."""
    from h5ml.schemas.kind import Kind

    ready = prepare(dataset, Kind(kind, "", open=True))
    hasher = DatasetHasher(ready.headers, ready.attributes, ready.shapes)
    for name, header in ready.headers.items():
        for rows in row_blocks(ready.shapes[name], header.dtype):
            hasher.update(name, ready.block(name, rows))
    return hasher.hexdigest(ready.sizes)
