"""Files that take their names when they are finished, so that a reader never meets half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schemas.errors import StoreWriteFailed


@contextmanager
def whole_file(path: Path, what: str = "file") -> Iterator[Path]:
    """A path beside ``path`` to write to; it is renamed at the end, and removed after a failure.

    Parameters
    ----------
    path : pathlib.Path
        The name that it shall have; what lies there is replaced.
    what : str
        What the message calls it.

    Raises
    ------
    StoreWriteFailed
        If the system refuses.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        part.unlink(missing_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise StoreWriteFailed(
            f"The {what} cannot be written.",
            key=path,
            found=error.strerror or str(error),
            hint="look at disk and rights",
        ) from None
    finally:
        part.unlink(missing_ok=True)
