"""The S3 example runs against a server that speaks S3, through the command line, and its store is like any other."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import h5ml

EXAMPLE = Path(__file__).parents[2] / "examples" / "s3"
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_SESSION_TOKEN", "AWS_PROFILE", "H5ML_STORE")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bucket on this machine, named as the example names it."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*server.get_host_and_port()))
    boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"]).create_bucket(
        Bucket="bucket"
    )
    yield
    server.stop()


def test_the_example_runs_on_workers_and_gives_the_digests_of_a_file(bucket: None, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(EXAMPLE, work)

    def run(*more: str) -> str:
        command = [sys.executable, "-m", "h5ml.cli.main", "run", *more]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "3 of 3 steps made" in run("--scheduler", "local:2")
    assert not (work / "copper-staging").exists()
    store = h5ml.open("s3://bucket/copper")
    assert {run.status for run in store.runs.values()} == {"done"}
    assert "3 of 3 steps made" in run("--store", "file.h5")
    other = h5ml.open(work / "file.h5")
    assert {entry.key: entry.digest for entry in store.entries()} == {e.key: e.digest for e in other.entries()}
    assert store["md/T=200/trajectory"].sizes["frame"] == 11
