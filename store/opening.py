"""Opening and making stores by path or URL."""

from __future__ import annotations

from pathlib import Path

from ..schemas.errors import NotAStore
from .engine import Engine
from .store import Store

HDF5_SUFFIXES = {".h5", ".hdf5", ".h5ml"}


def engine_for(location: str | Path) -> Engine:
    """The engine for a path or URL: HDF5 for ``.h5`` files, Icechunk for folders and ``s3://`` addresses.

    Raises
    ------
    NotAStore
        If the name says neither.
    """
    text = str(location)
    path = Path(text).expanduser()
    if "://" in text or path.suffix == ".icechunk" or path.is_dir():
        from .icechunk import IcechunkEngine

        return IcechunkEngine(text if "://" in text else str(path))
    if path.suffix in HDF5_SUFFIXES or path.is_file():
        from .hdf5 import HDF5Engine

        return HDF5Engine(str(path))
    raise NotAStore(
        "The name does not say which engine to use.",
        key=text,
        expected="FILE.h5, FOLDER.icechunk or s3://bucket/prefix",
        hint=f"for example {path.with_suffix('.h5')}",
    )


def open_store(location: str | Path, *, make: bool = False) -> Store:
    """Open a store.

    Parameters
    ----------
    location : str or pathlib.Path
        ``FILE.h5``, ``FOLDER.icechunk`` or ``s3://bucket/prefix``.
    make : bool
        Make an empty store where nothing lies yet.

    Raises
    ------
    NotAStore
        If nothing lies there (and ``make`` is not given), or something that is no h5ml store.
    """
    engine = engine_for(location)
    is_local = "://" not in str(location)
    if is_local and not Path(engine.location).exists():
        if make:
            return Store.make(engine)
        raise NotAStore("There is no store.", key=location, hint=f"`h5ml init {location}` makes one")
    store = Store(engine)
    try:
        _ = store.catalogue
    except NotAStore:
        if not make or (is_local and not engine.is_unmade()):
            raise
        return Store.make(engine, again=is_local)
    return store


def is_unmade(location: str | Path) -> bool:
    """Whether the making of a store was broken off, or goes on at this moment."""
    return engine_for(location).is_unmade()
