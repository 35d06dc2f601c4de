"""Random corruptions of a small store: every command ends in a result or one clear message, in time."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import h5ml

from .conftest import make_structures, make_trajectory, real

LIMIT_S = 20
DOCUMENTED = {0, 1, 3, 5, 6, 7, 124}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small store with two kinds, an append, an old version, a tag and a text variable."""
    path = tmp_path_factory.mktemp("fuzz") / "good.h5"
    with h5ml.open(path, make=True) as store:
        store.write("crystals/pair", make_structures(), "structures")
        store.write("crystals/pair", make_structures(), "structures", new_version=True)
        store.write("md/trajectory", make_trajectory(6), "trajectory")
        store.append("md/trajectory", make_trajectory(6))
        with store.transaction("tag") as transaction:
            transaction.tag("md/trajectory", "good")
    return path.read_bytes()


def flipped(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)


def flipped_at_the_start(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(4096)] = rng.randrange(256)


def blanked(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.choice((16, 512, 4096))
    data[start : start + length] = bytes([rng.choice((0, 255))]) * len(data[start : start + length])


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def swapped(data: bytearray, rng: random.Random) -> None:
    a, b = (rng.randrange(len(data) - 512) for _ in range(2))
    data[a : a + 512], data[b : b + 512] = data[b : b + 512], data[a : a + 512]


def numbers_changed(data: bytearray, rng: random.Random) -> None:
    """Change lengths and addresses: 8-byte words become others, large or small."""
    for _ in range(rng.choice((1, 4))):
        at = 8 * rng.randrange(len(data) // 8)
        value = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, rng.randrange(len(data)), rng.getrandbits(64)))
        data[at : at + 8] = value.to_bytes(8, "little")


WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flipped,
    flipped,
    flipped_at_the_start,
    blanked,
    cut,
    swapped,
    numbers_changed,
)


def check(seed: int, good: bytes, folder: Path) -> str | None:
    """Corrupt the store and look at it; returns what went wrong."""
    rng = random.Random(seed)
    data = bytearray(good)
    way = rng.choice(WAYS)
    way(data, rng)
    path = folder / f"fuzz{seed}.h5"
    path.write_bytes(data)
    look = ("show", "md/trajectory") if seed % 2 else ("export", "md/trajectory", folder / f"{seed}.csv")
    try:
        for command in (("ls",), ("audit",), look):
            name = f"seed {seed} ({way.__name__}): h5ml {command[0]}"
            done = real("--timeout", LIMIT_S, *command, "--store", path, cwd=folder, timeout=4 * LIMIT_S)
            if done.returncode not in DOCUMENTED:
                return f"{name} ended with {done.returncode}: {done.stderr[:800]}"
            if "Traceback" in done.stderr or (done.returncode > 1 and not done.stderr.strip()):
                return f"{name} said: {done.stderr[:800]!r}"
            if done.returncode > 1 and len(done.stderr.strip().splitlines()) > 8:
                return f"{name} said too much: {done.stderr[:800]!r}"
    finally:
        for file in (*folder.glob(f"fuzz{seed}.h5*"), folder / f"{seed}.csv"):
            file.unlink(missing_ok=True)
    return None


def campaign(seeds: range, good: bytes, folder: Path) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return [text for text in pool.map(lambda seed: check(seed, good, folder), seeds) if text]


def test_a_sample_of_corruptions(good: bytes, tmp_path: Path) -> None:
    assert campaign(range(20), good, tmp_path) == []


@pytest.mark.long
def test_a_thousand_corruptions(good: bytes, tmp_path: Path) -> None:
    assert campaign(range(100, 1100), good, tmp_path) == []
