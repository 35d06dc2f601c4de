"""Where the workers of dask.distributed come from: this machine, a scheduler that runs, or a batch system."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..schemas.errors import ComputeFailed, MissingPackage
from ..schemas.scheduling import AddressPlace, LocalPlace, Place, QueuePlace

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LOST_WORKERS = 2
"""How many workers may die with one task before the task counts as failed."""
LIBRARIES = (
    "xarray",
    "h5py",
    "ase.io",
    "ase.calculators.calculator",
    "scipy.linalg",
    "scipy.spatial",
    "phonopy",
    "tblite.ase",
)
"""What most steps load, in the time while others start."""
LAST_SECONDS = 0.25
"""How long workers of this machine, which have nothing to lose, are given to end by themselves."""


class SchedulerLost(ComputeFailed):
    """The scheduler cannot be reached any more; what was committed is kept."""


def connect(place: Place) -> tuple[Any, Any]:
    """A client, and the cluster that was started for it, if any.

    Raises
    ------
    MissingPackage
        If dask.distributed, or for a batch system dask-jobqueue, is not installed.
    SchedulerLost
        If the scheduler cannot be reached, or workers cannot be started.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise MissingPackage(
            "The scheduler needs dask.distributed.", found=str(error), hint="pip install distributed"
        ) from None
    cluster: Any = None
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": LOST_WORKERS,
        "distributed.worker.profile.enabled": False,
    }
    if isinstance(place, LocalPlace):  # dask's own also ties malloc's hands, which costs a training a third of its time
        settings["distributed.nanny.pre-spawn-environ"] = threads_environment(place.threads)
    with dask.config.set(settings):
        if isinstance(place, LocalPlace):
            with ThreadPoolExecutor(1) as starting:
                started = starting.submit(_local, place)
                load_libraries()
                cluster = _begun(started)
        elif isinstance(place, QueuePlace):
            cluster = _queue(place)
    address = place.address if isinstance(place, AddressPlace) else None
    try:
        client = Client(cluster if cluster is not None else address, timeout=20, set_as_default=False)
    except OSError as error:
        if cluster is not None:
            with contextlib.suppress(Exception):
                cluster.close(timeout=10)
        raise SchedulerLost(
            "The dask scheduler cannot be reached.", key=address, found=str(error), hint="is it running?"
        ) from None
    if isinstance(place, LocalPlace):
        client.run(_load_meanwhile, wait=False)
    return client, cluster


def _begun(started: Future[Any]) -> Any:
    """The workers on this machine, once they are there."""
    try:
        return started.result()
    except RuntimeError as error:  # the workers read the script again, and it starts workers again
        raise SchedulerLost(
            "The workers on this machine could not be started.",
            found=str(error),
            hint='a script that uses workers does its work below `if __name__ == "__main__":`',
        ) from None


def disconnect(client: Any, cluster: Any) -> None:
    """Close the connection, and end the workers that were started for it."""
    with contextlib.suppress(Exception):
        client.close(timeout=5)
    if cluster is None:
        return
    with contextlib.suppress(Exception):
        cluster.sync(_end_workers, [worker for worker in cluster.workers.values() if hasattr(worker, "kill")])
    with contextlib.suppress(Exception):
        cluster.close(timeout=10)


async def _end_workers(nannies: Sequence[Any]) -> None:
    """End worker processes; left to themselves they spend a second of every processor on their farewells."""
    for nanny in nannies:
        nanny.close_gracefully()
    await asyncio.gather(*(nanny.kill(timeout=LAST_SECONDS) for nanny in nannies), return_exceptions=True)


def load_libraries() -> None:
    """Load what will be needed soon."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


async def _load_meanwhile() -> None:
    """The same on a worker, beside its first task."""
    threading.Thread(target=load_libraries, name="h5ml-libraries", daemon=True).start()


def describe(place: Place, client: Any) -> str:
    """Where work runs, for people; with the address of dask's dashboard where there is one."""
    if isinstance(place, LocalPlace):
        gpus = f", {place.gpus} of them with a GPU" if place.gpus else ""
        return f"on {place.workers} workers here{gpus}"
    with contextlib.suppress(Exception):
        return f"on {client.scheduler.address}, dashboard {client.dashboard_link}"
    return "on a dask scheduler"


def threads_environment(threads: int) -> dict[str, str]:
    """What tells numerical libraries how many threads to use."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


@contextlib.contextmanager
def limited_threads(count: float | None) -> Iterator[None]:
    """Let numerical libraries use so many threads inside: those that are loaded, and those that are loaded there."""
    if count is None:
        yield
        return
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    usual = os.environ.get("OMP_NUM_THREADS", "")
    number, before = max(1, int(count)), int(usual) if usual.isdigit() else _cpus()
    try:
        with _environment(threads_environment(number)):
            threadpool_limits(number)
            _limit_torch(number)
            yield
    finally:
        threadpool_limits(before)
        _limit_torch(before)


def _cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_torch(number: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(number)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that hold inside."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _offers(place: LocalPlace | QueuePlace, *, gpu: bool) -> dict[str, float]:
    """The abstract resources of a worker."""
    found = {"threads": float(place.threads), **({"GPU": 1.0} if gpu else {})}
    return found if place.memory_GB is None else {**found, "memory_GB": place.memory_GB / _per_job(place)}


def _per_job(place: LocalPlace | QueuePlace) -> int:
    return place.workers if isinstance(place, QueuePlace) else 1


def _local(place: LocalPlace) -> Any:
    """Worker processes here; the first ``gpus`` of them see one GPU each, the others none."""
    from distributed import Nanny, Scheduler, SpecCluster

    memory = None if place.memory_GB is None else int(place.memory_GB * 1e9)

    def worker(number: int) -> Mapping[str, Any]:
        gpu = number < place.gpus
        visible = {"CUDA_VISIBLE_DEVICES": str(number) if gpu else ""} if place.gpus else {}
        options = {
            "nthreads": 1,
            "host": "127.0.0.1",
            "dashboard": False,
            "silence_logs": 50,
            "memory_limit": memory,
            "env": {**threads_environment(place.threads), **visible},
            "resources": _offers(place, gpu=gpu),
        }
        return {"cls": Nanny, "options": options}

    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(
        workers={number: worker(number) for number in range(place.workers)},
        scheduler={"cls": Scheduler, "options": scheduler},
        silence_logs=50,
    )


def _queue(place: QueuePlace) -> Any:
    """Jobs of a batch system, as many as there is work for."""
    try:
        systems: Any = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise MissingPackage(
            f"The scheduler {place.system} needs dask-jobqueue.", found=str(error), hint='pip install "h5ml[slurm]"'
        ) from None
    submit = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}[place.system]
    if shutil.which(submit) is None:
        raise MissingPackage(
            f"There is no {place.system} here.", expected=f"the command {submit}", hint="run it on a login node"
        )
    offers = _offers(place, gpu=bool(place.gpus))
    cores = place.threads * place.workers
    settings: dict[str, Any] = {
        "cores": place.workers,
        "processes": place.workers,
        "memory": f"{place.memory_GB} GB",
        "walltime": place.walltime,
        "queue": place.queue,
        "interface": place.interface,
        "python": place.python or sys.executable,
        "log_directory": place.log_folder,
        "job_extra_directives": list(place.directives),
        "job_script_prologue": [
            *(f"export {name}={value}" for name, value in threads_environment(place.threads).items()),
            *place.prologue,
        ],
        "worker_extra_args": ["--resources", ",".join(f"{name}={amount:g}" for name, amount in offers.items())],
        "scheduler_options": {"dashboard": False, "dashboard_address": ":0"},
        "silence_logs": "error",
    }
    cluster: Any
    if place.system == "slurm":
        cluster = systems.SLURMCluster(job_cpu=cores, account=place.account, **settings)
    elif place.system == "pbs":
        chunk = f"select=1:ncpus={cores}:mem={place.memory_GB:g}GB"
        cluster = systems.PBSCluster(resource_spec=chunk, account=place.account, **settings)
    else:
        cluster = systems.LSFCluster(ncpus=cores, project=place.account, **settings)
    cluster.h5ml_offers = offers
    cluster.adapt(minimum_jobs=place.minimum_jobs, maximum_jobs=place.maximum_jobs)
    return cluster
