"""Units: one spelling each, in ASE's system (Angstrom, eV, fs, amu)."""

from __future__ import annotations

from .errors import InvalidData, nearest

# Factor from the named unit to the first unit of its family, which is the stored one. CODATA 2014 as in ASE.
FAMILIES: dict[str, dict[str, float]] = {
    "length": {"Angstrom": 1.0, "nm": 10.0, "Bohr": 0.5291772105638411, "pm": 0.01},
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "Hartree": 27.211386024367243,
        "kJ/mol": 0.01036426957207,
        "kcal/mol": 0.04336410424180094,
    },
    "time": {"fs": 1.0, "ps": 1000.0, "ns": 1e6, "s": 1e15},
    "mass": {"amu": 1.0},
    "temperature": {"K": 1.0},
    "pressure": {"GPa": 1.0, "bar": 1e-4, "kbar": 0.1, "Pa": 1e-9},
    "stress": {"eV/Angstrom^3": 1.0, "GPa": 0.006241509125883258, "kbar": 6.241509125883258e-4},
    "force": {"eV/Angstrom": 1.0, "Hartree/Bohr": 51.42206706785977, "meV/Angstrom": 1e-3},
    "velocity": {"Angstrom/fs": 1.0, "Angstrom/ps": 1e-3},
    "volume": {"Angstrom^3": 1.0, "nm^3": 1000.0},
    "charge": {"e": 1.0},
    "dipole": {"e*Angstrom": 1.0, "Debye": 0.20819433622621247},
    "frequency": {"THz": 1.0, "1/cm": 0.0299792458},
    "force_constant": {"eV/Angstrom^2": 1.0},
    "angle": {"degree": 1.0},
    "wave_number": {"1/Angstrom": 1.0},
    "density_of_states": {"1/THz": 1.0},
    "mass_weighted_square": {"amu*Angstrom^2": 1.0},
    "entropy": {"eV/K": 1.0},
    "none": {"1": 1.0},
}

_SPELLINGS = {
    "A": "Angstrom",
    "Å": "Angstrom",
    "\u212b": "Angstrom",
    "angstrom": "Angstrom",
    "ang": "Angstrom",
    "ev": "eV",
    "u": "amu",
    "": "1",
    "eV/A": "eV/Angstrom",
    "eV/Å": "eV/Angstrom",
    "eV/A^3": "eV/Angstrom^3",
    "eV/Å^3": "eV/Angstrom^3",
    "A^3": "Angstrom^3",
    "Å^3": "Angstrom^3",
    "A/fs": "Angstrom/fs",
    "Å/fs": "Angstrom/fs",
}


def spelled(unit: str) -> str:
    """The house spelling of a unit (``Å`` becomes ``Angstrom``)."""
    return _SPELLINGS.get(unit, unit)


def factor(found: str, wanted: str, *, where: str = "") -> float:
    """Factor that turns a number in the unit ``found`` into the unit ``wanted``.

    Raises
    ------
    InvalidData
        If a unit is unknown or the two measure different things.
    """
    found, wanted = spelled(found), spelled(wanted)
    if found == wanted:
        return 1.0
    for units in FAMILIES.values():
        if wanted in units and found in units:
            return units[found] / units[wanted]
    known = {name for units in FAMILIES.values() for name in units}
    raise InvalidData(
        "A unit does not fit.",
        key=where or None,
        expected=wanted,
        found=found,
        hint=nearest(found, known) if found not in known else f"convert the values to {wanted}",
    )
