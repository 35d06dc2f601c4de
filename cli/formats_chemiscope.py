"""Maps of features with their structures, for chemiscope."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidData, MissingPackage, WrongKind
from .formats_write import Chosen

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from ..store.store import Store

Array = np.ndarray[Any, np.dtype[Any]]

_CUTOFF = 3.5
_COMPONENTS = 3


def write_chemiscope(chosen: Chosen, path: Path) -> None:
    """Write features as a data set of chemiscope: principal components, energies, sources and the structures.

    Records of frames and molecules are structures, each with the whole frame; records of atoms are environments of
    radius 3.5 Angstrom. Energies are left out unless all are known, since JSON has no NaN.

    Raises
    ------
    WrongKind
        If these are no features.
    InvalidData
        If they do not say which frames they belong to, or there are none.
    UnknownKey
        If the frames are gone.
    MissingPackage
        If chemiscope is not installed.
    """
    if chosen.kind.name != "features" or chosen.store is None or chosen.records is None:
        raise WrongKind(
            "Chemiscope shows maps of features.",
            key=chosen.key,
            expected="kind features",
            found=f"kind {chosen.kind.name}",
            hint="make them with `h5ml compute features`",
        )
    try:
        import chemiscope
    except ImportError as error:
        raise MissingPackage(
            "This format needs chemiscope.", found=str(error), hint='pip install "h5ml[chemiscope]"'
        ) from None
    records = chosen.dataset.isel(record=chosen.records).load()
    if not records.sizes["record"]:
        raise InvalidData("There are no features to write.", key=chosen.key, expected="at least one record")
    systems, place = _structures(chosen.store, records, chosen.key)
    of_atoms = "source_atom" in records
    atoms = records["source_atom"].to_numpy().tolist() if of_atoms else []
    data = chemiscope.create_input(
        structures=systems,
        properties=_properties(records, "atom" if of_atoms else "structure"),
        environments=[(at, atom, _CUTOFF) for at, atom in zip(place, atoms, strict=True)] if of_atoms else None,
        metadata={"name": chosen.key, "description": _description(records)},
        settings=chemiscope.quick_settings(
            x="principal component[1]",
            y="principal component[2]",
            map_color="source",
            target="atom" if of_atoms else "structure",
            periodic=any(system.pbc.any() for system in systems),
        ),
    )
    text = json.dumps(data, allow_nan=False).encode()
    path.write_bytes(gzip.compress(text, 9, mtime=0) if path.suffix.lower() == ".gz" else text)


def _structures(store: Store, records: xr.Dataset, where: str) -> tuple[list[Atoms], list[int]]:
    """The structures to show, and the structure of each record: frames of atoms are shown once."""
    from ..compute.structure.frames import iterate_atoms
    from ..store.gather import gather_frames

    if "source_atom" not in records or "source" not in records:
        return list(iterate_atoms(gather_frames(store, records, where))), []
    pairs = np.stack([records["source"].to_numpy(), records["source_frame"].to_numpy()], axis=1)
    _, first, place = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    found = gather_frames(store, records.isel(record=first), where)
    return list(iterate_atoms(found)), place.ravel().tolist()


def _properties(records: xr.Dataset, target: str) -> dict[str, Any]:
    """One entry for each quantity along the records."""
    from ..compute.features_map import principal_components

    found = principal_components(records["features"].to_numpy(), _COMPONENTS)
    shares = ", ".join(f"{100 * share:.1f} %" for share in found.explained)
    values: dict[str, tuple[Any, str, str]] = {
        "principal component": (found.points, "", f"of the standardised features; variance explained: {shares}"),
        "source": (_sources(records), "", "the key that the frame comes from"),
        "source frame": (records["source_frame"].to_numpy(), "", "number of the frame within its source"),
    }
    if "energy" in records and np.isfinite(records["energy"]).all():
        values["energy"] = (records["energy"].to_numpy(), "eV", "total energy of the frame")
    if "composition" in records:
        values["composition"] = (records["composition"].to_numpy().astype(str).tolist(), "", "formula of the frame")
    if "source_molecule" in records:
        values["molecule"] = (records["source_molecule"].to_numpy(), "", "molecule within the frame")
    return {
        name: {"target": target, "values": array, "description": text, **({"units": unit} if unit else {})}
        for name, (array, unit, text) in values.items()
    }


def _sources(records: xr.Dataset) -> list[str]:
    keys: Array = records["source_key"].to_numpy().astype(str)
    return keys[records["source"].to_numpy()].tolist()  # type: ignore[no-any-return]


def _description(records: xr.Dataset) -> str:
    return f"{records.attrs.get('descriptor', 'features')} features, made with h5ml"
