"""From settings to a level of theory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .level import Level
from .level_config import LevelSettings

if TYPE_CHECKING:
    from ..potentials import Potential


def make_level(settings: LevelSettings, potential: Potential | None = None) -> Level:
    """Make the level of theory that the settings name.

    Parameters
    ----------
    settings : LevelSettings
        What the user chose.
    potential : Potential, optional
        The teacher, of use with ``engine = potential``.

    Raises
    ------
    MissingPackage
        If the engine is not installed; the message names the package or program.
    InvalidConfig
        If a method, keyword or fallback is unknown.
    """
    if potential is not None and settings.engine != "potential":
        from ...schemas.errors import InvalidConfig

        raise InvalidConfig(
            "A model is given, but the engine does not use it.",
            key="model",
            expected="engine = potential",
            found=f"engine = {settings.engine}",
            hint="set engine to potential, or leave model out",
        )
    match settings.engine:
        case "tblite":
            from .tblite_level import TbliteLevel

            return TbliteLevel(settings)
        case "pyscf":
            from .pyscf_level import PyscfLevel

            return PyscfLevel(settings)
        case "aims":
            from .aims_level import AimsLevel

            return AimsLevel(settings)
        case "ase":
            from .ase_level import AseLevel

            return AseLevel(settings)
        case "potential":
            from .potential_level import PotentialLevel

            return PotentialLevel(settings, potential)
