"""Config: a module's settings; one field is default, bounds, unit, description, CLI option and YAML entry at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import InvalidConfig, nearest

__all__ = ["Config", "Field", "horizon"]


def horizon(default: Any, *, description: str, **bounds: Any) -> Any:
    """A field that says how far to go (``time_total_fs``, ``max_epochs``).

    It stays out of the prefix id of a run, so that a longer horizon continues from the stored restart state.
    """
    return Field(default, description=description, json_schema_extra={"extends": True}, **bounds)


class Config(BaseModel):
    """Base of all settings: frozen, checked, without unknown names.

    Every field has a default (or is required), bounds, its unit in its name and a description of one sentence.
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
        unknown = [name for name in settings if name not in cls.model_fields]
        if unknown:
            raise InvalidConfig(
                f"There is no setting {unknown[0]!r}.",
                key=where,
                expected=", ".join(cls.model_fields),
                found=unknown[0],
                hint=nearest(unknown[0], cls.model_fields) or "see `h5ml config`",
            )
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or "the settings together"
            field = cls.model_fields.get(name.split(".")[0])
            raise InvalidConfig(
                f"The setting {name} is not valid." if field else "The settings do not fit together.",
                key=where,
                expected=(field.description if field else None) or "settings that fit together",
                found=_found(first, settings),
                hint=first["msg"].removeprefix("Value error, "),
            ) from None

    def canonical(self) -> dict[str, Any]:
        """All settings as plain JSON types: what the run id is computed from."""
        return self.model_dump(mode="json")

    @classmethod
    def horizon_fields(cls) -> tuple[str, ...]:
        """Names of the fields that only say how far to go."""
        return tuple(name for name, field in cls.model_fields.items() if _extends(field))


def _extends(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("extends"))


def _found(error: Any, settings: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    return f"{name} = {settings[name]!r}" if name in settings else repr(error.get("input"))[:200]
