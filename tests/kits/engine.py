"""What every engine must do, as a suite: subclass :class:`EngineSuite` in a test file and say how to make one.

::

    from h5ml.tests.kits.engine import EngineSuite

    class TestHDF5(EngineSuite):
        def build(self, folder):
            return HDF5Engine(folder / "store.h5")
"""

from __future__ import annotations

from h5ml.tests.kits.engine_changes import RowsSuite, TransactionSuite
from h5ml.tests.kits.engine_data import (
    ATTRIBUTES,
    NUMERIC,
    Refused,
    append,
    copy_all,
    fill,
    frames,
    get,
    group,
    guarded,
    put,
    same,
    together,
    type_of,
    work_append,
    work_read,
)
from h5ml.tests.kits.engine_values import ValuesSuite


class EngineSuite(ValuesSuite, TransactionSuite, RowsSuite):
    """Subclass it and define ``build``; all tests then run against that engine."""


__all__ = [
    "ATTRIBUTES",
    "NUMERIC",
    "EngineSuite",
    "Refused",
    "append",
    "copy_all",
    "fill",
    "frames",
    "get",
    "group",
    "guarded",
    "put",
    "same",
    "together",
    "type_of",
    "work_append",
    "work_read",
]
