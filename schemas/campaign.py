"""The campaign file: keys and how each is made, with the lines where it says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .campaign_matrix import filled, points
from .errors import H5mlError, InvalidConfig, InvalidKey, nearest
from .key import Key
from .scheduling import Place, parse_place

FILE_NAME = "h5ml.yaml"
STEP_ENTRIES = ("compute", "seed", "device", "trust_pickle", "resources", "retries", "time_limit_s")
RESOURCES = ("GPU", "threads", "memory_GB")
S = TypeVar("S", bound=BaseModel)
NonNegative = Annotated[float, Field(ge=0)]


class Step(BaseModel):
    """How one key is made.

    Attributes
    ----------
    key : str
        Where it lies: of an import the key itself, of a computation the root key of its outputs.
    line : int
        Where the campaign file says so.
    lines : dict
        The line of each entry of the step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    key: str
    line: int = 0
    lines: dict[str, int] = Field(default_factory=dict)


class ImportStep(Step):
    """A key that is read from a file.

    Attributes
    ----------
    file : str
        Path of the file, relative to the campaign file.
    kind : str or None
        What it shall become; by default what the file holds.
    index : str
        Which frames, as ASE writes it.
    trust_pickle : bool
        Whether files that can run code may be read.
    """

    file: str = Field(alias="import", min_length=1)
    kind: str | None = None
    index: str = ":"
    trust_pickle: bool = False


class ComputeStep(Step):
    """Keys that a module computes.

    Attributes
    ----------
    module : str
        Its name.
    seed : int
        Seed of all random numbers.
    device : str
        ``cpu`` or ``cuda``.
    trust_pickle : bool
        Whether potentials may be read from files that can run code.
    resources : dict
        What it needs of a worker, in place of what its module says (``GPU``, ``threads``, ``memory_GB``).
    retries : int
        How often it is begun again after a failure.
    time_limit_s : float or None
        After this time its process is given up (s); a map's limit is for each of its items.
    options : dict
        Inputs and settings by name; the module says which is which.
    """

    module: str = Field(alias="compute", min_length=1)
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    trust_pickle: bool = False
    resources: dict[str, NonNegative] = Field(default_factory=dict)
    retries: int = Field(0, ge=0, le=100)
    time_limit_s: float | None = Field(None, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("resources")
    @classmethod
    def _no_misspelt(cls, resources: dict[str, float]) -> dict[str, float]:
        """Other names are those of a dask cluster of the user's own, but not ones that are nearly ours."""
        for name in resources:
            close = get_close_matches(name.lower(), [known.lower() for known in RESOURCES], cutoff=0.7)
            if name not in RESOURCES and close:
                raise ValueError(f"one of {', '.join(RESOURCES)}, and not {name}")
        return resources


class Campaign(BaseModel):
    """A campaign file.

    Attributes
    ----------
    path : str or None
        Where it was read from.
    store : str
        The store, relative to the campaign file.
    scheduler : Place or None
        Where work runs.
    steps : dict
        Key to step, in the order of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    store: str = Field(min_length=1)
    scheduler: Place | None = None
    steps: dict[str, ImportStep | ComputeStep]

    @property
    def folder(self) -> Path:
        """Where relative paths of the file begin."""
        return Path(self.path).parent if self.path else Path()

    @property
    def store_location(self) -> str:
        """Path or URL of the store."""
        return self.store if "://" in self.store else str(self.folder / self.store)

    def where(self, step: Step, entry: str | None = None) -> str:
        """``FILE:LINE`` of a step, or of one of its entries, for messages."""
        line = step.lines.get(entry, step.line) if entry else step.line
        return f"{self.path or 'campaign'}:{line}"


def load_campaign(path: str | Path) -> Campaign:
    """Read a campaign file.

    Raises
    ------
    InvalidConfig
        If it has another form; the message gives the line and the nearest valid name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfig(
            "The campaign file is no text.", key=path, expected="text in UTF-8", found=str(error)
        ) from None
    except OSError as error:
        raise InvalidConfig(
            "The campaign file cannot be read.",
            key=path,
            found=str(error),
            hint=f"write {FILE_NAME}, or name another with --campaign",
        ) from None
    return parse_campaign(text, path)


def parse_campaign(text: str, path: str | Path | None = None) -> Campaign:
    """Read a campaign from its text; see ``load_campaign``."""
    return _Reader(str(path) if path is not None else None).campaign(text)


class _Reader:
    """Goes through the nodes of a YAML text, so that every error knows its line."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def wrong(self, message: str, line: int, **facts: Any) -> InvalidConfig:
        return InvalidConfig(message, key=f"{self.path or 'campaign'}:{line}", **facts)

    def campaign(self, text: str) -> Campaign:
        import yaml

        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise self.no_yaml(text, error) from None
        if root is None:
            raise self.wrong("The campaign file is empty.", 1, expected="the entries store and steps")
        top, lines = self.mapping(root, "the campaign")
        self.known(top, ("store", "scheduler", "steps"), lines, "the campaign")
        for name in ("store", "steps"):
            if name not in top:
                raise self.wrong(f"The entry {name!r} is missing.", 1, expected="the entries store and steps")
        nodes, step_lines = self.mapping(top["steps"], "steps")
        steps: dict[str, ImportStep | ComputeStep] = {}
        for key, node in nodes.items():
            for step in self.steps(key, node, step_lines[key]):
                if step.key in steps:
                    first = steps[step.key].line
                    hint = "every name of the matrix must stand in the key" if first == step.line else None
                    raise self.wrong(f"The key {step.key} is made twice.", step.line, found=f"line {first}", hint=hint)
                steps[step.key] = step
        values = {name: self.value(node) for name, node in top.items() if name not in ("steps", "scheduler")}
        place = self.place(top["scheduler"], lines["scheduler"]) if "scheduler" in top else None
        found: dict[str, Any] = {**values, "scheduler": place, "path": self.path, "steps": steps}
        return self.checked(Campaign, found, lines, 1)

    def no_yaml(self, text: str, error: Any) -> InvalidConfig:
        mark, place = getattr(error, "problem_mark", None), getattr(error, "position", 0)
        line = mark.line + 1 if mark is not None else text.count("\n", 0, place) + 1
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        hint = "indent with blanks: YAML takes no tabs" if "\\t" in problem else None
        return self.wrong("The campaign file is no valid YAML.", line, found=problem, hint=hint)

    def place(self, node: Any, line: int) -> Place:
        try:
            return parse_place(self.value(node))
        except InvalidConfig as error:
            named = (error.found or "").partition(" = ")[0]
            below = next((n for name, n in _below(node) if name.rpartition(".")[2] == named), line)
            raise self.wrong(
                error.message, below, expected=error.expected, found=error.found, hint=error.hint
            ) from None

    def steps(self, key: str, node: Any, line: int) -> Iterator[ImportStep | ComputeStep]:
        """The steps that an entry stands for: one, or one for each point of its matrix."""
        nodes, lines = self.mapping(node, key)
        lines |= {f"{name}.{below}": n for name, item in nodes.items() for below, n in _below(item)}
        values = {name: self.value(item) for name, item in nodes.items()}
        if "matrix" not in values:
            yield self.step(key, values, lines, line)
            return

        def wrong_at(where: int) -> Callable[..., H5mlError]:
            return lambda message, **facts: self.wrong(message, where, **facts)

        for point in points(values.pop("matrix"), wrong_at(lines["matrix"])):
            made = {name: filled(value, point, wrong_at(lines[name])) for name, value in values.items()}
            yield self.step(str(filled(key, point, wrong_at(line))), made, lines, line)

    def step(self, key: str, values: dict[str, Any], lines: dict[str, int], line: int) -> ImportStep | ComputeStep:
        try:
            Key(key)
        except InvalidKey as error:
            raise self.wrong(error.message, line, expected=error.expected, found=error.found) from None
        facts = {"key": key.strip("/"), "line": line, "lines": lines}
        if ("import" in values) == ("compute" in values):
            close = next((hint for name in values if (hint := nearest(name, ("import", "compute")))), None)
            raise self.wrong(
                f"The step {key} does not say how it is made.",
                line,
                expected="import: FILE or compute: MODULE",
                found=", ".join(values) or "nothing",
                hint=close,
            )
        if "import" in values:
            self.known(values, ("import", "kind", "index", "trust_pickle", "matrix"), lines, f"the step {key}")
            return self.checked(ImportStep, {**values, **facts}, lines, line)
        own: dict[str, Any] = {name: values.pop(name) for name in STEP_ENTRIES if name in values}
        return self.checked(ComputeStep, {**own, **facts, "options": values}, lines, line)

    def mapping(self, node: Any, what: str) -> tuple[dict[str, Any], dict[str, int]]:
        """Entries of a mapping node by name, and their lines."""
        import yaml

        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(
                f"There must be names and values under {what}.",
                node.start_mark.line + 1,
                expected="a mapping (name: value)",
                found="nothing" if self.value(node) is None else str(self.value(node)),
            )
        entries: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: list[Any] = []
        for name_node, value_node in node.value:
            if name_node.tag == "tag:yaml.org,2002:merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            name, line = str(self.value(name_node)), name_node.start_mark.line + 1
            if name in entries:
                raise self.wrong(
                    f"The name {name!r} stands twice under {what}.", line, found=f"the first at line {lines[name]}"
                )
            entries[name], lines[name] = value_node, line
        for other in merged:  # what stands here itself, or was merged first, is kept
            found, found_lines = self.mapping(other, what)
            entries, lines = found | entries, found_lines | lines
        return entries, lines

    def value(self, node: Any) -> Any:
        """The plain value of a node."""
        import yaml

        loader = yaml.SafeLoader("")
        try:
            return loader.construct_document(node)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise self.wrong("A value cannot be read.", node.start_mark.line + 1, found=str(error)) from None
        finally:
            loader.dispose()

    def known(self, entries: Mapping[str, Any], names: tuple[str, ...], lines: Mapping[str, int], what: str) -> None:
        for name in entries:
            if name not in names:
                raise self.wrong(
                    f"There is no entry {name!r} in {what}.",
                    lines[name],
                    expected=", ".join(names),
                    found=name,
                    hint=nearest(name, names),
                )

    def checked(self, model: type[S], values: dict[str, Any], lines: Mapping[str, int], line: int) -> S:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            raise self.wrong(
                f"The entry {name!r} is not valid.",
                lines.get(name, line),
                expected=first["msg"].removeprefix("Value error, "),
                found=repr(first.get("input"))[:200],
            ) from None


def _below(node: Any) -> Iterator[tuple[str, int]]:
    """Dotted names below a mapping node, and their lines."""
    import yaml

    for name_node, value_node in node.value if isinstance(node, yaml.MappingNode) else ():
        yield str(name_node.value), name_node.start_mark.line + 1
        for name, line in _below(value_node):
            yield f"{name_node.value}.{name}", line


def pattern(text: str) -> re.Pattern[str]:
    """What a text with ``*`` (anything within a segment) or ``**`` (also across) stands for."""
    parts = (re.escape(part).replace(r"\*", "[^/]*") for part in text.strip("/").split("**"))
    return re.compile(".*".join(parts))


def find_steps(campaign: Campaign, text: str) -> list[str]:
    """The keys of the steps that a key names, or a pattern with ``*``.

    Raises
    ------
    InvalidConfig
        If there is none.
    """
    if "*" not in text:
        return [find_step(campaign, text).key]
    found = [key for key in campaign.steps if pattern(text).fullmatch(key)]
    if not found:
        raise InvalidConfig(
            "No step of the campaign fits this.", key=text, expected=", ".join(campaign.steps) or "steps", found=text
        )
    return found


def find_step(campaign: Campaign, key: str) -> ImportStep | ComputeStep:
    """The step that makes a key, or an output below its root key.

    Raises
    ------
    InvalidConfig
        If there is none; the message names the nearest.
    """
    wanted = Key(key)
    roots = [root for root in campaign.steps if wanted.is_under(root)]
    if roots:
        return campaign.steps[max(roots, key=len)]
    raise InvalidConfig(
        "The campaign has no step for this key.",
        key=key,
        expected=", ".join(campaign.steps) or "steps",
        found=key,
        hint=nearest(key, campaign.steps) or f"add it to {campaign.path or FILE_NAME}",
    )
