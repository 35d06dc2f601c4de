"""The state of a training between two epochs as a dataset: tensors as arrays, the rest as one JSON text, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ..schemas.errors import ComputeFailed

if TYPE_CHECKING:
    from .training_model import Parts

_TENSOR, _PAIRS, _TUPLE = "tensor", "pairs", "tuple"
_PLAIN = (str, int, float, bool, type(None))


def captured(parts: Parts, progress: Mapping[str, Any]) -> xr.Dataset:
    """Everything that the next epoch depends on.

    Parameters
    ----------
    parts : Parts
        Model, optimizer, scheduler, averages and data order.
    progress : mapping
        Plain numbers of the loop: epoch, lowest loss, patience.
    """
    tree = {
        "progress": dict(progress),
        "model": parts.model.state_dict(),
        "gradients": {name: one.grad for name, one in _strays(parts).items() if one.grad is not None},
        "optimizer": parts.optimizer.state_dict(),
        "lr_scheduler": parts.lr_scheduler.state_dict(),
        "ema": None if parts.ema is None else parts.ema.state_dict(),
        "swa": None
        if parts.swa is None
        else {"model": parts.swa.model.state_dict(), "scheduler": parts.swa.scheduler.state_dict()},
        "order": parts.train_loader.generator.get_state(),
    }
    return packed(tree)


def restored(parts: Parts, dataset: xr.Dataset) -> dict[str, Any]:
    """Bring freshly built parts to the state that was captured; returns the progress of the loop.

    Raises
    ------
    ComputeFailed
        If the state belongs to another model than these settings build.
    """
    tree = unpacked(dataset)
    try:
        parts.model.load_state_dict(_on(tree["model"], parts.device))
        parts.optimizer.load_state_dict(tree["optimizer"])
        parts.lr_scheduler.load_state_dict(tree["lr_scheduler"])
        if parts.ema is not None:
            parts.ema.load_state_dict(tree["ema"])
            parts.ema.to(parts.device)
        if parts.swa is not None:
            parts.swa.model.load_state_dict(_on(tree["swa"]["model"], parts.device))
            parts.swa.scheduler.load_state_dict(tree["swa"]["scheduler"])
        parts.train_loader.generator.set_state(tree["order"])
        for name, one in _strays(parts).items():
            found = tree["gradients"].get(name)
            one.grad = None if found is None else found.to(parts.device)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ComputeFailed(
            "The state of this training cannot be continued.",
            expected="the state of the same model and optimizer",
            found=str(error)[:200],
            hint="start anew with --new-version",
        ) from error
    progress: dict[str, Any] = tree["progress"]
    return progress


def _strays(parts: Parts) -> dict[str, torch.nn.Parameter]:
    """Parameters that no optimizer steps: their gradients are never cleared, and count in the norm that is clipped.

    The Bessel weights of a fine-tuned model are such, see ``load_foundations_elements`` of mace-torch.
    """
    stepped = {id(one) for group in parts.optimizer.param_groups for one in group["params"]}
    return {name: one for name, one in parts.model.named_parameters() if id(one) not in stepped}


def packed(tree: Any) -> xr.Dataset:
    """A tree of dicts, lists, tuples, tensors and plain values as a dataset.

    Raises
    ------
    ComputeFailed
        If it holds anything else.
    """
    tensors: list[torch.Tensor] = []
    text = json.dumps(_spread(tree, tensors))
    arrays: dict[str, list[np.ndarray[Any, Any]]] = {}
    for tensor in tensors:
        flat = tensor.detach().cpu().numpy().ravel()
        arrays.setdefault(flat.dtype.name, []).append(flat.astype(np.int8) if flat.dtype == bool else flat)
    values: dict[str, Any] = {"tree": ((), text)}
    for name, parts in sorted(arrays.items()):
        values[f"tensors_{name}"] = ((f"n_{name}",), np.concatenate(parts), {"units": "1"})
    return xr.Dataset(values)


def unpacked(dataset: xr.Dataset) -> Any:
    """The tree that ``packed`` made a dataset of."""
    flat = {
        str(name).removeprefix("tensors_"): dataset[name].to_numpy()
        for name in dataset.data_vars
        if str(name).startswith("tensors_")
    }
    return _gathered(json.loads(str(dataset["tree"].to_numpy()[()])), flat, dict.fromkeys(flat, 0))


def _spread(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {_TENSOR: str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {_PAIRS: [[key, _spread(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_spread(one, tensors) for one in value]}
    if isinstance(value, list):
        return [_spread(one, tensors) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    raise ComputeFailed(
        "The state of this training cannot be stored.",
        expected="tensors, numbers and texts",
        found=type(value).__name__,
    )


def _gathered(value: Any, flat: Mapping[str, np.ndarray[Any, Any]], at: dict[str, int]) -> Any:
    if isinstance(value, list):
        return [_gathered(one, flat, at) for one in value]
    if not isinstance(value, dict):
        return value
    if _PAIRS in value:
        return {key: _gathered(one, flat, at) for key, one in value[_PAIRS]}
    if _TUPLE in value:
        return tuple(_gathered(one, flat, at) for one in value[_TUPLE])
    name, shape = value[_TENSOR], value["shape"]
    size = int(np.prod(shape, dtype=np.int64))
    part = flat[name][at[name] : at[name] + size]
    at[name] += size
    return torch.tensor(part.reshape(shape)).to(getattr(torch, name))


def _on(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: one.to(device) if isinstance(one, torch.Tensor) else one for key, one in state.items()}
