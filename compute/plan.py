"""From what a user asks for to a plan: settings checked, inputs found and checked, run ids computed. Nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..schemas.config import Config
from ..schemas.errors import H5mlError, InvalidConfig, UnknownKey, WrongKind, nearest
from ..schemas.key import Key
from ..schemas.kind import Kind
from ..schemas.kinds import kind_named
from ..schemas.run import DataRef
from ..store.catalogue import Entry
from ..store.store import Store
from .identity import run_ids
from .inputs import EngineInput, Input, StoredInput, located
from .module import InputRef, Module, Output, Wanted

InputText = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run.

    Attributes
    ----------
    module, config, root_key, seed : Module, Config, str, int
        What is executed, and where its outputs lie.
    inputs : mapping
        Input name to what was found for it.
    run_id, prefix_id : str
        Its names.
    parent : str or None
        Id of the orchestrating run.
    new_version : bool
        Whether keys that another run made get a new version.
    device : str
        ``cpu`` or ``cuda``.
    """

    module: Module
    config: Config
    root_key: str
    seed: int
    inputs: Mapping[str, list[Input]]
    run_id: str
    prefix_id: str
    parent: str | None = None
    new_version: bool = False
    device: str = "cpu"

    def key(self, output: str) -> str:
        """Where an output lies."""
        return Key(self.root_key).child(output)

    @property
    def outputs(self) -> Mapping[str, Kind]:
        """Output names and kinds."""
        return self.module.outputs(self.config)

    def load_inputs(self) -> dict[str, Any]:
        """Inputs as the module receives them."""
        loaded: dict[str, Any] = {}
        for name, wanted in self.module.reads.items():
            values = [self._load(found, wanted) for found in self.inputs.get(name, ())]
            loaded[name] = values if wanted.most is None else (values[0] if values else None)
        return loaded

    def _load(self, found: Input, wanted: Wanted) -> Any:
        if wanted.is_potential and isinstance(found, StoredInput):
            return found.potential(self.device)
        return found.load()

    def refs(self) -> dict[str, list[DataRef]]:
        """References to the stored inputs, for the run's record."""
        found = {n: [i.ref for i in items if isinstance(i, StoredInput)] for n, items in self.inputs.items()}
        return {name: refs for name, refs in found.items() if refs}

    def sources(self) -> dict[str, tuple[DataRef, ...]]:
        """What was read for each input, as its module is told."""
        return {name: tuple(refs) for name, refs in self.refs().items()}

    def engines(self) -> dict[str, dict[str, Any]]:
        """Fingerprints of the potentials, for the run's record."""
        return _engines(self.inputs)

    def specs(self) -> dict[str, list[str]]:
        """The texts that potentials were named by: what a replay needs to make them again."""
        found = {n: [i.spec for i in items if isinstance(i, EngineInput)] for n, items in self.inputs.items()}
        return {name: specs for name, specs in found.items() if specs}


def make_plan(
    module: Module,
    config: Mapping[str, Any] | Config,
    inputs: Mapping[str, list[Input]],
    root_key: str,
    *,
    seed: int = 0,
    parent: str | None = None,
    new_version: bool = False,
    device: str = "cpu",
) -> Plan:
    """Check settings and name the run; the inputs were found already."""
    settings = config if isinstance(config, module.config) else module.config.parse(_settings(config), where=root_key)
    root = Key(root_key)
    for output in module.outputs(settings):
        root.child(output)
    digests = {n: [i.ref.digest for i in items if isinstance(i, StoredInput)] for n, items in inputs.items()}
    digests = {name: found for name, found in digests.items() if found}
    run_id, prefix_id = run_ids(module, settings, digests, _engines(inputs), seed)
    return Plan(module, settings, root, seed, inputs, run_id, prefix_id, parent, new_version, device)


def split_options(module: Module, options: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort options by name into inputs and settings.

    Raises
    ------
    InvalidConfig
        On a name that is neither; the message says which are nearest.
    """
    known = [*module.reads, *module.config.model_fields]
    for name in options:
        if name not in known:
            raise InvalidConfig(
                f"The module {module.name} has no input or setting {name!r}.",
                key=where,
                expected=", ".join(known),
                found=name,
                hint=nearest(name, known) or f"see `h5ml config {module.name}`",
            )
    inputs = {name: value for name, value in options.items() if name in module.reads}
    return inputs, {name: value for name, value in options.items() if name not in inputs}


def find_inputs(
    store: Store,
    module: Module,
    inputs: Mapping[str, InputText | None],
    where: str,
    *,
    trust_pickle: bool = False,
    device: str = "cpu",
) -> dict[str, list[Input]]:
    """Find what a user named as inputs.

    Raises
    ------
    InvalidConfig
        On an unknown or missing input.
    UnknownKey, WrongKind
        If a key is not there, or holds something else.
    """
    texts = check_inputs(module, inputs, where)

    def find(name: str, text: str) -> Input:
        wanted = module.reads[name]
        if wanted.is_potential:
            return find_potential(store, text, trust_pickle=trust_pickle, device=device)
        entry = store.entry(text)
        check_kind(name, entry, wanted)
        return StoredInput.of(store, entry)

    return {name: [find(name, text) for text in listed] for name, listed in texts.items()}


def check_inputs(module: Module, inputs: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """Inputs as lists, once their names and numbers fit the module."""
    unknown = [name for name in inputs if name not in module.reads]
    if unknown:
        raise InvalidConfig(
            f"The module {module.name} has no input {unknown[0]!r}.",
            key=where,
            expected=", ".join(module.reads) or "no inputs",
            found=unknown[0],
            hint=nearest(unknown[0], module.reads),
        )
    listed: dict[str, list[Any]] = {}
    for name, wanted in module.reads.items():
        value = inputs.get(name)
        items = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        if len(items) < wanted.least or (wanted.most is not None and len(items) > wanted.most):
            raise InvalidConfig(
                f"The module {module.name} needs the input {name!r}."
                if not items
                else f"The input {name!r} takes one key.",
                key=where,
                expected=_wanted(wanted),
                found="nothing" if not items else ", ".join(map(str, items)),
                hint=f"for example {name}={_example(wanted)}",
            )
        if items:
            listed[name] = items
    return listed


def check_kind(name: str, entry: Entry, wanted: Wanted) -> None:
    """Compare what lies at a key with what an input wants."""
    if not wanted.takes(entry.kind):
        raise WrongKind(
            f"The input {name!r} is of the wrong kind.",
            key=entry.reference,
            expected=wanted.kind_names,
            found=entry.kind,
            hint=f"`h5ml ls` shows the kinds of keys; `h5ml kinds {wanted.kinds[0].name}` what is needed",
        )
    kind_named(entry.kind).check_version(entry.schema_version, entry.reference)


def find_potential(store: Store, text: str, *, trust_pickle: bool = False, device: str = "cpu") -> Input:
    """A potential by ``engine:method``, or by the key of a checkpoint.

    This is the one place where a text becomes a potential: checkpoints come in here.
    """
    try:
        entry = store.entry(text)
    except H5mlError as error:
        if ":" in text:
            return EngineInput.of(text, trust_pickle=trust_pickle, device=device)
        raise UnknownKey(
            "This is neither a key of a checkpoint nor engine:method.",
            key=text,
            expected="a key, or for example tblite:GFN1-xTB",
            found=text,
            hint=error.hint,
        ) from None
    if entry.kind != "checkpoint":
        raise WrongKind("The key holds no potential.", key=entry.reference, expected="checkpoint", found=entry.kind)
    kind_named(entry.kind).check_version(entry.schema_version, entry.reference)
    return StoredInput.of(store, entry)


def _settings(config: Mapping[str, Any] | Config) -> Mapping[str, Any]:
    return config.canonical() if isinstance(config, Config) else config


def _engines(inputs: Mapping[str, list[Input]]) -> dict[str, dict[str, Any]]:
    engines: dict[str, dict[str, Any]] = {}
    for name, items in inputs.items():
        found = [dict(item.fingerprint) for item in items if isinstance(item, EngineInput)]
        if len(items) == 1 and found:
            engines[name] = found[0]
        elif found:
            engines[name] = {str(number): facts for number, facts in enumerate(found)}
    return engines


def _wanted(wanted: Wanted) -> str:
    keys = "key" if wanted.most == 1 else "keys"
    return f"{wanted.number} {keys} of kind {wanted.kind_names}" + (" or engine:method" if wanted.is_potential else "")


def _example(wanted: Wanted) -> str:
    return "tblite:GFN1-xTB" if wanted.is_potential else "KEY"


def find_call_inputs(plan: Plan, module: Module, inputs: Mapping[str, Any], where: str) -> dict[str, list[Input]]:
    """Inputs of a call: outputs of finished calls, inputs of the calling run, or texts of potentials."""
    flat: dict[str, list[Any]] = {}
    for name, value in inputs.items():
        items = value if isinstance(value, list | tuple) else [value]
        flat[name] = []
        for item in items:
            flat[name] += plan.inputs.get(item.name, []) if isinstance(item, InputRef) else [item]
    listed = check_inputs(module, {name: items or None for name, items in flat.items()}, where)
    return {name: [_call_input(module, name, item, plan, where) for item in items] for name, items in listed.items()}


def _call_input(module: Module, name: str, item: Any, plan: Plan, where: str) -> Input:
    wanted = module.reads[name]
    if isinstance(item, StoredInput | EngineInput):
        found: Input = item
    elif isinstance(item, Output):
        found = located(item)
    elif isinstance(item, str) and wanted.is_potential:
        trusted = any(i.trust_pickle for items in plan.inputs.values() for i in items if isinstance(i, EngineInput))
        found = EngineInput.of(item, trust_pickle=trusted, device=plan.device)
    else:
        raise InvalidConfig(
            f"A call cannot take this as its input {name!r}.",
            key=where,
            expected="an Output of a finished handle, an InputRef, or engine:method",
            found=type(item).__name__,
        )
    have = found.ref.kind if isinstance(found, StoredInput) else "potential"
    if not wanted.takes(have):
        raise WrongKind(
            f"The input {name!r} of a call is of the wrong kind.",
            key=where,
            expected=wanted.kind_names,
            found=have,
        )
    return found
