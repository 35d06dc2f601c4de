"""Modules that count the threads which the libraries of their process use."""

from __future__ import annotations

import os
from typing import Any

import xarray as xr

from h5ml.compute.module import Map, Module
from h5ml.schemas.config import Config
from h5ml.schemas.kinds import TABLE


class Count(Config):
    """Counts threads."""


def counted(_item: int = 0) -> xr.Dataset:
    """Threads of each library; it may be the first here to load them."""
    import numpy as np
    import torch
    from threadpoolctl import threadpool_info

    np.linalg.inv(np.eye(2))
    found = {f"{pool['user_api']}_{pool['prefix']}": pool["num_threads"] for pool in threadpool_info()}
    found |= {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"])}
    return TABLE.dataset({name: (("row",), [value], {"units": "1"}) for name, value in found.items()})


def _run(config: Count, inputs: Any, context: Any) -> Any:
    del config, inputs, context
    return {"threads": counted()}


def _map(config: Count, inputs: Any, context: Any) -> Any:
    del config, inputs, context
    [found] = yield Map(counted, [0])
    return {"threads": found}


IN_RUN = Module("threads_of_run", "1", Count, {}, {"threads": TABLE}, _run)
IN_ITEM = Module("threads_of_item", "1", Count, {}, {"threads": TABLE}, _map)
