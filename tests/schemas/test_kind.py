"""Kinds refuse what does not fit, in words."""

from __future__ import annotations

import numpy as np
import pytest

from h5ml.schemas.errors import InvalidData, WrongKind
from h5ml.schemas.kinds import BUILT_IN, STRUCTURES, TABLE, kind_named
from h5ml.schemas.units import FAMILIES, factor


def water(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "n_atoms": [3],
        "positions": np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
        "atomic_numbers": [8, 1, 1],
        "cell": np.zeros((1, 3, 3)),
        "pbc": np.zeros((1, 3)),
    }
    return {**values, **changes}


def test_a_dataset_that_fits_is_built_with_units_and_dimensions() -> None:
    dataset = STRUCTURES.dataset(water())
    assert dataset["positions"].dims == ("atom", "xyz")
    assert dataset["positions"].attrs["units"] == "Angstrom"
    assert dataset["n_atoms"].attrs["sample_dimension"] == "atom"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.full((3, 3), np.nan)}, "NaN"),
        ({"n_atoms": [2]}, "add up"),
        ({"positions": None}, "missing"),
        ({"positions": (("atom", "xyz"), np.zeros((3, 3)), {"units": "nm"})}, "wrong unit"),
        ({"positions": (("atom", "xyz"), np.zeros((3, 3)))}, "no unit"),
        ({"positions": (("atom", "xyz"), np.zeros((3, 3), int), {"units": "Angstrom"})}, "wrong type"),
        ({"positions": (("atom", "axis"), np.zeros((3, 3)), {"units": "Angstrom"})}, "wrong dimensions"),
        ({"positions": (("atom", "xyz"), np.zeros((3, 2)), {"units": "Angstrom"})}, "conflicting sizes"),
        ({"extra": (("atom",), np.zeros(3, complex))}, "not every tool reads"),
        ({"postions": np.zeros((3, 3))}, "did you mean positions"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_in_words(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        STRUCTURES.dataset(water(**changes))


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(WrongKind, match="trajectory"):
        kind_named("trajectori")


def test_an_open_kind_takes_any_named_columns() -> None:
    dataset = TABLE.dataset({"x": (("row",), np.arange(3.0), {"units": "eV"}), "name": (("row",), ["a", "b", "c"])})
    assert set(dataset.variables) == {"x", "name"}


@pytest.mark.parametrize("kind", BUILT_IN.values(), ids=lambda k: k.name)
def test_every_kind_names_known_units_and_describes_its_variables(kind: object) -> None:
    known = {unit for units in FAMILIES.values() for unit in units}
    for variable in kind.variables:  # type: ignore[attr-defined]
        assert variable.dtype == "text" or variable.units in known
        assert variable.description.endswith(".")
        assert variable.dtype != "flag" or variable.flags


def test_units_convert_within_their_family_only() -> None:
    assert factor("nm", "Angstrom") == pytest.approx(10)
    assert factor("Å", "Angstrom") == 1
    assert factor("kJ/mol", "eV") * 96.48533 == pytest.approx(1, rel=1e-6)
    with pytest.raises(InvalidData, match="does not fit"):
        factor("eV", "Angstrom")
    with pytest.raises(InvalidData, match="did you mean"):
        factor("Angstrm", "Angstrom")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_data_of_an_unknown_schema_version_are_refused(version: object) -> None:
    STRUCTURES.check_version(1, "pool@1")
    with pytest.raises(InvalidData, match="schema version"):
        STRUCTURES.check_version(version, "pool@1")
