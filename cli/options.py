"""Command-line options made from the fields of a Config, and the settings that were given through them."""

from __future__ import annotations

import json
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..schemas.config import Config, alternatives, nested_config
from ..schemas.errors import InvalidConfig

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

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


def config_options(config: type[Config], taken: Collection[str] = (), prefix: str = "") -> list[click.Parameter]:
    """One option for every field of a Config.

    Parameters
    ----------
    config : type of Config
        Its fields give name, type, default, bounds and description. A field that is itself a Config gives an option
        for each of its own (``--filter.n-molecules``) and, where it may be left out, a switch (``--filter``).
    taken : collection of str
        Options that mean something else already (``--scheduler``).
    prefix : str
        Stands before a field of such a name (``--training.scheduler``).

    Returns
    -------
    list of click.Option
        Their values arrive as ``setting_NAME``; see ``given_settings``.
    """
    fields = [(name, field) for name, field in config.every_field() if has_option(field)]
    shown = {name: f"{prefix}.{name}" if spellings(name)[0] in taken else name for name, _ in fields}
    return [_option(name, field, shown[name]) for name, field in fields]


def has_option(field: FieldInfo) -> bool:
    """Whether a field is typed itself; a nested Config that is always there is typed by its fields alone."""
    return nested_config(field) is None or type(None) in alternatives(field.annotation)


def _option(name: str, field: FieldInfo, shown: str) -> click.Option:
    shape = Shape(field.annotation)
    text = f"{(field.description or '').strip()}  [{facts_text(field)}]".replace("  []", "")
    common: dict[str, Any] = {"help": text, "default": None}
    names = spellings(shown)
    if shape.boolean or nested_config(field) is not None:
        flags = [f"{on}/--no-{on[2:]}" for on in names]
        return DashedOption([*flags, _parameter(name)], **common)
    return DashedOption(
        [*names, _parameter(name)], metavar=shape.metavar, multiple=shape.several or shape.mapping, **common
    )


def _parameter(name: str) -> str:
    """What click calls the value of an option."""
    return PREFIX + name.replace(".", "__")


def facts_text(field: FieldInfo) -> str:
    """Default, bounds and whether it can be extended: ``default: 0.5; > 0``."""
    default = default_text(field)
    found = [default if field.is_required() else f"default: {default}"]
    found = [] if found == ["default: none"] or found == ["default: "] else found
    found += bounds_of(field)
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("extends"):
        found.append("can be raised later")
    return "; ".join(found)


def default_text(field: FieldInfo) -> str:
    """A field's default as one would type it."""
    return "required" if field.is_required() else value_text(field.get_default(call_default_factory=True))


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
    if isinstance(value, Config):
        changed = {name: getattr(value, name) for name in sorted(value.model_fields_set)}
        return value_text(changed) or "yes"
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
        parts = alternatives(annotation)
        self.optional = type(None) in parts
        parts = [part for part in parts if part is not type(None)]
        listed = [part for part in parts if typing.get_origin(part) in (tuple, list, set, frozenset)]
        self.several = bool(listed)
        self.scalar = len(listed) < len(parts)
        self.mapping = any(typing.get_origin(part) is dict or part is dict for part in parts)
        self.boolean = parts == [bool]
        self.choices = [c for part in parts for c in _choices(part)]
        atoms = _atoms(parts)
        self.numeric = bool(atoms & {int, float}) and str not in atoms
        self.words = _words(parts)

    @property
    def metavar(self) -> str:
        """How the help names a value."""
        text = "|".join(self.words)
        return f"[{text}]" if len(self.words) > 1 or self.choices else text


def _words(parts: Sequence[Any]) -> list[str]:
    """A word for each form that a value may have: ``gamma``, ``NUMBER``, ``INTEGER,...``."""
    if any(typing.get_origin(part) is dict or part is dict for part in parts):
        return ["NAME=VALUE"]
    found: list[str] = []
    for part in parts:
        items = _atoms([part])
        number = next((_NUMBERS[kind] for kind in (float, int) if kind in items and str not in items), "TEXT")
        if typing.get_origin(part) in (tuple, list, set, frozenset):
            choices = [c for atom in items for c in _choices(atom)]
            found.append(f"{'|'.join(map(str, choices)) or number},...")
        elif part is bool:
            found += ["yes", "no"]
        else:
            found += map(str, _choices(part) or [number])
    return [word for word in dict.fromkeys(found) if f"{word},..." not in found]


def _choices(part: Any) -> tuple[Any, ...]:
    return typing.get_args(part) if typing.get_origin(part) is typing.Literal else ()


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
    return [one for part in parts for one in alternatives(part)]


def given_settings(
    config: type[Config], parameters: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that were given on the command line.

    Parameters
    ----------
    config : type of Config
        Whose options they are.
    parameters : mapping
        click's parameters by name.
    before : mapping, optional
        The settings of the campaign; those given for a nested Config come on top of what stands there.

    Raises
    ------
    InvalidConfig
        If a list or mapping is not written as one, or a nested Config is both left out and set. Values are checked
        by ``Config.parse``.
    """
    return _given(config, parameters, before or {}, "")


def _given(config: type[Config], parameters: Mapping[str, Any], before: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        value = parameters.get(_parameter(prefix + name))
        nested = nested_config(field)
        if nested is not None:
            old = before.get(name) if isinstance(before, Mapping) else None
            old = old if isinstance(old, Mapping) else {}
            inner = _given(nested, parameters, old, f"{prefix}{name}.")
            if inner and value is False:
                raise InvalidConfig(
                    f"The option --no-{prefix}{name} does not go with settings of {prefix}{name}.",
                    expected="one or the other",
                    found=", ".join(f"{prefix}{name}.{one}" for one in inner),
                )
            if inner or value is not None:
                found[name] = None if value is False else {**old, **inner}
        elif value is not None and value != ():
            found[name] = _value(prefix + name, Shape(field.annotation), value)
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
        return next((choice for choice in shape.choices if str(choice) == texts[0]), texts[0])
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
