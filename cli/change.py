"""Commands that change keys: ``init``, ``mv``, ``tag``, ``note``, ``rm``, ``purge``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import KEY, command, find_location, open_at, say, store_option
from .output import counted


@command("init", "Make a new, empty store.")
@click.argument("path", required=False)
@store_option
def init(path: str | None, location: str | None) -> None:
    """Make a new, empty store at PATH: FILE.h5, FOLDER.icechunk or s3://bucket/prefix."""
    from ..schemas.errors import InvalidConfig
    from ..store.opening import engine_for
    from ..store.store import Store

    engine = engine_for(find_location(path or location))
    folder = Path(engine.location).parent
    if "://" not in engine.location and not folder.is_dir():
        raise InvalidConfig(
            "There is no such folder.", key=engine.location, expected=folder, hint=f"make it first: mkdir -p {folder}"
        )
    store = Store.make(engine)
    for text in store.engine.warnings():
        click.echo(f"warning: {text}", err=True)
    say(f"{store.location}: a new, empty store ({store.engine.kind})")


@command("mv", "Rename a key, or all keys below a path.")
@click.argument("source", type=KEY)
@click.argument("target")
@store_option
def mv(source: str, target: str, location: str | None) -> None:
    """Rename the key SOURCE, or every key below the path SOURCE. Lineage is kept, and the old name still resolves."""
    from ..schemas.errors import KeyTaken

    store = open_at(location)
    try:
        with store.transaction(f"move {source} to {target}") as transaction:
            transaction.move(source, target)
    except KeyTaken as error:
        hint = "take another name, or move that one away first"
        raise KeyTaken(error.message, key=error.key, found=error.found, hint=hint) from None
    say(f"{source} is now {target.strip('/')}")


@command("tag", "Put a tag on a key, or take it off.")
@click.argument("key", type=KEY)
@click.argument("tags", nargs=-1, required=True)
@click.option("--remove", "-r", is_flag=True, help="Take the tags off.")
@store_option
def tag(key: str, tags: tuple[str, ...], remove: bool, location: str | None) -> None:
    """Put TAGS on KEY (or KEY@VERSION), or take them off."""
    store = open_at(location)
    with store.transaction(f"{'untag' if remove else 'tag'} {key}") as transaction:
        for text in tags:
            transaction.tag(key, text, remove=remove)
    entry = store.entry(key)
    say(f"{entry.reference}: {', '.join(entry.tags) or 'no tags'}")


@command("note", "Write a note on a key.")
@click.argument("key", type=KEY)
@click.argument("text")
@click.option("--author", help="Who says so; by default the user's name.")
@store_option
def note(key: str, text: str, author: str | None, location: str | None) -> None:
    """Write the note TEXT on KEY (or KEY@VERSION); `h5ml show KEY` shows all notes."""
    from ..schemas.errors import InvalidConfig

    if not text.strip():
        raise InvalidConfig("The note is empty.", key=key, expected="a text", found=repr(text))
    store = open_at(location)
    with store.transaction(f"note on {key}") as transaction:
        transaction.note(key, text, author)
    say(f"{store.entry(key).reference}: {counted(len(store.entry(key).notes), 'note')}")


@command("rm", "Remove a key, or one version of it.")
@click.argument("keys", nargs=-1, required=True, type=KEY)
@click.option("--recursive", "-r", is_flag=True, help="All keys below each path.")
@store_option
def rm(keys: tuple[str, ...], recursive: bool, location: str | None) -> None:
    """Remove KEYS with all their versions (KEY) or one version (KEY@2).

    The log remembers them, but their data are gone for good with the next `h5ml compact`. To save space and keep
    the lineage, use `h5ml purge`.
    """
    store = open_at(location)
    chosen: list[str] = []
    for key in keys:
        below = store.keys(key) if recursive and key.strip("/") else []
        chosen += below or [key]
    for key in chosen:
        store.entry(key)
    with store.transaction(f"remove {', '.join(keys)}") as transaction:
        for key in dict.fromkeys(chosen):
            transaction.remove(key)
    say(f"removed {', '.join(dict.fromkeys(chosen))}; `h5ml compact` gives back the space")


@command("purge", "Drop the data of a key and keep its lineage and digests.")
@click.argument("keys", nargs=-1, required=True, type=KEY)
@click.option("--force", is_flag=True, help="Also data that no run made, and that h5ml cannot bring back.")
@store_option
def purge(keys: tuple[str, ...], force: bool, location: str | None) -> None:
    """Drop the data of KEYS and keep their lineage and digests; `h5ml replay KEY` computes them again."""
    from ..schemas.errors import InvalidConfig

    store = open_at(location)
    entries = [store.entry(key) for key in keys]
    lost = [entry.reference for entry in entries if entry.run is None]
    if lost and not force:
        raise InvalidConfig(
            "Imported data cannot be computed again.",
            key=", ".join(lost),
            expected="keys that a run made",
            hint="keep them, or add --force where you have the file that they came from",
        )
    with store.transaction(f"purge {', '.join(keys)}") as transaction:
        for entry in entries:
            transaction.purge(entry.reference)
    say(f"purged {', '.join(e.reference for e in entries)}; `h5ml compact` gives back the space")
