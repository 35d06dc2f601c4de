"""Any calculator of ASE, by its name."""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any

from ...schemas.errors import InvalidConfig, MissingPackage, nearest
from .base import Potential, facts
from .registry import EngineRequest

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def ase_potential(request: EngineRequest) -> Potential:
    """``ase:NAME``; options are the keyword arguments of the calculator, such as ``ase:lj?sigma=3.4``."""
    import ase

    kind = _calculator_class(request)
    known = set(getattr(kind, "default_parameters", {}) or {})
    arguments = inspect.signature(kind).parameters
    known |= {n for n, p in arguments.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    request.only(known - {"atoms", "restart", "label", "ignore_bad_restart_file"})
    return Potential(
        request.spec,
        f"ASE {request.method}",
        functools.partial(_calculator, request),
        facts("ase", request.method, ase.__version__, parameters=request.options),
    )


def _calculator(request: EngineRequest) -> Calculator:
    found: Calculator = _calculator_class(request)(**request.options)
    return found


def _calculator_class(request: EngineRequest) -> Any:
    from ase.calculators.calculator import get_calculator_class
    from ase.calculators.names import names

    name = request.method
    try:
        if not re.fullmatch(r"\w+", name):
            raise AttributeError(name)
        return get_calculator_class(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ase."):
            raise _unknown(request, names) from None
        raise MissingPackage(
            f"The calculator {name} of ASE needs a package that is not installed.",
            key=request.spec,
            expected=f"the package {error.name}",
            found="nothing of that name",
            hint=f"pip install {error.name}",
        ) from error
    except AttributeError:
        raise _unknown(request, names) from None


def _unknown(request: EngineRequest, names: list[str]) -> InvalidConfig:
    return InvalidConfig(
        "ASE has no calculator of that name.",
        key=request.spec,
        expected=", ".join(names),
        found=request.method,
        hint=nearest(request.method, names),
    )
