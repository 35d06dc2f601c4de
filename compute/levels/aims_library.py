"""One calculation with the library of FHI-aims, in a process of its own: the library keeps one system in its memory.

Run as ``python -m h5ml.compute.levels.aims_library FOLDER PROPERTY ...``, with control.in and geometry.in in FOLDER;
leaves ``results.json`` there.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

RESULTS = "results.json"


def main(folder: Path, properties: list[str]) -> None:
    """Compute what is asked for with the library that ``ASI_LIB_PATH`` names."""
    import ase.io
    from asi4py.asecalc import ASI_ASE_calculator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        atoms = ase.io.read(folder / "geometry.in", format="aims")
    calculator = ASI_ASE_calculator(os.environ["ASI_LIB_PATH"], _written_already, None, atoms, work_dir=str(folder))
    calculator.calculate(atoms, properties, ["positions", "cell"])
    found: dict[str, Any] = {name: calculator.results[name] for name in properties if name in calculator.results}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}
    plain["converged"] = bool(getattr(calculator.asi, "is_scf_converged", True))
    (folder / RESULTS).write_text(json.dumps(plain))
    calculator.close()


def _written_already(library: Any) -> None:
    """Where asi4py would write the input."""
    del library


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
