"""The same commands on a store of the other engine, guarded as a user starts them."""

from __future__ import annotations

import json

TRAJECTORY = "training/md/trajectory"


def test_the_commands_work_on_icechunk(call, program, location, tmp_path) -> None:
    call("copy", location, "s.icechunk")

    def run(*arguments: object) -> str:
        done = program(*arguments, "--store", "s.icechunk", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert TRAJECTORY in run("ls")
    assert "open_zarr" in run("show", TRAJECTORY)
    run("tag", TRAJECTORY, "good")
    assert json.loads(run("query", "--tag", "good", "--json"))[0]["key"] == TRAJECTORY
    assert "8 of 12 frames" in run("export", TRAJECTORY, "t.extxyz")
    run("plot", TRAJECTORY, "t.png", "--dpi", "40")
    assert "no findings" in run("audit")
    assert run("compact")
    assert run("unlock")
    assert json.loads(run("du", "--json"))["store_bytes"] > 0
