"""Print the benchmark tables."""

from __future__ import annotations

import importlib
import platform
import sys

NAMES = (
    "append",
    "batches",
    "digest",
    "keys",
    "memory",
    "dynamics",
    "start",
    "campaign",
    "campaign_icechunk",
    "molecules",
    "phonons",
    "examples",
    "labelling",
    "training_batches",
    "training_epochs",
    "checkpoints",
)


def main() -> None:
    """Run the named benchmarks, or all."""
    names = sys.argv[1:] or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    print(f"## h5ml benchmarks\n\nPython {platform.python_version()}, {platform.machine()}, {platform.system()}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
