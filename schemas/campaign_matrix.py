"""The entry ``matrix:`` of a step: one step written once, made for each of a list of values.

``matrix: {temperature_K: [200, 300], seed: [0, 1]}`` stands for all four pairs; a list of mappings stands for just
those. ``{temperature_K}`` in the key and in any text of the step is replaced by the value, also with a format as in
Python (``{temperature_K:.1f}``, ``{seed:03d}``). A text that is nothing but ``"{temperature_K}"`` becomes the value
itself, so that a number stays a number.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import H5mlError, nearest

Point = Mapping[str, Any]
Wrong = Callable[..., H5mlError]


def points(matrix: Any, wrong: Wrong) -> list[Point]:
    """Every combination that a matrix stands for, in the order it is written, the last name fastest.

    Parameters
    ----------
    matrix : mapping or list
        The entry as it was read.
    wrong : callable
        Makes the error of a message, with the line of the entry.
    """
    form = "{name: [values], ...} or a list of {name: value, ...}"
    if isinstance(matrix, Mapping) and matrix:
        for name, values in matrix.items():
            if not isinstance(values, list) or not values:
                raise wrong(f"The matrix needs a list of values for {name!r}.", expected=form, found=repr(values))
        combinations = itertools.product(*matrix.values())
        found: list[Point] = [dict(zip(matrix, values, strict=True)) for values in combinations]
    elif isinstance(matrix, list) and matrix and all(isinstance(point, Mapping) for point in matrix):
        found = list(matrix)
        if any(set(point) != set(found[0]) for point in found):
            raise wrong(
                "The mappings of a matrix must all have the same names.", expected=", ".join(map(str, found[0]))
            )
    else:
        raise wrong("This is no matrix.", expected=form, found=repr(matrix)[:200])
    for name in found[0]:
        if not isinstance(name, str) or not name.isidentifier():
            raise wrong("A name of a matrix is made of letters, digits and _.", found=repr(name))
    return found


def filled(value: Any, point: Point, wrong: Wrong) -> Any:
    """A value of a step with the names of a matrix replaced, in lists and mappings too."""
    if isinstance(value, str):
        return _text(value, point, wrong)
    if isinstance(value, list):
        return [filled(item, point, wrong) for item in value]
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in point and next(iter(value.values())) is None:
            name = next(iter(value))
            raise wrong("A name of the matrix must stand in quotes.", expected=f'"{{{name}}}"', found=f"{{{name}}}")
        return {name: filled(item, point, wrong) for name, item in value.items()}
    return value


def _text(text: str, point: Point, wrong: Wrong) -> Any:
    parts = list(_fields(text, wrong))
    for _, name, _ in parts:
        if name is not None and name not in point:
            raise wrong(
                f"The matrix has no {name!r}.",
                expected=", ".join(point),
                found=text,
                hint=nearest(name, point) or "write {{ and }} for braces that are meant",
            )
    if len(parts) == 1 and parts[0][0] == "" and parts[0][1] is not None and not parts[0][2]:
        return point[parts[0][1]]
    made = ""
    for literal, name, form in parts:
        if name is not None and isinstance(point[name], list | Mapping):
            raise wrong("A list or mapping of the matrix cannot stand within a text.", found=f"{text}: {point[name]!r}")
        try:
            made += literal + ("" if name is None else format(point[name], form))
        except (ValueError, TypeError) as error:
            raise wrong(
                f"A value of the matrix cannot be written as {form!r}.", found=f"{point[name or '']!r}: {error}"
            ) from None
    return made


def _fields(text: str, wrong: Wrong) -> Iterator[tuple[str, str | None, str]]:
    """The pieces of a template: the text before a name, the name, and its format."""
    try:
        for literal, name, form, conversion in string.Formatter().parse(text):
            if name is not None and (not name.isidentifier() or conversion):
                raise wrong("Only names of the matrix stand in braces.", expected="{name} or {name:.1f}", found=text)
            yield literal, name, form or ""
    except ValueError as error:
        raise wrong("A template cannot be read.", found=f"{text}: {error}") from None
