from __future__ import annotations

from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

import h5ml
from h5ml.cli.options import config_options, given_settings, has_option
from h5ml.schemas.config import Config, Field, horizon
from h5ml.schemas.errors import InvalidConfig
from h5ml.tests.kits.dynamics import nitrogen, structures

Row = tuple[int, int, int]


class Window(Config):
    """The innermost settings."""

    low_THz: float = Field(0.1, ge=0, description="Lower end (THz).")


class Selection(Config):
    """Settings inside settings."""

    rule: Literal["first", "nearest"] = Field("first", description="How to choose.")
    n_molecules: tuple[int, ...] = Field((1, 2), description="How many.")
    window: Window = Field(Window(), description="Which part.")


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
    mesh: Literal["gamma"] | float | tuple[int, int, int] = Field("gamma", description="A word, a number or three.")
    order: Literal[2, 3] = Field(2, description="A choice of numbers.")
    selection: Selection | None = Field(None, description="What to keep.")


def given(*arguments: str, campaign: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.pass_context
    def callback(ctx: click.Context, /, **parameters: Any) -> None:
        found.update(given_settings(Settings, parameters, campaign))

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
        ("--mesh gamma", {"mesh": "gamma"}),
        ("--mesh 20", {"mesh": 20.0}),
        ("--mesh 2,2,3", {"mesh": (2, 2, 3)}),
        ("--order 3", {"order": 3}),
        ("--selection", {"selection": Selection()}),
        ("--no-selection", {"selection": None}),
        ("--selection.rule nearest", {"selection": Selection(rule="nearest")}),
        ("--selection.n-molecules 1,2,4", {"selection": Selection(n_molecules=(1, 2, 4))}),
        ("--selection --selection.n_molecules 3", {"selection": Selection(n_molecules=(3,))}),
        ("--selection.window.low-THz 2", {"selection": Selection(window=Window(low_THz=2))}),
    ],
)
def test_values_arrive_as_they_were_meant(arguments: str, settings: dict[str, Any]) -> None:
    found = given(*arguments.split())
    assert set(found) == set(settings)
    parsed = Settings.parse(found)
    assert {name: getattr(parsed, name) for name in settings} == settings


def test_options_come_on_top_of_the_nested_settings_of_a_campaign() -> None:
    campaign = {"selection": {"rule": "nearest", "n_molecules": [8], "window": {"low_THz": 3}}}
    found = given("--selection.n-molecules", "2,3", campaign=campaign)
    expected = Selection(rule="nearest", n_molecules=(2, 3), window=Window(low_THz=3))
    assert Settings.parse({**campaign, **found}).selection == expected
    assert given("--selection", campaign=campaign) == campaign
    assert given("--no-selection", campaign=campaign) == {"selection": None}
    assert given(campaign=campaign) == {}


def test_nested_settings_are_not_both_left_out_and_set() -> None:
    with pytest.raises(InvalidConfig, match="--no-selection does not go with"):
        given("--no-selection", "--selection.rule", "first")


@pytest.mark.parametrize(
    "arguments",
    [
        "--mesh alpha",
        "--mesh 1,2",
        "--order 4",
        "--selection.window.low-THz -1",
        "--time-step-fs 0",
        "--time-step-fs 11",
        "--steps x",
        "--method c",
        "--temperature-K a,b",
        "--steps 1.5",
    ],
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
    assert "--mesh [gamma|NUMBER|INTEGER,...]" in text
    assert "--selection / --no-selection" in text
    assert "--selection.window.low-THz NUMBER Lower end (THz). [default: 0.1; >= 0]" in text
    for _, field in Settings.every_field():
        if has_option(field):
            assert field.description in text


def test_every_field_of_every_module_has_an_option() -> None:
    from h5ml.cli.computing import module_command
    from h5ml.compute.registry import Registry

    for module in Registry().values():
        options = {name for p in module_command(module).params for name in p.opts}
        for name in [*(n for n, field in module.config.every_field() if has_option(field)), *module.reads]:
            assert f"--{name}" in options
            assert f"--{name.replace('_', '-')}" in options
        names = [p.name for p in module_command(module).params]
        assert len(set(names)) == len(names)


CAMPAIGN = """
store: camp.h5
steps:
  training/md_sampling: {{compute: md, crystal: n2, model: "harmonic:springs?k=10&r0=1.1&rc=1.6", temperature_K: 40,
    time_total_fs: 30, time_step_fs: 2, sampling_interval_fs: 10, time_equilibration_fs: 10,
    supercell_matrix: [3, 3, 3], finite_subsystem_filter: {{{filter}}}}}
"""


def test_md_with_clusters_takes_the_filter_of_the_campaign_and_the_options(call, tmp_path) -> None:
    campaign = tmp_path / "h5ml.yaml"
    with h5ml.open(tmp_path / "camp.h5", make=True) as store:
        store.write("n2", structures(nitrogen()), "structures")
    campaign.write_text(CAMPAIGN.format(filter="n_molecule: [1, 2]"))
    wrong = call("compute", "md", "--root-key", "training/md_sampling", code=2).stderr
    assert "finite_subsystem_filter.n_molecule" in wrong
    assert "did you mean n_molecules" in wrong
    campaign.write_text(CAMPAIGN.format(filter="n_molecules: [1, 2], distance_measure: center_of_mass"))
    call(
        *("compute", "md", "--root-key", "training/md_sampling"),
        *("--finite-subsystem-filter.n-molecules", "1,3", "--no-cluster-forces"),
    )
    with h5ml.open(tmp_path / "camp.h5") as store:
        names = ["finite_subsystems/n=1", "finite_subsystems/n=3", "molecular_crystal", "trajectory"]
        assert store.keys("training") == [f"training/md_sampling/{name}" for name in names]
        (run,) = store.runs.values()
        chosen = run.config["finite_subsystem_filter"]
        assert (chosen["n_molecules"], chosen["distance_measure"]) == ([1, 3], "center_of_mass")
        assert store.entry("training/md_sampling/finite_subsystems/n=3").records == 3
    text = call("config", "md").stdout
    assert "| finite_subsystem_filter.n_molecules " in text
    assert "$defs" in call("config", "md", "--json").stdout


def test_a_setting_whose_name_the_command_uses_itself_is_typed_after_the_name_of_the_module() -> None:
    class Settings(Config):
        """Settings with a name that every run has."""

        scheduler: str = Field("plateau", description="Of the learning rate.")
        lr: float = Field(0.1, description="Learning rate.")

    options = config_options(Settings, {"--scheduler"}, "training")
    assert [option.opts[0] for option in options] == ["--training.scheduler", "--lr"]
    assert given_settings(Settings, {"setting_scheduler": "cosine"}) == {"scheduler": "cosine"}
