"""Epochs of a training in a store against mace-torch's own loop on graphs in memory: the same model, data and order."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import torch
from mace import data as mace_data
from mace.tools import AtomicNumberTable, MetricsLogger, torch_geometric
from mace.tools.checkpoint import CheckpointHandler
from mace.tools.train import train

import h5ml
from h5ml.compute.module import Context
from h5ml.compute.potentials.checkpoint import quiet
from h5ml.compute.training_config import Training
from h5ml.compute.training_data import OWN, HeadFrames, head_frames
from h5ml.compute.training_model import Parts, build
from h5ml.store.gather import gather
from h5ml.store.store import Store

from .measure import Row, folder, table
from .training_batches import labelled, urea

FRAMES, EPOCHS, ROUNDS = 42, 7, 2
SETTINGS = {
    "r_max": 3.5, "num_channels": 8, "max_L": 1, "max_ell": 2, "correlation": 2, "MLP_irreps": "8x0e",
    "batch_size": 5, "valid_batch_size": 5, "max_num_epochs": EPOCHS, "ema": True, "E0s": "average",
}  # fmt: skip
Mark = Callable[[], None]
Times = list[tuple[float, float]]


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with folder() as here, h5ml.open(here / "s.h5", make=True) as store:
        store.write("labels", labelled(urea(FRAMES)), "labels")
        h5ml.run(store, "training_set", root_key="p", labels=["labels"], E0s="average", leakage_tolerance_A=None)
        for name, every in (("a commit each epoch", 1), ("one commit", EPOCHS)):
            theirs: Times = []
            ours: Times = []
            for turn in range(ROUNDS):
                key, at = f"every{every}/{turn}", here / f"every{every}_{turn}"
                one, other = by_turns(partial(alone, store, at), partial(in_store, store, key, every))
                theirs, ours = theirs + one, ours + other
            split = store["p/set"]["split"].to_numpy()
            counts = f"{(split == 0).sum()} training and {(split == 1).sum()} validation frames"
            title = f"An epoch of {counts} of 32 atoms, {name}"
            rows = [median("mace-torch, graphs in memory", theirs), median("h5ml compute training", ours)]
            table(f"{title}, by turns, one thread", rows, aim="at most 1.03 of mace-torch alone")


def median(name: str, times: Times) -> Row:
    """One line of a table."""
    return Row(name, statistics.median(one[0] for one in times), statistics.median(one[1] for one in times))


def by_turns(theirs: Callable[[Mark], None], ours: Callable[[Mark], None]) -> tuple[Times, Times]:
    """CPU and wall seconds of each epoch but the first of two trainings that take turns, epoch by epoch.

    A machine that others use as well slows both alike. Theirs runs in a thread, and only while ours waits.
    """
    batons = threading.Semaphore(0), threading.Semaphore(0)
    times: tuple[Times, Times] = ([], [])

    def marker(me: int, dtype: torch.dtype) -> Mark:
        began: list[tuple[float, float]] = []

        def mark() -> None:
            now = time.process_time(), time.perf_counter()
            if began:
                cpu, wall = began.pop()
                times[me].append((now[0] - cpu, now[1] - wall))
            batons[1 - me].release()
            batons[me].acquire()
            torch.set_default_dtype(dtype)
            began.append((time.process_time(), time.perf_counter()))

        return mark

    def run(me: int, work: Callable[[Mark], None], dtype: torch.dtype) -> None:
        try:
            work(marker(me, dtype))
        finally:
            batons[1 - me].release(10 * EPOCHS)  # the other waits no more

    before = torch.get_default_dtype()
    thread = threading.Thread(target=run, args=(0, theirs, torch.float64))
    thread.start()
    batons[1].acquire()
    torch.set_default_dtype(before)
    run(1, ours, before)
    thread.join()
    torch.set_default_dtype(before)
    return times


def in_store(store: Store, key: str, epochs_per_commit: int, mark: Mark) -> None:
    """A training as the command runs it."""
    settings = {**SETTINGS, "epochs_per_commit": epochs_per_commit}
    h5ml.run(store, "training", root_key=key, training_set="p/set", config=settings, new_version=True,
             progress=lambda *_: mark())  # fmt: skip


def alone(store: Store, here: Path, mark: Mark) -> None:
    """The loop of mace-torch with its loaders, its log and its checkpoints."""
    config = Training.parse(SETTINGS)
    own = head_frames(gather(store, store.entry("p/set")), config)
    parts = build(config, [own], None, Context())
    train_loader, valid_loader = loaders(own, parts)
    torch.set_default_dtype(torch.float64)
    with quiet():
        train(
            model=parts.model, loss_fn=parts.loss_fn, train_loader=train_loader, valid_loaders={OWN: valid_loader},
            optimizer=parts.optimizer, lr_scheduler=parts.lr_scheduler, start_epoch=0, max_num_epochs=EPOCHS,
            patience=config.patience, checkpoint_handler=CheckpointHandler(directory=str(here), tag="run"),
            logger=_Marked(str(here), mark), eval_interval=1, output_args=parts.output_args, device=parts.device,
            log_errors="PerAtomRMSE", ema=parts.ema, max_grad_norm=config.clip_grad,
        )  # fmt: skip


def loaders(own: HeadFrames, parts: Parts) -> tuple[Any, Any]:
    """The frames as graphs in memory, as ``mace_run_train`` makes them."""
    numbers = AtomicNumberTable(own.numbers)

    def loader(frames: Any, *, shuffle: bool) -> Any:
        graphs = [
            mace_data.AtomicData.from_config(one, z_table=numbers, cutoff=parts.args.r_max)
            for one in frames.configurations(OWN)
        ]
        return torch_geometric.dataloader.DataLoader(
            graphs,
            parts.args.batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            generator=torch.Generator().manual_seed(0),
        )

    torch.set_default_dtype(torch.float64)
    return loader(own.train, shuffle=True), loader(own.valid, shuffle=False)


class _Marked(MetricsLogger):  # type: ignore[misc]
    """The log of mace-torch, that says when an epoch was validated."""

    def __init__(self, directory: str, mark: Mark) -> None:
        super().__init__(directory, "log")
        self._mark = mark

    def log(self, d: dict[str, Any]) -> None:
        super().log(d)
        if d["mode"] == "eval" and d["epoch"] is not None:
            self._mark()
