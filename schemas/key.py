"""Keys: checked paths such as ``training/md_sampling/trajectory``."""

from __future__ import annotations

from .errors import InvalidKey

MAX_LENGTH = 512
RESERVED_ROOT = ".h5ml"


class Key(str):
    """A checked path in a store; behaves as the plain string it is.

    Segments are separated by ``/``. A segment may hold letters, digits and ``_ - + . , : = ( ) [ ]`` and spaces
    inside, so that ``crystal[opt:atoms,shape]`` is legal; it may not start with a dot, nor hold ``@`` (which
    separates a version) or control characters.

    Parameters
    ----------
    text : str
        The path; one leading or trailing ``/`` is dropped.

    Raises
    ------
    InvalidKey
        If the text cannot be a key; the message says which character or segment is wrong.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Key:  # noqa: D102
        if isinstance(text, Key):
            return text
        path = text.strip("/") if isinstance(text, str) else ""
        _check(path, text)
        return super().__new__(cls, path)

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts between the slashes."""
        return tuple(self.split("/"))

    @property
    def parent(self) -> str:
        """The path above this key; empty at the top."""
        return self.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last segment."""
        return self.rpartition("/")[2]

    def child(self, name: str) -> Key:
        """The key ``self/name``."""
        return Key(f"{self}/{name}")

    def is_under(self, prefix: str) -> bool:
        """Whether this key is ``prefix`` or lies below it; everything lies below the empty prefix."""
        prefix = prefix.strip("/")
        return not prefix or self == prefix or self.startswith(prefix + "/")


def parse_reference(text: str) -> tuple[Key, int | None]:
    """Split ``KEY@VERSION`` into its key and its version.

    Returns
    -------
    tuple of Key and int or None
        The version is None where none was written (the newest is meant).
    """
    path, at, version = text.rpartition("@")
    if not at:
        return Key(text), None
    if not version.isdigit() or int(version) < 1:
        raise InvalidKey(
            "A version is a whole number from 1.",
            key=text,
            expected="KEY@1",
            found=f"@{version}",
            hint="see `h5ml log KEY`",
        )
    return Key(path), int(version)


def _check(path: str, original: object) -> None:
    def wrong(found: str) -> InvalidKey:
        return InvalidKey(
            "This cannot be a key.",
            key=repr(original),
            expected="segments of letters, digits and _ - + . , : = ( ) [ ] separated by /",
            found=found,
            hint="for example training/md_sampling/trajectory",
        )

    if not path:
        raise wrong("an empty path")
    if len(path) > MAX_LENGTH:
        raise wrong(f"{len(path)} characters; at most {MAX_LENGTH} are allowed")
    for segment in path.split("/"):
        if not segment:
            raise wrong("an empty segment (//)")
        if segment[0] == "." or segment != segment.strip():
            raise wrong(f"the segment {segment!r} starts with a dot or has blanks at an end")
        for character in segment:
            if not (character.isalnum() or character in "_-+.,:=()[] "):
                raise wrong(f"the character {character!r} in the segment {segment!r}")
