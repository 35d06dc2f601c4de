"""From the results of an ASE calculator to an outcome."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from .level import DONE, FAILED, TAIL_CHARACTERS, Outcome

_SHAPES = {"energy": (), "forces": (-1, 3), "stress": (6,), "dipole": (3,), "charges": (-1,)}


def outcome_of(results: Mapping[str, Any], properties: frozenset[str], iterations: int = -1) -> Outcome:
    """What was wanted, of what a calculator of ASE found.

    Parameters
    ----------
    results : mapping
        By ASE's names, in ASE's units.
    properties : frozenset of str
        What was wanted; a result that is missing makes a failure.
    iterations : int
        Cycles of the self-consistent field.
    """
    values = {name: _shaped(name, results[name]) for name in properties if results.get(name) is not None}
    missing = sorted(properties - set(values))
    if missing:
        return Outcome(FAILED, values, iterations, f"the calculator gave no {', '.join(missing)}")
    return Outcome(DONE, values, iterations)


def _shaped(name: str, value: Any) -> Any:
    array = np.asarray(value, dtype=np.float64)
    if name == "stress" and array.shape == (3, 3):
        array = array.ravel()[[0, 4, 8, 5, 2, 1]]
    return array.reshape(_SHAPES[name])


def said(error: BaseException) -> str:
    """The end of what an error says."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return text[-TAIL_CHARACTERS:]
