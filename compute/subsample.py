"""Choosing frames as references to the originals: the module ``subsample``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..schemas.errors import InvalidConfig, InvalidData
from ..schemas.kinds import FEATURES, SELECTION
from .module import Context, Many, Module
from .subsample_config import Subsample

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from .subsample_pool import Records


def subsample(config: Subsample, inputs: Mapping[str, Any], context: Context) -> dict[str, xr.Dataset]:
    """Choose frames of the features' sources.

    Parameters
    ----------
    config : Subsample
        Settings.
    inputs : mapping
        ``features``: a list of datasets.
    context : Context
        Seed, and what the inputs are called.

    Returns
    -------
    dict
        ``selection``: references in the order of choice, by composition where there are budgets.

    Raises
    ------
    InvalidConfig
        If more frames are asked for than there are, or a composition does not occur.
    InvalidData
        If there is nothing to choose from, or the features cannot be compared.

    Notes
    -----
    A selection refers to frames. Where records are atoms or molecules, a frame is chosen once, for the record that
    decided it, and all its records then count as chosen. With budgets, the frames of each composition are a pool of
    their own, standardised by themselves.
    """
    import numpy as np

    from .subsample_choose import Chooser, choose
    from .subsample_pool import frames_of, pooled

    refs = context.sources.get("features", ())
    names = [f"{r.key}@{r.version}" for r in refs] or [f"features {i}" for i in range(len(inputs["features"]))]
    pool = pooled(inputs["features"], names, on=config.on)
    if pool.n_frames == 0:
        raise InvalidData("There are no features to choose from.", key=names[0], expected="at least one record")
    records: list[int] = []
    distances: list[float] = []
    asked = 0
    for number, (mine, count, what) in enumerate(_budgets(config, pool)):
        frame = frames_of(pool.source[mine], pool.source_frame[mine])
        chooser = Chooser(_scaled(pool.vectors[mine]) if config.scale else pool.vectors[mine], frame)
        choose(chooser, config, count, np.random.default_rng([context.seed, number]))
        if len(chooser.records) < count:
            context.logger.warning(
                "%s: %d of %d frames chosen; all others are nearer than %g to one of them",
                what,
                len(chooser.records),
                count,
                config.duplicate_distance,
            )
        records += mine[chooser.records].tolist()
        distances += chooser.distances
        asked += count
    return {"selection": _selection(config, pool, np.array(records, dtype=np.int64), distances, asked)}


def _budgets(config: Subsample, pool: Records) -> list[tuple[NDArray[np.int64], int, str]]:
    """Records, number of frames to choose, and a name, of each part of the pool."""
    import numpy as np

    every = np.arange(len(pool.frame))
    if config.n_samples is not None:
        _check_enough(config.n_samples, pool.n_frames, "n_samples", "frames")
        return [(every, config.n_samples, "the pool")]
    if pool.composition is None:
        raise InvalidData(
            "These features do not say the composition of their frames.",
            expected="composition",
            hint="set n_samples, or make them with `h5ml compute features`",
        )
    composition = pool.composition.astype(str)
    parts = []
    for formula, count in (config.budgets or {}).items():
        mine = every[composition == formula]
        found = ", ".join(np.unique(composition).tolist())
        if not len(mine):
            raise InvalidConfig("A composition does not occur.", expected=f"budgets for {found}", found=formula)
        _check_enough(count, len(np.unique(pool.frame[mine])), f"budgets: {formula}", f"frames of {formula}")
        parts.append((mine, count, formula))
    return parts


def _check_enough(count: int, there: int, setting: str, what: str) -> None:
    if count > there:
        raise InvalidConfig(
            "More frames are asked for than there are.",
            expected=f"{setting} of at most {there}, the number of {what}",
            found=count,
            hint="ask for fewer, or sample more frames",
        )


def _scaled(vectors: NDArray[Any]) -> NDArray[Any]:
    """Each feature with zero mean and unit variance; one that does not vary becomes zero."""
    from sklearn.preprocessing import StandardScaler

    scaled: NDArray[Any] = StandardScaler().fit_transform(vectors)
    return scaled


def _selection(
    config: Subsample, pool: Records, records: NDArray[np.int64], distances: list[float], asked: int
) -> xr.Dataset:
    import numpy as np

    used, source = np.unique(pool.source[records], return_inverse=True)
    vectors = "features" if config.on == "features" else "energies per atom"
    return SELECTION.dataset(
        {
            "source": source.ravel(),
            "source_frame": pool.source_frame[records],
            "source_key": np.array(pool.source_key, dtype=object)[used],
            "source_digest": np.array(pool.source_digest, dtype=object)[used],
            "distance": distances,
            "feature_record": records,
            "composition": None if pool.composition is None else pool.composition[records],
        },
        {
            "method": config.method,
            "distance_in": f"standardised {vectors}" if config.scale else vectors,
            "n_asked": asked,
        },
    )


MODULE = Module(
    name="subsample",
    version="1",
    config=Subsample,
    reads={"features": Many(FEATURES)},
    writes={"selection": SELECTION},
    function=subsample,
)
