"""Keys."""

from __future__ import annotations

import pickle

import pytest

from h5ml.schemas.errors import InvalidKey
from h5ml.schemas.key import Key, parse_reference


@pytest.mark.parametrize("text", ["a", "training/md_sampling/trajectory", "crystal[opt:atoms,shape]", "n=2/x y", "Å/β"])
def test_ordinary_names_are_keys(text: str) -> None:
    assert Key(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty path"),
        ("///", "empty path"),
        ("a//b", "empty segment"),
        ("a/../b", "starts with a dot"),
        (".h5ml/log", "starts with a dot"),
        ("a/ b", "blanks at an end"),
        ("a@2", "'@'"),
        ("a\nb", r"'\\n'"),
        ("a" * 513, "513 characters"),
    ],
)
def test_a_text_that_is_no_key_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        Key(text)


def test_slashes_at_the_ends_are_dropped() -> None:
    assert Key("/a/b/") == "a/b"


def test_a_key_knows_its_parts() -> None:
    key = Key("a/b/c")
    assert (key.segments, key.parent, key.name, key.child("d")) == (("a", "b", "c"), "a/b", "c", "a/b/c/d")


def test_a_key_lies_under_whole_segments_only() -> None:
    assert Key("a/b").is_under("a")
    assert Key("a/b").is_under("a/b")
    assert Key("a/b").is_under("")
    assert not Key("ab/c").is_under("a")


def test_a_reference_names_a_version() -> None:
    assert parse_reference("a/b@3") == ("a/b", 3)
    assert parse_reference("a/b") == ("a/b", None)


@pytest.mark.parametrize("text", ["a@0", "a@x", "a@"])
def test_a_version_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        parse_reference(text)


def test_a_key_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(Key("a/b"))) == Key("a/b")
