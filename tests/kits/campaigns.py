"""A process that runs a campaign of toys, to be killed: ``STORE TEXT_FILE [SCHEDULER [keep-going]]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import xarray as xr

from h5ml.compute.campaign import run_campaign
from h5ml.schemas.campaign import load_campaign
from h5ml.schemas.errors import H5mlError

from .killing import arm
from .toys import toys


def nothing_to_read(path: Path, step: Any) -> xr.Dataset:
    """The reader of campaigns that import nothing."""
    raise AssertionError(f"{step.key} would read {path}")


def main(arguments: list[str]) -> int:
    """Run it; the exit code is the error's."""
    import h5ml

    arm("main")
    path, campaign, *rest = arguments
    store = h5ml.open(path, make=True)
    try:
        run_campaign(
            store,
            load_campaign(campaign),
            nothing_to_read,
            scheduler=rest[0] if rest else None,
            registry=toys(),
            keep_going=len(rest) > 1,
        )
    except H5mlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
