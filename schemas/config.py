"""Config: a module's settings; one field is default, bounds, unit, description, CLI option and YAML entry at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import InvalidConfig, nearest

__all__ = ["Config", "Field", "alternatives", "horizon", "later", "nested_config", "one_of_one"]

_PLAIN = {
    "float_parsing": "give a number, without its unit",
    "float_type": "give a number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "int_type": "give a whole number",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "string_type": "give a text",
    "tuple_type": "give several values, as 2,2,2 or in a list",
    "missing": "a value is missing",
}
"""What pydantic's types of errors mean to a person."""


def horizon(default: Any, *, description: str, **bounds: Any) -> Any:
    """A field that says how far to go (``time_total_fs``, ``max_epochs``).

    It stays out of the prefix id of a run, so that a longer horizon continues from the stored restart state.
    """
    return Field(default, description=description, json_schema_extra={"extends": True}, **bounds)


def later(default: Any, *, description: str, **bounds: Any) -> Any:
    """A field that a module got later, whose default changes nothing.

    While it has its default it stays out of the identity of a run, so that runs made before are still found.
    """
    return Field(default, description=description, json_schema_extra={"later": True}, **bounds)


def one_of_one(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """A validator for fields of one or several values: one value in a list is that value."""
    if not isinstance(value, tuple):
        return value
    if not value:
        raise ValueError("give at least one value")
    return value[0] if len(value) == 1 else value


class Config(BaseModel):
    """Base of all settings: frozen, checked, without unknown names.

    Every field has a default (or is required), bounds, its unit in its name and a description of one sentence. A field
    may itself be a Config (or None); its settings are then written below its name: ``filter.n_molecules``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, where: str | None = None) -> Self:
        """Check settings from a user.

        Parameters
        ----------
        settings : mapping
            Names to values; text is converted where the type allows.
        where : str, optional
            The place that an error names: a key of the campaign, or the command.

        Raises
        ------
        InvalidConfig
            Names the first wrong setting, what was expected and the nearest valid name.
        """
        _refuse_unknown(cls, settings, where)
        try:
            return cls(**settings)
        except ValidationError as error:
            raise cls._refusal(error, settings, where) from None

    @classmethod
    def _refusal(cls, error: ValidationError, settings: Mapping[str, Any], where: str | None) -> InvalidConfig:
        """The first setting that is wrong, with what each alternative of its type says of it."""
        first, *others = error.errors()
        path, field = cls._field_at(first["loc"])
        name = ".".join(path)
        said = [first, *(one for one in others if path and cls._field_at(one["loc"])[0] == path)]
        hints = dict.fromkeys(_PLAIN.get(one["type"], one["msg"].removeprefix("Value error, ")) for one in said)
        value: Any = settings
        for part in path:
            value = value[part] if isinstance(value, Mapping) and part in value else first.get("input")
        return InvalidConfig(
            f"The setting {name} is not valid." if field else "The settings do not fit together.",
            key=where,
            expected=(field.description if field else None) or "settings that fit together",
            found=f"{name} = {value!r}"[:200] if field else repr(first.get("input"))[:200],
            hint="; or ".join(hints),
        )

    @classmethod
    def _field_at(cls, location: tuple[int | str, ...]) -> tuple[tuple[str, ...], FieldInfo | None]:
        """Where pydantic found an error, without positions in lists and alternatives of types."""
        path: list[str] = []
        field: FieldInfo | None = None
        config: type[Config] | None = cls
        for part in location:
            if config is not None and part in config.model_fields:
                field = config.model_fields[str(part)]
                path.append(str(part))
                config = nested_config(field)
        return tuple(path), field

    def canonical(self) -> dict[str, Any]:
        """All settings as plain JSON types: what the run id is computed from."""
        fields = type(self).model_fields
        unsaid = {name for name, field in fields.items() if _marked(field, "later")}
        unsaid = {name for name in unsaid if getattr(self, name) == fields[name].get_default(call_default_factory=True)}
        nested = {name: value.canonical() for name, value in self if isinstance(value, Config) and name not in unsaid}
        return {**self.model_dump(mode="json", exclude=unsaid), **nested}

    @classmethod
    def horizon_fields(cls) -> tuple[str, ...]:
        """Names of the fields that only say how far to go."""
        return tuple(name for name, field in cls.model_fields.items() if _marked(field, "extends"))

    @classmethod
    def every_field(cls, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
        """All fields with their names; those of a nested Config follow it, with dotted names."""
        for name, field in cls.model_fields.items():
            yield prefix + name, field
            nested = nested_config(field)
            if nested is not None:
                yield from nested.every_field(f"{prefix}{name}.")


def nested_config(field: FieldInfo) -> type[Config] | None:
    """The Config that is the type of a field, or one of its alternatives."""
    found = [part for part in alternatives(field.annotation) if isinstance(part, type) and issubclass(part, Config)]
    return found[0] if found else None


def _refuse_unknown(config: type[Config], settings: Mapping[str, Any], where: str | None, prefix: str = "") -> None:
    for name, value in settings.items():
        if name not in config.model_fields:
            raise InvalidConfig(
                f"There is no setting {f'{prefix}{name}'!r}.",
                key=where,
                expected=", ".join(prefix + known for known in config.model_fields),
                found=f"{prefix}{name}",
                hint=nearest(str(name), config.model_fields) or "see `h5ml config`",
            )
        nested = nested_config(config.model_fields[name])
        if nested is not None and isinstance(value, Mapping):
            _refuse_unknown(nested, value, where, f"{prefix}{name}.")


def alternatives(annotation: Any) -> list[Any]:
    """The types that a union (or a single type) allows."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for option in typing.get_args(annotation) for part in alternatives(option)]
    if typing.get_origin(annotation) is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    return [annotation]


def _marked(field: FieldInfo, mark: str) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get(mark))
