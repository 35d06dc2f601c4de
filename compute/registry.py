"""The modules that are installed: built-in ones and those of plug-ins, through the entry points ``h5ml.modules``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from ..schemas.errors import InvalidConfig, MissingPackage, nearest
from .module import Module

GROUP = "h5ml.modules"


class Registry(Mapping[str, Module]):
    """Modules by name; each is imported when it is first asked for.

    Parameters
    ----------
    modules : iterable of Module
        Modules that are there whether installed or not; they win over installed ones of the same name.
    points : iterable of EntryPoint, optional
        Where to find others; the installed entry points by default.
    """

    def __init__(self, modules: Iterable[Module] = (), points: Iterable[EntryPoint] | None = None) -> None:
        self._loaded = {module.name: module for module in modules}
        found = entry_points(group=GROUP) if points is None else points
        self._points = {point.name: point for point in found}
        self._broken: dict[str, str] = {}

    def __getitem__(self, name: str) -> Module:
        if name not in self._loaded:
            if name not in self._points:
                raise KeyError(name)
            self._load(name)
            if name not in self._loaded:
                raise KeyError(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        for name in sorted({*self._loaded, *self._points}):
            if name not in self._loaded:
                self._load(name)
            if name in self._loaded:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def named(self, name: str) -> Module:
        """The module of that name.

        Raises
        ------
        InvalidConfig
            If there is none; the message names the nearest.
        MissingPackage
            If its plug-in cannot be loaded.
        """
        try:
            return self[name]
        except KeyError:
            pass
        if name in self._broken:
            raise MissingPackage(
                f"The module {name!r} is installed but cannot be loaded.",
                found=self._broken[name],
                hint=f"repair or remove the package that declares {self._points[name].value}",
            )
        names = sorted({*self._loaded, *self._points})
        raise InvalidConfig(
            f"There is no module {name!r}.",
            expected=", ".join(names),
            found=name,
            hint=nearest(name, names) or "`h5ml modules` lists them",
        )

    def _load(self, name: str) -> None:
        if name in self._broken:
            return
        point = self._points[name]
        try:
            module = point.load()
            if not isinstance(module, Module):
                raise TypeError(f"expected a Module, found {type(module).__name__}")
        except Exception as error:  # noqa: BLE001 - a foreign plug-in may fail in any way
            self._broken[name] = f"{type(error).__name__}: {error}"
            warnings.warn(f"the module plug-in {name!r} could not be loaded: {self._broken[name]}", stacklevel=4)
        else:
            self._loaded[name] = module

    def __reduce__(self) -> tuple[type[Registry], tuple[tuple[Module, ...]]]:
        """Travel with the modules that were loaded; the others are found again where it arrives."""
        return (Registry, (tuple(self._loaded.values()),))
