"""mbe-automation files as they stand: every group, array and attribute with its exact type, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData
from .formats_mbe_names import parsed

Values = NDArray[Any]
NULL = "null"


@dataclass(slots=True)
class Item:
    """An array or an attribute of the file.

    Attributes
    ----------
    path, name : str
        The group it lies in, and its name there.
    stem, unit : str
        What the name says: the quantity, and the unit in ASCII.
    dtype : str
        Its exact type: a numpy type, ``text utf-8`` or ``text ascii`` (any length), ``text5 utf-8`` (five bytes).
    values : numpy.ndarray or None
        None where nothing is stored in it, or where its type cannot be kept (then ``problem`` says so).
    owner : str
        For an attribute of an array: the array's name.
    """

    path: str
    name: str
    dtype: str
    values: Values | None
    problem: str = ""
    owner: str = ""
    stem: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        self.stem, self.unit = parsed(self.name)

    @property
    def shape(self) -> str:
        """The shape as text: ``10,3``, nothing for a single value, ``null`` for none."""
        return NULL if self.values is None else ",".join(map(str, self.values.shape))

    @property
    def full_name(self) -> str:
        """Its path in the file."""
        return f"{self.path}/{self.name}".lstrip("/")


@dataclass(slots=True)
class Group:
    """A group of the file with all it holds."""

    path: str
    arrays: list[Item] = field(default_factory=list)
    attributes: list[Item] = field(default_factory=list)
    children: dict[str, Group] = field(default_factory=dict)

    def array(self, stem: str) -> Item | None:
        """The array of that quantity."""
        return next((item for item in self.arrays if item.stem == stem), None)

    def attribute(self, stem: str) -> Any:
        """The value of an attribute of the group as Python has it, one number never as a list; None if it has none."""
        item = next((item for item in self.attributes if item.stem == stem and not item.owner), None)
        if item is None or item.values is None:
            return None
        number = item.values.size == 1 and item.values.dtype.kind != "O"
        return item.values.item() if number else item.values.tolist()

    def walk(self) -> Iterator[Group]:
        """The group and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    InvalidData
        If it is no HDF5 file, or is cut off or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise InvalidData(
            "The file cannot be read; nothing was imported.",
            key=path,
            expected="a whole HDF5 file",
            found=" ".join(str(error).split())[:300],
            hint="copy it again from where it came; `h5dump -H FILE` shows what can still be read",
        ) from None


def read_group(group: h5py.Group, path: str = "", above: tuple[h5py.Group, ...] = ()) -> Group:
    """A group with everything below it, in memory; groups above it are not entered again."""
    above = (*above, group)
    found = Group(path, attributes=_attributes(group, path))
    for name in group:
        below = f"{path}/{name}".lstrip("/")
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            found.arrays.append(Item(path, name, NULL, None, f"a link ({type(link).__name__}), not data"))
            continue
        child = group[name]
        if isinstance(child, h5py.Group) and child in above:
            found.arrays.append(Item(path, name, NULL, None, "a link to a group above it"))
        elif isinstance(child, h5py.Group):
            found.children[name] = read_group(child, below, above)
        elif isinstance(child, h5py.Dataset):
            found.arrays.append(_array(child, path, name))
            found.attributes += _attributes(child, path, owner=name)
        else:
            found.arrays.append(Item(path, name, NULL, None, "a named data type, not data"))
    return found


def _array(dataset: h5py.Dataset, path: str, name: str) -> Item:
    dtype, problem = _type_text(dataset.dtype)
    if problem or dataset.shape is None:
        return Item(path, name, dtype, None, problem)
    return Item(path, name, dtype, _plain(dataset[()], dtype))


def _attributes(thing: h5py.Group | h5py.Dataset, path: str, owner: str = "") -> list[Item]:
    items = []
    for name in thing.attrs:
        kind = thing.attrs.get_id(name)
        dtype, problem = _type_text(kind.dtype)
        value = None if problem else thing.attrs[name]
        values = None if problem or isinstance(value, h5py.Empty) else _plain(value, dtype)
        items.append(Item(path, name, dtype, values, problem, owner))
    return items


def _type_text(dtype: np.dtype[Any]) -> tuple[str, str]:
    """The type as text, and why it cannot be kept where it cannot."""
    text = h5py.check_string_dtype(dtype)
    if text is not None:
        return f"text{text.length or ''} {text.encoding}", ""
    if h5py.check_enum_dtype(dtype) is not None:
        return str(dtype), "an enumerated type"
    if dtype.kind in "biufc" and dtype.itemsize <= 16:
        return dtype.str, ""
    return str(dtype), "a compound, reference or opaque type"


def _plain(value: Any, dtype: str) -> Values:
    """Values as numbers, or as an object array of str (bytes where they are no UTF-8)."""
    values = np.asarray(value)
    if not dtype.startswith("text"):
        return values
    flat = np.empty(values.size, dtype=object)
    for i, entry in enumerate(values.reshape(-1).tolist()):
        try:
            flat[i] = entry.decode("utf-8") if isinstance(entry, bytes) else str(entry)
        except UnicodeDecodeError:
            flat[i] = entry.decode("utf-8", "surrogateescape")
    return flat.reshape(values.shape)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_array(group: h5py.Group, name: str, values: Values | None, dtype: str) -> None:
    """Make an array of an exact type."""
    if values is None:
        group.create_dataset(name, data=h5py.Empty(_type_of(dtype)))
        return
    group.create_dataset(name, data=_typed(values, dtype), dtype=_type_of(dtype))


def write_attribute(thing: h5py.Group | h5py.Dataset, name: str, values: Values | None, dtype: str) -> None:
    """Make an attribute of an exact type."""
    if values is None:
        thing.attrs[name] = h5py.Empty(_type_of(dtype))
        return
    typed = _typed(values, dtype)
    thing.attrs.create(name, typed if typed.shape else typed[()], shape=typed.shape, dtype=_type_of(dtype))


def _type_of(dtype: str) -> np.dtype[Any]:
    if not dtype.startswith("text"):
        return np.dtype(dtype)
    length, encoding = dtype.removeprefix("text").split(" ")
    typed: np.dtype[Any] = h5py.string_dtype(encoding, int(length) if length else None)
    return typed


def _typed(values: Values, dtype: str) -> Values:
    if not dtype.startswith("text"):
        return np.asarray(values, dtype=np.dtype(dtype))
    flat = [entry.encode("utf-8", "surrogateescape") for entry in values.reshape(-1).tolist()]
    length = dtype.split(" ", maxsplit=1)[0].removeprefix("text")
    typed = np.array(flat, dtype=f"S{length}") if length else np.array(flat, dtype=object)
    return typed.reshape(values.shape)


# --- attributes as text ----------------------------------------------------------------------------------------------


def encoded(values: Values | None) -> str:
    """Values of an attribute as JSON; as bytes in hexadecimal where JSON does not give the same bits back."""
    if values is None:
        return NULL
    if values.dtype.kind != "c":
        text = json.dumps(values.tolist())
        again = np.array(json.loads(text), dtype=values.dtype).reshape(values.shape)
        if values.dtype.kind == "O" or again.tobytes() == values.tobytes():
            return text
    return f"hex:{values.tobytes().hex()}"


def decoded(text: str, dtype: str, shape: str) -> Values | None:
    """The values that ``encoded`` wrote."""
    if shape == NULL:
        return None
    sizes = sizes_of(shape)
    kind = object if dtype.startswith("text") else np.dtype(dtype)
    if text.startswith("hex:"):
        return np.frombuffer(bytes.fromhex(text[4:]), dtype=kind).reshape(sizes)
    found = json.loads(text)
    values = np.empty(sizes, dtype=kind)
    if dtype.startswith("text") and sizes:
        values.reshape(-1)[:] = np.array(_flat(found), dtype=object)
    else:
        values[...] = found
    return values


def _flat(nested: Any) -> list[Any]:
    return [entry for part in nested for entry in _flat(part)] if isinstance(nested, list) else [nested]


def sizes_of(shape: str) -> tuple[int, ...]:
    """A shape from its text."""
    return tuple(int(size) for size in shape.split(",") if size)
