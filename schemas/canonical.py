"""One canonical form for attributes and JSON, so that digests agree between engines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .errors import InvalidData

Attribute = str | int | float | list[str] | list[int] | list[float]

INT64 = range(-(2**63), 2**63)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no blanks, shortest round-trip floats and plain UTF-8.

    Parameters
    ----------
    value : Any
        Nested dicts, lists, strings, numbers, booleans and None.

    Returns
    -------
    str
        The same text for the same value, everywhere.
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, tuples and mappings into the types of JSON."""
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(v) for v in items]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise InvalidData(
        "A value cannot be stored as JSON.",
        expected="text, numbers, lists and dicts of them",
        found=type(value).__name__,
    )


def canonical_attributes(attributes: Mapping[str, Any]) -> dict[str, Attribute]:
    """Attributes in the only forms that every engine keeps.

    Kept as they are: text, int64, finite float64, and lists of two or more of one of these. Everything else (booleans,
    NaN, None, short or mixed lists, nested values) becomes JSON text, because HDF5, netCDF-4 and Zarr change them.

    Parameters
    ----------
    attributes : mapping
        Names to values, numpy or Python.

    Returns
    -------
    dict
        Sorted by name.
    """
    return {str(name): _canonical_attribute(plain(attributes[name])) for name in sorted(attributes, key=str)}


def _canonical_attribute(value: Any) -> Attribute:
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
            return json.dumps(value)
        return value
    if _is_number(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, list) and len(value) >= 2:
        if all(isinstance(v, str) and v and "\x00" not in v for v in value):
            return value
        if all(_is_number(v) for v in value):
            whole = all(isinstance(v, int) for v in value)
            return value if whole else [float(v) for v in value]
    return canonical_json(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and value in INT64) or (isinstance(value, float) and math.isfinite(value))
