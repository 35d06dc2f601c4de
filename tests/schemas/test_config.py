"""Settings: one field is everything."""

from __future__ import annotations

from typing import Literal

import pytest

from h5ml.schemas.config import Config, Field, horizon, later
from h5ml.schemas.errors import InvalidConfig


class Sampling(Config):
    """Sample something."""

    temperature_K: float = Field(300.0, gt=0, description="Temperature.")
    ensemble: str = Field("NVT", pattern="NVE|NVT|NPT", description="Ensemble.")
    time_total_fs: float = horizon(100.0, gt=0, description="Total time.")


def test_text_is_converted_where_the_type_allows() -> None:
    assert Sampling.parse({"temperature_K": "310"}).temperature_K == 310.0


def test_a_misspelt_setting_names_the_nearest_one() -> None:
    with pytest.raises(InvalidConfig, match="temperature_K") as caught:
        Sampling.parse({"temperatur_K": 300}, where="training/md")
    assert caught.value.hint == "did you mean temperature_K?"
    assert caught.value.key == "training/md"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [-1, 0, "warm", float("nan"), float("inf"), None])
def test_a_value_out_of_bounds_says_what_was_expected_and_found(value: object) -> None:
    with pytest.raises(InvalidConfig) as caught:
        Sampling.parse({"temperature_K": value})
    text = str(caught.value)
    assert "temperature_K" in text
    assert repr(value) in text
    assert "Traceback" not in text


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Sampling().temperature_K = 5.0  # type: ignore[misc]


def test_horizon_fields_are_known_by_name() -> None:
    assert Sampling.horizon_fields() == ("time_total_fs",)


def test_the_canonical_form_is_plain_json() -> None:
    assert Sampling().canonical() == {"temperature_K": 300.0, "ensemble": "NVT", "time_total_fs": 100.0}


class Cutting(Config):
    """Cut something."""

    n_molecules: tuple[int, ...] = Field((1,), min_length=1, description="How many molecules.")
    rule: Literal["first"] | float = Field("first", description="Which rule.")
    depth: int = later(0, ge=0, description="How deep.")


class Deep(Sampling):
    """Sample something and cut it."""

    cutting: Cutting | None = later(None, description="What to cut.")


def test_nested_settings_are_checked_and_named() -> None:
    assert Deep.parse({"cutting": {"n_molecules": ["2"]}}).cutting == Cutting(n_molecules=(2,))
    with pytest.raises(InvalidConfig, match=r"There is no setting 'cutting\.n_molecule'") as caught:
        Deep.parse({"cutting": {"n_molecule": 3}})
    assert caught.value.hint == "did you mean n_molecules?"
    with pytest.raises(InvalidConfig, match=r"The setting cutting\.n_molecules is not valid") as caught:
        Deep.parse({"cutting": {"n_molecules": ["x"]}})
    assert caught.value.expected == "How many molecules."
    assert caught.value.found == "cutting.n_molecules = ['x']"
    with pytest.raises(InvalidConfig, match="The setting cutting is not valid"):
        Deep.parse({"cutting": "all"})


def test_every_alternative_of_a_type_says_what_it_wants() -> None:
    with pytest.raises(InvalidConfig, match=r"The setting cutting\.rule is not valid") as caught:
        Deep.parse({"cutting": {"rule": "last"}})
    assert caught.value.hint is not None
    assert "Input should be 'first'; or give a number" in caught.value.hint


def test_a_setting_that_was_added_later_changes_no_identity_until_it_is_used() -> None:
    assert Deep().canonical() == Sampling().canonical()
    assert Deep(cutting=Cutting()).canonical()["cutting"] == {"n_molecules": [1], "rule": "first"}
    assert Deep(cutting=Cutting(depth=2)).canonical()["cutting"]["depth"] == 2
    assert Deep.parse(Deep(cutting=Cutting(depth=2)).canonical()).cutting == Cutting(depth=2)


def test_every_field_has_a_dotted_name() -> None:
    assert [name for name, _ in Deep.every_field()][-4:] == [
        "cutting",
        "cutting.n_molecules",
        "cutting.rule",
        "cutting.depth",
    ]
