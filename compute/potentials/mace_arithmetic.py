"""MACE models to the same bits, whatever their process computed before.

e3nn compiles its parts with TorchScript, whose executor watches the first call and optimises the later ones for what
it saw there: whether gradients were asked for, and of what. Each way sums gradients in another order. One of the
parts, the spherical harmonics, is shared by all models of a process, so that forces would depend on its history.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from ase.calculators.calculator import all_changes
from e3nn.o3 import _spherical_harmonics as shared  # type: ignore[import-untyped]
from mace.calculators import MACECalculator
from torch.jit._fuser import optimized_execution  # torch.jit has it too, but not for mypy


@contextlib.contextmanager
def steady(device: str | torch.device = "cpu") -> Iterator[None]:
    """Compute with a MACE model without TorchScript's optimiser; for this thread.

    Parameters
    ----------
    device : str or torch.device
        Where the model is. On a GPU nothing changes: sums have no fixed order there anyway.

    Notes
    -----
    The bits are those of mace-torch once its process has warmed up: the optimiser leaves compiled models as they are,
    but for the spherical harmonics, see ``settle``.
    """
    if torch.device(device).type != "cpu":
        yield
        return
    with optimized_execution(False):
        yield


@functools.cache
def settle() -> None:
    """Give e3nn spherical harmonics that do not remember their calls; once in a process.

    Notes
    -----
    Their gradient is the one that TorchScript derives in symbols, which is what mace-torch computes from the second
    call on. Of the executors of TorchScript the older one derives it without watching calls; a function keeps the
    executor that it gets first. The function is compiled anew, since it may have been called already.
    """
    used = shared._spherical_harmonics  # noqa: SLF001 - where all models look it up
    if not isinstance(used, torch.jit.ScriptFunction):
        return  # TorchScript is switched off (PYTORCH_JIT=0), and nothing is optimised
    source: Any = used._torchdynamo_inline  # type: ignore[attr-defined]  # noqa: SLF001 - what it was compiled from
    compiled: Any = torch.jit.script(types.FunctionType(source.__code__, source.__globals__, source.__name__))
    watching = torch._C._jit_set_profiling_executor(False)  # noqa: SLF001 - no other way
    try:
        compiled.get_debug_state()  # makes the executor
    finally:
        torch._C._jit_set_profiling_executor(watching)  # noqa: SLF001

    def spherical_harmonics(lmax: int, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with optimized_execution(True):
            return compiled(lmax, x, y, z)  # type: ignore[no-any-return]

    # who exports a model as TorchScript gets the compiled function
    torch.jit._state._set_jit_function_cache(spherical_harmonics, compiled)  # noqa: SLF001
    shared._spherical_harmonics = spherical_harmonics  # noqa: SLF001


class SteadyCalculator(MACECalculator):
    """A calculator of mace-torch whose results depend on the structure alone."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Compute as mace-torch does."""
        with steady(self.device):
            super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
