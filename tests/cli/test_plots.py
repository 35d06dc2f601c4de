from __future__ import annotations

import struct
from pathlib import Path

import pytest

import h5ml

from .conftest import make_trajectory

TRAJECTORY = "training/md/trajectory"


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_a_trajectory_is_drawn(on, tmp_path) -> None:
    assert "12 frames" in on("plot", TRAJECTORY, "t.png", "--dpi", "60").stdout
    width, height = size(tmp_path / "t.png")
    assert width == 480
    assert height > 500


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_other_formats(on, tmp_path, suffix) -> None:
    on("plot", TRAJECTORY, f"t{suffix}")
    assert (tmp_path / f"t{suffix}").stat().st_size > 5000


def test_panels_follow_what_is_there(location) -> None:
    from h5ml.cli.plots import trajectory_figure

    dataset = h5ml.open(location)[TRAJECTORY].load()
    axes = trajectory_figure(dataset, "x").axes
    assert [a.get_ylabel().split("\n")[0].split()[0] for a in axes] == [
        "energy",
        "temperature",
        "pressure",
        "cell",
        "volume",
    ]
    shaded = axes[0].patches[0].get_extents()
    assert axes[0].transData.inverted().transform(shaded.get_points())[:, 0] == pytest.approx([0, 200])
    molecule = dataset.drop_vars(["pressure", "volume"])
    molecule["cell"] = molecule["cell"] * 0
    assert len(trajectory_figure(molecule, "x").axes) == 2


def test_one_frame_and_no_equilibration(tmp_path) -> None:
    from h5ml.cli.plots import save, trajectory_figure

    for frames, equilibration in ((1, 1), (1, 0), (3, 0), (3, 3)):
        dataset = make_trajectory(frames, equilibration)
        save(trajectory_figure(dataset, "x"), tmp_path / "one.png", 50)


def test_wrong_suffix_and_folder(on, tmp_path) -> None:
    assert ".png" in on("plot", TRAJECTORY, "t.txt", code=2).stderr
    on("plot", TRAJECTORY, "none/t.png", code=9)
    assert not list(tmp_path.glob("*.part*"))
