"""The house keeps its order: arrows between folders, the package list, light imports, no stray files."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("schemas", "store", "compute", "cli")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
HEAVY = {"torch", "ase", "xarray", "dask", "distributed", "matplotlib", "mace", "h5py", "zarr", "icechunk"}


def imports_of(path: Path) -> set[str]:
    """The h5ml modules that a file imports anywhere, as paths from the root (``store/engine``)."""
    found = set()
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            target = (*base, *(node.module.split(".") if node.module else ()))
            found |= {"/".join(target)} if node.module else {"/".join((*target, alias.name)) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("h5ml"):
            found.add("/".join(node.module.split(".")[1:]))
        elif isinstance(node, ast.Import):
            found |= {"/".join(a.name.split(".")[1:]) for a in node.names if a.name.startswith("h5ml")}
    return found


def allowed(path: Path, target: str) -> bool:
    """Whether the arrows let a file import a module."""
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    folder, wanted = name.split("/")[0], target.split("/", maxsplit=1)[0]
    if folder == wanted == "schemas" or folder == "cli":
        return True
    if folder == "store":
        return wanted in {"schemas", "store"}
    if folder == "compute":
        if wanted == "schemas":
            return True
        if name in RUNNERS:
            return wanted in {"store", "compute"}
        if name.startswith(LIBRARIES):
            return target.startswith((*LIBRARIES, "compute/potentials"))
        own = family(target) == family(name)
        return own or target.startswith(("compute/module", "compute/potentials", *LIBRARIES))
    return False


# Science that modules share; it knows neither requests nor stores.
LIBRARIES = ("compute/structure", "compute/lattice", "compute/levels", "compute/scratch")

# The execution side of compute knows the store; a module does not.
RUNNERS = {
    f"compute/{name}"
    for name in (
        "__init__ bunches campaign commit crew distributed_results distributed_writes execution foresight graph "
        "hand_back identity inputs maps plan registry replay requests runner "
        "scheduler signals staging standing take_over watching workers"
    ).split()
}


def family(name: str) -> str:
    """A module may be spread over files that share the first word of their names (``md``, ``md_config``)."""
    return name.rsplit("/", maxsplit=1)[-1].split("_", maxsplit=1)[0]


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_imports_only_along_the_arrows(path: Path) -> None:
    wrong = sorted(target for target in imports_of(path) if not allowed(path, target))
    assert not wrong, f"{path.relative_to(ROOT)} may not import {wrong}"


def test_every_package_folder_is_listed_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {"h5ml"} | {
        "h5ml." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == folders


def test_the_root_holds_no_other_python_file() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("command", ["import h5ml", "from h5ml.cli.main import main"])
def test_a_light_import_loads_no_heavy_library(command: str) -> None:
    code = f"{command}\nimport sys\nprint(*sorted(set(sys.modules) & {HEAVY!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not found


def test_help_loads_no_heavy_library() -> None:
    code = "import sys; sys.argv = ['h5ml', '--help']; from h5ml.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & HEAVY


def test_nothing_is_printed_or_swallowed_outside_the_command_line() -> None:
    wrong = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            if (is_print and "cli" not in path.parts) or bare or isinstance(node, ast.Global):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_is_one_room(path: Path) -> None:
    assert path.read_text().count("\n") <= 450


def test_the_constraints_pin_what_is_installed_and_the_cpu_build_of_torch() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert pins["torch"] == "2.13.0"
    assert pins["icechunk"] == "1.1.21"
    assert "h5ml" not in pins
