"""One canonical form of attributes and JSON."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h5ml.schemas.canonical import canonical_attributes, canonical_json
from h5ml.schemas.errors import InvalidData


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("text", "text"),
        ("", ""),
        (3, 3),
        (np.int32(3), 3),
        (2.5, 2.5),
        (np.float32(0.5), 0.5),
        ([1, 2], [1, 2]),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        ([1, 2.5], [1.0, 2.5]),
        (("a", "b"), ["a", "b"]),
        (True, "true"),
        (None, "null"),
        ([1], "[1]"),
        ([], "[]"),
        ([True, False], "[true,false]"),
        (math.nan, "NaN"),
        ({"b": 1, "a": [1, 2]}, '{"a":[1,2],"b":1}'),
        (2**70, str(2**70)),
        ("nul\x00", '"nul\\u0000"'),
    ],
)
def test_an_attribute_has_one_form_that_every_engine_keeps(value: object, kept: object) -> None:
    found = canonical_attributes({"x": value})["x"]
    assert found == kept
    assert type(found) is type(kept)


@given(
    st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
)
def test_the_canonical_form_of_a_canonical_form_is_itself(attributes: dict[str, object]) -> None:
    once = canonical_attributes(attributes)
    assert canonical_attributes(once) == once


def test_the_order_of_names_does_not_matter() -> None:
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})


def test_an_object_that_is_no_data_is_refused() -> None:
    with pytest.raises(InvalidData, match="object"):
        canonical_json({"x": object()})
