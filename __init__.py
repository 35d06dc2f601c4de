"""h5ml: a provenance-centric HDF5/Zarr data platform for machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compute.runner import run as run
    from .schemas.errors import H5mlError as H5mlError
    from .schemas.key import Key as Key
    from .schemas.kind import Kind as Kind
    from .schemas.kind import Variable as Variable
    from .schemas.run import Run as Run
    from .store.audit import audit as audit
    from .store.opening import open_store as open  # noqa: A004
    from .store.store import Store as Store
    from .store.torch_data import torch_dataset as torch_dataset

__version__ = "0.1.0"

_HOMES = {
    "open": ("h5ml.store.opening", "open_store"),
    "Store": ("h5ml.store.store", "Store"),
    "audit": ("h5ml.store.audit", "audit"),
    "run": ("h5ml.compute.runner", "run"),
    "torch_dataset": ("h5ml.store.torch_data", "torch_dataset"),
    "H5mlError": ("h5ml.schemas.errors", "H5mlError"),
    "Key": ("h5ml.schemas.key", "Key"),
    "Kind": ("h5ml.schemas.kind", "Kind"),
    "Variable": ("h5ml.schemas.kind", "Variable"),
    "Run": ("h5ml.schemas.run", "Run"),
}

__all__ = [
    "H5mlError",
    "Key",
    "Kind",
    "Run",
    "Store",
    "Variable",
    "__version__",
    "audit",
    "open",
    "run",
    "torch_dataset",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import h5ml`` stays light."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'h5ml' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
