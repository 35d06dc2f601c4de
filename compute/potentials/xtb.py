"""Semi-empirical quantum chemistry: GFN1-xTB, GFN2-xTB and relatives with tblite."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ...schemas.errors import InvalidConfig, MissingPackage, nearest
from .base import Potential, facts
from .registry import EngineRequest

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def tblite_potential(request: EngineRequest) -> Potential:
    """``tblite:METHOD``; options are those of tblite's ASE calculator, and ``threads`` (1).

    tblite repeats its results to the last bit with one OpenMP thread only, so that is the default.
    """
    kind, methods, version = _tblite()
    if request.method not in methods:
        raise InvalidConfig(
            "tblite has no such method.",
            key=request.spec,
            expected=", ".join(methods),
            found=request.method,
            hint=nearest(request.method, methods),
        )
    known = set(kind.default_parameters) - {"method", "verbosity", "cache_api"}
    request.only(known | {"threads"})
    options = dict(request.options)
    threads = options.pop("threads", 1)
    if not isinstance(threads, int) or threads < 1:
        raise InvalidConfig("The number of threads must be at least 1.", key=request.spec, found=threads)
    return Potential(
        request.spec,
        request.method,
        functools.partial(_calculator, request.method, threads, tuple(options.items())),
        facts("tblite", request.method, version, parameters=options, threads=threads),
    )


def _calculator(method: str, threads: int, options: tuple[tuple[str, Any], ...]) -> Calculator:
    kind, _, _ = _tblite()
    found: Calculator = kind(threads, method=method, verbosity=0, **dict(options))
    return found


@functools.cache
def _tblite() -> tuple[Any, tuple[str, ...], str]:
    """The calculator class that keeps its number of threads, its methods and its version."""
    try:
        from tblite.ase import TBLite
        from tblite.interface import Calculator as Interface
        from tblite.library import get_version
    except ImportError as error:
        raise MissingPackage(
            "The engine tblite is not installed.",
            expected="the package tblite",
            found=str(error),
            hint='pip install "h5ml[xtb]" (its wheel also needs libgomp, in Debian the package libgomp1)',
        ) from error
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    openmp = ThreadpoolController().select(user_api="openmp")

    class ThreadedTBLite(TBLite):
        """tblite's calculator with a fixed number of OpenMP threads, whatever the process has."""

        def __init__(self, threads: int, **parameters: Any) -> None:
            self._threads = threads
            super().__init__(**parameters)

        def calculate(self, *args: Any, **kwargs: Any) -> None:
            with openmp.limit(limits=self._threads):
                super().calculate(*args, **kwargs)

    methods = tuple(getattr(Interface, "_loader", {}) or ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"))
    return ThreadedTBLite, methods, ".".join(str(n) for n in get_version())
