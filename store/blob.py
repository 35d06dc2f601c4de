"""Datasets as bytes, for staging and for the way between processes: a JSON header and raw arrays, no pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ..schemas.canonical import canonical_attributes
from ..schemas.errors import StoreDamaged

if TYPE_CHECKING:
    import xarray as xr

MAGIC = b"h5mlblob"
ALIGNMENT = 16


def pack(dataset: xr.Dataset) -> bytes:
    """Turn a dataset into bytes; text and little-endian numbers, attributes in canonical form."""
    header: dict[str, Any] = {"attributes": canonical_attributes(dataset.attrs), "variables": []}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(dataset.variables, key=str):
        variable = dataset.variables[name]
        values = np.asarray(variable.data)
        if values.dtype.kind in "OUT":
            raw, dtype = orjson.dumps([str(v) for v in values.ravel()]), "text"
        else:
            values = np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="C")  # keeps a scalar a scalar
            raw, dtype = values.tobytes(), values.dtype.str
        header["variables"].append(
            [
                str(name),
                list(variable.dims),
                dtype,
                list(values.shape),
                canonical_attributes(variable.attrs),
                offset,
                len(raw),
            ]
        )
        padding = -len(raw) % ALIGNMENT
        parts += [raw, b"\0" * padding]
        offset += len(raw) + padding
    text = orjson.dumps(header)
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGNMENT)
    return b"".join([MAGIC, len(text).to_bytes(8, "little"), text, *parts])


def unpack(data: bytes) -> xr.Dataset:
    """Turn the bytes of ``pack`` back into a dataset.

    Raises
    ------
    StoreDamaged
        If they are no such bytes.
    """
    import xarray as xr

    try:
        if data[:8] != MAGIC:
            raise ValueError("no header")
        length = int.from_bytes(data[8:16], "little")
        header = orjson.loads(data[16 : 16 + length])
        start = 16 + length
        variables = {}
        for name, dims, dtype, shape, attributes, offset, size in header["variables"]:
            raw = data[start + offset : start + offset + size]
            if dtype == "text":
                values = np.array(orjson.loads(raw), dtype=object).reshape(shape)
            else:
                values = np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape).copy()
            variables[name] = xr.Variable(dims, values, attributes)
        return xr.Dataset(variables, attrs=header["attributes"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged("A staged result cannot be read.", found=str(error), hint="run `h5ml audit`") from None
