"""Potentials: the engines that give energies, forces and stresses, named as ``engine:method``."""

from .base import Potential
from .registry import ENGINES, EngineRequest, parse_spec, resolve_potential

__all__ = ["ENGINES", "EngineRequest", "Potential", "parse_spec", "resolve_potential"]
