"""Random corruptions of a small store: every command ends in a result or one clear message, in time."""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import h5ml

from .conftest import make_structures, make_trajectory

LIMIT_S = 20
ZYGOTE = """
import json, os, sys
import h5py, numpy, xarray, click.testing  # what every command loads, once
from h5ml.cli import change, formats_write, frames, history, keys, provenance, show, transfer
from h5ml.cli.main import cli
from h5ml.store import audit_child, hdf5, opening, store, transfer as _, maintenance

for line in sys.stdin:
    arguments, out = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(out + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 99
        try:
            cli.main(arguments, prog_name="h5ml", obj={"guarded": True})
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
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


class Program:
    """The program in processes of its own, each forked from one that has loaded all libraries.

    Otherwise it is what a user starts: the guard forks again, and a crash hits the grandchild.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def __call__(self, *arguments: Any) -> tuple[int, str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = self._folder / f"out{self._process.pid}"
        self._process.stdin.write(json.dumps([[str(a) for a in arguments], str(out)]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, out.read_text(errors="replace"), Path(f"{out}.err").read_text(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def check(seed: int, good: bytes, folder: Path, program: Program) -> tuple[str | None, list[int]]:
    """Corrupt the store and look at it; returns what went wrong, and the exit codes."""
    rng = random.Random(seed)
    data = bytearray(good)
    way = rng.choice(WAYS)
    way(data, rng)
    path = folder / f"fuzz{seed}.h5"
    path.write_bytes(data)
    look = ("show", "md/trajectory") if seed % 2 else ("export", "md/trajectory", folder / f"{seed}.csv")
    codes = []
    try:
        for command in (("ls",), look, ("audit",)):
            name = f"seed {seed} ({way.__name__}): h5ml {command[0]}"
            began = time.monotonic()
            code, out, err = program("--timeout", LIMIT_S, *command, "--store", path)
            codes.append(code)
            if code not in DOCUMENTED or time.monotonic() - began > 3 * LIMIT_S:
                return f"{name} ended with {code}: {err[:800]}", codes
            if "Traceback" in out + err or (code and not (out + err).strip()):
                return f"{name} said: {(out + err)[:800]!r}", codes
            if code > 1 and not 1 <= len(err.strip().splitlines()) <= 8:
                return f"{name} said: {err[:800]!r}", codes
    finally:
        for file in (*folder.glob(f"fuzz{seed}.h5*"), folder / f"{seed}.csv"):
            file.unlink(missing_ok=True)
    return None, codes


def campaign(seeds: range, good: bytes, folder: Path) -> tuple[list[str], Counter[int]]:
    """Check all seeds on two cores; what went wrong, and how often each exit code came."""
    programs: queue.SimpleQueue[Program] = queue.SimpleQueue()
    for _ in range(2):
        programs.put(Program(folder))

    def one(seed: int) -> tuple[str | None, list[int]]:
        program = programs.get()
        try:
            return check(seed, good, folder, program)
        finally:
            programs.put(program)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, seeds))
    while not programs.empty():
        programs.get().close()
    return [text for text, _ in results if text], Counter(code for _, codes in results for code in codes)


def test_a_sample_of_corruptions(good: bytes, tmp_path: Path) -> None:
    wrong, codes = campaign(range(20), good, tmp_path)
    assert wrong == []
    assert codes[7] > 0


@pytest.mark.long
def test_a_thousand_corruptions(good: bytes, tmp_path: Path) -> None:
    wrong, codes = campaign(range(100, 1100), good, tmp_path)
    sys.stdout.write(f"exit codes: {dict(sorted(codes.items()))}\n")
    assert wrong == []
