"""Attributes of HDF5 objects in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5s, h5t

from ..schemas.canonical import Attribute, canonical_attributes
from ..schemas.errors import InvalidData

TECHNICAL = frozenset(
    {
        "CLASS",
        "DIMENSION_LABELS",
        "DIMENSION_LIST",
        "NAME",
        "REFERENCE_LIST",
        "_FillValue",
        "_NCProperties",
        "_Netcdf4Coordinates",
        "_Netcdf4Dimid",
        "_nc3_strict",
    }
)


def _text_type() -> Any:
    kind = h5t.C_S1.copy()
    kind.set_size(h5t.VARIABLE)
    kind.set_cset(h5t.CSET_UTF8)
    kind.lock()
    return kind


TEXT_TYPE = _text_type()


def read_attributes(location: Any) -> dict[str, Attribute]:
    """All attributes of a group or dataset in canonical form, without the technical ones."""
    values: dict[str, Any] = {}
    for index in range(h5a.get_num_attrs(location)):
        attribute = h5a.open(location, index=index)
        name = attribute.name.decode("utf-8", "surrogateescape")
        if name not in TECHNICAL:
            value = _read_attribute(attribute)
            if value is not None:
                values[name] = value
    return canonical_attributes(values)


def _read_attribute(attribute: Any) -> Any:
    """The value as plain Python, or None for what h5ml never writes (references, empty dataspaces)."""
    kind = attribute.get_type()
    if kind.get_class() == h5t.REFERENCE or attribute.get_space().get_simple_extent_type() == h5s.NULL:
        return None
    values = np.empty(attribute.shape, dtype=attribute.dtype)
    attribute.read(values)
    if values.dtype.kind in "OS":
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.reshape(-1).tolist()]
        return texts[0] if values.shape == () else texts
    return values.tolist()


def replace_attributes(location: Any, old: Mapping[str, Attribute], new: Mapping[str, Attribute]) -> None:
    """Delete, change and add attributes so that ``new`` stand there."""
    for name, value in old.items():
        if name not in new or not _equal(value, new[name]):
            h5a.delete(location, name.encode())
    for name, value in new.items():
        if name not in old or not _equal(value, old[name]):
            write_attribute(location, name, value)


def _equal(one: Attribute, other: Attribute) -> bool:
    return type(one) is type(other) and one == other and repr(one) == repr(other)


def write_attribute(location: Any, name: str, value: Attribute) -> None:
    """Write a new attribute of canonical form.

    Text has a fixed length, as netCDF writes it; lists of text are variable-length strings.
    """
    if name in TECHNICAL or not name:
        raise InvalidData(f"The attribute name {name!r} is reserved.", hint="use another name")
    if isinstance(value, str):
        data = value.encode("utf-8")
        kind = h5t.C_S1.copy()
        kind.set_size(max(1, len(data)))
        kind.set_strpad(h5t.STR_NULLPAD)
        kind.set_cset(h5t.CSET_UTF8)
        values = np.array(data, dtype=f"S{max(1, len(data))}")
    elif isinstance(value, list) and isinstance(value[0], str):
        kind = TEXT_TYPE
        values = np.array(value, dtype=h5py.string_dtype())
    else:
        values = np.asarray(value)
        kind = h5t.py_create(values.dtype)
    space = h5s.create(h5s.SCALAR) if values.shape == () else h5s.create_simple(values.shape)
    h5a.create(location, name.encode("utf-8"), kind, space).write(values, None if kind is TEXT_TYPE else kind)
