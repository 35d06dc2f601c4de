"""What follows from force constants: bands, meshes, densities of states, thermal displacements, imaginary modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schemas.kinds import TABLE
from ...schemas.kinds_lattice import PHONONS
from .harmonic import mean_square_amplitude

if TYPE_CHECKING:
    import xarray as xr
    from phonopy import Phonopy

Floats = NDArray[np.float64]

_EIGENVECTOR_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Imaginary:
    """The modes below a threshold among those of some q-points.

    Attributes
    ----------
    count, acoustic, optical : int
        How many, and how many of either kind.
    per_point : array (q,) of int
        How many at each q-point.
    lowest : float
        Lowest frequency of all (THz).
    lowest_q : tuple of float
        Where it is, in reduced coordinates.
    lowest_acoustic, lowest_optical : float
        Lowest frequency of either kind (THz); infinite where a crystal has no optical modes.
    """

    count: int
    acoustic: int
    optical: int
    per_point: NDArray[np.int64]
    lowest: float
    lowest_q: tuple[float, float, float]
    lowest_acoustic: float
    lowest_optical: float

    def attributes(self) -> dict[str, Any]:
        """As attributes of a dataset; without the lowest optical frequency where there is none."""
        found: dict[str, Any] = {
            "n_imaginary": self.count,
            "n_imaginary_acoustic": self.acoustic,
            "n_imaginary_optical": self.optical,
            "lowest_frequency_THz": self.lowest,
            "lowest_frequency_q_point": list(self.lowest_q),
            "lowest_acoustic_frequency_THz": self.lowest_acoustic,
        }
        if np.isfinite(self.lowest_optical):
            found["lowest_optical_frequency_THz"] = self.lowest_optical
        return found


def imaginary_modes(phonon: Phonopy, q_point: ArrayLike, frequency_THz: ArrayLike, threshold_THz: float) -> Imaginary:
    """Count the modes below a threshold, acoustic and optical ones apart.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    q_point : array (q, 3)
        Reduced coordinates.
    frequency_THz : array (q, mode)
        Frequencies there (THz), ascending; negative means imaginary.
    threshold_THz : float
        Modes below it count.
    """
    q, nu = np.asarray(q_point, dtype=float), np.asarray(frequency_THz, dtype=float)
    below = nu < threshold_THz
    acoustic = _acoustic(phonon, q, below)
    where = np.unravel_index(int(np.argmin(nu)), nu.shape)
    a, b, c = (float(x) for x in q[where[0]])
    return Imaginary(
        count=int(np.count_nonzero(below)),
        acoustic=int(np.count_nonzero(below & acoustic)),
        optical=int(np.count_nonzero(below & ~acoustic)),
        per_point=below.sum(axis=1),
        lowest=float(nu[where]),
        lowest_q=(a, b, c),
        lowest_acoustic=float(nu[acoustic].min()),
        lowest_optical=float(nu[~acoustic].min(initial=np.inf)),
    )


def _acoustic(phonon: Phonopy, q: Floats, below: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which modes (q, mode) are acoustic: three at each point.

    Where none is imaginary they are the three lowest. An imaginary optical mode would be among these too, so that at
    its q-point the three are taken whose eigenvectors have the largest share in moving the cell as a whole.
    """
    acoustic = np.zeros(below.shape, dtype=np.bool_)
    acoustic[:, :3] = True
    unsure = np.flatnonzero(below.any(axis=1))
    if below.shape[1] == 3:
        return acoustic
    masses = np.asarray(phonon.primitive.masses)
    for rows in _in_portions(unsure, len(masses)):
        # The phases of the atoms are those of q itself, so that a translation is uniform near Gamma alone.
        phonon.run_qpoints(q[rows] - np.rint(q[rows]), with_eigenvectors=True)
        result: Any = phonon.qpoints
        vectors = np.asarray(result.eigenvectors).reshape(len(rows), len(masses), 3, -1)
        whole = np.einsum("k,qkxj->qxj", np.sqrt(masses / masses.sum()), vectors)
        share = np.sum(np.abs(whole) ** 2, axis=1)
        acoustic[rows] = False
        acoustic[rows[:, None], np.argsort(-share, axis=1, kind="stable")[:, :3]] = True
    return acoustic


def mesh_dataset(phonon: Phonopy, length: float, threshold_THz: float) -> xr.Dataset:
    """Frequencies on the irreducible points of a mesh centred at Gamma; the mesh stays in the phonopy object.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    length : float
        The mesh has ``max(1, round(length |b_i|))`` points along the reciprocal vector ``b_i``, without the factor
        2 pi in ``b_i`` (Angstrom). Where such a mesh breaks the symmetry, phonopy takes a generalised one.
    threshold_THz : float
        Modes below it are counted as imaginary in ``n_imaginary``.

    Returns
    -------
    xarray.Dataset
        Of the kind ``phonons``; the weights add up to one.
    """
    import warnings

    from phonopy.phonon.mesh import MeshGRGridFallbackWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MeshGRGridFallbackWarning)  # said by the attribute mesh_numbers
        mesh = phonon.run_mesh(length)
    frequency = np.asarray(mesh.frequencies)
    found = imaginary_modes(phonon, mesh.qpoints, frequency, threshold_THz)
    values = {
        "q_point": mesh.qpoints,
        "weight": mesh.weights / mesh.weights.sum(),
        "frequency": frequency,
        "n_imaginary": (("q",), found.per_point.astype(np.int64), {"units": "1"}),
    }
    attributes = {
        "mesh_length_A": float(length),
        "mesh_numbers": [int(n) for n in mesh.mesh_numbers],
        "imaginary_mode_threshold_THz": float(threshold_THz),
        **found.attributes(),
    }
    return PHONONS.dataset(values, attributes)


def path_dataset(phonon: Phonopy, points: int, threshold_THz: float, symprec: float = 1e-5) -> xr.Dataset:
    """Frequencies along the path through the Brillouin zone that seekpath proposes.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    points : int
        On the longest segment; the others have about the same spacing.
    threshold_THz : float
        Modes below it count as imaginary.
    symprec : float
        Tolerance of the symmetry search (Angstrom).

    Returns
    -------
    xarray.Dataset
        Of the kind ``phonons``, with ``distance`` along the path, ``label`` of special points and the number of the
        ``segment``. Both ends of a segment are given, so that a special point may stand twice.

    Notes
    -----
    Path of Y. Hinuma et al., Comput. Mater. Sci. 128, 140 (2017), in the reciprocal vectors of the primitive cell as
    it is: phonopy's own path function takes it to be the standardised one. With Born charges the limit at Gamma is
    taken along each segment.
    """
    import warnings

    import seekpath

    primitive = phonon.primitive
    with warnings.catch_warnings():
        # A cell that is not primitive gets the path of the primitive one, and a lattice at the edge of its class one of
        # two equal paths: neither asks anything of the user. The third is spglib's advice to developers.
        warnings.simplefilter("ignore", seekpath.SupercellWarning)
        warnings.simplefilter("ignore", seekpath.EdgeCaseWarning)
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        found = seekpath.get_path_orig_cell(primitive.totuple(), symprec=symprec)
    ends = [(np.array(found["point_coords"][a]), np.array(found["point_coords"][b])) for a, b in found["path"]]
    reciprocal = np.linalg.inv(primitive.cell).T
    lengths = np.array([np.linalg.norm((b - a) @ reciprocal) for a, b in ends])
    counts = np.maximum(2, np.rint(lengths / lengths.max() * (points - 1)).astype(int) + 1)
    paths = [np.linspace(a, b, n) for (a, b), n in zip(ends, counts, strict=True)]
    bands = phonon.run_band_structure(paths)
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    distance = np.concatenate(
        [start + np.linspace(0.0, *pair) for start, *pair in zip(starts, lengths, counts, strict=True)]
    )
    labels = np.full(int(counts.sum()), "", dtype=object)
    last = np.cumsum(counts) - 1
    for (a, b), first, end in zip(found["path"], last - counts + 1, last, strict=True):
        labels[first], labels[end] = _name(a), _name(b)
    q_point = np.concatenate(paths)
    frequency = np.concatenate(list(bands.frequencies))
    values = {
        "q_point": q_point,
        "frequency": frequency,
        "distance": (("q",), distance, {"units": "1/Angstrom"}),
        "label": labels,
        "segment": (("q",), np.repeat(np.arange(len(counts)), counts), {"units": "1"}),
    }
    imaginary = imaginary_modes(phonon, q_point, frequency, threshold_THz)
    return PHONONS.dataset(values, {"imaginary_mode_threshold_THz": float(threshold_THz), **imaginary.attributes()})


def _name(label: str) -> str:
    return "Gamma" if label == "GAMMA" else label


def density_dataset(phonon: Phonopy, pitch_THz: float | None, smearing_THz: float | None) -> xr.Dataset:
    """The density of states of the mesh that the phonopy object holds.

    Returns
    -------
    xarray.Dataset
        A table of frequency (THz) and density of states (1/THz) of a primitive cell, whose integral is 3 per atom;
        by linear tetrahedra, or Gaussians of a given width.
    """
    found = phonon.run_total_dos(sigma=smearing_THz, freq_pitch=pitch_THz, use_tetrahedron_method=smearing_THz is None)
    return TABLE.dataset(
        {
            "frequency": (("row",), np.array(found.frequency_points, dtype=float), {"units": "THz"}),
            "density_of_states": (("row",), np.array(found.dos, dtype=float), {"units": "1/THz"}),
        },
        {"method": "tetrahedra" if smearing_THz is None else "gaussian"},
    )


def thermal_displacements(
    phonon: Phonopy, mesh: xr.Dataset, temperature_K: ArrayLike, *, cutoff_THz: float = 1e-3
) -> Floats:
    """Mean square displacement tensors of the primitive cell's atoms: anisotropic displacement parameters.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    mesh : xarray.Dataset
        Its irreducible q-points and weights.
    temperature_K : array (T,)
        Temperatures (K).
    cutoff_THz : float
        Only modes above it count.

    Returns
    -------
    array (T, atom, 3, 3)
        Cartesian tensors ``<u_a u_b>`` (Angstrom^2).

    Notes
    -----
    ``U_k = 1/N sum_(q,j) E_qj / (m_k omega_qj^2) Re e_k e_k^+`` (B. T. M. Willis and A. W. Pryor, *Thermal Vibrations
    in Crystallography*, 1975). The sum runs over irreducible points; averaging the tensors over the operations of the
    space group gives the sum over all points.
    """
    T = np.atleast_1d(np.asarray(temperature_K, dtype=float))
    masses, n = np.asarray(phonon.primitive.masses), len(phonon.primitive)
    tensors = np.zeros((len(T), n, 3, 3))
    points, weights = mesh["q_point"].to_numpy(), mesh["weight"].to_numpy()
    for rows in _in_portions(np.arange(len(points)), n):
        q, weight = points[rows], weights[rows]
        phonon.run_qpoints(q, with_eigenvectors=True)
        result: Any = phonon.qpoints
        nu = np.asarray(result.frequencies)
        keep = nu > max(cutoff_THz, 0.0)
        vectors = np.asarray(result.eigenvectors).reshape(len(q), n, 3, 3 * n)
        for t, one in enumerate(T):
            square = np.zeros(nu.shape)
            square[keep] = mean_square_amplitude(nu[keep], one, 1.0)
            scaled = vectors * (weight[:, None] * square)[:, None, None, :]
            tensors[t] += np.einsum("qkaj,qkbj->kab", scaled, vectors.conj(), optimize=True).real
    tensors /= masses[None, :, None, None]
    return _symmetrized(phonon, tensors)


def _in_portions(rows: NDArray[np.intp], n_atoms: int) -> Iterator[NDArray[np.intp]]:
    """Numbers of q-points in portions whose eigenvectors fit into memory."""
    step = max(1, _EIGENVECTOR_BYTES // (16 * (3 * n_atoms) ** 2))
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


def _symmetrized(phonon: Phonopy, tensors: Floats) -> Floats:
    """Average over the space group: an operation takes the tensor of an atom to the atom that it moves it to."""
    symmetry, lattice = phonon.primitive_symmetry, phonon.primitive.cell.T
    rotations = symmetry.symmetry_operations["rotations"]
    found = np.zeros_like(tensors)
    for rotation, moved in zip(rotations, symmetry.atomic_permutations, strict=True):
        turn = lattice @ rotation @ np.linalg.inv(lattice)
        found[:, moved] += np.einsum("ax,tkxy,by->tkab", turn, tensors, turn)
    return found / len(rotations)
