"""Every code block of the documentation runs, in order, one page in one folder.

A fence may say why it does not run: ```` ```bash no-run: installs a second environment ````.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)(?P<option>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SKIPPED = {"text", "mermaid", ""}


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, option and code of each block."""
    return [(m["language"], m["option"].strip(), m["code"]) for m in FENCE.finditer(page.read_text())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the urea example to work in."""
    shutil.copytree(ROOT / "examples" / "urea", tmp_path / "urea")
    return tmp_path / "urea"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_code_block_runs(page: Path, folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    python: list[str] = []
    (folder / "python").mkdir()
    for language, option, code in blocks(page):
        if option.startswith("no-run:") or language in SKIPPED:
            continue
        if language == "yaml":
            assert isinstance(yaml.safe_load(code), dict)
        elif language == "json":
            json.loads(code)
        elif language == "bash":
            done = subprocess.run(
                ["bash", "-euc", code],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=400,
            )
            assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"
        elif language == "python":
            python.append(code)
            done = subprocess.run(
                [sys.executable, "-c", "\n".join(python)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"
            shutil.rmtree(folder / "python")
            (folder / "python").mkdir()
        else:
            raise AssertionError(f"{page.name}: a block in {language} does not run; say why with no-run:")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
