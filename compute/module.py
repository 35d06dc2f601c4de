"""The contract of a compute module: what it reads, what it writes, and the requests it may make.

A module is a ``Config`` and one function ``(config, inputs, context)``. It never sees a store, a key, dask or the
command line. A short one returns its datasets; a long one is a generator that yields requests to the runner and
receives their answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..schemas.config import Config
from ..schemas.kind import Kind
from ..schemas.run import DataRef

if TYPE_CHECKING:
    import xarray as xr

Datasets = Mapping[str, "xr.Dataset"]


@dataclass(frozen=True, slots=True)
class PotentialKind:
    """What an input asks for that is a model: a stored checkpoint or ``engine:method``."""

    name: str = "potential"


POTENTIAL = PotentialKind()


class Wanted:
    """An input of one of several kinds (or a potential), and how many keys it takes.

    Parameters
    ----------
    *kinds : Kind or PotentialKind
        Any of them will do.
    """

    least: int = 1
    most: int | None = 1
    number: str = "one"

    def __init__(self, *kinds: Kind | PotentialKind) -> None:
        self.kinds = kinds

    @property
    def is_potential(self) -> bool:
        """Whether a model is asked for."""
        return any(isinstance(kind, PotentialKind) for kind in self.kinds)

    @property
    def kind_names(self) -> str:
        """The kinds as text: ``structures, trajectory or clusters``."""
        *others, last = (kind.name for kind in self.kinds)
        return f"{', '.join(others)} or {last}" if others else last

    def takes(self, kind: str) -> bool:
        """Whether data of a kind will do; selections and labels stand for structures, checkpoints for potentials."""
        names = {known.name for known in self.kinds}
        return (
            kind in names
            or (kind in ("selection", "labels") and "structures" in names)
            or (self.is_potential and kind == "checkpoint")
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind_names})"


class One(Wanted):
    """An input of exactly one key (or one potential)."""


class Optional(Wanted):
    """An input that may be left out."""

    least, number = 0, "at most one"


class Many(Wanted):
    """An input of one or more keys, given to the module as a list."""

    most, number = None, "one or more"


class AnyNumber(Wanted):
    """An input of any number of keys, given to the module as a list that may be empty."""

    least, most, number = 0, None, "any number"


Reads = Mapping[str, Wanted]
Writes = Mapping[str, Kind]


@dataclass(frozen=True, slots=True)
class Block:
    """Append datasets to outputs and commit them together with the state to restart from.

    Parameters
    ----------
    data : mapping of str to xarray.Dataset
        Output name to the new records. The first block of an output makes it.
    restart : xarray.Dataset, optional
        Everything that the module needs to go on after this block bit for bit.

    The answer is None, once the block is durable.
    """

    data: Datasets
    restart: xr.Dataset | None = None


@dataclass(frozen=True, slots=True)
class Replace:
    """Keep only the newest of an output (the best checkpoint so far). The answer is None."""

    data: Datasets
    restart: xr.Dataset | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """Apply a function to independent items, spread over the workers; each result is committed as it arrives.

    Parameters
    ----------
    function : callable
        ``function(item) -> xarray.Dataset``; a top-level function, so that workers can import it.
    items : sequence
        Plain data or datasets; each item's position is its identity within the map.
    name : str
        Distinguishes several maps of one run. Required to be the same when the module is executed again.

    The answer is a sequence of the results, in the order of the items; each is unpacked when it is looked at. After a
    kill, results that were committed are not computed again.
    """

    function: Callable[[Any], xr.Dataset]
    items: Sequence[Any]
    name: str = "map"


@dataclass(frozen=True, slots=True)
class Call:
    """Run another module as a real run at ``ROOT/name``. The answer is a ``Handle`` at once.

    Parameters
    ----------
    module : str
        Name of a registered module.
    config : Config or mapping
        Its settings.
    inputs : mapping
        Input name to ``Output`` of a finished handle, to one of this module's own inputs (an ``InputRef``), to a
        potential's ``engine:method`` text, or a list of these.
    name : str
        Where it lies below this run's root.
    seed : int
        Its seed.
    """

    module: str
    config: Config | Mapping[str, Any]
    inputs: Mapping[str, Any]
    name: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for calls: for all of them, or with ``first=True`` for whichever of them ends first.

    The answer is a list of finished ``Handle``: all, in the order given, or the one that ended first. Which one that
    was is logged, and replayed when the module is executed again.
    """

    handles: Sequence[Handle]
    first: bool = False


@dataclass(frozen=True, slots=True)
class Recall:
    """Look for data that the store has already, so that they need not be computed again.

    Parameters
    ----------
    kind : Kind
        Of which kind.
    attributes : mapping
        Attributes that the datasets must have, with these values.

    The answer is a list of ``(KEY@VERSION, dataset)``, newest first, each read when it is looked at. A replay finds
    nothing, so that it computes. What is taken from there is no input of the run: a module takes only what it would
    have computed itself, and says so in a volatile variable.
    """

    kind: Kind
    attributes: Mapping[str, Any] = field(default_factory=dict)


Request = Block | Replace | Map | Call | Wait | Recall


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a finished call: its digest and kind, and the data when asked for."""

    name: str
    kind: str
    digest: str
    location: str = field(repr=False)
    load: Callable[[], xr.Dataset] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Handle:
    """A call under way or finished.

    Attributes
    ----------
    name : str
        As given in the call.
    run_id : str
        Id of its run.
    outputs : mapping of str to Output
        Empty until it has been waited for.
    """

    name: str
    run_id: str
    outputs: Mapping[str, Output] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputRef:
    """An input of the calling module, passed on to a call unchanged."""

    name: str


class Progress(Protocol):
    """Where a module reports how far it is."""

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Report that ``done`` of ``total`` units of work are done."""


def no_progress(done: float, total: float, text: str = "") -> None:
    """Report to no one."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """What a module is given beside its settings and inputs.

    Attributes
    ----------
    seed : int
        Seed of all its random numbers.
    device : str
        ``cpu`` or ``cuda``.
    scratch : pathlib.Path
        A folder of its own that is removed afterwards.
    logger : logging.Logger
        For messages to the user.
    progress : Progress
        For progress bars.
    stopping : callable
        Whether the run was asked to stop (SIGTERM): a module whose blocks take long yields what it has.
    restart : xarray.Dataset or None
        The restart state of the last committed block; None at a fresh start.
    committed : mapping of str to int
        Records of each output that are committed already.
    sources : mapping of str to tuple of DataRef
        Input name to what was read: for outputs that refer to records of their inputs. Nothing else may depend on it.
    """

    seed: int = 0
    device: str = "cpu"
    scratch: Path = Path()
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("h5ml"))
    progress: Progress = no_progress
    stopping: Callable[[], bool] = never
    restart: xr.Dataset | None = None
    committed: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, tuple[DataRef, ...]] = field(default_factory=dict)


Result = Datasets | Generator[Request, Any, Datasets | None]


@dataclass(frozen=True, slots=True)
class Module:
    """A compute module.

    Parameters
    ----------
    name : str
        As in ``h5ml compute NAME``.
    version : str
        Raised when the same settings give another result; part of the run id.
    config : type of Config
        Its settings.
    reads : mapping
        Input name to ``One(KIND)``, ``Optional(KIND)`` or ``Many(KIND)``.
    writes : mapping or callable
        Output name to kind, or a function of the config that gives it.
    function : callable
        ``(config, inputs, context)`` to datasets by output name, or a generator of requests.
    description : str
        One sentence; by default the first line of the config's docstring.
    resources : mapping
        What it needs of a worker (``GPU``, ``threads``, ``memory_GB``).
    calls : callable, optional
        Of the config: names and kinds of what its calls will write, so that other steps of a campaign may read them.
    """

    name: str
    version: str
    config: type[Config]
    reads: Reads
    writes: Writes | Callable[[Any], Writes]
    function: Callable[[Any, Mapping[str, Any], Context], Result]
    description: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    calls: Callable[[Any], Writes] | None = None

    def outputs(self, config: Config) -> Writes:
        """Output names and kinds for these settings."""
        return self.writes(config) if callable(self.writes) else self.writes

    def makes(self, config: Config) -> Writes:
        """Everything that will lie below the root key: the outputs, and those of its calls."""
        return {**(self.calls(config) if self.calls is not None else {}), **self.outputs(config)}

    @property
    def summary(self) -> str:
        """One sentence that says what it does."""
        return self.description or (self.config.__doc__ or "").strip().partition("\n")[0]
