"""Toy modules: a map, a block module with a restart state, and an orchestrator; and a process that runs them.

Each piece of work that is really computed leaves a line in the file that ``H5ML_TOY_LOG`` names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from h5ml.compute.module import (
    Block,
    Call,
    Context,
    InputRef,
    Many,
    Map,
    Module,
    One,
    Optional,
    Replace,
    Request,
    Wait,
)
from h5ml.compute.registry import Registry
from h5ml.schemas.config import Config, Field, horizon
from h5ml.schemas.errors import H5mlError
from h5ml.schemas.kinds import OBSERVABLES, TABLE


def note(text: str) -> None:
    """Leave a line that says what was computed."""
    path = os.environ.get("H5ML_TOY_LOG")
    if path:
        with open(path, "a") as file:
            file.write(f"{text}\n")


def observables(values: Any) -> xr.Dataset:
    """A dataset of kind observables with one variable."""
    return OBSERVABLES.dataset({"value": (("record",), np.asarray(values, dtype=float), {"units": "1"})})


def table(**columns: Any) -> xr.Dataset:
    """A dataset of kind table."""
    return TABLE.dataset({n: (("row",), np.asarray(v, dtype=float), {"units": "1"}) for n, v in columns.items()})


# ----------------------------------------------------------------------------- a plain function


class Scale(Config):
    """Multiply a series by a factor."""

    factor: float = Field(2.0, description="What to multiply by.")
    fail: bool = Field(False, description="Whether to fail.")
    sleep_s: float = Field(0.0, ge=0, description="How long to take (s).")


def scale(config: Scale, inputs: Mapping[str, Any], context: Context) -> dict[str, xr.Dataset]:
    """Return the scaled series."""
    note(f"scale {config.factor} {float(inputs['series']['value'].sum())}")
    time.sleep(config.sleep_s)
    if config.fail:
        raise ValueError("told to fail")
    total = inputs["series"]["value"].to_numpy() * config.factor
    for other in inputs["others"] or []:
        total = total + other["value"].to_numpy()[: len(total)]
    return {"scaled": observables(total)}


SCALE = Module(
    "toy_scale",
    "1",
    Scale,
    {"series": One(OBSERVABLES), "others": Many(OBSERVABLES)},
    {"scaled": OBSERVABLES},
    scale,
)
SCALE_ONE = Module(
    "toy_scale_one",
    "1",
    Scale,
    {"series": One(OBSERVABLES), "others": Optional(OBSERVABLES)},
    {"scaled": OBSERVABLES},
    scale,
)


# ----------------------------------------------------------------------------- a map


class Squares(Config):
    """Square numbers, each as an item of a map."""

    count: int = Field(6, ge=0, description="How many numbers.")
    bad: int = Field(-1, description="An item that fails while the file H5ML_TOY_BAD exists.")
    sleep_s: float = Field(0.0, ge=0, description="How long each item takes (s).")


def square(item: dict[str, Any]) -> xr.Dataset:
    """One item."""
    note(f"item {item['index']}/{item['count']}")
    time.sleep(item["sleep_s"])
    if item["index"] == item["bad"] and Path(os.environ.get("H5ML_TOY_BAD", "/nowhere")).exists():
        raise ValueError(f"item {item['index']} is bad")
    return table(square=[item["index"] ** 2], half=[item["index"] / 2])


def squares(
    config: Squares, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Yield one map."""
    items = [{"index": i, **config.canonical()} for i in range(config.count)]
    results = yield Map(square, items, name="squares")
    return {"squares": xr.concat(results, "row")}


SQUARES = Module("toy_map", "1", Squares, {}, {"squares": TABLE}, squares)


# ----------------------------------------------------------------------------- blocks with a restart state


class Walk(Config):
    """A chaotic series in blocks: every value depends on the one before to the last bit."""

    n_records: int = horizon(20, ge=1, description="Length of the series.")
    block: int = Field(4, ge=1, description="Records of a block.")
    start: float = Field(0.3, gt=0, lt=1, description="First value.")
    sleep_s: float = Field(0.0, ge=0, description="How long each record takes (s).")
    fail_at: int = Field(-1, description="The record at which it fails while the file H5ML_TOY_BAD exists.")
    restartable: bool = Field(True, description="Whether blocks carry a restart state.")


def walk(config: Walk, inputs: Mapping[str, Any], context: Context) -> Generator[Request, Any, None]:
    """Yield the blocks that are not committed yet; keep the highest value."""
    done = context.committed.get("series", 0)
    if context.restart is None:
        value, best = config.start + 1e-3 * context.seed, 0.0
    else:
        value, best = (float(context.restart[name][0]) for name in ("value_now", "best"))
    while done < config.n_records:
        values = []
        for _ in range(min(config.block, config.n_records - done)):
            value = 3.9 * value * (1.0 - value)
            values.append(value)
            time.sleep(config.sleep_s)
            if done + len(values) == config.fail_at and Path(os.environ.get("H5ML_TOY_BAD", "/nowhere")).exists():
                raise RuntimeError("the walk broke")
        done += len(values)
        note(f"block {context.seed} {config.start:.6f} {done}")
        context.progress(done, config.n_records, "records")
        if max(values) > best:  # before the block whose restart state knows of it: a kill between them repeats it
            best = max(values)
            yield Replace({"best": observables([best])})
        restart = xr.Dataset({"value_now": (("record",), [value]), "best": (("record",), [best])})
        yield Block({"series": observables(values)}, restart=restart if config.restartable else None)


WALK = Module("toy_block", "1", Walk, {}, {"series": OBSERVABLES, "best": OBSERVABLES}, walk)


# ----------------------------------------------------------------------------- an orchestrator


class Cycles(Config):
    """Cycles of calls, a map and waits, each built on the one before."""

    cycles: int = Field(3, ge=1, description="How many.")
    walkers: int = Field(2, ge=1, description="Calls in each cycle.")
    n_records: int = Field(12, ge=1, description="Length of each walk.")
    sleep_s: float = Field(0.0, ge=0, description="How long each record and item takes (s).")
    nested: bool = Field(False, description="Whether each cycle also calls a module that maps.")


def halve(item: dict[str, Any]) -> xr.Dataset:
    """One item of the orchestrator's map."""
    note(f"halve {item['value']}")
    time.sleep(item["sleep_s"])
    return table(half=[item["value"] / 2])


def cycles(
    config: Cycles, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Cycles of Call, Wait(first), Map, Wait and Call."""
    start, totals, firsts = 0.3, [], []
    for cycle in range(config.cycles):
        names = [f"cycles/{cycle:03d}/walk/{k}" for k in range(config.walkers)]
        settings = {"n_records": config.n_records, "start": start, "sleep_s": config.sleep_s}
        handles = []
        for k, name in enumerate(names):
            handles.append((yield Call("toy_block", settings, {}, name, seed=k)))
        (first,) = yield Wait(handles, first=True)
        firsts.append(names.index(first.name))
        items = [{"value": cycle + k / 8, "sleep_s": config.sleep_s} for k in range(4)]
        halves = yield Map(halve, items, name=f"halves/{cycle}")
        finished = yield Wait(handles)
        scaled = yield Call(
            "toy_scale",
            {"factor": 0.5},
            {"series": finished[0].outputs["series"], "others": [h.outputs["series"] for h in finished[1:]]},
            f"cycles/{cycle:03d}/scaled",
        )
        extra = []
        if config.nested:
            extra = [(yield Call("toy_map", {"count": 3 + cycle}, {}, f"cycles/{cycle:03d}/nested"))]
        ended = yield Wait([scaled, *extra])
        mean = float(ended[0].outputs["scaled"].load()["value"].mean())
        totals.append(mean + sum(float(half["half"].sum()) for half in halves))
        start = 0.1 + 0.8 * (mean % 1.0)
    context.logger.info("ended first: %s", firsts)
    return {"summary": table(total=totals)}


CYCLES = Module("toy_orchestrator", "1", Cycles, {}, {"summary": TABLE}, cycles)


class Forward(Config):
    """Pass an own input on to a call."""


def forward(
    config: Forward, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Call with an InputRef."""
    handle = yield Call("toy_scale_one", {"factor": 3.0}, {"series": InputRef("series")}, "call")
    (done,) = yield Wait([handle])
    return {"copy": done.outputs["scaled"].load()}


FORWARD = Module("toy_forward", "1", Forward, {"series": One(OBSERVABLES)}, {"copy": OBSERVABLES}, forward)

TOYS = (SCALE, SCALE_ONE, SQUARES, WALK, CYCLES, FORWARD)


def toys() -> Registry:
    """A registry of the toys alone."""
    return Registry(TOYS, points=())


def main(arguments: list[str]) -> int:
    """``STORE MODULE ROOT CONFIG_JSON [SCHEDULER]``: run a toy; the exit code is the error's."""
    import h5ml

    path, module, root, config, *rest = arguments
    store = h5ml.open(path)
    try:
        h5ml.run(
            store,
            module,
            root_key=root,
            config=json.loads(config),
            scheduler=rest[0] if rest else None,
            registry=toys(),
        )
    except H5mlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
