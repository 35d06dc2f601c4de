"""Descriptor vectors of frames: the module ``features``."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.kinds import CLUSTERS, FEATURES, STRUCTURES, TRAJECTORY
from ..schemas.kinds_training import LABELS
from .features_config import Features
from .module import POTENTIAL, Block, Context, Many, Map, Module, Optional, Request, Writes

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms
    from numpy.typing import NDArray

    from .features_describe import Described
    from .features_frames import Pool

_UNITS = {"units": "1"}
_BATCHES_AT_ONCE = 8


def features(config: Features, inputs: Mapping[str, Any], context: Context) -> Generator[Request, Any, None]:
    """Describe every frame of the inputs, in their order.

    Parameters
    ----------
    config : Features
        Settings.
    inputs : mapping
        ``frames``: a list of datasets with frames; ``model``: a Potential or None.
    context : Context
        Progress, what the inputs are, and how many frames are done.

    Yields
    ------
    Map
        With ``evaluate``: energies and forces of the frames of some batches.
    Block
        The records of one batch of frames and, with ``evaluate``, their energies and forces.

    Raises
    ------
    InvalidData, InvalidConfig
        If there are no frames, an element is unknown to the model, or the model is of another sort.
    ComputeFailed
        If a descriptor, an energy or a force is not finite; names the frame.

    Notes
    -----
    A batch depends on the sizes of the frames alone, so that a run that goes on after a kill gives the same bits.
    """
    import xarray as xr

    from .features_describe import describer
    from .features_frames import Pool

    pool = Pool(inputs["frames"], context.sources.get("frames", ()), include_equilibration=config.include_equilibration)
    describe = describer(config, inputs.get("model"), pool.elements())
    context.logger.info("%d frames of %d atoms in all", len(pool), int(pool.n_atoms.sum()))
    attributes = _attributes(config, inputs.get("model"))
    done = 0 if context.restart is None else int(context.restart["frames_done"][0])
    here = context.device != "cpu"  # where the model is loaded already
    for batches in _batches(config, pool, done, 1 if here or not config.evaluate else _BATCHES_AT_ONCE):
        items = [item for batch in batches for item in describe.items(batch.contents)]
        name = f"frames_{batches[0].first}_to_{batches[-1].last}"
        if here or not items:
            results = map(describe.function, items)
        else:
            results = iter((yield Map(describe.function, items, name=name)))
        for batch in batches:
            described = describe(batch.contents, results)
            if batch.last <= done:
                continue
            batch.check(described)
            data = {"features": batch.features(described, attributes)}
            if config.evaluate:
                data["predictions"] = batch.predictions(described, inputs["model"])
            context.progress(batch.last, len(pool))
            yield Block(data, restart=xr.Dataset({"frames_done": (("one",), [batch.last])}))


def _batches(config: Features, pool: Pool, done: int, at_once: int) -> Iterator[list[_Batch]]:
    """Batches, so many at once as are evaluated together, from those on that are not done."""
    left = itertools.dropwhile(lambda group: group[-1][1] <= done, pool.groups(config.batch_size, at_once))
    first = next(left, None)
    if first is None:
        return
    frames = pool.systems(first[0][0])
    molecules = pool.molecules(first[0][0], bond_scale=config.bond_scale) if config.level == "molecule" else None
    for group in itertools.chain([first], left):
        made = []
        for start, stop in group:
            members = None if molecules is None else list(itertools.islice(molecules, stop - start))
            made.append(_Batch(config, pool, (start, stop), list(itertools.islice(frames, stop - start)), members))
        yield made


class _Batch:
    """Some frames of the pool, and what becomes of them.

    Attributes
    ----------
    first, last : int
        Which frames; the last is exclusive.
    contents : Batch
        Their structures, and which atoms make a record.
    """

    def __init__(
        self,
        config: Features,
        pool: Pool,
        frames: tuple[int, int],
        systems: list[Atoms],
        members: list[NDArray[Any]] | None,
    ) -> None:
        import numpy as np

        from .features_describe import Batch

        self.config, self.pool, self.systems = config, pool, systems
        self.first, self.last = frames
        counts = pool.n_atoms[self.first : self.last]
        frame_of_atom = np.repeat(np.arange(len(counts)), counts)
        self._more: dict[str, Any] = {}
        record_of_atom = None
        if config.level == "frame":
            self._frame, record_of_atom = np.arange(len(counts)), frame_of_atom
        elif config.level == "atom":
            self._frame = frame_of_atom
            self._more["source_atom"] = np.arange(len(frame_of_atom)) - np.repeat(np.cumsum(counts) - counts, counts)
        else:
            pairs = np.stack([frame_of_atom, np.concatenate(members or [])], axis=1)
            records, record_of_atom = np.unique(pairs, axis=0, return_inverse=True)
            record_of_atom = record_of_atom.ravel()
            self._frame, self._more["source_molecule"] = records[:, 0], records[:, 1]
        self.contents = Batch(systems, record_of_atom)

    def features(self, described: Described, attributes: Mapping[str, Any]) -> xr.Dataset:
        """The records of the frames."""
        import numpy as np

        formulas = np.array([atoms.get_chemical_formula(mode="hill") for atoms in self.systems], dtype=object)
        energies, frame = self._energies(described), self._frame
        return FEATURES.dataset(
            {
                "features": (("record", "feature"), described.descriptors.astype(self.config.dtype), _UNITS),
                "source": self.pool.source[self.first : self.last][frame],
                "source_frame": self.pool.source_frame[self.first : self.last][frame],
                **self._sources(),
                **self._more,
                "composition": formulas[frame],
                "energy": None if energies is None else energies[frame],
            },
            attributes,
        )

    def predictions(self, described: Described, model: Any) -> xr.Dataset:
        """Energies and forces of the frames, with the references of the features."""
        import numpy as np

        from .structure.frames import structures_dataset

        count = len(self.systems)
        values = {
            "energy": described.energies,
            "forces": described.forces,
            "converged": np.ones(count),
            "status": np.zeros(count),
            "source": self.pool.source[self.first : self.last],
            "source_frame": self.pool.source_frame[self.first : self.last],
            **self._sources(),
        }
        attributes = {"level_of_theory": model.name, "model": model.fingerprint()}
        return structures_dataset(self.systems, values, attributes, kind=LABELS)

    def check(self, described: Described) -> None:
        """Refuse numbers that are not finite, and name the frame."""
        import numpy as np

        counts = self.pool.n_atoms[self.first : self.last]
        for name, values, frame in (
            ("descriptor", described.descriptors, self._frame),
            ("force", described.forces, np.repeat(np.arange(len(counts)), counts)),
            ("energy", described.energies, np.arange(len(counts))),
        ):
            if values is None or np.isfinite(values).all():
                continue
            bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
            raise ComputeFailed(
                f"The {name} of a frame is not finite.",
                key=self.pool.where(self.first + int(frame[bad])),
                expected="finite numbers",
                hint="look whether atoms lie on each other there, and whether the model knows such structures",
            )

    def _energies(self, described: Described) -> NDArray[Any] | None:
        """Those of the model, or those that the inputs had."""
        if described.energies is not None:
            return described.energies
        stored = self.pool.energies
        return None if stored is None else stored[self.first : self.last]

    def _sources(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        if not self.pool.is_known:
            return {}
        tables = {"source_key": self.pool.source_key, "source_digest": self.pool.source_digest}
        return {name: np.array(texts, dtype=object) for name, texts in tables.items()}


def _attributes(config: Features, model: Any) -> dict[str, Any]:
    """What the columns mean, and whose the energies are."""
    found: dict[str, Any] = {
        "descriptor": config.descriptor,
        "level": config.level,
        "descriptor_settings": config.descriptor_settings(),
        "energy_from": "model" if config.evaluate else "inputs",
    }
    return found if model is None else {**found, "model": model.fingerprint()}


def _outputs(config: Features) -> Writes:
    return {"features": FEATURES, "predictions": LABELS} if config.evaluate else {"features": FEATURES}


MODULE = Module(
    name="features",
    version="1",
    config=Features,
    reads={"frames": Many(STRUCTURES, TRAJECTORY, CLUSTERS), "model": Optional(POTENTIAL)},
    writes=_outputs,
    function=features,
)
