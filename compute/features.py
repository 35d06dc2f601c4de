"""Descriptor vectors of frames: the module ``features``."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ComputeFailed
from ..schemas.kinds import CLUSTERS, FEATURES, STRUCTURES, TRAJECTORY
from ..schemas.kinds_training import LABELS
from .features_config import Features
from .module import POTENTIAL, Block, Context, Many, Module, Optional, Request, Writes

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms
    from numpy.typing import NDArray

    from .features_describe import Described
    from .features_frames import Pool

_UNITS = {"units": "1"}


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
    frames = pool.systems(done)
    molecules = pool.molecules(done, bond_scale=config.bond_scale) if config.level == "molecule" else None
    for first, last in pool.batches(config.batch_size):
        if last <= done:
            continue
        systems = list(itertools.islice(frames, last - first))
        described = describe(systems)
        _check_finite(pool, first, last, described)
        batch = _Batch(pool, first, last, systems, described)
        members = None if molecules is None else list(itertools.islice(molecules, last - first))
        data = {"features": batch.features(config, members, attributes)}
        if config.evaluate:
            data["predictions"] = batch.predictions(inputs["model"])
        context.progress(last, len(pool))
        yield Block(data, restart=xr.Dataset({"frames_done": (("one",), [last])}))


class _Batch:
    """Some frames of the pool with what was computed of them."""

    def __init__(self, pool: Pool, first: int, last: int, systems: list[Atoms], described: Described) -> None:
        self.pool, self.first, self.last = pool, first, last
        self.systems, self.described = systems, described

    def features(
        self, config: Features, members: list[NDArray[Any]] | None, attributes: Mapping[str, Any]
    ) -> xr.Dataset:
        """The records of the frames."""
        import numpy as np

        from .features_frames import mean_over

        counts = self.pool.n_atoms[self.first : self.last]
        frame_of_atom = np.repeat(np.arange(len(counts)), counts)
        vectors, more = self.described.descriptors, {}
        if config.level == "frame":
            frame, vectors = np.arange(len(counts)), mean_over(vectors, frame_of_atom)
        elif config.level == "atom":
            frame = frame_of_atom
            more["source_atom"] = np.arange(len(frame)) - np.repeat(np.cumsum(counts) - counts, counts)
        else:
            pairs = np.stack([frame_of_atom, np.concatenate(members or [])], axis=1)
            records, record_of_atom = np.unique(pairs, axis=0, return_inverse=True)
            vectors = mean_over(vectors, record_of_atom.ravel())
            frame, more["source_molecule"] = records[:, 0], records[:, 1]
        formulas = np.array([atoms.get_chemical_formula(mode="hill") for atoms in self.systems], dtype=object)
        energies = self._energies()
        return FEATURES.dataset(
            {
                "features": (("record", "feature"), vectors.astype(config.dtype), _UNITS),
                "source": self.pool.source[self.first : self.last][frame],
                "source_frame": self.pool.source_frame[self.first : self.last][frame],
                **self._sources(),
                **more,
                "composition": formulas[frame],
                "energy": None if energies is None else energies[frame],
            },
            attributes,
        )

    def predictions(self, model: Any) -> xr.Dataset:
        """Energies and forces of the frames, with the references of the features."""
        import numpy as np

        from .structure.frames import structures_dataset

        count = len(self.systems)
        values = {
            "energy": self.described.energies,
            "forces": self.described.forces,
            "converged": np.ones(count),
            "status": np.zeros(count),
            "source": self.pool.source[self.first : self.last],
            "source_frame": self.pool.source_frame[self.first : self.last],
            **self._sources(),
        }
        attributes = {"level_of_theory": model.name, "model": model.fingerprint()}
        return structures_dataset(self.systems, values, attributes, kind=LABELS)

    def _energies(self) -> NDArray[Any] | None:
        """Those of the model, or those that the inputs had."""
        if self.described.energies is not None:
            return self.described.energies
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


def _check_finite(pool: Pool, first: int, last: int, described: Described) -> None:
    import numpy as np

    frame_of_atom = np.repeat(np.arange(first, last), pool.n_atoms[first:last])
    for name, values in (
        ("descriptor", described.descriptors),
        ("force", described.forces),
        ("energy", described.energies),
    ):
        if values is None or np.isfinite(values).all():
            continue
        bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise ComputeFailed(
            f"The {name} of a frame is not finite.",
            key=pool.where(first + bad if name == "energy" else int(frame_of_atom[bad])),
            expected="finite numbers",
            hint="look whether atoms lie on each other there, and whether the model knows such structures",
        )


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
