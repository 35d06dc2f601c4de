"""The commands ``import`` and ``export``."""

from __future__ import annotations

import re
from pathlib import Path

import click

from .common import KEY, command, json_option, kind_of, open_at, say, store_option
from .output import formula_text, print_json, sizes_text

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
TARGET = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def _remark(text: str) -> None:
    click.echo(f"note: {text}", err=True)


@command("import", "Bring a file into the store.")
@click.argument("file", type=FILE)
@click.argument("key", required=False)
@click.option("--kind", help="What it is; by default structures, or what a netCDF file says.")
@click.option("--format", "name", metavar="NAME", help="ASE's name of the format, where the file's name does not tell.")
@click.option("--index", default=":", help="Which structures of the file, as in ASE (-1, 0:10, ...).  [default: all]")
@click.option("--new-version", is_flag=True, help="Where the key exists, add a version and keep the old one.")
@json_option
@store_option
def import_(
    file: Path,
    key: str | None,
    kind: str | None,
    name: str | None,
    index: str,
    new_version: bool,
    as_json: bool,
    location: str | None,
) -> None:
    """Bring FILE into the store at KEY (by default the file's name).

    CIF, POSCAR, extxyz, ASE databases and whatever else ASE reads become structures, with their energies, forces
    and stresses. A netCDF file of one of h5ml's kinds comes back as it was exported. The name and the BLAKE3 digest
    of the file are kept as the origin of the data.
    """
    from ..schemas.key import Key
    from .formats_read import file_origin, read_file

    store = open_at(location)
    target = Key(key or re.sub(r"[^\w\-+.,:=()\[\] ]", "_", file.stem).lstrip("."))
    dataset = read_file(file, kind, tell=_remark, name=name, index=index)
    with store.transaction(f"import {file.name}") as transaction:
        transaction.write(target, dataset, kind or _kind_of(dataset), new_version=new_version, origin=file_origin(file))
    entry = store.entry(target)
    if as_json:
        print_json({"key": entry.key, "version": entry.version, "kind": entry.kind, "digest": entry.digest})
        return
    what = ", ".join(text for text in (formula_text(entry.facts), sizes_text(entry.sizes)) if text)
    say(f"{entry.reference}: {entry.kind} ({what}) from {file}, in {store.location}")


def _kind_of(dataset: object) -> str:
    return str(getattr(dataset, "attrs", {}).get("kind", "structures"))


@command("export", "Write a key to a file of another format.")
@click.argument("key", required=False, type=KEY)
@click.argument("file", required=False, type=TARGET)
@click.option("--frames", metavar="SLICE", help="Which frames, as START:STOP:STEP, or one number.")
@click.option("--include-equilibration", is_flag=True, help="Also the frames that are marked as equilibration.")
@click.option("--format", "name", metavar="NAME", help="ASE's name of another format (vasp, traj, ...).")
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

    Frames of the equilibration are left out unless asked for.
    """  # noqa: D301
    if prov is None and crate is None and (key is None or file is None):
        raise click.UsageError("Give KEY and FILE, or --prov FILE, or --crate FOLDER.")
    store = open_at(location)
    if prov is not None or crate is not None:
        from .provenance import export_provenance

        export_provenance(store, key, prov, crate, force=force)
    if key is None or file is None:
        return
    from .formats_write import Chosen, write_file
    from .frames import chosen_frames

    entry = store.entry(key)
    kind, dataset = kind_of(entry), store.dataset(entry.reference)
    records, left_out = chosen_frames(dataset, kind, frames, equilibration=include_equilibration, key=entry.reference)
    chosen = Chosen(entry.reference, kind, dataset, records)
    write_file(chosen, file, name=name, force=force)
    counted = f"{chosen.count} of {entry.records} {kind.grows[0]}s" if records is not None else "all"
    remark = f" ({left_out} of equilibration left out)" if left_out else ""
    say(f"{file}: {counted} of {entry.reference}{remark}")
