"""The elements that a learned model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Potential


def known_elements(potential: Potential) -> frozenset[int] | None:
    """Atomic numbers that a learned model was trained on.

    Parameters
    ----------
    potential : Potential
        Any.

    Returns
    -------
    frozenset of int or None
        None for an engine that is not learned: it says itself what it cannot do. Of a stored checkpoint they are read
        from its description, so that no model is built.
    """
    checkpoint = getattr(potential.build, "checkpoint", None)
    if checkpoint is not None:
        return frozenset(int(z) for z in checkpoint.models[0].description["arguments"]["atomic_numbers"])
    return frozenset(potential.module().elements) if potential.is_learned else None
