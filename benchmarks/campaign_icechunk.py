"""Campaigns whose store is in a bucket: workers that write chunks themselves, against one process that writes all.

The bucket is moto's server, a process of its own on the same machine: it answers at once, but takes as much CPU as all
the rest. So the CPU of the committing process says more than the rates.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from unittest import mock

import numpy as np
import xarray as xr

import h5ml
from h5ml.compute import maps
from h5ml.compute.campaign import run_campaign
from h5ml.compute.module import Block, Module
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.config import Config, Field
from h5ml.schemas.kinds import OBSERVABLES

from .campaign import COUNTS, LOAD, WORKERS, dask_alone
from .measure import folder

BLOCK_ROWS = 1 << 19  # of eight bytes: 4 MB
HINDRANCES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_SESSION_TOKEN", "AWS_PROFILE")


class Blocks(Config):
    """Blocks of 4 MB."""

    count: int = Field(10, ge=1, description="How many.")


def blocks(config: Blocks, _inputs: Any, context: Any) -> Any:
    for number in range(config.count):
        values = np.random.default_rng([context.seed, number]).random(BLOCK_ROWS)
        block = OBSERVABLES.dataset({"x": (("record",), values, {"units": "1"})})
        yield Block({"series": block}, restart=xr.Dataset({"number": ((), number)}))


BLOCKS = Module("bench_blocks", "1", Blocks, {}, {"series": OBSERVABLES}, blocks)


@contextlib.contextmanager
def bucket() -> Iterator[None]:
    """A server with a bucket, named to this process and its children."""
    import boto3
    from botocore.exceptions import BotoCoreError

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-c", code], **quiet)
    for name in HINDRANCES:
        os.environ.pop(name, None)
    names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    os.environ.update(names, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
    try:
        for _ in range(100):
            with contextlib.suppress(BotoCoreError):
                client = boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
                client.create_bucket(Bucket="bucket")
                break
            time.sleep(0.2)
        yield
    finally:
        server.kill()
        server.wait()


def map_on(workers: Dask, place: Any, count: int, *, keep: bool = True) -> tuple[float, float, float]:
    """Tasks a second until all results are durable, and until all were looked at; CPU seconds of this process."""
    store = h5ml.open(place, make=True)
    with contextlib.ExitStack() as stack:
        if not keep:
            stack.enter_context(mock.patch.object(maps, "keeper_for", return_value=None))
        began, cpu = time.perf_counter(), time.process_time()
        h5ml.run(store, LOAD, root_key="r", count=count, scheduler=workers, registry=Registry([LOAD], points=()))
        spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    commits = store.commits()
    last = max(commit.time for commit in commits if any(event["event"] == "stash" for event in commit.events))
    durable = datetime.fromisoformat(last) - datetime.fromisoformat(commits[0].time)
    return count / durable.total_seconds(), count / spent, cpu


def blocks_on(workers: Dask, place: Any, count: int, *, apart: bool = True) -> tuple[float, float]:
    """Megabytes a second of two runs, every block durable; CPU seconds of this process."""
    step = f"b/{{n}}: {{matrix: {{n: [1, 2]}}, compute: bench_blocks, count: {count}, seed: '{{n}}'}}"
    store = h5ml.open(place, make=True)
    store.engine.apart = store.engine.apart and apart
    began, cpu = time.perf_counter(), time.process_time()
    run_campaign(
        store,
        parse_campaign(f"store: s.h5\nsteps:\n  {step}\n"),
        _never,
        scheduler=workers,
        registry=Registry([BLOCKS], points=()),
    )
    spent = time.perf_counter() - began, time.process_time() - cpu
    return 2 * count * BLOCK_ROWS * 8e-6 / spent[0], spent[1]


def _never(path: Any, step: Any) -> Any:
    raise AssertionError(path, step)


def main() -> None:
    """Print the tables."""
    with folder() as here, bucket(), Dask(f"local:{WORKERS}") as workers:
        dask_alone(workers, 200)
        map_on(workers, _new(), 200)
        print(f"\n### Map of tasks of 10 kB on {WORKERS} workers, store in a bucket\n")
        print("Tasks a second until all results are durable; until all were looked at; CPU s of the main process\n")
        print("| tasks | dask alone | file | bucket, written by the main process | bucket, written by workers |")
        print("|---|---|---|---|---|")
        for count in COUNTS:
            cases = [map_on(workers, here / f"m{count}.h5", count)]
            cases += [map_on(workers, _new(), count, keep=False), map_on(workers, _new(), count)]
            told = " | ".join(f"{durable:.0f}; {seen:.0f}; {cpu:.1f}" for durable, seen, cpu in cases)
            began = time.process_time()
            alone = dask_alone(workers, count)
            print(f"| {count} | {alone:.0f}; {time.process_time() - began:.1f} | {told} |", flush=True)
        blocks_on(workers, _new(), 1)
        blocks_on(workers, _new(), 1, apart=False)
        print(f"\n### Two runs of 20 blocks of 4 MB on {WORKERS} workers, every block durable (MB a second; CPU s)\n")
        print("| file, staged | bucket, staged and written by the main process | bucket, written by workers |")
        print("|---|---|---|")
        rates = [blocks_on(workers, here / "b.h5", 20), blocks_on(workers, _new(), 20, apart=False)]
        rates.append(blocks_on(workers, _new(), 20))
        print("| " + " | ".join(f"{rate:.1f}; {cpu:.1f}" for rate, cpu in rates) + " |", flush=True)


def _new() -> str:
    return f"s3://bucket/{uuid.uuid4().hex}"
