"""A run on a worker: it ends there, or is handed back where it asks for what only the committing process can answer."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..schemas.errors import H5mlError, Interrupted
from .execution import Execution, Requests
from .module import Call, Handle, Map, Recall, Wait

if TYPE_CHECKING:
    import xarray as xr

Outcome = tuple[str, str, str]
"""How a run on a worker ended: ``done``, ``failed``, ``interrupted`` or ``escalate``; message, traceback."""


class Escalate(BaseException):
    """A module on a worker made a request that only the committing process can answer."""


class WorkerRequests(Requests):
    """On a worker: hands the run back where it asks for other runs or maps."""

    def __init__(self, execution: Execution) -> None:
        del execution

    def map(self, request: Map) -> Sequence[xr.Dataset]:
        """Hand the run back."""
        raise Escalate(request.name)

    def call(self, request: Call) -> Handle:
        """Hand the run back."""
        raise Escalate(request.name)

    def wait(self, request: Wait) -> list[Handle]:
        """Hand the run back."""
        raise Escalate(str(request.first))

    def recall(self, request: Recall) -> list[tuple[str, xr.Dataset]]:
        """Hand the run back."""
        raise Escalate(request.kind.name)


def outcome_of(execution: Execution) -> Outcome:
    """Execute a run on a worker; says how it ended instead of raising."""
    try:
        execution.run()
    except Escalate:
        return "escalate", "", ""
    except Interrupted as error:
        return "interrupted", str(error), ""
    except H5mlError as error:
        return "failed", str(error), traceback.format_exc()
    return "done", "", ""
