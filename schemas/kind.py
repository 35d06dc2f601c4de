"""Kinds: what may lie at a key, variable by variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import InvalidData, nearest
from .units import factor, spelled

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

DTYPES = {"float": "<f8", "int": "<i8", "flag": "|i1", "text": "text"}


@dataclass(frozen=True, slots=True)
class Variable:
    """One named array of a kind.

    Parameters
    ----------
    name : str
        Its name in the dataset.
    dims : tuple of str
        Names of its axes; an axis that grows comes first.
    units : str
        The stored unit, ``1`` for a pure number, empty for text.
    dtype : {"float", "int", "flag", "text"}
        ``flag`` is an int8 with ``flag_values`` and ``flag_meanings``.
    required : bool
        Whether every dataset of the kind has it.
    finite : bool
        Whether NaN and infinity are refused.
    volatile : bool
        Whether it stays outside the content digest (wall times and the like).
    flags : mapping of int to str
        The meanings of a ``flag``.
    description : str
        One sentence for the reference.
    """

    name: str
    dims: tuple[str, ...]
    units: str = "1"
    dtype: str = "float"
    required: bool = True
    finite: bool = True
    volatile: bool = False
    flags: Mapping[int, str] = field(default_factory=dict)
    description: str = ""

    def attributes(self) -> dict[str, Any]:
        """The attributes that the variable carries in a store."""
        attributes: dict[str, Any] = {}
        if self.dtype != "text":
            attributes["units"] = self.units
        if self.flags:
            attributes["flag_values"] = list(self.flags)
            attributes["flag_meanings"] = " ".join(self.flags.values())
        if self.volatile:
            attributes["volatile"] = 1
        return attributes


@dataclass(frozen=True, slots=True)
class Kind:
    """The schema of the datasets that may lie at a key.

    Parameters
    ----------
    name : str
        For example ``trajectory``.
    description : str
        One sentence.
    variables : tuple of Variable
        What the datasets hold.
    version : int
        Raised when the schema changes.
    grows : tuple of str
        The dimensions along which data are appended; the first counts the records.
    open : bool
        Whether variables beyond the named ones may stand in a dataset.
    sizes : mapping of str to int
        Dimensions of fixed length (``xyz`` is 3).
    compression : str or None
        ``zstd``, ``gzip`` or None: the default of the kind's arrays. None where training reads at random.
    """

    name: str
    description: str
    variables: tuple[Variable, ...] = ()
    version: int = 1
    grows: tuple[str, ...] = ()
    open: bool = False
    sizes: Mapping[str, int] = field(default_factory=lambda: {"xyz": 3, "cell_vector": 3, "voigt": 6})
    compression: str | None = None

    @property
    def ragged(self) -> bool:
        """Whether records of different size lie end to end (CF contiguous ragged arrays)."""
        return len(self.grows) > 1

    def variable(self, name: str) -> Variable | None:
        """The named variable, or None."""
        return next((v for v in self.variables if v.name == name), None)

    def dataset(self, values: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> xr.Dataset:
        """Build a checked dataset from arrays by name.

        Parameters
        ----------
        values : mapping
            Variable name to array; dims, dtype and units come from the kind. An entry ``(dims, array)`` or
            ``(dims, array, attributes)`` brings its own, for open kinds.
        attributes : mapping, optional
            Attributes of the dataset.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        InvalidData
            If the values do not fit the kind.
        """
        import numpy as np
        import xarray as xr

        arrays: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            variable = self.variable(name)
            if _brings_dims(value):
                arrays[name] = value
            elif variable is None:
                raise InvalidData(
                    f"The kind {self.name} has no variable {name!r}.",
                    expected=", ".join(v.name for v in self.variables),
                    found=name,
                    hint=nearest(name, [v.name for v in self.variables]),
                )
            else:
                dtype = None if variable.dtype == "text" else np.dtype(DTYPES[variable.dtype])
                arrays[name] = (variable.dims, np.asarray(value, dtype=dtype), variable.attributes())
        if self.ragged and "n_atoms" in arrays:
            arrays["n_atoms"][2]["sample_dimension"] = self.grows[1]
        try:
            dataset = xr.Dataset(arrays, attrs=dict(attributes or {}))
        except ValueError as error:  # conflicting lengths: xarray names the dimension and the variables
            raise _wrong(
                self, None, "The arrays do not fit together.", "one length per dimension", str(error)
            ) from None
        self.check(dataset)
        return dataset

    def check_version(self, version: object, where: object) -> None:
        """Refuse data that were written with another schema than this h5ml knows.

        Raises
        ------
        InvalidData
            If the version of their schema is none of 1 to ``self.version``.
        """
        if not isinstance(version, int) or not 1 <= version <= self.version:
            raise InvalidData(
                f"The data have another schema of the kind {self.name} than this h5ml knows.",
                key=where,
                expected=f"schema version {self.version}",
                found=f"schema version {version}",
                hint="install a newer h5ml",
            )

    def check(self, dataset: xr.Dataset, *, key: str | None = None) -> None:
        """Compare a dataset with the schema.

        Raises
        ------
        InvalidData
            On a missing or unknown variable, wrong dims, dtype, unit or size, or a NaN where none may be.
        """
        present = {str(name) for name in dataset.variables}
        named = {v.name for v in self.variables}
        missing = [v.name for v in self.variables if v.required and v.name not in present]
        if missing:
            raise _wrong(
                self,
                key,
                "A variable is missing.",
                ", ".join(missing),
                ", ".join(sorted(present)) or "no variables",
            )
        unknown = sorted(present - named - set(map(str, dataset.dims)))
        if unknown and not self.open:
            raise _wrong(
                self,
                key,
                "A variable is not of this kind.",
                ", ".join(sorted(named)),
                ", ".join(unknown),
                nearest(unknown[0], named),
            )
        for dim, size in self.sizes.items():
            if dim in dataset.sizes and dataset.sizes[dim] != size:
                raise _wrong(
                    self, key, f"The dimension {dim} has the wrong length.", str(size), str(dataset.sizes[dim])
                )
        for name in sorted(present):
            variable = self.variable(name)
            if variable is None:
                _check_free(self, key, name, dataset.variables[name])
            else:
                _check_variable(self, key, variable, dataset.variables[name])
        if self.ragged and int(dataset["n_atoms"].sum()) != dataset.sizes.get(self.grows[1], 0):
            raise _wrong(
                self,
                key,
                "n_atoms does not add up to the atoms.",
                f"{dataset.sizes.get(self.grows[1], 0)} atoms",
                f"a sum of {int(dataset['n_atoms'].sum())}",
            )


def _brings_dims(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        return False
    return isinstance(value[0], str) or (isinstance(value[0], tuple) and all(isinstance(d, str) for d in value[0]))


def _check_free(kind: Kind, key: str | None, name: str, variable: xr.Variable) -> None:
    if variable.dtype.kind in "iuf" and variable.dtype.itemsize in (1, 2, 4, 8) and variable.dtype.str[1:] != "f2":
        return
    if variable.dtype.kind in "OUTb":  # booleans are stored as int8 with flag_meanings
        return
    raise _wrong(
        kind,
        key,
        f"The variable {name} has a type that not every tool reads.",
        "int, float32, float64 or text",
        str(variable.dtype),
        "store complex numbers as two variables and booleans as int8",
    )


def _check_variable(kind: Kind, key: str | None, variable: Variable, found: xr.Variable) -> None:
    import numpy as np

    if tuple(found.dims) != variable.dims:
        raise _wrong(
            kind,
            key,
            f"The variable {variable.name} has the wrong dimensions.",
            str(variable.dims),
            str(tuple(found.dims)),
        )
    if variable.dtype == "text":
        if found.dtype.kind not in "OUT":
            raise _wrong(kind, key, f"The variable {variable.name} must be text.", "text", str(found.dtype))
        return
    wanted = np.dtype(DTYPES[variable.dtype])
    if found.dtype.kind != wanted.kind:
        raise _wrong(kind, key, f"The variable {variable.name} has the wrong type.", str(wanted), str(found.dtype))
    unit = found.attrs.get("units")
    if unit is None or spelled(str(unit)) != spelled(variable.units):
        raise _wrong(
            kind,
            key,
            f"The variable {variable.name} has the wrong unit.",
            variable.units,
            "no unit" if unit is None else str(unit),
            _conversion(unit, variable.units),
        )
    if variable.finite and found.dtype.kind == "f":
        _check_finite(kind, key, variable, np.asarray(found.data))


def _conversion(found: object, wanted: str) -> str:
    """What to do about a wrong unit: by which factor to multiply, where the two measure the same."""
    label = f"set the attribute units={wanted!r}"
    if found is None:
        return f"make sure that the values are in {wanted}, and {label}"
    try:
        return f"multiply the values by {factor(str(found), wanted):.10g} and {label}"
    except InvalidData as error:
        return f"{error.hint}; then {label}"


def _check_finite(kind: Kind, key: str | None, variable: Variable, values: np.ndarray[Any, Any]) -> None:
    import numpy as np

    good = np.isfinite(values)
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise _wrong(
            kind,
            key,
            f"The variable {variable.name} holds a NaN or an infinity.",
            "finite numbers",
            f"{values[where]} at {variable.dims} = {where}",
            "look at the frame where it began",
        )


def _wrong(
    kind: Kind, key: str | None, message: str, expected: str, found: str, hint: str | None = None
) -> InvalidData:
    return InvalidData(
        f"{message[:-1]} (kind {kind.name}).",
        key=key,
        expected=expected,
        found=found,
        hint=hint or f"see `h5ml kinds {kind.name}`",
    )
