"""Learned potentials of the MACE architecture: from a file, or one of the published foundation models."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.errors import ComputeFailed, InvalidConfig, InvalidData, MissingPackage, UnknownKey, nearest
from .base import Potential, facts
from .registry import EngineRequest

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from .mace_batch import LearnedModel

_UNSAFE_LOAD = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_OPTIONS = {"dtype", "head"}


def file_potential(request: EngineRequest) -> Potential:
    """``file:PATH.model``: a MACE model saved whole; options ``dtype`` (``float64``) and ``head``.

    Such a file is a pickle: reading it runs whatever code stands in it, so it must be trusted explicitly.
    """
    request.only(_OPTIONS)
    path = Path(request.method).expanduser()
    if not path.is_file():
        raise UnknownKey(
            "There is no such model file.",
            key=request.spec,
            expected="a file written by MACE",
            found=str(path),
            hint="check the path; it is relative to the current folder",
        )
    if not request.trust_pickle:
        raise InvalidConfig(
            "A model file is a pickle, which can run any code when it is read.",
            key=request.spec,
            expected="trust_pickle=True (on the command line --trust-pickle)",
            found="no permission",
            hint="give the permission only if you know where the file comes from",
        )
    _check_installed()
    return _from_file(request, path, engine="mace", method=path.name)


def foundation_potential(request: EngineRequest) -> Potential:
    """``mace-mp:NAME`` or ``mace-off:NAME``: a published model, downloaded once by mace-torch."""
    request.only(_OPTIONS)
    engine = request.spec.partition(":")[0]
    urls = _published_urls("mace_mp_urls" if engine == "mace-mp" else "mace_off_urls")
    if request.method not in urls:
        raise InvalidConfig(
            "There is no such published model.",
            key=request.spec,
            expected=", ".join(urls),
            found=request.method,
            hint=nearest(request.method, urls),
        )
    path = _downloaded_before(urls[request.method]) or _download(request, urls[request.method])
    return _from_file(request, path, engine=engine, method=request.method)


@functools.cache
def _published_urls(table: str) -> dict[str, str]:
    """A table of mace-torch, read from its source: to import it takes seconds, and planning needs only this."""
    found = importlib.util.find_spec("mace")
    if found is None or found.origin is None:
        raise _missing("No module named 'mace'")
    source = Path(found.origin).parent / "calculators" / "foundations_models.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == table for target in node.targets):
            urls: dict[str, str] = ast.literal_eval(node.value)
            return urls
    raise _missing(f"no {table} in {source}")


def _downloaded_before(url: str) -> Path | None:
    """Where mace-torch keeps a model that it downloaded before."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mace"
    path = home / "".join(c for c in url.rpartition("/")[2] if c.isalnum() or c == "_")
    return path if path.is_file() else None


def _download(request: EngineRequest, url: str) -> Path:
    with mace_guard(), contextlib.redirect_stdout(io.StringIO()):
        from mace.calculators import foundations_models as published

        try:
            return Path(published.download_mace_mp_checkpoint(url))
        except (OSError, RuntimeError) as error:
            raise ComputeFailed(
                "The model could not be downloaded.",
                key=request.spec,
                expected=url,
                found=str(error),
                hint="download it where there is a network and name it as file:PATH.model",
            ) from error


def _from_file(request: EngineRequest, path: Path, *, engine: str, method: str) -> Potential:
    dtype = request.options.get("dtype", "float64")
    if dtype not in ("float32", "float64"):
        raise InvalidConfig("Unknown dtype.", key=request.spec, expected="float32 or float64", found=dtype)
    head = request.options.get("head")
    build = functools.partial(_calculator, str(path), request.device, dtype, head)
    parameters = {} if head is None else {"head": head}
    identity = facts(engine, method, version("mace-torch"), dtype=dtype, weights=_digest(path), parameters=parameters)
    return Potential(request.spec, method, build, identity, _learned)


def _learned(calculator: Calculator) -> LearnedModel:
    with mace_guard():
        from .mace_batch import LearnedModel

        return LearnedModel(calculator)


def _calculator(path: str, device: str, dtype: str, head: str | None) -> Calculator:
    with mace_guard():
        from .mace_arithmetic import SteadyCalculator

        model = _model(path, Path(path).stat().st_mtime_ns, usable_device(device), dtype)
        heads: dict[str, Any] = {} if head is None else {"head": head}
        return SteadyCalculator(models=[model], device=device, default_dtype=dtype, **heads)


@functools.lru_cache(maxsize=4)
def _model(path: str, modified_ns: int, device: str, dtype: str) -> Any:  # noqa: ARG001 - parts of the cache key
    """The torch module; it stays loaded, since only the calculator around it has a memory."""
    import torch

    try:
        model = torch.load(path, map_location=device, weights_only=False)
    except Exception as error:
        raise _no_model(path, f"{type(error).__name__}: {error}") from error
    if not hasattr(model, "r_max") or not hasattr(model, "atomic_numbers"):
        raise _no_model(path, type(model).__name__)
    return model.to(getattr(torch, dtype))


def _no_model(path: str, found: str) -> InvalidData:
    return InvalidData(
        "This file holds no MACE model.",
        key=f"file:{path}",
        expected="a model saved whole by mace-torch",
        found=found[:200],
        hint="a file of weights alone (a state_dict) does not say what model they belong to",
    )


def _check_installed() -> None:
    """Whether mace is there, without importing it: a fingerprint is to be had in a moment."""
    if importlib.util.find_spec("mace") is None:
        raise _missing("No module named 'mace'")


def _missing(found: str) -> MissingPackage:
    return MissingPackage(
        "The engine MACE is not installed.",
        expected="the package mace-torch",
        found=found,
        hint='pip install "h5ml[mace]"',
    )


def usable_device(device: str) -> str:
    """A device that models can run on.

    Raises
    ------
    InvalidConfig
        If it is a GPU, and torch finds none.
    """
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise InvalidConfig(
            "There is no GPU that torch can use.",
            key="device",
            expected="cpu",
            found=device,
            hint=f"leave --device out; this torch is {torch.__version__}, made for "
            + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"),
        )
    return device


@contextlib.contextmanager
def mace_guard() -> Iterator[None]:
    """Import mace, settle its arithmetic, and undo that it makes every ``torch.load`` run pickled code."""
    before = os.environ.get(_UNSAFE_LOAD)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):  # of no use to users
            import mace.calculators  # noqa: F401

            from .mace_arithmetic import settle
    except ImportError as error:
        raise _missing(str(error)) from error
    finally:
        _restore(before)
    settle()
    try:
        yield
    finally:
        _restore(before)


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(_UNSAFE_LOAD, None)
    else:
        os.environ[_UNSAFE_LOAD] = before


def _digest(path: Path) -> str:
    from blake3 import blake3

    return "blake3:" + blake3(max_threads=1).update_mmap(path).hexdigest()
