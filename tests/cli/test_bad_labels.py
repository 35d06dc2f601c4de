"""A user's mistakes with labels: one message that names what is wrong and what to do, and nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import h5ml
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.kinds_training import LABELS
from h5ml.tests.kits.labelled import EMT_LEVEL, OTHER_LEVEL, isolated, labels, rattled
from h5ml.tests.kits.labelling import waters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with labels, good and bad."""
    path, good, lost = tmp_path_factory.mktemp("labels") / "s.h5", labels(rattled(6)), labels(rattled(6, seed=2))
    with h5ml.open(path, make=True) as store, store.transaction() as transaction:
        for name, systems in (("waters", waters(3)), ("si", [bulk("Si")]), ("nothing", [Atoms()])):
            transaction.write(name, structures_dataset(systems), "structures")
        for name, dataset in {
            "good": good,
            "other": labels(rattled(6, seed=1), OTHER_LEVEL),
            "lost": lost.assign(status=lost["status"] + 2, converged=lost["converged"] * 0),
            "forceless": good.assign(forces=good["forces"] * np.nan),
            "copper": isolated(["Cu"]),
            "hollow": hollow(),
        }.items():
            transaction.write(name, dataset, "labels")
    return path


def hollow() -> Any:
    """Labels of a molecule, and of nothing."""
    facts = {"energy": [-14.0, 0.0], "converged": [1, 1], "status": [0, 0], "forces": np.zeros((3, 3))}
    return structures_dataset([*waters(1), Atoms()], facts, EMT_LEVEL, kind=LABELS)


@pytest.fixture
def refused(call: Any, place: Path) -> Callable[..., str]:
    """Call a command that must fail, and see that the keys of the store are as before."""

    def run(*arguments: str, code: int) -> str:
        before = contents(place)
        result = call(*arguments, "--root-key", "new", code=code, store=place)
        assert contents(place) == before
        assert 2 <= len(result.stderr.strip().splitlines()) <= 8, result.stderr
        return str(result.stderr)

    return run


def contents(location: Path) -> dict[str, str]:
    """All keys with their digests."""
    with h5ml.open(location) as store:
        return {entry.reference: entry.digest for entry in store.entries()}


PYSCF = "--engine pyscf --basis sto-3g"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--method GFN7-xTB", 2, "GFN1-xTB"),
        ("--charge 11", 2, "the charge +11, which leaves 0 of 10 electrons"),
        ("--charge 1 --spin-multiplicity 1", 2, "multiplicity 1 with 9 electrons"),
        ("--spin-multiplicity 13", 2, "multiplicity 13 with 10 electrons"),
        ("--keywords guess=good", 2, "guess=good"),
        (f"{PYSCF} --method PBEE", 2, "did you mean PBE"),
        ("--engine pyscf --basis def2-SVPPP", 2, "did you mean def2svp"),
        (f"{PYSCF} --charge 10", 2, "the charge +10"),
        (f"{PYSCF} --keywords grid_level=99", 2, "a whole number from 0 to 9"),
        (f"{PYSCF} --dispersion d9", 2, "d3bj"),
        ("--engine orca", 2, "'potential'"),
        ("--engine aims", 2, "AIMS_SPECIES_DIR"),
        ("--engine aims --species-dir /nowhere", 2, "/nowhere"),
        ("--engine aims --species-dir . --command no-such-aims.x", 11, "no-such-aims.x"),
        ("--engine aims --species-dir . --command true", 2, "there is no 01_H_default"),
        ("--engine ase --method espresso", 2, "the setting command"),
        ("--engine ase --method emtt", 2, "did you mean emt"),
        ("--engine potential", 2, "checkpoint"),
    ],
)
def test_what_an_engine_cannot_do_is_said_on_one_screen(refused: Any, options: str, code: int, words: str) -> None:
    pytest.importorskip("pyscf" if "pyscf" in options else "tblite")
    assert words in refused("compute", "dft", "--frames", "waters", *options.split(), code=code)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("dft --frames nothing --engine tblite", 5, "no atoms"),
        ("dft --frames si --engine pyscf --method B3LYP", 2, "LDA and GGA"),
        ("training_set --labels good --labels other --E0s average", 5, "different levels of theory"),
        ("training_set --labels good", 5, "none for Cu at"),
        ("training_set --labels good --isolated-atoms copper", 5, "none for Ag at"),
        ("training_set --labels good --valid forceless --E0s average", 5, "split valid is empty"),
        ("training_set --labels lost --E0s average", 5, "6 not_converged"),
        ("training_set --labels good --baseline other --E0s average", 5, "6 no_baseline"),
        ("training_set --labels waters --E0s average", 5, "do not state their level"),
        ("evaluation --model ase:emt --labels waters", 5, "no energies"),
        ("training_set --labels hollow --E0s average", 5, "hollow@1, frame 1"),
        ("evaluation --model ase:emt --labels hollow", 5, "hollow@1, frame 1"),
        ("evaluation --model ase:emt --labels lost", 5, "6 not converged"),
        ("evaluation --model good --labels good", 5, "holds no potential"),
    ],
)
def test_what_labels_cannot_give_is_said_on_one_screen(refused: Any, command: str, code: int, words: str) -> None:
    if "pyscf" in command or "tblite" in command:
        pytest.importorskip("pyscf" if "pyscf" in command else "tblite")
    assert words in refused("compute", *command.split(), code=code)
