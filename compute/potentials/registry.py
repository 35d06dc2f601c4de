"""From the text ``engine:method?option=value`` to a potential."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from ...schemas.errors import InvalidConfig, nearest
from .base import Potential


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine's factory is given.

    Attributes
    ----------
    spec : str
        The whole text.
    method : str
        What stands between the colon and the question mark.
    options : mapping
        What stands after it: numbers, ``true``, ``false``, ``null`` or text.
    trust_pickle : bool
        Whether files that can run code when they are read may be read.
    device : str
        ``cpu`` or ``cuda``.
    """

    spec: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trust_pickle: bool = False
    device: str = "cpu"

    def only(self, known: Mapping[str, Any] | set[str]) -> None:
        """Refuse options that the engine does not know."""
        for name in self.options:
            if name not in known:
                raise InvalidConfig(
                    f"The engine has no option {name!r}.",
                    key=self.spec,
                    expected=", ".join(sorted(known)) or "no options",
                    found=name,
                    hint=nearest(name, known),
                )


Factory = Callable[[EngineRequest], Potential]


def _tblite(request: EngineRequest) -> Potential:
    from .xtb import tblite_potential

    return tblite_potential(request)


def _ase(request: EngineRequest) -> Potential:
    from .ase_engine import ase_potential

    return ase_potential(request)


def _harmonic(request: EngineRequest) -> Potential:
    from .harmonic import harmonic_potential

    return harmonic_potential(request)


def _file(request: EngineRequest) -> Potential:
    from .mace_engine import file_potential

    return file_potential(request)


def _foundation(request: EngineRequest) -> Potential:
    from .mace_engine import foundation_potential

    return foundation_potential(request)


ENGINES: Mapping[str, Factory] = MappingProxyType(
    {
        "tblite": _tblite,
        "ase": _ase,
        "harmonic": _harmonic,
        "file": _file,
        "mace-mp": _foundation,
        "mace-off": _foundation,
    }
)


def parse_spec(spec: str, *, trust_pickle: bool = False, device: str = "cpu") -> tuple[str, EngineRequest]:
    """Split ``engine:method?option=value&...`` into its engine and the request to it.

    Raises
    ------
    InvalidConfig
        If the text has another form.
    """
    engine, colon, rest = spec.partition(":")
    method, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        pairs = []
        colon = ""
    if not colon or not method:
        raise InvalidConfig(
            "This does not name a potential.",
            key=spec,
            expected="engine:method or engine:method?option=value&option=value",
            found=spec,
            hint="for example tblite:GFN1-xTB, ase:lj?sigma=3.4&epsilon=0.0104 or file:my.model",
        )
    options = {name: _value(text) for name, text in pairs}
    return engine, EngineRequest(spec, method, options, trust_pickle, device)


def resolve_potential(spec: str, *, trust_pickle: bool = False, device: str = "cpu") -> Potential:
    """Make the potential that a text names.

    Parameters
    ----------
    spec : str
        ``engine:method``, optionally with ``?option=value&option=value``.
    trust_pickle : bool
        Allow files that can run any code when they are read (``file:``).
    device : str
        ``cpu`` or ``cuda``, for engines that have a choice.

    Raises
    ------
    InvalidConfig
        If the engine, the method or an option is unknown, or a pickled file is not trusted.
    MissingPackage
        If the engine is not installed; the message names the package.
    """
    engine, request = parse_spec(spec, trust_pickle=trust_pickle, device=device)
    if engine not in ENGINES:
        raise InvalidConfig(
            "There is no such engine.",
            key=spec,
            expected=", ".join(ENGINES),
            found=engine,
            hint=nearest(engine, ENGINES),
        )
    return ENGINES[engine](request)


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false", "none", "null") else text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text
