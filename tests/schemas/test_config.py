"""Settings: one field is everything."""

from __future__ import annotations

import pytest

from h5ml.schemas.config import Config, Field, horizon
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
