"""Content digests: the same for the same data in any engine, chunking, compression or order of appending.

A variable is hashed in fixed blocks of rows along its first axis, and the block digests are chained:
``chain_k = H(chain_(k-1) || H(block_k))`` with BLAKE3; the digest of the variable is ``H(chain || H(rest))``, where the
rest is the rows after the last whole block (maybe none). The digest of a dataset is that of a canonical JSON text of
its attributes and, per variable, dims, dtype, shape, attributes and digest. So an append needs the chain (32 bytes)
and the rest alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from ..schemas.canonical import Attribute, canonical_json
from .engine import TEXT, Array

BLOCK_BYTES = 1 << 20
TEXT_BLOCK_ROWS = 1024
START = bytes(32)


def digest_json(value: Any) -> str:
    """BLAKE3 of the canonical JSON of a value, as hex."""
    return blake3(canonical_json(value).encode()).hexdigest()


def block_rows(dtype: str, shape: tuple[int, ...]) -> int:
    """Rows in a hash block: the largest power of two whose block is at most 1 MiB (at least one row)."""
    if dtype == TEXT or not shape:
        return TEXT_BLOCK_ROWS
    row = np.dtype(dtype).itemsize * math.prod(shape[1:])
    return 1 << max(0, (BLOCK_BYTES // max(row, 1)).bit_length() - 1)


def row_bytes(values: Array, dtype: str) -> bytes | memoryview:
    """Little-endian C-order bytes of rows; text as UTF-8 with 8-byte lengths before each."""
    if dtype == TEXT:
        parts = []
        for text in np.asarray(values, dtype=object).ravel():
            encoded = str(text).encode()
            parts += [len(encoded).to_bytes(8, "little"), encoded]
        return b"".join(parts)
    array = np.ascontiguousarray(values, dtype=np.dtype(dtype))
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


class VariableHasher:
    """The running digest of one variable.

    Parameters
    ----------
    dtype : str
        As in ``ArrayLayout``.
    shape : tuple of int
        Only the row shape ``shape[1:]`` matters, and whether it is a scalar.
    chain : bytes
        Chain over the complete blocks so far.
    rows : int
        Complete blocks' rows so far.
    """

    __slots__ = ("_block", "_dtype", "_partial", "chain", "rows", "scalar")

    def __init__(self, dtype: str, shape: tuple[int, ...], chain: bytes = START, rows: int = 0) -> None:
        self._dtype = dtype
        self._block = block_rows(dtype, shape)
        self._partial = blake3()
        self.chain = chain
        self.rows = rows
        self.scalar = not shape

    @property
    def partial_start(self) -> int:
        """First row of the unfinished block."""
        return self.rows - self.rows % self._block

    def update(self, values: Array) -> None:
        """Add rows."""
        if self.scalar:
            self._partial.update(row_bytes(values, self._dtype))
            self.rows = 1
            return
        done, total = 0, len(values)
        while done < total:
            take = min(total - done, self._block - self.rows % self._block)
            self._partial.update(row_bytes(values[done : done + take], self._dtype))
            self.rows += take
            done += take
            if self.rows % self._block == 0:
                self.chain = blake3(self.chain + self._partial.digest()).digest()
                self._partial = blake3()

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return blake3(self.chain + self._partial.digest()).hexdigest()


@dataclass(slots=True)
class VariableHeader:
    """What a dataset digest says of a variable besides its values."""

    dims: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, Attribute]

    @property
    def volatile(self) -> bool:
        """Whether the values stay outside the digest."""
        return bool(self.attributes.get("volatile", 0))


class DatasetHasher:
    """The running digest of a dataset.

    Parameters
    ----------
    headers : dict of str to VariableHeader
        Its variables.
    attributes : mapping
        Its attributes, in canonical form.
    shapes : mapping of str to tuple of int
        Their shapes at the start (only row shapes matter).
    chains : mapping of str to str, optional
        Hex chains to go on from, with ``rows`` of each.
    """

    def __init__(
        self,
        headers: Mapping[str, VariableHeader],
        attributes: Mapping[str, Attribute],
        shapes: Mapping[str, tuple[int, ...]],
        chains: Mapping[str, str] | None = None,
    ) -> None:
        self.headers = dict(headers)
        self.variables: dict[str, VariableHasher] = {}
        self.attributes = dict(attributes)
        self._texts = {
            name: (canonical_json(name), canonical_json([list(h.dims), h.dtype]), canonical_json(dict(h.attributes)))
            for name, h in sorted(self.headers.items())
        }
        for name, header in self.headers.items():
            if header.volatile:
                continue
            self.variables[name] = VariableHasher(header.dtype, shapes[name])
            if chains and name in chains:
                self.variables[name].chain = bytes.fromhex(chains[name])

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The attributes that the digest covers."""
        return dict(self._plain)

    @attributes.setter
    def attributes(self, attributes: Mapping[str, Attribute]) -> None:
        self._plain = dict(attributes)
        self._attributes = canonical_json(self._plain)

    def update(self, name: str, values: Array) -> None:
        """Add rows to a variable (volatile ones are passed over)."""
        if name in self.variables:
            self.variables[name].update(values)

    def chains(self) -> dict[str, str]:
        """The chain of each variable that has a complete block: what an append after a restart needs."""
        return {name: hasher.chain.hex() for name, hasher in self.variables.items() if hasher.chain != START}

    def hexdigest(self, sizes: Mapping[str, int]) -> str:
        """The digest of the dataset at these dimension lengths.

        The text hashed is the canonical JSON of ``{"attributes": {...}, "variables": {name: [dims, dtype, shape,
        attributes, digest of the values or null]}}``.
        """
        parts = []
        for name, (label, form, attributes) in self._texts.items():
            header = self.headers[name]
            shape = ",".join(str(int(sizes[dim])) for dim in header.dims)
            values = "null" if header.volatile else f'"{self.variables[name].hexdigest()}"'
            parts.append(f"{label}:[{form[1:-1]},[{shape}],{attributes},{values}]")
        text = f'{{"attributes":{self._attributes},"variables":{{{",".join(parts)}}}}}'
        return blake3(text.encode()).hexdigest()


def row_blocks(shape: tuple[int, ...], dtype: str, target: int = 8 << 20) -> Iterator[slice]:
    """Slices along the first axis of about ``target`` bytes, on hash-block edges."""
    if not shape:
        yield slice(None)
        return
    step = block_rows(dtype, shape)
    if dtype != TEXT:
        row = max(1, np.dtype(dtype).itemsize * math.prod(shape[1:]))
        step *= max(1, target // (row * step))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
