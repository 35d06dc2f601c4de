"""Toy modules that say where and when they ran, call what others call too, or hang."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from h5ml.compute.module import Call, Context, Map, Module, Request, Wait
from h5ml.schemas.config import Config, Field
from h5ml.schemas.kinds import TABLE

from .toys import note, table

Requests = Generator[Request, Any, dict[str, xr.Dataset]]


class Place(Config):
    """Say where it was computed and which GPU it saw."""

    number: int = Field(0, description="Tells it from others.")
    sleep_s: float = Field(0.3, ge=0, description="How long to take (s).")


def look(config: Place, inputs: Mapping[str, Any], context: Context) -> dict[str, xr.Dataset]:
    from threadpoolctl import threadpool_info

    began = time.time()
    time.sleep(config.sleep_s)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    threads = max([pool["num_threads"] for pool in threadpool_info()], default=0)
    columns = {"began": [began], "ended": [time.time()], "pid": [os.getpid()], "threads": [threads]}
    return {"seen": table(**columns, gpu=[float(gpu) if gpu.isdigit() else -1.0])}


ON_GPU = Module("toy_gpu", "1", Place, {}, {"seen": TABLE}, look, resources={"GPU": 1})
ON_CPU = Module("toy_cpu", "1", Place, {}, {"seen": TABLE}, look)


class Shared(Config):
    """Call what others call too, and map."""

    number: int = Field(0, description="Tells it from others.")


def share(config: Shared, inputs: Mapping[str, Any], context: Context) -> Requests:
    handle = yield Call("toy_cpu", {"sleep_s": 0.5}, {}, "common")
    (done,) = yield Wait([handle])
    halves = yield Map(nap, [config.number, config.number + 1], name="naps")
    return {"seen": xr.concat([done.outputs["seen"].load()[["pid"]], *halves], "row")}


def nap(item: int) -> xr.Dataset:
    time.sleep(0.2)
    return table(pid=[float(item)])


SHARE = Module("toy_share", "1", Shared, {}, {"seen": TABLE}, share)


class Stuck(Config):
    """Hang while a file is there."""

    in_map: bool = Field(False, description="Whether an item of a map hangs.")


def hang(config: Stuck, inputs: Mapping[str, Any], context: Context) -> Requests:
    if config.in_map:
        rows = yield Map(stuck, [0, 1, 2], name="items")
        return {"rows": xr.concat(rows, "row")}
    return {"rows": stuck(1)}


def stuck(item: int) -> xr.Dataset:
    note(f"stuck {item}")
    while item == 1 and Path(os.environ["H5ML_TOY_STUCK"]).exists():
        time.sleep(0.05)
    return table(x=[float(item)])


HANG = Module("toy_hang", "1", Stuck, {}, {"rows": TABLE}, hang)


class Appetite(Config):
    """Take memory without end while a file is there."""

    in_map: bool = Field(False, description="Whether an item of a map does.")


def devour(config: Appetite, inputs: Mapping[str, Any], context: Context) -> Requests:
    if config.in_map:
        rows = yield Map(greedy, [0, 1, 2], name="items")
        return {"rows": xr.concat(rows, "row")}
    return {"rows": greedy(1)}


def greedy(item: int) -> xr.Dataset:
    note(f"greedy {item}")
    taken = []
    while item == 1 and Path(os.environ["H5ML_TOY_STUCK"]).exists():
        taken.append(b"x" * 20_000_000)
        time.sleep(0.02)
    return table(x=[float(item)])


GREEDY = Module("toy_greedy", "1", Appetite, {}, {"rows": TABLE}, devour)
