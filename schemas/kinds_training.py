"""The kinds of labels, training sets, models and their errors."""

from __future__ import annotations

from .kind import Kind, Variable

FRAME, ATOM, XYZ, CELL, VOIGT = "frame", "atom", "xyz", "cell_vector", "voigt"
V = Variable

LABELS = Kind(
    "labels",
    "Structures with energies, forces and stresses by one level of theory.",
    (
        V("n_atoms", (FRAME,), dtype="int", description="Number of atoms of each frame."),
        V("positions", (ATOM, XYZ), "Angstrom", description="Cartesian positions."),
        V("atomic_numbers", (ATOM,), dtype="int", description="Atomic numbers."),
        V("cell", (FRAME, CELL, XYZ), "Angstrom", description="Cell vectors as rows; zero where not periodic."),
        V(
            "pbc",
            (FRAME, CELL),
            dtype="flag",
            flags={0: "open", 1: "periodic"},
            description="Periodicity along each cell vector.",
        ),
        V("masses", (ATOM,), "amu", required=False, description="Masses, where they are not the standard ones."),
        V("charge", (FRAME,), "e", required=False, description="Total charge that was computed with."),
        V("spin_multiplicity", (FRAME,), dtype="int", required=False, description="2S + 1 that was computed with."),
        V("label", (FRAME,), dtype="text", required=False, description="A name for each frame."),
        V(
            "energy",
            (FRAME,),
            "eV",
            finite=False,
            description="Total energy; NaN where the calculation failed.",
        ),
        V("forces", (ATOM, XYZ), "eV/Angstrom", required=False, finite=False, description="Forces."),
        V(
            "stress",
            (FRAME, VOIGT),
            "eV/Angstrom^3",
            required=False,
            finite=False,
            description="Stress, xx yy zz yz xz xy, positive = tension; NaN where not periodic.",
        ),
        V(
            "dipole",
            (FRAME, XYZ),
            "e*Angstrom",
            required=False,
            finite=False,
            description="Dipole moment; NaN where periodic.",
        ),
        V("charges", (ATOM,), "e", required=False, finite=False, description="Charges of the atoms."),
        V(
            "converged",
            (FRAME,),
            dtype="flag",
            flags={0: "not_converged", 1: "converged"},
            description="Whether the self-consistent field converged.",
        ),
        V(
            "status",
            (FRAME,),
            dtype="flag",
            flags={0: "done", 1: "undefined", 2: "scf_failed", 3: "failed", 4: "absurd"},
            description="How the calculation ended; only done labels are trained on unless others are asked for.",
        ),
        V(
            "iterations",
            (FRAME,),
            dtype="int",
            required=False,
            description="Cycles of the self-consistent field; -1 where the engine does not say.",
        ),
        V(
            "attempt",
            (FRAME,),
            dtype="int",
            required=False,
            description="0: the settings as given; n: with the n-th fallback; -1: imported.",
        ),
        V(
            "identity",
            (FRAME,),
            dtype="text",
            required=False,
            description="Digest of structure, charge, spin and level of theory: the same request has the same.",
        ),
        V("source", (FRAME,), dtype="int", required=False, description="Index into source_key."),
        V("source_frame", (FRAME,), dtype="int", required=False, description="Frame within the source."),
        V("source_key", ("source_index",), dtype="text", required=False, description="KEY@VERSION of each source."),
        V("source_digest", ("source_index",), dtype="text", required=False, description="Digest of each source."),
        V(
            "message",
            (FRAME,),
            dtype="text",
            required=False,
            volatile=True,
            description="End of the output where the calculation failed.",
        ),
        V(
            "reused_from",
            (FRAME,),
            dtype="text",
            required=False,
            volatile=True,
            description="KEY@VERSION and frame of the same label, where it was not computed again.",
        ),
        V(
            "wall_time",
            (FRAME,),
            "s",
            required=False,
            finite=False,
            volatile=True,
            description="Time that it took.",
        ),
    ),
    version=2,
    grows=(FRAME, ATOM),
    open=True,
)

TRAINING_SET = Kind(
    "training_set",
    "References to labelled frames of other keys, with splits and weights; a module that reads it is given the frames.",
    (
        V("source", ("record",), dtype="int", description="Index into source_key."),
        V("source_frame", ("record",), dtype="int", description="Frame within the source."),
        V(
            "split",
            ("record",),
            dtype="flag",
            flags={0: "train", 1: "valid", 2: "test"},
            description="Which set the record belongs to.",
        ),
        V("weight", ("record",), "1", required=False, description="Weight of the frame in the loss."),
        V(
            "group",
            ("record",),
            dtype="int",
            required=False,
            description="Frames of equal number were kept in one split: a trajectory, a block of its time, a formula.",
        ),
        V(
            "baseline",
            ("record",),
            dtype="int",
            required=False,
            description="Index into source_key: the labels that are subtracted from those of the source.",
        ),
        V("baseline_frame", ("record",), dtype="int", required=False, description="Frame within the baseline."),
        V("composition", ("record",), dtype="text", required=False, description="Formula, in the Hill order."),
        V("source_key", ("source_index",), dtype="text", description="KEY@VERSION of each source."),
        V("source_digest", ("source_index",), dtype="text", required=False, description="Digest of each source."),
    ),
    version=2,
    grows=("record",),
    open=True,
)

CHECKPOINT = Kind(
    "checkpoint", "A model: its tensors as variables, and the JSON description that rebuilds it.", open=True
)

GROUP = "group"

EVALUATION = Kind(
    "evaluation",
    "Errors of a model against labels: in all and by group, with what a parity plot draws.",
    (
        V(
            "group_type",
            (GROUP,),
            dtype="text",
            required=False,
            description="all, split, source, composition, element.",
        ),
        V("group_name", (GROUP,), dtype="text", required=False, description="Which one."),
        V("n_frames", (GROUP,), dtype="int", required=False, description="Frames that count."),
        V("n_atoms", (GROUP,), dtype="int", required=False, description="Atoms whose forces count."),
        *(
            V(
                f"{quantity}_{measure}",
                (GROUP,),
                unit,
                required=False,
                finite=False,
                description=f"{words} of {what}; NaN where there is none.",
            )
            for quantity, unit, what in (
                ("energy", "eV", "the energy per atom"),
                ("force", "eV/Angstrom", "the components of the forces"),
                ("stress", "eV/Angstrom^3", "the components of the stress"),
            )
            for measure, words in (("mae", "Mean absolute error"), ("rmse", "Root mean square error"))
        ),
    ),
    version=2,
    open=True,
)
