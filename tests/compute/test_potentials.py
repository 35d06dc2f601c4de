"""Potentials by name: what they are, what they refuse, and that a cold engine repeats itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.neighborlist import neighbor_list
from blake3 import blake3

from h5ml.compute.potentials import ENGINES, parse_spec, resolve_potential
from h5ml.schemas.canonical import canonical_json
from h5ml.schemas.errors import ComputeFailed, InvalidConfig, InvalidData, MissingPackage, UnknownKey
from h5ml.tests.kits.mace import save_tiny_mace

SPECS = ["tblite:GFN1-xTB", "ase:emt", "ase:lj?sigma=3.4&epsilon=0.0104&rc=8.0&smooth=true", "harmonic:springs?k=0.5"]
UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def strained(cubic: bool = False) -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.2, cubic=cubic)
    rng = np.random.default_rng(0)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, (len(atoms), 3))
    return atoms


@pytest.mark.parametrize("spec", SPECS)
def test_what_every_potential_offers(spec):
    potential = resolve_potential(spec)
    facts = potential.fingerprint()
    assert list(facts) == ["engine", "version", "method", "dtype", "weights", "parameters", "threads"]
    assert facts["engine"] == spec.partition(":")[0]
    assert facts["version"]
    assert canonical_json(facts) == canonical_json(resolve_potential(spec).fingerprint())
    facts["engine"] = "changed"
    assert potential.fingerprint()["engine"] != "changed"
    assert potential.spec == spec
    first = potential.calculator()
    assert potential.calculator() is first
    second = potential.fresh()
    assert second is not first
    assert potential.calculator() is second
    other = pickle.loads(pickle.dumps(potential))
    assert other.fingerprint() == potential.fingerprint()
    assert type(other.calculator()).__name__ == type(second).__name__


def test_options_are_typed():
    engine, request = parse_spec("ase:lj?sigma=3.4&smooth=true&rc=none&name=x&n=2")
    assert engine == "ase"
    assert request.options == {"sigma": 3.4, "smooth": True, "rc": None, "name": "x", "n": 2}


def test_parameters_are_part_of_the_fingerprint():
    one, two = (resolve_potential(f"ase:lj?sigma={s}").fingerprint() for s in (3.4, 3.5))
    assert one != two


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("lj", InvalidConfig, "engine:method"),
        ("ase:", InvalidConfig, "engine:method"),
        ("ase:lj?sigma", InvalidConfig, "engine:method"),
        ("tblte:GFN1-xTB", InvalidConfig, "did you mean tblite?"),
        ("tblite:GFN1", InvalidConfig, "GFN1-xTB"),
        ("tblite:GFN1-xTB?acuracy=1", InvalidConfig, "did you mean accuracy?"),
        ("tblite:GFN1-xTB?threads=0", InvalidConfig, "at least 1"),
        ("ase:emd", InvalidConfig, "emt"),
        ("ase:../os", InvalidConfig, "no calculator of that name"),
        ("ase:lj?sgma=1", InvalidConfig, "did you mean sigma?"),
        ("ase:gpaw", MissingPackage, "pip install gpaw"),
        ("harmonic:einstein", InvalidConfig, "springs"),
        ("harmonic:springs?k=-1", InvalidConfig, "at least 0"),
        ("file:/no/such.model", UnknownKey, "no such model file"),
    ],
)
def test_names_that_lead_nowhere(spec, kind, message):
    with pytest.raises(kind) as caught:
        resolve_potential(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_installed(engine, monkeypatch, tmp_path):
    from h5ml.compute.potentials import xtb

    package = {"tblite": "tblite", "file": "mace", "mace-mp": "mace", "mace-off": "mace"}.get(engine)
    if package is None:
        pytest.skip("always there")
    xtb._tblite.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "x.model").write_bytes(b"")
    method = {"file": str(tmp_path / "x.model"), "tblite": "GFN1-xTB"}.get(engine, "small")
    with pytest.raises(MissingPackage, match="pip install"):
        resolve_potential(f"{engine}:{method}", trust_pickle=True)


@pytest.mark.parametrize("cubic", [False, True])
def test_springs_are_the_derivatives_of_their_energy(cubic):
    atoms = strained(cubic)
    atoms.calc = resolve_potential("harmonic:springs?k=0.7&r0=3.5&rc=6.1").calculator()
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-6), atol=1e-8)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_springs_see_all_images(pbc):
    atoms = strained()
    atoms.pbc = pbc
    atoms.positions += 40.0 * np.arange(len(atoms) * 3).reshape(-1, 3) * np.asarray(atoms.pbc)  # far from the cell
    atoms.calc = resolve_potential("harmonic:springs?k=0.7&r0=3.5&rc=9.3").calculator()
    wrapped = atoms.copy()
    distance = neighbor_list("d", wrapped, 9.3)
    expected = 0.25 * 0.7 * np.sum((distance - 3.5) ** 2 - (9.3 - 3.5) ** 2)
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-8)


def test_tblite_repeats_its_bits_cold_but_not_warm():
    potential = resolve_potential("tblite:GFN1-xTB")
    water = molecule("H2O")
    forces = []
    for _ in range(2):
        atoms = water.copy()
        atoms.calc = potential.fresh()
        forces.append(atoms.get_forces())
    np.testing.assert_array_equal(forces[0], forces[1])
    atoms.positions[0, 2] += 0.1
    atoms.get_forces()
    atoms.positions[0, 2] -= 0.1
    warm = atoms.get_forces()
    assert not np.array_equal(warm, forces[0])
    np.testing.assert_allclose(warm, forces[0], atol=1e-3)


def test_tblite_keeps_to_its_threads_in_any_process_and_thread(monkeypatch):
    from threadpoolctl import ThreadpoolController, threadpool_limits

    potential = resolve_potential("tblite:GFN1-xTB")
    seen: list[int] = []
    base = type(potential.calculator()).__mro__[1]
    original = base.calculate

    def spy(self, *args, **kwargs):
        seen.extend(pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "openmp")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(base, "calculate", spy)

    def compute() -> None:
        atoms = molecule("H2O")
        atoms.calc = potential.fresh()
        atoms.get_forces()

    with threadpool_limits(limits=2, user_api="openmp"):
        compute()
        worker = threading.Thread(target=compute)
        worker.start()
        worker.join()
        assert {p["num_threads"] for p in ThreadpoolController().info() if p["user_api"] == "openmp"} == {2}
    assert set(seen) == {1}
    assert potential.fingerprint()["threads"] == 1


def test_a_model_file_needs_trust(tmp_path):
    class Danger:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was_run"),))

    path = tmp_path / "bad.model"
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(InvalidConfig, match="trust"):
        resolve_potential(f"file:{path}")
    assert not (tmp_path / "was_run").exists()


@pytest.fixture(scope="module")
def tiny_mace(tmp_path_factory) -> Path:
    """A MACE model of a few random weights, saved whole as mace-torch does."""
    pytest.importorskip("mace")
    path = save_tiny_mace(tmp_path_factory.mktemp("mace") / "tiny.model", numbers=(1, 8), irreps="4x0e")
    os.environ.pop(UNSAFE, None)
    return path


def test_a_mace_model_from_a_file(tiny_mace):
    potential = resolve_potential(f"file:{tiny_mace}", trust_pickle=True)
    assert UNSAFE not in os.environ
    facts = potential.fingerprint()
    assert facts["weights"].startswith("blake3:")
    assert (facts["engine"], facts["method"], facts["dtype"]) == ("mace", "tiny.model", "float64")
    forces = []
    for _ in range(2):
        water = molecule("H2O")
        water.calc = potential.fresh()
        forces.append(water.get_forces())
        assert np.isfinite(water.get_potential_energy())
    np.testing.assert_array_equal(forces[0], forces[1])
    assert forces[0].dtype == np.float64
    np.testing.assert_allclose(forces[0], calculate_numerical_forces(water, eps=1e-4), atol=1e-5)
    assert UNSAFE not in os.environ


def test_a_setting_of_the_user_for_torch_is_kept(tiny_mace, monkeypatch):
    monkeypatch.setenv(UNSAFE, "0")
    resolve_potential(f"file:{tiny_mace}", trust_pickle=True)
    assert os.environ[UNSAFE] == "0"


def test_single_precision_is_another_potential(tiny_mace):
    facts = [
        resolve_potential(f"file:{tiny_mace}?dtype={dtype}", trust_pickle=True).fingerprint()
        for dtype in ("float32", "float64")
    ]
    assert facts[0] != facts[1]


def test_a_file_that_is_no_model(tmp_path):
    pytest.importorskip("mace")
    path = tmp_path / "x.model"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidData, match="no MACE model"):
        resolve_potential(f"file:{path}", trust_pickle=True).calculator()


def test_a_published_model_without_network(monkeypatch):
    published = pytest.importorskip("mace.calculators.foundations_models")

    def refuse(*_args):
        raise OSError("Name or service not known")

    monkeypatch.setattr(published, "download_mace_mp_checkpoint", refuse)
    for spec in ("mace-mp:small", "mace-off:small"):
        with pytest.raises(ComputeFailed, match="could not be downloaded"):
            resolve_potential(spec)
    with pytest.raises(InvalidConfig, match="did you mean"):
        resolve_potential("mace-mp:smal")


def test_a_published_model_that_was_downloaded_is_known_without_importing_mace(tmp_path, monkeypatch):
    published = pytest.importorskip("mace.calculators.foundations_models")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = published.mace_off_urls["medium"]
    monkeypatch.setattr(published, "_urlretrieve_with_timeout", lambda _, path: (Path(path).write_bytes(b"x"), ""))
    path = Path(published.download_mace_mp_checkpoint(url))
    code = (
        "import sys; from h5ml.compute.potentials import resolve_potential as r; "
        "print(r('mace-off:medium').fingerprint()['weights'], 'torch' in sys.modules, 'mace' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == ["blake3:" + blake3(path.read_bytes()).hexdigest(), "False", "False"]
