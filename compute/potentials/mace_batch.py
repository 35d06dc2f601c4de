"""The torch face of a MACE model: batches of structures, invariant descriptors, energies and forces in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from e3nn import o3  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig
from .mace_arithmetic import steady
from .mace_graphs import GraphBuilder

if TYPE_CHECKING:
    from ase import Atoms


_VOIGT = (0, 4, 8, 5, 2, 1)
"""Where xx yy zz yz xz xy stand among nine components."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What one forward pass gives.

    Attributes
    ----------
    energies : array (structures,)
        Total energies (eV).
    forces : array (atoms, 3) or None
        Forces (eV/Angstrom), of all structures end to end.
    stresses : array (structures, 6) or None
        Stresses (eV/Angstrom^3; xx yy zz yz xz xy, tension positive); NaN where a structure is not periodic in space.
    descriptors : array (atoms, features)
        Invariant descriptors of all atoms, end to end.
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None
    descriptors: NDArray[np.float64]
    stresses: NDArray[np.float64] | None = None


class LearnedModel:
    """A MACE model as a torch module, with the batches that it takes.

    Parameters
    ----------
    calculator : MACECalculator
        A calculator of one model; its module is shared, and its parameters do not ask for gradients. Whoever
        changes the weights works on a copy of ``module``.

    Raises
    ------
    InvalidConfig
        If the model does not give energies.
    """

    def __init__(self, calculator: Any) -> None:
        if calculator.model_type != "MACE":
            raise InvalidConfig(
                "This model has no energies and descriptors.",
                expected="a model of the type MACE",
                found=f"a model of the type {calculator.model_type}",
            )
        self._calculator = calculator
        self.module: torch.nn.Module = calculator.models[0]
        self.elements = frozenset(int(z) for z in calculator.z_table.zs)
        self.cutoff = float(calculator.r_max)
        self._scalars = _scalar_columns(self.module)
        heads = list(calculator.available_heads)
        self.graphs = GraphBuilder(
            self.elements,
            self.cutoff,
            dtype=getattr(torch, calculator.default_dtype),
            head=heads.index(calculator.head) if calculator.head in heads else len(heads) - 1,
        )

    @property
    def n_layers(self) -> int:
        """Number of message-passing layers, each with its descriptors."""
        return len(self._scalars)

    def batch(self, systems: Sequence[Atoms]) -> dict[str, torch.Tensor]:
        """Structures as the tensors that ``module`` takes.

        Parameters
        ----------
        systems : sequence of Atoms
            At least one; their elements must be known to the model.
        """
        frames = {
            "n_atoms": np.array([len(atoms) for atoms in systems], dtype=np.int64),
            "positions": np.concatenate([atoms.positions for atoms in systems]),
            "atomic_numbers": np.concatenate([atoms.numbers for atoms in systems]),
            "cell": np.array([atoms.cell.array for atoms in systems]),
            "pbc": np.array([atoms.pbc for atoms in systems]),
            "charge": np.array([atoms.info.get("charge", 0.0) for atoms in systems]),
            "spin_multiplicity": np.array([atoms.info.get("spin", 1.0) for atoms in systems]),
        }
        return self.graphs.batch(frames).to(self._calculator.device).to_dict()  # type: ignore[no-any-return]

    def invariants(self, node_features: torch.Tensor, n_layers: int | None = None) -> torch.Tensor:
        """The rotation invariant part of the node features of the first layers; differentiable.

        Parameters
        ----------
        node_features : tensor (atoms, ...)
            ``node_feats`` of what ``module`` returns.
        n_layers : int, optional
            How many layers; by default all.
        """
        columns = torch.cat(self._scalars[: n_layers or self.n_layers]).to(node_features.device)
        return node_features[:, columns]

    def evaluate(
        self, systems: Sequence[Atoms], *, forces: bool = True, stresses: bool = False, n_layers: int | None = None
    ) -> Evaluated:
        """Energies, descriptors and, where asked for, forces, all of one forward pass.

        Parameters
        ----------
        systems : sequence of Atoms
            The batch.
        forces : bool
            Whether forces are wanted; they take one backward pass.
        stresses : bool
            Whether stresses are wanted, in the same pass.
        n_layers : int, optional
            Layers of the descriptors; by default all.
        """
        batch = self.batch(systems)
        periodic = np.array([atoms.pbc.all() for atoms in systems])
        strained = stresses and bool(periodic.any())
        with torch.set_grad_enabled(forces or strained), steady(self._calculator.device):
            out = self.module(batch, training=False, compute_force=forces or strained, compute_stress=strained)
        found = np.full((len(systems), 6), np.nan)
        if strained:
            found[periodic] = _numpy(out["stress"]).reshape(-1, 9)[periodic][:, _VOIGT]
        return Evaluated(
            energies=_numpy(out["energy"]),
            forces=_numpy(out["forces"]) if forces else None,
            descriptors=_numpy(self.invariants(out["node_feats"].detach(), n_layers)),
            stresses=found if stresses else None,
        )


def _scalar_columns(module: Any) -> list[torch.Tensor]:
    """The columns of ``node_feats`` that are scalars, for each layer: node features stand there layer by layer."""
    found, start = [], 0
    for product in module.products:
        irreps = o3.Irreps(str(product.linear.irreps_out))
        parts = zip(irreps, irreps.slices(), strict=True)
        columns = [torch.arange(s.start, s.stop) + start for (_, irrep), s in parts if irrep.l == 0 and irrep.p == 1]
        found.append(torch.cat(columns))
        start += irreps.dim
    return found


def _numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().numpy().astype(np.float64)
