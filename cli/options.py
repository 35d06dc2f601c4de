"""Command-line options made from the fields of a Config, and the settings that were given through them."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..schemas.errors import InvalidConfig

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..schemas.config import Config

_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
_NUMBERS = {int: "INTEGER", float: "NUMBER"}
PREFIX = "setting_"


class DashedOption(click.Option):
    """An option with two spellings, ``--time-step-fs`` and ``--time_step_fs``; the help shows the first."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help of the dashed spelling."""
        shown, self.opts = self.opts, [name for name in self.opts if "_" not in name] or self.opts
        hidden, self.secondary_opts = self.secondary_opts, [n for n in self.secondary_opts if "_" not in n]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts, self.secondary_opts = shown, hidden


def spellings(name: str) -> list[str]:
    """``--time-step-fs`` and, where it differs, ``--time_step_fs``."""
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def config_options(config: type[Config]) -> list[click.Parameter]:
    """One option for every field of a Config.

    Parameters
    ----------
    config : type of Config
        Its fields give name, type, default, bounds and description.

    Returns
    -------
    list of click.Option
        Their values arrive as ``setting_NAME``; see ``given_settings``.
    """
    return [_option(name, field) for name, field in config.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    shape = Shape(field.annotation)
    text = f"{(field.description or '').strip()}  [{facts_text(field)}]".replace("  []", "")
    common: dict[str, Any] = {"help": text, "default": None}
    names = spellings(name)
    if shape.boolean:
        flags = [f"{on}/--no-{on[2:]}" for on in names]
        return DashedOption([*flags, PREFIX + name], **common)
    return DashedOption(
        [*names, PREFIX + name], metavar=shape.metavar, multiple=shape.several or shape.mapping, **common
    )


def facts_text(field: FieldInfo) -> str:
    """Default, bounds and whether it can be extended: ``default: 0.5; > 0``."""
    found = ["required"] if field.is_required() else [f"default: {value_text(field.default)}"]
    found = [] if found == ["default: none"] or found == ["default: "] else found
    found += bounds_of(field)
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("extends"):
        found.append("can be raised later")
    return "; ".join(found)


def bounds_of(field: FieldInfo) -> list[str]:
    """The bounds of a field: ``> 0``."""
    return [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in field.metadata
        for name, sign in _BOUNDS
        if getattr(constraint, name, None) is not None
    ]


def value_text(value: Any) -> str:
    """A setting's value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(value_text(v) for v in value)
    if isinstance(value, Mapping):
        return ",".join(f"{k}={value_text(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


class Shape:
    """What a field's annotation means for the command line.

    Parameters
    ----------
    annotation : Any
        Of a pydantic field.
    """

    def __init__(self, annotation: Any) -> None:
        parts = _alternatives(annotation)
        self.optional = type(None) in parts
        parts = [part for part in parts if part is not type(None)]
        listed = [part for part in parts if typing.get_origin(part) in (tuple, list, set, frozenset)]
        self.several = bool(listed)
        self.scalar = len(listed) < len(parts)
        self.mapping = any(typing.get_origin(part) is dict or part is dict for part in parts)
        self.boolean = bool in parts
        self.choices = [c for part in parts if typing.get_origin(part) is typing.Literal for c in typing.get_args(part)]
        atoms = _atoms(parts)
        self.numeric = bool(atoms & {int, float}) and str not in atoms
        self.number = next((kind for kind in (float, int) if kind in atoms), None)

    @property
    def metavar(self) -> str:
        """How the help names a value."""
        if self.mapping:
            return "NAME=VALUE"
        if self.choices:
            return f"[{'|'.join(map(str, self.choices))}]"
        word = _NUMBERS[self.number] if self.numeric and self.number else "TEXT"
        return f"{word},..." if self.several else word


def _alternatives(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for option in typing.get_args(annotation) for part in _alternatives(option)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    return [annotation]


def _atoms(parts: Sequence[Any]) -> set[Any]:
    """The types at the bottom of nested annotations."""
    found: set[Any] = set()
    for part in parts:
        inner = [a for a in typing.get_args(part) if a is not Ellipsis]
        found |= (
            {part} if not inner or typing.get_origin(part) is typing.Literal else _atoms(_alternatives_of_all(inner))
        )
    return found


def _alternatives_of_all(parts: Sequence[Any]) -> list[Any]:
    return [one for part in parts for one in _alternatives(part)]


def given_settings(config: type[Config], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given on the command line.

    Parameters
    ----------
    config : type of Config
        Whose options they are.
    parameters : mapping
        click's parameters by name.

    Raises
    ------
    InvalidConfig
        If a list or mapping is not written as one. Values are checked by ``Config.parse``.
    """
    found = {}
    for name, field in config.model_fields.items():
        value = parameters.get(PREFIX + name)
        if value is not None and value != ():
            found[name] = _value(name, Shape(field.annotation), value)
    return found


def _value(name: str, shape: Shape, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    texts = list(value) if isinstance(value, tuple) else [value]
    if shape.mapping:
        return dict(_pair(name, text) for text in texts)
    if shape.optional and len(texts) == 1 and texts[0].strip().lower() in ("none", "null"):
        return None
    if not shape.several:
        return texts[0]
    items: list[Any] = []
    for text in texts:
        items += _listed(name, text) if text.strip().startswith("[") else text.split(",")
    items = [_number(item) if shape.numeric else item for item in items if not isinstance(item, str) or item.strip()]
    return items[0] if shape.scalar and len(items) == 1 else items


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidConfig(
            f"The option --{name} needs a name and a value.", expected=f"--{name} NAME=VALUE", found=text
        )
    return key, value


def _listed(name: str, text: str) -> list[Any]:
    try:
        return list(json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise InvalidConfig(
            f"The option --{name} is not a list.",
            expected="1,2,3 or [[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
            found=f"{text} ({error})",
        ) from None


def _number(item: Any) -> Any:
    """A number where the text is one; else the text, for pydantic to refuse."""
    if not isinstance(item, str):
        return item
    for kind in (int, float):
        try:
            return kind(item)
        except ValueError:
            continue
    return item
