"""The finite clusters of a trajectory, cut from its frames as they are made."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import ComputeFailed
from ..schemas.kinds import CLUSTERS
from .md_config import Condition, MolecularDynamics
from .module import Context, Replace, Request
from .structure.cutting import SubsystemCutter

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from .md_system import Frame
    from .potentials import Potential
    from .structure.subsystem_config import FiniteSubsystemFilter


class FrameClusters:
    """Cuts the clusters of one trajectory; which molecules form them is decided by the simulated cell at its start.

    Parameters
    ----------
    config : MolecularDynamics
        With a ``finite_subsystem_filter``.
    condition : Condition
        The trajectory.
    reference : Atoms
        The simulated cell before anything moves.
    potential : Potential
        Gives energies and forces of the clusters, where the settings want them.
    context : Context
        What is committed.

    Raises
    ------
    ComputeFailed
        If clusters and frames that are committed do not fit together.
    """

    def __init__(
        self,
        config: MolecularDynamics,
        condition: Condition,
        reference: Atoms,
        potential: Potential,
        context: Context,
    ) -> None:
        chosen: FiniteSubsystemFilter | None = config.finite_subsystem_filter
        assert chosen is not None
        self._config, self._condition, self._context = config, condition, context
        self._potential = potential if config.cluster_forces else None
        self._reference: Atoms = reference.copy()
        self._reference.set_constraint()
        self._atoms = self._reference.copy()
        self._cutter = SubsystemCutter(chosen, self._reference)
        self._names = chosen.cluster_outputs(condition.label)
        self._crystal = next(name for name in chosen.outputs(condition.label) if name not in self._names)
        self._begun = {name for name in self._names if name in context.committed}
        self._evaluated = any(context.committed.get(name, 0) > 0 for name in self._names)
        self._found: list[Mapping[str, xr.Dataset]] = []
        self._check_committed()

    def opening(self) -> Generator[Request, Any, None]:
        """Write which atoms form which molecule, unless that is done."""
        if self._crystal not in self._context.committed:
            yield Replace({self._crystal: self._cutter.molecular_crystal()})

    def cut(self, frame: Frame, index: int) -> None:
        """Cut the clusters of a new frame, unless it is one of the equilibration that is left out."""
        if not self._config.is_cut(index):
            return
        self._atoms.set_cell(frame["cell"])
        self._atoms.set_positions(frame["positions"])
        self._found.append(self._clusters(self._atoms, index))

    def collect(self, *, last: bool) -> Mapping[str, xr.Dataset]:
        """The clusters of all frames since the last call, to be committed with them.

        Parameters
        ----------
        last : bool
            Whether the trajectory ends with them: then every output is made, be it empty.

        Returns
        -------
        mapping of str to Dataset
            Empty where all frames are equilibration.
        """
        found, self._found = self._found, []
        if not found and last and self._begun != set(self._names):
            self._context.logger.warning(
                "%s: no clusters were cut, because every frame is equilibration (time_equilibration_fs = %g)",
                self._condition.output,
                self._config.time_equilibration_fs,
            )
            nothing = {"frame": slice(0, 0), "atom": slice(0, 0)}
            found = [{name: one.isel(nothing) for name, one in self._clusters(self._reference, 0).items()}]
        made = {name: _joined([one[name] for one in found]) for name in self._names} if found else {}
        made = {name: one for name, one in made.items() if one.sizes["frame"] or name not in self._begun}
        self._begun |= set(made)
        return made

    def _clusters(self, atoms: Atoms, index: int) -> Mapping[str, xr.Dataset]:
        """The clusters of one frame; where none of them can be evaluated, that is an error at the first frame only."""
        label = self._condition.label
        try:
            found = self._cutter.cut([atoms], [index], potential=self._potential, label=label)
        except ComputeFailed as error:
            if not self._evaluated:
                raise
            self._context.logger.warning(
                "%s: the clusters of frame %d have no energies: %s", self._condition.output, index, error.message
            )
            return {name: _unknown(one) for name, one in self._cutter.cut([atoms], [index], label=label).items()}
        self._evaluated = True
        return found

    def _check_committed(self) -> None:
        committed = self._context.committed
        frames = committed.get(self._condition.output, 0)
        expected = int(np.sum([self._config.is_cut(index) for index in range(frames)]))
        for cluster, name in zip(self._cutter.settings.cluster_names, self._names, strict=True):
            if committed.get(name, 0) != (0 if cluster in self._cutter.same_as else expected):
                raise ComputeFailed(
                    "The clusters that are stored do not fit the frames they were cut from.",
                    key=name,
                    expected=f"{expected} clusters of {frames} frames",
                    found=committed.get(name, 0),
                    hint="start anew with --new-version, or take another root key",
                )


def _unknown(clusters: xr.Dataset) -> xr.Dataset:
    """Clusters with energies and forces of NaN."""
    values = {
        "energy": np.full(clusters.sizes["frame"], np.nan),
        "forces": np.full(clusters["positions"].shape, np.nan),
    }
    known = {variable.name: variable for variable in CLUSTERS.variables}
    return clusters.assign({n: (known[n].dims, value, known[n].attributes()) for n, value in values.items()})


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Ragged datasets end to end: what lies along frames or atoms is appended, the rest is the same in all."""
    import xarray as xr

    first = parts[0]
    variables = {}
    for name, variable in first.variables.items():
        grows = variable.dims[:1] in {("frame",), ("atom",)}
        values = np.concatenate([part[name].to_numpy() for part in parts]) if grows else variable.to_numpy()
        variables[name] = (variable.dims, values, variable.attrs)
    return xr.Dataset(variables, attrs=first.attrs)
