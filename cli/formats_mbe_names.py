"""Names in mbe-automation files: units in the names of arrays, labels in keys, and the two layouts."""

from __future__ import annotations

import re
import unicodedata
from types import MappingProxyType

from ..schemas.errors import InvalidKey
from ..schemas.key import Key

ANGSTROM, DIVISION = "\u212b", "\u2215"
LAYOUTS = ("seed", "head")

_NAME_AND_UNIT = re.compile(r"(?P<stem>.*\S) \((?P<unit>[^()]*)\)")
_LABEL = re.compile(r"(crystal|molecule)\[.*\]")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# The folder that the later layout puts each object of a label into; finite subsystems keep their `n=K` above the label.
_PLURALS = MappingProxyType(
    {
        "trajectory": "trajectories",
        "molecular_crystal": "molecular_crystals",
        "force_constants": "force_constants",
        "brillouin_zone_path": "brillouin_zone_paths",
    }
)
_SINGULARS = MappingProxyType({plural: name for name, plural in _PLURALS.items()})
_SUBSYSTEMS = "finite_subsystems"


# --- names of arrays and attributes ----------------------------------------------------------------------------------


def parsed(name: str) -> tuple[str, str]:
    """The name of an array or attribute and its unit in ASCII; the unit is empty where none is written.

    ``positions (\u212b)`` gives ``("positions", "Angstrom")``. Both spellings of the Angstrom sign (U+212B, and U+00C5
    composed or not) and of the slash (U+2215 and ``/``) are read.
    """
    match = _NAME_AND_UNIT.fullmatch(name)
    return (match["stem"], ascii_unit(match["unit"])) if match else (name, "")


def ascii_unit(unit: str) -> str:
    """A unit in ASCII: ``eV\u2215\u212b\u00b2`` becomes ``eV/Angstrom^2``."""
    text = unicodedata.normalize("NFC", unit).replace(ANGSTROM, "\u00c5").replace("\u00c5", "Angstrom")
    text = text.replace(DIVISION, "/").replace("·", "*")
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: "^" + found[0].translate(_RAISED), text)
    return {"u": "amu"}.get(text, _spelled(text))


def legacy_unit(unit: str) -> str:
    """A unit as such files spell it: ``eV/Angstrom^2`` becomes ``eV\u2215\u212b\u00b2``."""
    text = {"amu": "u"}.get(unit, unit).replace("Angstrom", ANGSTROM).replace("/", DIVISION)
    return text.replace("^2", "²").replace("^3", "³")


def legacy_name(stem: str, unit: str = "") -> str:
    """The name of an array with its unit."""
    return f"{stem} ({legacy_unit(unit)})" if unit else stem


def identifier(name: str) -> str:
    """A name of letters, digits and ``_`` in ASCII; Greek letters are written out."""
    text = _spelled(name).replace("%", "percent")
    text = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    return text if text and not text[0].isdigit() else f"x_{text}".rstrip("_")


def attribute_name(name: str) -> str:
    """The name of an attribute in ASCII, with its unit as a suffix: ``target_pressure_GPa``."""
    stem, unit = parsed(name)
    text = identifier(f"{stem} {unit.replace('^', '').replace('/', ' per ')}")
    return f"mbe_{text}" if text in {"kind", "schema_version", "scale_factor", "add_offset", "CLASS", "NAME"} else text


def _spelled(text: str) -> str:
    """Without accents, and with Greek letters as words."""
    written = []
    for character in unicodedata.normalize("NFKD", text):
        name = unicodedata.name(character, "")
        if name.startswith("GREEK") and " LETTER " in name:
            word = name.split(" LETTER ")[1].split()[0].lower()
            written.append(word.capitalize() if "CAPITAL" in name else word)
        elif character.isascii():
            written.append(character)
        elif character == DIVISION:
            written.append("/")
    return "".join(written)


# --- keys ------------------------------------------------------------------------------------------------------------


def key_of(path: str, root: str = "") -> Key:
    """The key of a group of the file; the division slash, which a key cannot hold, becomes ``_``.

    Raises
    ------
    InvalidKey
        If a segment of the path cannot be one of a key.
    """
    try:
        return Key("/".join(part for part in (root.strip("/"), path.strip("/").replace(DIVISION, "_")) if part))
    except InvalidKey as error:
        raise InvalidKey(
            "A group of the file has a name that cannot be a key; nothing was imported.",
            key=path,
            expected=error.expected,
            found=error.found,
            hint="rename the group in a copy of the file (h5py: file.move(OLD, NEW))",
        ) from None


def segment_of(name: str) -> str:
    """A segment of a key from any text (the name of a level of theory)."""
    return re.sub(r"[^\w\-+.,:=()\[\] ]", "_", name).strip().lstrip(".") or "unnamed"


def in_layout(path: str, layout: str) -> str:
    """The path of an object in the other layout of such files; paths that are the same in both stay.

    Parameters
    ----------
    path : str
        For example ``md/crystal[dyn:T=300.00]/trajectory``, with anything below it.
    layout : {"seed", "head"}
        The wanted one: ``<root>/<label>/trajectory`` or ``<root>/trajectories/<label>``.
    """
    parts = path.split("/")
    for i, part in enumerate(parts):
        if not _LABEL.fullmatch(part):
            continue
        before, after = parts[:i], parts[i + 1 :]
        if layout == "head" and after and after[0] in _PLURALS:
            return "/".join([*before, _PLURALS[after[0]], part, *after[1:]])
        if layout == "head" and len(after) > 1 and after[0] == _SUBSYSTEMS:
            return "/".join([*before, *after[:2], part, *after[2:]])
        if layout == "seed" and before and before[-1] in _SINGULARS:
            return "/".join([*before[:-1], part, _SINGULARS[before[-1]], *after])
        if layout == "seed" and len(before) > 1 and before[-2] == _SUBSYSTEMS:
            return "/".join([*before[:-2], part, *before[-2:], *after])
    return path


def layout_of(path: str) -> str | None:
    """The layout that a path belongs to; None where it is the same in both."""
    return next((name for name in LAYOUTS if in_layout(path, name) == path != in_layout(path, _other(name))), None)


def _other(layout: str) -> str:
    return "head" if layout == "seed" else "seed"


def other_names(path: str) -> list[str]:
    """All names that an object of the file has had: in both layouts, and with the misspelt label of the first one."""
    names = [path, in_layout(path, "seed"), in_layout(path, "head")]
    names += [name.replace("[opt:", "[opt ") for name in names]
    return list(dict.fromkeys(names))
