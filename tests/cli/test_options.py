from __future__ import annotations

from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from h5ml.cli.options import config_options, given_settings
from h5ml.schemas.config import Config, Field, horizon
from h5ml.schemas.errors import InvalidConfig

Row = tuple[int, int, int]


class Settings(Config):
    """Settings of every shape."""

    time_step_fs: float = Field(0.5, gt=0, le=10, description="A number (fs).")
    steps: int = horizon(10, ge=1, description="A whole number.")
    name: str | None = Field(None, description="A text.")
    method: Literal["a", "b"] = Field("a", description="A choice.")
    fast: bool = Field(False, description="A switch.")
    temperature_K: float | tuple[float, ...] = Field(300.0, description="One or several.")
    matrix: tuple[Row, Row, Row] | None = Field(None, description="A matrix.")
    names: tuple[str, ...] = Field((), description="Texts.")
    facts: dict[str, Any] = Field({}, description="Names and values.")
    radius: float | None = Field(5.0, description="A number or nothing.")


def given(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.pass_context
    def callback(ctx: click.Context, /, **parameters: Any) -> None:
        found.update(given_settings(Settings, parameters))

    command = click.Command("x", params=config_options(Settings), callback=callback)
    command.main(list(arguments), standalone_mode=False)
    return found


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ("", {}),
        ("--time-step-fs 1.5", {"time_step_fs": 1.5}),
        ("--time_step_fs 1.5", {"time_step_fs": 1.5}),
        ("--steps 7", {"steps": 7}),
        ("--name none", {"name": None}),
        ("--name x", {"name": "x"}),
        ("--fast", {"fast": True}),
        ("--no-fast", {"fast": False}),
        ("--temperature-K 250", {"temperature_K": 250.0}),
        ("--temperature-K 250,300", {"temperature_K": (250.0, 300.0)}),
        ("--temperature-K 250 --temperature_K 300", {"temperature_K": (250.0, 300.0)}),
        ("--temperature-K=-5", {"temperature_K": -5.0}),
        ("--matrix [[1,0,0],[0,1,0],[0,0,2]]", {"matrix": ((1, 0, 0), (0, 1, 0), (0, 0, 2))}),
        ("--names a,b --names 3", {"names": ("a", "b", "3")}),
        ("--facts a=1 --facts b=x=y", {"facts": {"a": "1", "b": "x=y"}}),
        ("--radius none", {"radius": None}),
        ("--radius null", {"radius": None}),
    ],
)
def test_values_arrive_as_they_were_meant(arguments: str, settings: dict[str, Any]) -> None:
    found = given(*arguments.split())
    assert set(found) == set(settings)
    parsed = Settings.parse(found)
    assert {name: getattr(parsed, name) for name in settings} == settings


@pytest.mark.parametrize(
    "arguments",
    ["--time-step-fs 0", "--time-step-fs 11", "--steps x", "--method c", "--temperature-K a,b", "--steps 1.5"],
)
def test_wrong_values_are_refused_by_the_config(arguments: str) -> None:
    with pytest.raises(InvalidConfig):
        Settings.parse(given(*arguments.split()))


@pytest.mark.parametrize("arguments", ["--matrix [1,2", "--facts a"])
def test_wrong_forms_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidConfig):
        given(*arguments.split())


def test_help_tells_default_bounds_and_choices_once() -> None:
    command = click.Command("x", params=config_options(Settings))
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "A number (fs). [default: 0.5; > 0; <= 10]" in text
    assert "[a|b]" in text
    assert "can be raised later" in text
    assert "--fast / --no-fast" in text
    assert "--time_step_fs" not in text
    for field in Settings.model_fields.values():
        assert field.description in text


def test_every_field_of_every_module_has_an_option() -> None:
    from h5ml.cli.computing import module_command
    from h5ml.compute.registry import Registry

    for module in Registry().values():
        options = {name for p in module_command(module).params for name in p.opts}
        for name in [*module.config.model_fields, *module.reads]:
            assert f"--{name}" in options
            assert f"--{name.replace('_', '-')}" in options
        names = [p.name for p in module_command(module).params]
        assert len(set(names)) == len(names)
