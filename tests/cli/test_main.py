from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from h5ml.cli import main as cli_main
from h5ml.cli.common import H5mlCommand
from h5ml.cli.lazy import Lazy, LazyGroup
from h5ml.cli.main import COMMANDS, EPILOG, cli, ending
from h5ml.schemas import errors

ASKED_FOR = {
    *("init", "import", "export", "ls", "tree", "show", "query", "du", "log", "copy", "mv", "tag", "note", "rm"),
    *("purge", "gc", "compact", "unlock", "upgrade", "compute", "run", "status", "audit", "lineage", "diff"),
    *("replay", "plot", "kinds", "modules", "config"),
}
HEAVY = {"numpy", "xarray", "ase", "torch", "dask", "matplotlib", "rich", "h5py", "zarr", "pydantic", "yaml", "blake3"}


def test_all_commands_are_there_and_no_others() -> None:
    assert {row.name for row in COMMANDS} == ASKED_FOR
    assert len(COMMANDS) == len(ASKED_FOR)


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_static_short_help_is_that_of_the_command(row: Lazy) -> None:
    command = cli.get_command(click.Context(cli), row.name)
    assert command is not None
    assert command.short_help == row.help
    assert command.name == row.name


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_explains_itself(row: Lazy) -> None:
    result = CliRunner().invoke(cli, [row.name, "--help"])
    assert result.exit_code == 0
    assert "Usage: h5ml" in result.output or f"Usage: cli {row.name}" in result.output
    assert len(result.output.splitlines()) > 4


def test_exit_codes_of_the_help_are_those_of_the_errors() -> None:
    documented = {int(line.split()[0]) for line in EPILOG.splitlines() if line.strip()[:1].isdigit()}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.H5mlError)]
    assert {c.exit_code for c in classes} <= documented
    assert documented == {c.exit_code for c in classes} | {0, 70, 124, 130}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom h5ml.cli.main import cli\n"
        "try: cli.main(['--help'], prog_name='h5ml')\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stderr))
    assert not loaded & HEAVY
    assert "training" not in done.stderr
    assert "Exit codes:" in done.stdout


@pytest.mark.parametrize(("typed", "meant"), [("lineag", "lineage"), ("imprt", "import"), ("shwo", "show")])
def test_did_you_mean_a_command(typed: str, meant: str) -> None:
    result = CliRunner().invoke(cli, [typed])
    assert result.exit_code == 2
    assert f"did you mean {meant}" in result.stderr


def test_did_you_mean_an_option() -> None:
    result = CliRunner().invoke(cli, ["ls", "--versoins"])
    assert result.exit_code == 2
    assert "--versions" in result.stderr


def _failing(error: BaseException) -> LazyGroup:
    @click.command("fail", cls=H5mlCommand)
    def fail() -> None:
        raise error

    group = LazyGroup("x", ending=ending)
    group.add_command(fail)
    return group


@pytest.mark.parametrize(
    "error",
    [
        c("what is wrong", key="a/b", hint="do this")
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.H5mlError)
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_error_becomes_a_message_and_its_exit_code(error: errors.H5mlError) -> None:
    result = CliRunner().invoke(_failing(error), ["fail"])
    assert result.exit_code == error.exit_code
    assert result.stderr.startswith("what is wrong\n  key:      a/b\n  next:     do this")
    assert result.stdout == ""


def test_an_unexpected_error_is_short_and_says_where_its_traceback_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(_failing(ZeroDivisionError("division by zero")), ["fail"])
    assert result.exit_code == 70
    assert "Traceback" not in result.output
    assert "ZeroDivisionError: division by zero" in result.stderr
    (file,) = tmp_path.glob("h5ml-traceback-*.txt")
    assert str(file) in result.stderr
    assert "Traceback" in file.read_text()


def test_an_error_of_the_hdf5_library_means_a_damaged_file(tmp_path: Path) -> None:
    import h5ml.store.store
    from h5ml.cli.common import is_damage, unexpected

    (tmp_path / "x.h5").write_bytes(b"no HDF5")
    source = compile("import h5py\ndef read(path): h5py.File(path)", h5ml.store.store.__file__, "exec")
    names: dict = {}
    exec(source, names)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        names["read"](tmp_path / "x.h5")
    assert is_damage(caught.value)
    assert unexpected(caught.value) == 7
    assert not is_damage(ValueError("x"))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = f"{sys.executable} -m h5ml.cli.main config md | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["# Settings of md", "0"]
    assert done.stderr == ""


def test_ctrl_c_ends_with_130() -> None:
    result = CliRunner().invoke(_failing(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert "Stopped." in result.stderr


def test_verbose_stands_before_or_after_the_command(monkeypatch) -> None:
    for arguments in (["-v", "say"], ["say", "-v"]):
        group = LazyGroup("x", ending=ending, params=cli_main.cli.params[:1], callback=_verbosity)

        @group.command("say", cls=H5mlCommand)
        def say() -> None:
            import logging

            logging.getLogger("h5ml").info("this is going on")

        assert "this is going on" in CliRunner().invoke(group, arguments).stderr
    assert "this is going on" not in CliRunner().invoke(group, ["say"]).stderr


@click.pass_context
def _verbosity(ctx: click.Context, verbose: int) -> None:
    ctx.ensure_object(dict)["verbose"] = verbose


def test_no_store_named_says_how(call) -> None:
    result = call("ls", code=2)
    for word in ("--store", "H5ML_STORE", "h5ml.yaml", "h5ml init"):
        assert word in result.stderr


def test_store_of_the_campaign_file(call, location: Path, tmp_path: Path) -> None:
    (tmp_path / "h5ml.yaml").write_text("store: store.h5\nsteps: {}\n")
    assert "training/md/trajectory" in call("ls").stdout


def test_version(call) -> None:
    assert call("--version").stdout.startswith("h5ml, version ")


def test_completion_knows_commands_and_keys(location: Path) -> None:
    from click.shell_completion import ShellComplete

    shell = ShellComplete(cli, {}, "h5ml", "_H5ML_COMPLETE")
    assert [c.value for c in shell.get_completions([], "com")] == ["compact", "compute"]
    found = shell.get_completions(["show", "--store", str(location)], "tra")
    assert [c.value for c in found] == ["training/md/trajectory"]
    assert "md" in [c.value for c in shell.get_completions(["compute"], "m")]
