"""The kinds that h5ml knows; other packages add theirs through the entry-point group ``h5ml.kinds``."""

from __future__ import annotations

import functools
import warnings
from importlib.metadata import entry_points
from types import MappingProxyType

from .errors import WrongKind, nearest
from .kind import Kind, Variable
from .kinds_lattice import FORCE_CONSTANTS, PHONONS, THERMODYNAMICS
from .kinds_molecular import CLUSTER_VARIABLES, MOLECULAR_VARIABLES
from .kinds_training import CHECKPOINT, EVALUATION, LABELS, TRAINING_SET

FRAME, ATOM, XYZ, CELL, VOIGT = "frame", "atom", "xyz", "cell_vector", "voigt"
V = Variable

STRUCTURES = Kind(
    "structures",
    "Atomic structures of any sizes, end to end.",
    (
        V("n_atoms", (FRAME,), dtype="int", description="Number of atoms of each structure."),
        V("positions", (ATOM, XYZ), "Angstrom", description="Cartesian positions."),
        V("atomic_numbers", (ATOM,), dtype="int", description="Atomic numbers."),
        V(
            "cell",
            (FRAME, CELL, XYZ),
            "Angstrom",
            description="Cell vectors as rows; zero where not periodic.",
        ),
        V(
            "pbc",
            (FRAME, CELL),
            dtype="flag",
            flags={0: "open", 1: "periodic"},
            description="Periodicity along each cell vector.",
        ),
        V(
            "masses",
            (ATOM,),
            "amu",
            required=False,
            description="Masses, where they are not the standard ones.",
        ),
        V("velocities", (ATOM, XYZ), "Angstrom/fs", required=False, description="Velocities."),
        V(
            "energy",
            (FRAME,),
            "eV",
            required=False,
            finite=False,
            description="Total energy; NaN where unknown.",
        ),
        V(
            "forces",
            (ATOM, XYZ),
            "eV/Angstrom",
            required=False,
            finite=False,
            description="Forces; NaN where unknown.",
        ),
        V(
            "stress",
            (FRAME, VOIGT),
            "eV/Angstrom^3",
            required=False,
            finite=False,
            description="Stress, xx yy zz yz xz xy, positive = tension.",
        ),
        V("charge", (FRAME,), "e", required=False, description="Total charge."),
        V("spin_multiplicity", (FRAME,), dtype="int", required=False, description="2S + 1."),
        V("label", (FRAME,), dtype="text", required=False, description="A name for each structure."),
    ),
    grows=(FRAME, ATOM),
    open=True,
)

TRAJECTORY = Kind(
    "trajectory",
    "Frames of one system along time, all of the same atoms.",
    (
        V(
            "positions",
            (FRAME, ATOM, XYZ),
            "Angstrom",
            description="Cartesian positions, not wrapped into the cell.",
        ),
        V("velocities", (FRAME, ATOM, XYZ), "Angstrom/fs", description="Velocities."),
        V("forces", (FRAME, ATOM, XYZ), "eV/Angstrom", description="Forces."),
        V("energy", (FRAME,), "eV", description="Potential energy of the whole system."),
        V("kinetic_energy", (FRAME,), "eV", description="Kinetic energy of the whole system."),
        V("temperature", (FRAME,), "K", description="Kinetic temperature over the free degrees of freedom."),
        V(
            "pressure",
            (FRAME,),
            "GPa",
            required=False,
            description="Pressure with its kinetic part, positive = compressed.",
        ),
        V(
            "stress",
            (FRAME, VOIGT),
            "eV/Angstrom^3",
            required=False,
            description="Potential part of the stress, xx yy zz yz xz xy, positive = tension.",
        ),
        V(
            "cell",
            (FRAME, CELL, XYZ),
            "Angstrom",
            description="Cell vectors as rows; zero where not periodic.",
        ),
        V("volume", (FRAME,), "Angstrom^3", required=False, description="Volume of the cell."),
        V("time", (FRAME,), "fs", description="Time since the start."),
        V("step", (FRAME,), dtype="int", description="Number of integration steps since the start."),
        V(
            "equilibration",
            (FRAME,),
            dtype="flag",
            flags={0: "production", 1: "equilibration"},
            description="Frames before the end of the equilibration time.",
        ),
        V(
            "target_temperature",
            (FRAME,),
            "K",
            required=False,
            description="Temperature that the thermostat was set to.",
        ),
        V(
            "conserved_energy",
            (FRAME,),
            "eV",
            required=False,
            finite=False,
            description="The conserved quantity of the integrator; NaN where there is none.",
        ),
        V("atomic_numbers", (ATOM,), dtype="int", description="Atomic numbers."),
        V("masses", (ATOM,), "amu", description="Masses."),
        V(
            "pbc",
            (CELL,),
            dtype="flag",
            flags={0: "open", 1: "periodic"},
            description="Periodicity along each cell vector.",
        ),
    ),
    grows=(FRAME,),
)

MOLECULAR_CRYSTAL = Kind(
    "molecular_crystal",
    "The molecules of a periodic cell: which atoms form each and where it lies.",
    MOLECULAR_VARIABLES,
    open=True,
)

CLUSTERS = Kind(
    "clusters",
    "Finite clusters cut from periodic frames, end to end, each with its source frame.",
    (*STRUCTURES.variables, *CLUSTER_VARIABLES),
    grows=(FRAME, ATOM),
    open=True,
)

FEATURES = Kind(
    "features",
    "Descriptor vectors of frames, molecules or atoms.",
    (
        V("features", ("record", "feature"), "1", description="Feature vectors."),
        V("source_frame", ("record",), dtype="int", description="Frame within the source."),
        V("source", ("record",), dtype="int", required=False, description="Index into source_key."),
        V("source_key", ("source_index",), dtype="text", required=False, description="KEY@VERSION of each source."),
        V("source_digest", ("source_index",), dtype="text", required=False, description="Digest of each source."),
        V(
            "source_molecule",
            ("record",),
            dtype="int",
            required=False,
            description="Molecule within the frame, where a record is a molecule.",
        ),
        V(
            "source_atom",
            ("record",),
            dtype="int",
            required=False,
            description="Atom within the frame, where a record is an atom.",
        ),
        V(
            "composition",
            ("record",),
            dtype="text",
            required=False,
            description="Formula of the source frame, in the Hill order.",
        ),
        V("energy", ("record",), "eV", required=False, finite=False, description="Total energy of the source frame."),
    ),
    grows=("record",),
    open=True,
)

PHASES = Kind(
    "phases",
    "Phase (or basin) annotations of frames.",
    (
        V("phase", (FRAME,), dtype="int", description="Phase of each frame; -1 where unlabelled."),
        V("phase_name", ("phase_index",), dtype="text", required=False, description="Names of the phases."),
    ),
    grows=(FRAME,),
    open=True,
)

SELECTION = Kind(
    "selection",
    "References to chosen frames of other keys, in the order of their choice; wherever structures are asked for, it "
    "stands for these frames.",
    (
        V("source", ("record",), dtype="int", description="Index into source_key."),
        V("source_frame", ("record",), dtype="int", description="Frame within the source."),
        V("source_key", ("source_index",), dtype="text", description="KEY@VERSION of each source."),
        V("source_digest", ("source_index",), dtype="text", description="Digest of each source."),
        V(
            "distance",
            ("record",),
            "1",
            required=False,
            finite=False,
            description="Distance in feature space to those chosen before, when it was chosen; NaN for the first.",
        ),
        V(
            "feature_record",
            ("record",),
            dtype="int",
            required=False,
            description="The record for which it was chosen, counted through all features that were read.",
        ),
        V(
            "composition",
            ("record",),
            dtype="text",
            required=False,
            description="Formula of the chosen frame, in the Hill order.",
        ),
    ),
    grows=("record",),
    open=True,
)

OBSERVABLES = Kind("observables", "Measured quantities along a record dimension.", grows=("record",), open=True)
TABLE = Kind("table", "Named columns along rows.", grows=("row",), open=True)

BUILT_IN = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            STRUCTURES,
            TRAJECTORY,
            FORCE_CONSTANTS,
            PHONONS,
            THERMODYNAMICS,
            MOLECULAR_CRYSTAL,
            CLUSTERS,
            FEATURES,
            LABELS,
            PHASES,
            SELECTION,
            CHECKPOINT,
            TRAINING_SET,
            EVALUATION,
            OBSERVABLES,
            TABLE,
        )
    }
)


@functools.cache
def kinds() -> MappingProxyType[str, Kind]:
    """All kinds by name: the built-in ones and those of installed plug-ins.

    A plug-in that cannot be loaded warns and is left out.
    """
    known = dict(BUILT_IN)
    for point in entry_points(group="h5ml.kinds"):
        try:
            kind = point.load()
            if not isinstance(kind, Kind):
                raise TypeError(f"expected a Kind, found {type(kind).__name__}")
        except Exception as error:  # noqa: BLE001 - a foreign plug-in may fail in any way
            warnings.warn(f"the kind plug-in {point.name!r} could not be loaded: {error}", stacklevel=2)
        else:
            known.setdefault(kind.name, kind)
    return MappingProxyType(known)


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises
    ------
    WrongKind
        If there is none; the message names the nearest.
    """
    known = kinds()
    if name not in known:
        raise WrongKind(
            "There is no such kind.", expected=", ".join(sorted(known)), found=name, hint=nearest(name, known)
        )
    return known[name]
