"""The graph of a campaign: what each step makes and reads, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..schemas.campaign import Campaign, ComputeStep, ImportStep, find_steps, pattern
from ..schemas.config import Config
from ..schemas.errors import H5mlError, InvalidConfig, UnknownKey, WrongKind, nearest
from ..schemas.key import Key, parse_reference
from ..schemas.kinds import kind_named
from ..store.store import Store
from .inputs import EngineInput
from .module import Module
from .plan import check_inputs, split_options
from .registry import Registry

Step = ImportStep | ComputeStep


@dataclass(frozen=True, slots=True)
class Node:
    """A step with what is known of it before anything runs.

    Attributes
    ----------
    step : ImportStep or ComputeStep
        As the campaign says it.
    makes : mapping
        Key to the name of its kind; None where only the file of an import will tell.
    module : Module or None
        What computes it.
    config : Config or None
        Its settings.
    reads : mapping
        Input name to texts; patterns stand for all the keys that fit them.
    needs : tuple of str
        Keys of the steps whose outputs it reads.
    """

    step: Step
    makes: Mapping[str, str | None]
    module: Module | None = None
    config: Config | None = None
    reads: Mapping[str, list[str]] | None = None
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Where the step lies."""
        return self.step.key


@dataclass(frozen=True, slots=True)
class Graph:
    """All steps of a campaign, each after those that it reads.

    Attributes
    ----------
    campaign : Campaign
        Where they stand.
    nodes : mapping
        Key to node, in an order in which they can be made one after the other.
    """

    campaign: Campaign
    nodes: Mapping[str, Node]

    def above(self, keys: Iterable[str]) -> set[str]:
        """Steps, and all that they need."""
        found: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += self.nodes[key].needs
        return found

    def below(self, keys: Iterable[str]) -> set[str]:
        """Steps, and all that need them."""
        found = set(keys)
        for key, node in self.nodes.items():  # in an order in which needs come first
            if not found.isdisjoint(node.needs):
                found.add(key)
        return found

    def chosen(self, *, only: str | None = None, until: str | None = None, start: str | None = None) -> list[str]:
        """The steps to look at, in order: those of a key alone, up to a key, from a key on; a key may be a pattern."""
        found = set(self.nodes)
        if only is not None:
            found &= set(find_steps(self.campaign, only))
        if until is not None:
            found &= self.above(find_steps(self.campaign, until))
        if start is not None:
            found &= self.below(find_steps(self.campaign, start))
        return [key for key in self.nodes if key in found]


def build_graph(campaign: Campaign, store: Store, registry: Registry) -> Graph:
    """Check every step against its module and the others, and put them in order.

    Raises
    ------
    InvalidConfig
        On an unknown module or engine, an option that is unknown or out of bounds, a key that two steps make, a file
        that is not there, or a cycle; with file and line.
    UnknownKey, WrongKind
        If a step reads a key that nothing makes, or that is of another kind.
    """
    nodes = {key: _node(campaign, step, registry) for key, step in campaign.steps.items()}
    made = _made(campaign, nodes)
    for key, node in nodes.items():
        if isinstance(node.step, ImportStep):
            _check_file(campaign, store, node.step)
        else:
            nodes[key] = _linked(campaign, store, node, nodes, made)
    return Graph(campaign, {key: nodes[key] for key in _sorted(campaign, nodes)})


def _node(campaign: Campaign, step: Step, registry: Registry) -> Node:
    if isinstance(step, ImportStep):
        return _import_node(campaign, step)
    try:
        module = registry.named(step.module)
        inputs, settings = split_options(module, step.options, step.key)
        config = module.config.parse(settings, where=step.key)
        makes: dict[str, str | None] = {
            Key(step.key).child(name): kind.name for name, kind in module.makes(config).items()
        }
        return Node(step, makes, module, config, check_inputs(module, inputs, step.key))
    except H5mlError as error:
        named = (error.found or "").partition(" = ")[0]
        entry = named if named in step.lines else "compute" if named == step.module else None
        raise _placed(campaign, step, entry, error) from None


def _import_node(campaign: Campaign, step: ImportStep) -> Node:
    try:
        kind = None if step.kind is None else kind_named(step.kind).name
    except H5mlError as error:
        raise _placed(campaign, step, "kind", error) from None
    return Node(step, {step.key: kind})


def _placed(campaign: Campaign, step: Step, entry: str | None, error: H5mlError) -> H5mlError:
    """An error with the place in the file that it is about."""
    where = f"{step.key} ({campaign.where(step, entry)})"
    return type(error)(error.message, key=where, expected=error.expected, found=error.found, hint=error.hint)


def _made(campaign: Campaign, nodes: Mapping[str, Node]) -> dict[str, str]:
    """Every key that will be there, and the step that makes it; no two may collide."""
    made: dict[str, str] = {}
    for node in nodes.values():
        for key in node.makes:
            if key in made:
                first = campaign.steps[made[key]]
                raise InvalidConfig(
                    f"The key {key} is made twice.",
                    key=campaign.where(node.step),
                    found=f"the step {first.key} makes it too ({campaign.where(first)})",
                    hint="give one of the steps another key",
                )
            made[key] = node.key
    for key, maker in made.items():
        above = Key(key).parent
        while above:
            if above in made:
                raise InvalidConfig(
                    f"The key {key} would lie below another key, {above}.",
                    key=campaign.where(campaign.steps[maker]),
                    found=f"data at {above} ({campaign.where(campaign.steps[made[above]])})",
                    hint="a key holds data or other keys; give one of the steps another key",
                )
            above = above.rpartition("/")[0]
    return made


def _check_file(campaign: Campaign, store: Store, step: ImportStep) -> None:
    path = campaign.folder / step.file
    if step.key not in store.catalogue and not path.is_file():
        raise InvalidConfig(
            "There is no such file to import.", key=f"{step.key} ({campaign.where(step, 'import')})", found=path
        )


def _linked(campaign: Campaign, store: Store, node: Node, nodes: Mapping[str, Node], made: Mapping[str, str]) -> Node:
    """A node with its patterns replaced by keys, and the steps that it needs."""
    assert isinstance(node.step, ComputeStep)
    assert node.module is not None
    reads = {name: _keys(campaign, store, node.step, name, texts, made) for name, texts in (node.reads or {}).items()}
    options = {name: reads[name] if isinstance(value, list) or _is_glob(value) else value
               for name, value in node.step.options.items() if name in reads}  # fmt: skip
    step = node.step.model_copy(update={"options": {**node.step.options, **options}})
    try:
        check_inputs(node.module, reads, step.key)
    except H5mlError as error:
        raise _placed(campaign, step, None, error) from None
    needs: list[str] = []
    for name, texts in reads.items():
        for text in texts:
            maker = _maker(campaign, text, made)
            _check_read(campaign, store, node.module, step, name, text, nodes[maker] if maker else None)
            if maker is not None and maker not in needs:
                needs.append(maker)
    return replace(node, step=step, reads=reads, needs=tuple(needs))


def _is_glob(value: Any) -> bool:
    return isinstance(value, str) and "*" in value


def _keys(
    campaign: Campaign, store: Store, step: ComputeStep, name: str, texts: list[Any], made: Mapping[str, str]
) -> list[str]:
    """Texts of an input, with patterns replaced by what the steps make, else by keys of the store."""
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            where = f"{step.key} ({campaign.where(step, name)})"
            raise InvalidConfig(f"The input {name!r} is named by a text.", key=where, expected="a key", found=text)
        if not _is_glob(text):
            found.append(text)
            continue
        fits = pattern(text)
        keys = [key for key, maker in made.items() if maker != step.key and fits.fullmatch(key)]
        keys = keys or [key for key in store.keys() if fits.fullmatch(key)]  # noqa: SIM118 - a store, not a dict
        if not keys:
            raise UnknownKey(
                f"The step {step.key} reads keys that are not there, and no step makes them.",
                key=f"{text} ({campaign.where(step, name)})",
                expected=", ".join(made),
            )
        found += keys
    return found


def _maker(campaign: Campaign, text: Any, made: Mapping[str, str]) -> str | None:
    """The step that makes what a text names, or that has it below its key."""
    try:
        key, version = parse_reference(text)
    except (H5mlError, AttributeError):
        return None
    if version is not None:
        return None
    if key in made:
        return made[key]
    roots = [root for root in campaign.steps if key.is_under(root)]
    return max(roots, key=len, default=None)


def _check_read(
    campaign: Campaign, store: Store, module: Module, step: ComputeStep, name: str, text: str, maker: Node | None
) -> None:
    """Whether what a step reads is there, or will be, and of the right kind as far as that is known by now."""
    wanted, where = module.reads[name], f"{text} ({campaign.where(step, name)})"
    if maker is None:
        if text in store:
            return
        if wanted.is_potential and ":" in str(text):
            _check_engine(campaign, step, name, text)
            return
        raise UnknownKey(
            f"The step {step.key} reads a key that is not there, and no step makes it.",
            key=where,
            hint=_nearest_input(campaign, store, text, potential=wanted.is_potential),
        )
    key = text.strip("/")
    if key not in maker.makes:
        raise UnknownKey(
            f"The step {step.key} reads something that the step {maker.key} does not make.",
            key=where,
            expected=", ".join(maker.makes),
            found=text,
            hint=nearest(text, maker.makes),
        )
    kind = maker.makes[key]
    if kind is not None and not wanted.takes(kind):
        raise WrongKind(
            f"The step {step.key} reads a key of the wrong kind.", key=where, expected=wanted.kind_names, found=kind
        )


def _nearest_input(campaign: Campaign, store: Store, text: str, *, potential: bool) -> str:
    from .potentials.registry import ENGINES

    if potential and text in ENGINES:
        return f"a potential is written engine:method, such as {text}:METHOD"
    return nearest(text, [*campaign.steps, *store.keys()]) or "add a step that makes it"


def check_engines(graph: Graph, keys: Collection[str]) -> None:
    """Make the potentials of some steps once, so that a wrong one is found before anything runs.

    Raises
    ------
    H5mlError
        Whatever is wrong with a potential, with the place in the file.
    """
    seen: set[tuple[str, bool, str]] = set()
    for node in (graph.nodes[key] for key in keys):
        step, module = node.step, node.module
        if not isinstance(step, ComputeStep) or module is None:
            continue
        for name, texts in (node.reads or {}).items():
            for text in texts if module.reads[name].is_potential else ():
                known = (text, step.trust_pickle, step.device)
                if ":" in text and known not in seen:
                    seen.add(known)
                    try:
                        EngineInput.of(text, trust_pickle=step.trust_pickle, device=step.device)
                    except H5mlError as error:
                        raise _placed(graph.campaign, step, name, error) from None


def _check_engine(campaign: Campaign, step: ComputeStep, name: str, text: str) -> None:
    """The form of ``engine:method``; the engine itself is asked when the step is planned."""
    from .potentials.registry import ENGINES, parse_spec

    engine, _ = parse_spec(text)
    if engine not in ENGINES:
        raise InvalidConfig(
            "There is no such engine.",
            key=f"{step.key} ({campaign.where(step, name)})",
            expected=", ".join(ENGINES),
            found=engine,
            hint=nearest(engine, ENGINES),
        )


def _sorted(campaign: Campaign, nodes: Mapping[str, Node]) -> list[str]:
    """Keys in the order of the file, each after those that it needs."""
    done: dict[str, None] = {}
    for first in nodes:
        path: list[str] = [first]
        while path:
            key = path[-1]
            need = next((need for need in nodes[key].needs if need not in done), None)
            if key in done or need is None:
                done[key] = None
                path.pop()
            elif need in path:
                circle = [*path[path.index(need) :], need]
                raise InvalidConfig(
                    "Steps of the campaign wait for each other.",
                    key=campaign.where(campaign.steps[need]),
                    found=" reads ".join(circle),
                    hint="one of them must not read the other",
                )
            else:
                path.append(need)
    return list(done)
