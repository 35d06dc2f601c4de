"""The quasi-harmonic approximation: the module ``quasi_harmonic``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.kinds import OBSERVABLES, STRUCTURES, TABLE
from ..schemas.kinds_lattice import FORCE_CONSTANTS, PHONONS, THERMODYNAMICS
from .module import POTENTIAL, AnyNumber, Call, Context, Handle, InputRef, Module, One, Output, Request, Wait, Writes
from .quasi_harmonic_config import QuasiHarmonic

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .quasi_harmonic_molecules import FormulaUnit, Gas
    from .quasi_harmonic_thermodynamics import Row
    from .quasi_harmonic_volumes import Sample

Steps = Generator[Request, Any, Any]

_RATIO_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Crystal:
    """A crystal whose relaxation was asked for: what is known of it, and its structure as an input of other calls."""

    sample: Sample
    structure: Output | None = None


def quasi_harmonic(
    config: QuasiHarmonic, inputs: Mapping[str, Any], context: Context
) -> Generator[Request, Any, dict[str, xr.Dataset]]:
    """Compute thermodynamic functions of a crystal, and of its sublimation where molecules are given.

    Parameters
    ----------
    config : QuasiHarmonic
        Settings.
    inputs : mapping
        ``crystal``: structures; ``model``: a Potential; ``molecule``: any number of structures of free molecules.
    context : Context
        For warnings.

    Yields
    ------
    Call, Wait, Map
        Relaxations at ``structures/LABEL`` and phonons at ``phonons/LABEL``, each a run of its own; molecules.

    Raises
    ------
    ComputeFailed
        If the crystal cannot be relaxed, or its phonons not be computed. Any other crystal that fails is left out, and
        the reason is kept.
    InvalidConfig
        If the molecules are not those of the crystal.
    InvalidData
        If the crystal is none, or two atoms lie on each other.
    """
    from .quasi_harmonic_thermodynamics import completed, fits_table, fixed_volume_rows, thermodynamics_table
    from .quasi_harmonic_volumes import sampled_table

    study = _Study(config, inputs, context)
    reference = yield from study.relaxed_input()
    crystals = yield from study.begin_samples()
    reference = yield from study.reference_phonons(reference)
    gases = yield from study.gas_phase()
    samples = yield from study.samples(crystals, reference)
    attributes = study.attributes(reference)
    fixed = completed(fixed_volume_rows(reference, config))
    made = {"thermodynamics_fixed_volume": thermodynamics_table(fixed, attributes, expansion=False)}
    rows: Sequence[Row] = fixed
    if config.thermal_expansion:
        fits, rows = yield from study.equilibrium(samples, reference)
        rows = completed(rows)
        made["eos_sampled"] = sampled_table(samples, config, reference)
        made["eos_fits"] = fits_table(fits)
        made["thermodynamics_equilibrium_volume"] = thermodynamics_table(rows, attributes, expansion=True)
    study.warn(samples, rows)
    return {**made, **study.gas_tables(gases, rows, reference.n_atoms)}


class _Study:
    """The steps of one run, each a generator of requests."""

    def __init__(self, config: QuasiHarmonic, inputs: Mapping[str, Any], context: Context) -> None:
        from .lattice.displacements import check_crystal
        from .quasi_harmonic_molecules import formula_unit, given_molecules
        from .structure.frames import atoms_of

        self.config, self.potential, self.context = config, inputs["model"], context
        crystal = atoms_of(inputs["crystal"], config.structure_index)
        check_crystal(crystal)
        self.molecules: list[Atoms] = given_molecules(inputs.get("molecule") or [], config)
        self.unit: FormulaUnit | None = formula_unit(crystal, self.molecules) if self.molecules else None
        self.matrix: list[list[int]] = []
        self.start: Output | None = None

    # --- the relaxed crystal -----------------------------------------------------------------------------------------

    def relaxed_input(self) -> Generator[Request, Any, Sample]:
        """Relax the input crystal; fix the supercell of all phonons."""
        from .quasi_harmonic_volumes import Sample
        from .structure.frames import atoms_of

        config, label = self.config, self.config.reference_label
        settings = {
            **self._relaxation(),
            "cell_relaxation": config.relax_input_cell,
            "structure_index": config.structure_index,
        }
        handle = yield Call(
            "relax", settings, {"crystal": InputRef("crystal"), "model": InputRef("model")}, f"structures/{label}"
        )
        [done] = yield Wait([handle])
        self.start = done.outputs["structure"]
        structure = self.start.load()
        sample = Sample(label, 1.0).relaxed(structure)
        if not sample.usable:
            raise ComputeFailed(
                "The crystal could not be relaxed.",
                key=f"structures/{label}",
                expected=f"forces below {config.max_force_on_atom_eV_A:g} eV/Angstrom",
                found=sample.reason,
                hint="set a larger max_n_steps, or look at the path of the relaxation beside it",
            )
        self.matrix = config.supercell_of(atoms_of(structure, None)).tolist()
        return sample

    def reference_phonons(self, reference: Sample) -> Generator[Request, Any, Sample]:
        """Phonons of the relaxed crystal; it keeps the reason where a filter holds."""
        assert self.start is not None
        handle = yield self._phonons(reference.label, self.start)
        [done] = yield Wait([handle])
        return self._with_phonons(reference, done, reference.space_group)

    # --- the sampled volumes -----------------------------------------------------------------------------------------

    def begin_samples(self) -> Generator[Request, Any, list[tuple[str, float, Handle | None]]]:
        """Ask for the relaxations of all sampled volumes at once; None stands for the relaxed crystal itself."""
        config = self.config
        begun: list[tuple[str, float, Handle | None]] = []
        if not config.thermal_expansion:
            return begun
        for label, value in zip(config.eos_labels(), config.sampled_values, strict=True):
            handle = None if config.is_reference(value) else (yield self._relax_sample(label, value))
            begun.append((label, value, handle))
        return begun

    def samples(
        self, begun: Sequence[tuple[str, float, Handle | None]], reference: Sample
    ) -> Generator[Request, Any, list[Sample]]:
        """Phonons of all sampled volumes that could be relaxed."""
        from dataclasses import replace

        from .quasi_harmonic_volumes import Sample

        crystals = []
        for label, value, handle in begun:
            if handle is None:
                crystals.append(Crystal(replace(reference, label=label, asked=value)))
            else:
                crystals.append((yield from self._relaxed(Sample(label, value), handle)))
        return (yield from self._all_phonons(crystals, reference.space_group))

    def _relaxed(self, sample: Sample, handle: Handle) -> Generator[Request, Any, Crystal]:
        """The outcome of a relaxation; a failure is a reason."""
        try:
            [done] = yield Wait([handle])
        except ComputeFailed as error:
            return Crystal(sample.failed(_said(error)))
        output = done.outputs["structure"]
        return Crystal(sample.relaxed(output.load()), output)

    def _all_phonons(self, crystals: Sequence[Crystal], group: str) -> Generator[Request, Any, list[Sample]]:
        """Ask for the phonons of all crystals that can have them, then wait for each."""
        handles: list[Handle | None] = []
        for crystal in crystals:
            wanted = crystal.structure is not None and crystal.sample.usable
            handles.append((yield self._phonons(crystal.sample.label, crystal.structure)) if wanted else None)
        samples = []
        for crystal, handle in zip(crystals, handles, strict=True):
            sample = crystal.sample
            if handle is not None:
                try:
                    [done] = yield Wait([handle])
                    sample = self._with_phonons(sample, done, group)
                except ComputeFailed as error:
                    sample = sample.failed(_said(error))
            samples.append(sample)
        return samples

    # --- equilibrium -------------------------------------------------------------------------------------------------

    def equilibrium(
        self, samples: Sequence[Sample], reference: Sample
    ) -> Generator[Request, Any, tuple[list[Row], list[Row]]]:
        """Fits of all states, and their rows, with cells and phonons at their volumes where these are wanted."""
        from .quasi_harmonic_thermodynamics import Surface, fitted_rows, with_phonons
        from .quasi_harmonic_volumes import Sample

        config = self.config
        rows = fitted_rows(Surface(samples, config))
        if not config.phonons_at_equilibrium:
            return rows, rows
        begun: list[Handle | None] = []
        for label, row in zip(config.equilibrium_labels(), rows, strict=True):
            ratio = 0.0 if row.reason else row.values["volume"] / reference.volume
            begun.append(None if row.reason else (yield self._relax_to(label, round(ratio, _RATIO_DIGITS))))
        crystals = []
        for label, handle in zip(config.equilibrium_labels(), begun, strict=True):
            if handle is None:
                crystals.append(Crystal(Sample(label, 0.0)))
            else:
                crystals.append((yield from self._relaxed(Sample(label, 0.0), handle)))
        found = yield from self._all_phonons(crystals, reference.space_group)
        done = [row if row.reason else with_phonons(row, sample) for row, sample in zip(rows, found, strict=True)]
        return rows, done

    # --- calls -------------------------------------------------------------------------------------------------------

    def _relaxation(self) -> dict[str, Any]:
        config = self.config
        names = ("max_force_on_atom_eV_A", "max_n_steps", "keep_symmetry", "symprec_loose_A", "symprec_strict_A")
        return {name: getattr(config, name) for name in names}

    def _relax_sample(self, label: str, value: float) -> Call:
        if self.config.eos_sampling == "pressure":
            return self._relax_from_start(label, {"cell_relaxation": "full", "pressure_GPa": value})
        return self._relax_to(label, value)

    def _relax_to(self, label: str, ratio: float) -> Call:
        mode = "only_atoms" if self.config.eos_sampling == "uniform_scaling" else "constant_volume"
        return self._relax_from_start(label, {"cell_relaxation": mode, "volume_ratio": ratio})

    def _relax_from_start(self, label: str, settings: Mapping[str, Any]) -> Call:
        inputs = {"crystal": self.start, "model": InputRef("model")}
        return Call("relax", {**self._relaxation(), "transform": "none", **settings}, inputs, f"structures/{label}")

    def _phonons(self, label: str, structure: Output | None) -> Call:
        config = self.config
        settings = {
            "supercell_matrix": self.matrix,
            "supercell_displacement": config.supercell_displacement,
            "fourier_interpolation_mesh": config.fourier_interpolation_mesh,
            "imaginary_mode_threshold": config.imaginary_mode_threshold,
            "symprec": config.symprec_strict_A,
            "primitive_cell": "input",
        }
        return Call("phonons", settings, {"crystal": structure, "model": InputRef("model")}, f"phonons/{label}")

    def _with_phonons(self, sample: Sample, done: Handle, group: str) -> Sample:
        mesh, path = done.outputs["mesh"].load(), done.outputs["brillouin_zone_path"].load()
        return sample.with_phonons(mesh, path, self.config, group)

    # --- molecules and the end ---------------------------------------------------------------------------------------

    def gas_phase(self) -> Generator[Request, Any, list[Gas]]:
        """All molecules in vacuum."""
        from .quasi_harmonic_molecules import gas_phase

        gases = []
        for index, atoms in enumerate(self.molecules):
            gases.append((yield from gas_phase(index, atoms, self.potential, self.config)))
        return gases

    def gas_tables(self, gases: Sequence[Gas], rows: Sequence[Row], n_atoms: int) -> dict[str, xr.Dataset]:
        """Molecules and sublimation."""
        from .quasi_harmonic_molecules import molecules_table, structures_of, sublimation_table

        return {
            "molecules": molecules_table(gases, self.config),
            "molecule_structures": structures_of(gases),
            "sublimation": sublimation_table(rows, gases, self.unit, n_atoms),
        }

    def attributes(self, reference: Sample) -> dict[str, Any]:
        """Of all tables of the crystal."""
        found: dict[str, Any] = {
            "space_group": reference.space_group,
            "n_atoms": reference.n_atoms,
            "supercell_matrix": [n for row in self.matrix for n in row],
            "energies_are_per": "cell of the relaxed crystal",
        }
        if self.unit is not None:
            found["formula_units_per_cell"] = reference.n_atoms // self.unit.n_atoms
        return found

    def warn(self, samples: Sequence[Sample], rows: Sequence[Row]) -> None:
        """Say what is left out."""
        for sample in samples:
            if not sample.usable:
                self.context.logger.warning("%s is left out: %s", sample.label, sample.reason)
        failed = [row for row in rows if row.reason]
        if failed:
            first = failed[0]
            self.context.logger.warning(
                "%d of %d states have no values; at %g K and %g GPa: %s",
                len(failed),
                len(rows),
                first.temperature,
                first.pressure,
                first.reason,
            )


def _said(error: ComputeFailed) -> str:
    return error.message if error.found is None else f"{error.message} ({error.found})".replace("\n", " ")


def _outputs(config: QuasiHarmonic) -> Writes:
    expansion = {
        "eos_sampled": TABLE,
        "eos_fits": TABLE,
        "thermodynamics_equilibrium_volume": THERMODYNAMICS,
    }
    return {
        "thermodynamics_fixed_volume": THERMODYNAMICS,
        **(expansion if config.thermal_expansion else {}),
        "molecules": THERMODYNAMICS,
        "molecule_structures": STRUCTURES,
        "sublimation": THERMODYNAMICS,
    }


def _calls(config: QuasiHarmonic) -> Writes:
    """What the relaxations and phonons will write."""
    found = {}
    for label in config.computed_labels():
        found[f"structures/{label}/structure"] = STRUCTURES
        found[f"structures/{label}/path"] = OBSERVABLES
        found[f"phonons/{label}/force_constants"] = FORCE_CONSTANTS
        found[f"phonons/{label}/brillouin_zone_path"] = PHONONS
        found[f"phonons/{label}/mesh"] = PHONONS
        found[f"phonons/{label}/density_of_states"] = TABLE
        found[f"phonons/{label}/thermodynamics"] = THERMODYNAMICS
        found[f"phonons/{label}/displaced_cells"] = STRUCTURES
    return found


MODULE = Module(
    name="quasi_harmonic",
    version="1",
    config=QuasiHarmonic,
    reads={"crystal": One(STRUCTURES), "model": One(POTENTIAL), "molecule": AnyNumber(STRUCTURES)},
    writes=_outputs,
    function=quasi_harmonic,
    calls=_calls,
)
