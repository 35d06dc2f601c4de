"""What differs between two entries: values, attributes, shapes, and how each was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..schemas.run import Run
from .catalogue import Entry
from .digest import row_blocks
from .engine import TEXT, Array, ArrayLayout, Reader
from .store import Store

Pair = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class VariableDiff:
    """What differs in one variable.

    Attributes
    ----------
    name : str
        The variable.
    what : {"only in the first", "only in the second", "values", "shape", "type", "attributes"}
        How it differs.
    first, second : str
        The two sides.
    largest, at : float and tuple of int, optional
        The largest deviation of numbers and where it is.
    rms : float, optional
        Root mean square of the deviations.
    different, compared : int
        How many elements differ (bit for bit), of how many that both have.
    volatile : bool
        Whether it stays outside the digest.
    """

    name: str
    what: str
    first: str = ""
    second: str = ""
    largest: float | None = None
    at: tuple[int, ...] | None = None
    rms: float | None = None
    different: int = 0
    compared: int = 0
    volatile: bool = False

    def __str__(self) -> str:
        text = f"{self.name}: {self.what}"
        if self.compared:
            text += f", {self.different} of {self.compared} differ"
        if self.largest is not None:
            text += f", largest deviation {self.largest:.6g} at {list(self.at or ())}, rms {self.rms:.6g}"
        if self.first or self.second:
            text += f": {self.first or '-'} | {self.second or '-'}"
        return text + (" (volatile: outside the digest)" if self.volatile else "")


@dataclass(slots=True)
class Diff:
    """What differs between two entries.

    Attributes
    ----------
    first, second : str
        ``KEY@VERSION`` of each.
    same_digest : bool
        Whether the contents are the same: all values, types, shapes and attributes.
    attributes, dims : dict
        Name to the two values; None where one has none.
    variables : list of VariableDiff
        Variables that differ.
    config, inputs, engines, run : dict
        Settings, digests of inputs, fingerprints of engines, and module, version and seed that differ.
    """

    first: str
    second: str
    same_digest: bool = False
    attributes: dict[str, Pair] = field(default_factory=dict)
    dims: dict[str, Pair] = field(default_factory=dict)
    variables: list[VariableDiff] = field(default_factory=list)
    config: dict[str, Pair] = field(default_factory=dict)
    inputs: dict[str, Pair] = field(default_factory=dict)
    engines: dict[str, Pair] = field(default_factory=dict)
    run: dict[str, Pair] = field(default_factory=dict)
    purged: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the contents are the same; how they were made may differ."""
        return self.same_digest

    def record(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "equal": self.equal}

    def text(self) -> str:
        """For a reader."""
        lines = [
            f"{self.first} and {self.second} have the same content." if self.equal else f"{self.first} | {self.second}"
        ]
        if self.purged:
            lines.append(f"  values cannot be compared: {', '.join(self.purged)} was purged")
        parts = (
            ("kind and attributes", self.attributes),
            ("dimensions", self.dims),
            ("made by", self.run),
            ("settings", self.config),
            ("inputs", self.inputs),
            ("engines", self.engines),
        )
        for title, pairs in parts:
            if pairs:
                lines.append(f"  {title}:")
                lines += [f"    {name}: {_told(a)} | {_told(b)}" for name, (a, b) in pairs.items()]
        if self.variables:
            lines.append("  variables:")
            lines += [f"    {variable}" for variable in self.variables]
        return "\n".join(lines)


def _told(value: Any) -> str:
    return "-" if value is None else str(value)[:160]


def diff(store: Store, first: str, second: str, *, other: Store | None = None) -> Diff:
    """Compare two entries.

    Parameters
    ----------
    store : Store
        Where the first lies.
    first, second : str
        ``KEY`` or ``KEY@VERSION``.
    other : Store, optional
        Where the second lies; the same store by default.

    Returns
    -------
    Diff
        ``equal`` where the digests agree; then values are not read.

    Raises
    ------
    UnknownKey
        If one of them does not exist.
    """
    beside = other if other is not None else store
    a, b = store.entry(first), beside.entry(second)
    shown = (a.reference, b.reference)
    if other is not None and other.location != store.location:
        shown = (f"{store.location}:{a.reference}", f"{other.location}:{b.reference}")
    found = Diff(*shown, same_digest=a.digest == b.digest)
    found.attributes = pairs({"kind": a.kind, **a.attributes}, {"kind": b.kind, **b.attributes})
    found.dims = pairs(a.sizes, b.sizes)
    _compare_runs(found, store.catalogue.runs.get(a.run or ""), beside.catalogue.runs.get(b.run or ""), a, b)
    found.purged = [name for name, entry in zip(shown, (a, b), strict=True) if entry.purged]
    if not found.purged and not found.same_digest:
        found.variables = _compare_data(store, a, beside, b)
    return found


def pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    """Names whose values differ, with both values; None where there is none."""
    names = sorted({*first, *second})
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def _compare_runs(found: Diff, one: Run | None, two: Run | None, a: Entry, b: Entry) -> None:
    found.run = pairs(_about(one, a), _about(two, b))
    found.config = pairs(one.config if one else {}, two.config if two else {})
    found.engines = pairs(one.engines if one else {}, two.engines if two else {})
    found.inputs = pairs(_inputs(one), _inputs(two))


def _about(run: Run | None, entry: Entry) -> dict[str, Any]:
    if run is None:
        return {"origin": dict(entry.origin) or None, "run": entry.run}
    return {"module": run.module, "module_version": run.module_version, "seed": run.seed, "status": run.status}


def _inputs(run: Run | None) -> dict[str, Any]:
    refs = run.inputs.items() if run else ()
    return {name: ", ".join(f"{r.key}@{r.version} ({r.digest[:12]})" for r in group) for name, group in refs}


# --- values ----------------------------------------------------------------------------------------------------------


def _compare_data(store: Store, a: Entry, other: Store, b: Entry) -> list[VariableDiff]:
    with store.at(a) as (left, left_path), other.at(b) as (right, right_path):
        one, two = left.layout(left_path).arrays, right.layout(right_path).arrays
        found = [VariableDiff(n, "only in the first", first=_shape(one[n])) for n in sorted(set(one) - set(two))]
        found += [VariableDiff(n, "only in the second", second=_shape(two[n])) for n in sorted(set(two) - set(one))]
        for name in sorted(set(one) & set(two)):
            found += _compare_layouts(name, one[name], two[name])
            if one[name].shape[1:] == two[name].shape[1:] and (one[name].dtype == TEXT) == (two[name].dtype == TEXT):
                sides = (left, left_path, one[name]), (right, right_path, two[name])
                found += _compare_values(name, *sides)
        return found


def _shape(array: ArrayLayout) -> str:
    return f"{array.dtype} ({', '.join(f'{d}: {n}' for d, n in zip(array.dims, array.shape, strict=True))})"


def _compare_layouts(name: str, one: ArrayLayout, two: ArrayLayout) -> list[VariableDiff]:
    found = []
    if (one.dims, one.shape) != (two.dims, two.shape):
        found.append(VariableDiff(name, "shape", _shape(one), _shape(two)))
    elif one.dtype != two.dtype:
        found.append(VariableDiff(name, "type", one.dtype, two.dtype))
    changed = pairs(one.attributes, two.attributes)
    if changed:
        first, second = ({n: pair[side] for n, pair in changed.items()} for side in (0, 1))
        found.append(VariableDiff(name, "attributes", str(first), str(second)))
    return found


Side = tuple[Reader, str, ArrayLayout]


def _compare_values(name: str, one: Side, two: Side) -> list[VariableDiff]:
    """Compare the rows that both have, block by block."""
    (left, left_path, a), (right, right_path, b) = one, two
    rows = min(a.shape[0], b.shape[0]) if a.shape else 0
    total = _Deviation()
    for block in row_blocks((rows, *a.shape[1:]) if a.shape else (), a.dtype):
        selection = (block,) if a.shape else ()
        x, y = left.read(left_path, name, selection), right.read(right_path, name, selection)
        total.add(np.asarray(x), np.asarray(y), block.start or 0)
    if not total.different:
        return []
    volatile = bool(a.attributes.get("volatile", 0))
    facts: dict[str, Any] = {"largest": total.largest, "at": total.at, "rms": total.rms} if total.numbers else {}
    counts: dict[str, Any] = {"different": total.different, "compared": total.compared, "volatile": volatile}
    return [VariableDiff(name, "values", **facts, **counts)]


class _Deviation:
    """The largest deviation and the root mean square, over blocks."""

    def __init__(self) -> None:
        self.different = self.compared = self.numbers = 0
        self.largest: float | None = None
        self.at: tuple[int, ...] | None = None
        self._squares = 0.0

    @property
    def rms(self) -> float:
        return float(np.sqrt(self._squares / self.numbers)) if self.numbers else 0.0

    def add(self, x: Array, y: Array, start: int) -> None:
        """Compare one block; equal bits are equal, NaN among them."""
        self.compared += x.size
        if x.dtype == object or y.dtype == object:
            self.different += int(np.count_nonzero(np.asarray(x != y)))
            return
        if x.dtype == y.dtype and x.tobytes() == y.tobytes():
            self.numbers += x.size
            return
        unequal = np.asarray(_bits(x) != _bits(y)) if x.dtype == y.dtype else np.asarray(x != y)
        self.different += int(np.count_nonzero(unequal))
        with np.errstate(invalid="ignore", over="ignore"):
            deviation = np.abs(x.astype(np.float64) - y.astype(np.float64))
        deviation = np.where(np.isnan(x) & np.isnan(y), 0.0, deviation)
        deviation = np.where(np.isnan(deviation), np.inf, deviation)
        self.numbers += x.size
        self._squares += float(np.square(deviation).sum())
        place = int(deviation.argmax())
        value = float(deviation.reshape(-1)[place])
        if self.largest is None or value > self.largest:
            first, *rest = (int(i) for i in np.unravel_index(place, deviation.shape)) if deviation.ndim else (0,)
            self.largest, self.at = value, (first + start, *rest) if deviation.ndim else ()


def _bits(values: Array) -> Array:
    return np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}") if values.dtype.kind == "f" else values
