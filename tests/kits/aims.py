"""A stand-in for FHI-aims: an executable that reads its input and writes its output, with numbers from tblite."""

from __future__ import annotations

import sys
from pathlib import Path

from ase.data import atomic_numbers

_SPECIES = """\
################################################################################
  species        {symbol}
    nucleus             {number}
    mass                1.0
    l_hartree           4
    cut_pot             3.5  1.5  1.0
    basis_dep_cutoff    1e-4
    radial_base         24 5.0
    valence      1  s   1.
    ion_occ      1  s   0.5
#  "First tier" - improvements: -1014.90 meV to -62.69 meV
     hydro 2 s 2.1
#     hydro 2 p 3.5
#  "Second tier" - improvements: -12.89 meV to -1.83 meV
#     hydro 1 s 0.85
#     hydro 2 p 3.7
"""

_PROGRAM = '''\
#!{python}
"""Writes what FHI-aims writes."""
import pathlib, subprocess, sys, time

MODE = {mode!r}
print("          Invoking FHI-aims ...")
print("  FHI-aims version      : 240920")
if not pathlib.Path("control.in").exists():
    print("* Error: cannot open control.in")
    sys.exit(1)
control = {{line.split()[0]: line.split()[1:] for line in open("control.in") if line.split() and line[0] != "#"}}
print("  Reading file control.in.", flush=True)
if MODE == "crash":
    print("*** Error: all is lost", file=sys.stderr)
    sys.exit(3)
if MODE == "hang":
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path({pids!r}).write_text(f"{{child.pid}}")
    time.sleep(600)
converges = MODE in ("converged", "dies", "stalls") or (MODE == "helped" and "charge_mix_param" in control)
import warnings
warnings.simplefilter("ignore")
import ase.io
from ase.units import Bohr, GPa
atoms = ase.io.read("geometry.in", format="aims")
numbers = dict(energy=-1.0, n_iter=5)
if converges:
    from tblite.ase import TBLite
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0, charge=float(control.get("charge", [0])[0]),
                        multiplicity=int(control.get("fixed_spin_moment", [0])[0]) + 1)
    if "use_pimd_wrapper" in control:
        from ase.calculators.socketio import SocketClient
        host, port = control["use_pimd_wrapper"]
        client = SocketClient(unixsocket=host.removeprefix("UNIX:"))
        if MODE == "dies":
            client.calculate = lambda *_: sys.exit("aims was killed")
        if MODE == "stalls":
            client.calculate = lambda *_: time.sleep(600)
        client.run(atoms, use_stress=bool(atoms.pbc.all()))
        print("  Begin self-consistency loop: Initialization.\\n  Self-consistency cycle converged.")
        print("          Have a nice day.")
        sys.exit(0)
    numbers["energy"] = atoms.get_potential_energy()
print(f"  | Number of atoms                   : {{len(atoms):8d}}")
print("  | Number of spin channels           :        1")
print("  | Number of Kohn-Sham states (occupied + empty):       11")
print("  The structure contains        {{}} atoms,  and a total of         10.000 electrons.".format(len(atoms)))
if atoms.pbc.any():
    print("  | Unit cell:")
    for v in atoms.cell:
        print("  |    " + " ".join(f"{{x:16.8f}}" for x in v))
print("  Atomic structure:\\n  |       Atom                x [A]            y [A]            z [A]")
for i, atom in enumerate(atoms, 1):
    print(f"  |{{i:5d}}: Species {{atom.symbol:12s}}" + " ".join(f"{{x:16.8f}}" for x in atom.position))
print("  Begin self-consistency loop: Initialization.")
for n in range(1, numbers["n_iter"] + 1):
    print(f"\\n  Begin self-consistency iteration #{{n:5d}}\\n")
    ev = numbers["energy"]
    print(f"  | Electronic free energy          :  {{ev / 27.2113845:18.8f}} Ha {{ev:22.8f}} eV")
if not converges:
    print("  Self-consistency cycle not yet converged - restarting mixer to attempt better convergence.")
    print("*** scf_solver: SCF cycle not converged.")
else:
    print("  Self-consistency cycle converged.\\n")
    if "compute_forces" in control:
        print("  Energy and forces in a compact form:")
    e = numbers["energy"]
    for name in ("Total energy uncorrected     ", "Total energy corrected       ", "Electronic free energy       "):
        print(f"  | {{name}} : {{e:28.15E}} eV")
    if "compute_forces" in control:
        print("  Total atomic forces (unitary forces were cleaned, then relaxation constraints were applied) [eV/Ang]:")
        for i, f in enumerate(atoms.get_forces(), 1):
            print(f"  |{{i:5d}} " + " ".join(f"{{x:28.15E}}" for x in f))
    if "compute_analytical_stress" in control:
        xx, yy, zz, yz, xz, xy = atoms.get_stress()
        print("  +-------------------------------------------------------------------+")
        print("  |              Analytical stress tensor - Symmetrized               |")
        print("  |                  Cartesian components [eV/A**3]                   |")
        print("  +-------------------------------------------------------------------+")
        print("  |                x                y                z                |")
        print("  |                                                                   |")
        for axis, row in zip("xyz", ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))):
            print(f"  |  {{axis}}   " + " ".join(f"{{x:16.8f}}" for x in row) + "             |")
    if "dipole" in control.get("output", []):
        moment = " ".join(f"{{x:30.15E}}" for x in atoms.get_dipole_moment())
        print(f"  | Total dipole moment [eAng]           :  {{moment}}")
    print(f"  | Number of self-consistency cycles          :   {{numbers['n_iter']:9d}}")
print("\\n          Have a nice day.\\n" + "-" * 60)
'''


def write_aims(folder: Path, mode: str = "converged") -> Path:
    """Write the program; ``mode`` is converged, helped (by charge_mix_param), unconverged, crash or hang.

    At the socket, ``dies`` and ``stalls`` do so once they have received the positions.
    The process that a hanging program started is named in the file ``pid`` beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"aims-{mode}.x"
    program.write_text(_PROGRAM.format(python=sys.executable, mode=mode, pids=str(folder / "pid")))
    program.chmod(0o755)
    return program


def write_species(folder: Path, symbols: str = "H O C N Si") -> Path:
    """Write species defaults of some elements, as far as ASE reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for symbol in symbols.split():
        number = atomic_numbers[symbol]
        (folder / f"{number:02}_{symbol}_default").write_text(_SPECIES.format(symbol=symbol, number=number))
    return folder
