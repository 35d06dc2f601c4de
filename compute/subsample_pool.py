"""Features of several keys as one pool of records that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData

if TYPE_CHECKING:
    import xarray as xr

_NEEDED = ("source", "source_frame", "source_key", "source_digest")
_MEANING = ("descriptor", "descriptor_settings", "level", "model")


@dataclass(frozen=True, slots=True)
class Records:
    """Records of all features, end to end.

    Attributes
    ----------
    vectors : array (records, features)
        What distances are taken in.
    source, source_frame : array (records,) of int
        The frames they belong to.
    source_key, source_digest : list of str
        What ``source`` indexes.
    frame : array (records,) of int
        Number of the frame of each record: equal for records of one frame, in the order of their occurrence.
    composition : array (records,) of text or None
        Formulas; None unless all features have them.
    """

    vectors: NDArray[Any]
    source: NDArray[np.int64]
    source_frame: NDArray[np.int64]
    source_key: list[str]
    source_digest: list[str]
    frame: NDArray[np.int64]
    composition: NDArray[Any] | None

    @property
    def n_frames(self) -> int:
        """How many different frames there are."""
        return int(self.frame.max(initial=-1)) + 1


def pooled(datasets: Sequence[xr.Dataset], names: Sequence[str], *, on: str) -> Records:
    """Join features of several keys.

    Parameters
    ----------
    datasets : sequence of xarray.Dataset
        Of the kind ``features``.
    names : sequence of str
        What they are called, for messages.
    on : {"features", "energies"}
        Whether the vectors are the features, or energies per atom (eV).

    Raises
    ------
    InvalidData
        If the features cannot be compared, do not say which frames they belong to, or hold NaN.
    """
    for dataset, name in zip(datasets, names, strict=True):
        _check_one(dataset, name)
        _check_alike(datasets[0], dataset, names[0], name, features=on == "features")
    vectors = [
        _energies(dataset, name) if on == "energies" else dataset["features"].to_numpy()
        for dataset, name in zip(datasets, names, strict=True)
    ]
    for values, name in zip(vectors, names, strict=True):
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values).all(axis=1)))
            raise InvalidData(
                f"A record has no {'energy' if on == 'energies' else 'finite features'}.",
                key=name,
                expected="finite numbers",
                found=f"record {bad}",
                hint="make the features with evaluate = true" if on == "energies" else None,
            )
    sources: dict[tuple[str, str], int] = {}
    source = np.concatenate([_renumbered(dataset, sources) for dataset in datasets])
    source_frame = np.concatenate([dataset["source_frame"].to_numpy() for dataset in datasets])
    has_formulas = all("composition" in dataset for dataset in datasets)
    return Records(
        vectors=np.concatenate(vectors),
        source=source,
        source_frame=source_frame,
        source_key=[key for key, _ in sources],
        source_digest=[digest for _, digest in sources],
        frame=frames_of(source, source_frame),
        composition=np.concatenate([d["composition"].to_numpy() for d in datasets]) if has_formulas else None,
    )


def frames_of(source: NDArray[np.int64], source_frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the different frames in the order of their occurrence."""
    pairs = np.stack([source, source_frame], axis=1)
    _, first, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def _check_one(dataset: xr.Dataset, name: str) -> None:
    missing = [variable for variable in _NEEDED if variable not in dataset]
    if missing:
        raise InvalidData(
            "These features do not say which frames they belong to.",
            key=name,
            expected=", ".join(_NEEDED),
            found=f"no {', '.join(missing)}",
            hint="make them with `h5ml compute features`",
        )


def _check_alike(first: xr.Dataset, other: xr.Dataset, first_name: str, name: str, *, features: bool) -> None:
    if features and first.sizes["feature"] != other.sizes["feature"]:
        raise InvalidData(
            "Features of different length cannot be compared.",
            key=name,
            expected=f"{first.sizes['feature']} features, as in {first_name}",
            found=f"{other.sizes['feature']} features",
            hint="compute them with the same model, or with the same elements of SOAP",
        )
    for attribute in _MEANING if features else ("level", "energy_from", "model"):
        expected, found = first.attrs.get(attribute), other.attrs.get(attribute)
        if str(expected) != str(found):
            raise InvalidData(
                f"{'Features' if features else 'Energies'} of different origin cannot be compared.",
                key=name,
                expected=f"{attribute} = {expected}, as in {first_name}",
                found=f"{attribute} = {found}",
                hint="compute them in one run over all frames",
            )


def _energies(dataset: xr.Dataset, name: str) -> NDArray[Any]:
    """Energy per atom of each record (records, 1), so that frames of different size can be compared."""
    from ase.formula import Formula

    missing = [variable for variable in ("energy", "composition") if variable not in dataset]
    if missing:
        raise InvalidData(
            "These features come without energies.",
            key=name,
            expected="energy, composition",
            found=f"no {', '.join(missing)}",
            hint="make them with a model and evaluate = true",
        )
    formulas, inverse = np.unique(dataset["composition"].to_numpy().astype(str), return_inverse=True)
    n_atoms = np.array([len(Formula(formula)) for formula in formulas], dtype=np.int64)
    per_atom: NDArray[Any] = dataset["energy"].to_numpy() / n_atoms[inverse]
    return per_atom[:, None]


def _renumbered(dataset: xr.Dataset, sources: dict[tuple[str, str], int]) -> NDArray[np.int64]:
    """Source numbers of one dataset in a table that all share."""
    tables = (dataset[name].to_numpy() for name in ("source_key", "source_digest"))
    places = [sources.setdefault((str(k), str(d)), len(sources)) for k, d in zip(*tables, strict=True)]
    numbers: NDArray[np.int64] = np.array(places, dtype=np.int64)[dataset["source"].to_numpy()]
    return numbers
