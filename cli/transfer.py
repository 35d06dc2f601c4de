"""The commands ``import`` and ``export``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import KEY, command, json_option, kind_of, open_at, say, store_option
from .output import formula_text, print_json, print_table, sizes_text

if TYPE_CHECKING:
    from ..store.store import Store

MBE = "mbe-automation"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
TARGET = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def _remark(text: str) -> None:
    click.echo(f"note: {text}", err=True)


@command("import", "Bring a file into the store.")
@click.argument("file", type=FILE)
@click.argument("key", required=False)
@click.option("--kind", help="What it is; by default structures, or what a netCDF file says.")
@click.option(
    "--format",
    "name",
    metavar="NAME",
    help="mbe-automation, or ASE's name of the format, where the file does not tell.",
)
@click.option(
    "--level", metavar="TEXT", help="With --kind labels: their level of theory, such as PBE/def2-SVP (ORCA 5)."
)
@click.option("--energy-unit", default="eV", help="With --kind labels: the unit of the energies.  [default: eV]")
@click.option("--forces-unit", default="eV/Angstrom", help="Likewise of the forces.  [default: eV/Angstrom]")
@click.option("--index", default=":", help="Which structures of the file, as in ASE (-1, 0:10, ...).  [default: all]")
@click.option("--trust-pickle", is_flag=True, help="Read a model of mace-torch, which can run any code.")
@click.option("--new-version", is_flag=True, help="Where the key exists, add a version and keep the old one.")
@json_option
@store_option
def import_(
    file: Path,
    key: str | None,
    kind: str | None,
    name: str | None,
    level: str | None,
    energy_unit: str,
    forces_unit: str,
    index: str,
    trust_pickle: bool,
    new_version: bool,
    as_json: bool,
    location: str | None,
) -> None:
    """Bring FILE into the store at KEY (by default the file's name).

    CIF, POSCAR, extxyz, ASE databases and whatever else ASE reads become structures, with their energies, forces
    and stresses. A netCDF file of one of h5ml's kinds comes back as it was exported. All of an HDF5 file of
    mbe-automation comes in, below KEY where it is given, with a report of every array and attribute; its old names
    still find the keys. The name and the BLAKE3 digest of the file are kept as the origin of the data.

    With --kind labels --level TEXT they become labels of that level of theory: extxyz with REF_energy, REF_forces and
    so on, OUTCAR, and outputs of FHI-aims, ORCA or CP2K. Energies and forces that cannot be in their units are refused.
    """
    from ..schemas.key import Key
    from .formats_read import file_origin, is_hdf5, read_file

    store = open_at(location)
    if name == MBE or (name is None and kind is None and is_hdf5(file)):
        _import_mbe(store, file, key or "", new_version=new_version, as_json=as_json)
        return
    target = Key(key or re.sub(r"[^\w\-+.,:=()\[\] ]", "_", file.stem).lstrip("."))
    if file.suffix.lower() == ".model":
        from .formats_models import read_model

        dataset = read_model(file, trust_pickle=trust_pickle)
    elif level is not None:
        from .formats_labels import Stated, read_labels

        if kind not in (None, "labels"):
            raise click.UsageError("--level goes with --kind labels.")
        stated = Stated(level, energy_unit, forces_unit)
        dataset = read_labels(file, stated, tell=_remark, name=name, index=index)
    else:
        dataset = read_file(file, kind, tell=_remark, name=name, index=index)
    with store.transaction(f"import {file.name}") as transaction:
        transaction.write(target, dataset, kind or _kind_of(dataset), new_version=new_version, origin=file_origin(file))
    entry = store.entry(target)
    if as_json:
        print_json({"key": entry.key, "version": entry.version, "kind": entry.kind, "digest": entry.digest})
        return
    what = ", ".join(text for text in (formula_text(entry.facts), sizes_text(entry.sizes)) if text)
    say(f"{entry.reference}: {entry.kind} ({what}) from {file}, in {store.location}")


def _import_mbe(store: Store, file: Path, root: str, *, new_version: bool, as_json: bool) -> None:
    """Import a file of mbe-automation, and print where everything went."""
    from dataclasses import asdict

    from .formats_mbe import import_file

    done = import_file(store, file, root, new_version=new_version)
    if as_json:
        facts = {"layout": done.layout, "keys": done.keys, "aliases": done.aliases, "report": done.report}
        print_json({**facts, "counts": done.counts(), "rows": [asdict(row) for row in done.rows]})
        return
    rows = [r for r in done.rows if r.what != "group"]
    names = [f"{r.path or '/'} @{r.attribute}" if r.attribute else r.path for r in rows]
    places = [(r.key or "left out", r.variable, r.left or r.rule) for r in rows]
    columns = ("in the file", "key", "variable", "as")
    print_table(columns, [(name, *place) for name, place in zip(names, places, strict=True)])
    counts = "; ".join(
        f"{n['found']} {what}: {n['placed']} placed, {n['left']} left out" for what, n in done.counts().items()
    )
    say(f"{file} ({MBE}, layout {done.layout}): {counts}")
    say(f"{len(done.keys)} keys, {len(done.aliases)} other names for them; this table is {done.report}")


def _kind_of(dataset: object) -> str:
    return str(getattr(dataset, "attrs", {}).get("kind", "structures"))


@command("export", "Write a key to a file of another format.")
@click.argument("key", required=False, type=KEY)
@click.argument("file", required=False, type=TARGET)
@click.option("--frames", metavar="SLICE", help="Which frames, as START:STOP:STEP, or one number.")
@click.option("--include-equilibration", is_flag=True, help="Also the frames that are marked as equilibration.")
@click.option(
    "--format", "name", metavar="NAME", help="mbe-automation, or ASE's name of another format (vasp, traj, ...)."
)
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Only this split of a training set.")
@click.option("--layout", type=click.Choice(["seed", "head"]), help="Which layout of mbe-automation.")
@click.option("--force", is_flag=True, help="Replace the file where it exists.")
@click.option("--prov", type=TARGET, help="Write the provenance of KEY (or of the whole store) as W3C PROV-JSON.")
@click.option("--crate", type=FOLDER, help="Write the store (or KEY) and its provenance as an RO-Crate folder.")
@store_option
def export(
    key: str | None,
    file: Path | None,
    frames: str | None,
    include_equilibration: bool,
    name: str | None,
    split: str | None,
    layout: str | None,
    force: bool,
    prov: Path | None,
    crate: Path | None,
    location: str | None,
) -> None:
    """Write KEY to FILE; the suffix says the format.

    \b
    .extxyz .xyz  structures with energies, forces and stresses
    .db           an ASE database
    .h5md         a trajectory for MDAnalysis, VMD, OVITO
    .cif          crystal structures
    .csv          tables and data along one dimension
    .nc           the dataset as plain netCDF-4
    .h5           a training set for MACE (.xyz: with REF_ names)
    .model .pt    a checkpoint for mace-torch, as TorchScript
    .lammps.pt .mliap.pt  a checkpoint for LAMMPS: pair styles mace and mliap unified
    .chemiscope.json.gz  a map of features with its structures, for https://chemiscope.org

    Frames of the equilibration are left out unless asked for. A selection gives the frames that it refers to.

    With --format mbe-automation, KEY may be a path above keys (/ is the whole store): what was imported from such a
    file comes back bit for bit, in its layout or in the other one.
    """  # noqa: D301
    if prov is None and crate is None and (key is None or file is None):
        raise click.UsageError("Give KEY and FILE, or --prov FILE, or --crate FOLDER.")
    store = open_at(location)
    if prov is not None or crate is not None:
        from .provenance import export_provenance

        export_provenance(store, key, prov, crate, force=force)
    if key is None or file is None:
        return
    if name == MBE:
        _export_mbe(store, key, file, layout, force=force)
        return
    if layout is not None:
        raise click.UsageError(f"--layout goes with --format {MBE}.")
    from .formats_write import Chosen, write_file
    from .frames import chosen_frames

    entry = store.entry(key)
    kind, dataset = kind_of(entry), store.dataset(entry.reference)
    if kind.name == "selection" and file.suffix.lower() not in (".nc", ".csv"):  # its frames are meant
        from ..schemas.kinds import STRUCTURES
        from ..store.gather import gather

        kind, dataset = STRUCTURES, gather(store, entry)
    records, left_out = chosen_frames(dataset, kind, frames, equilibration=include_equilibration, key=entry.reference)
    if split is not None:
        from .formats_training import records_of_split

        records = records_of_split(dataset, records, split, entry.reference)
    chosen = Chosen(entry.reference, kind, dataset, records, store)
    write_file(chosen, file, name=name, force=force)
    counted = f"{chosen.count} of {entry.records} {kind.grows[0]}s" if records is not None else "all"
    remark = f" ({left_out} of equilibration left out)" if left_out else ""
    say(f"{file}: {counted} of {entry.reference}{remark}")


def _export_mbe(store: Store, root: str, file: Path, layout: str | None, *, force: bool) -> None:
    """Write a file of mbe-automation, and say what it has no place for."""
    from .formats_mbe_write import export_file

    done = export_file(store, root, file, layout=layout, force=force)
    for key, why in done.left.items():
        _remark(f"{key} is left out: {why}")
    came = f", {done.arrays} arrays and {done.attributes} attributes as imported" if done.arrays else ""
    say(f"{file}: {len(done.keys)} keys{came}")
