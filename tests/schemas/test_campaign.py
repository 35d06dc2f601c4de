"""Campaign files: their form, and errors with line numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from h5ml.schemas.campaign import ComputeStep, ImportStep, find_step, load_campaign, parse_campaign
from h5ml.schemas.errors import InvalidConfig

GOOD = """\
store: training_set.h5
scheduler: local:2
steps:
  crystals/urea:        {import: urea.cif}
  training/md_sampling:
    compute: md
    crystal: crystals/urea
    model: "tblite:GFN1-xTB"
    ensemble: NPT
    seed: 7
    temperature_K: [298.15, 350]
"""


def test_a_campaign_is_read(tmp_path: Path) -> None:
    path = tmp_path / "h5ml.yaml"
    path.write_text(GOOD)
    campaign = load_campaign(path)
    assert campaign.store_location == str(tmp_path / "training_set.h5")
    assert campaign.scheduler == "local:2"
    first, second = campaign.steps.values()
    assert isinstance(first, ImportStep)
    assert (first.key, first.file, first.line) == ("crystals/urea", "urea.cif", 4)
    assert isinstance(second, ComputeStep)
    assert (second.module, second.seed, second.line) == ("md", 7, 5)
    assert second.options == {
        "crystal": "crystals/urea",
        "model": "tblite:GFN1-xTB",
        "ensemble": "NPT",
        "temperature_K": [298.15, 350],
    }
    assert second.lines["temperature_K"] == 11
    assert campaign.where(second, "ensemble") == f"{path}:9"


def test_a_bucket_is_left_as_it_is() -> None:
    assert parse_campaign("store: s3://b/p\nsteps: {}\n").store_location == "s3://b/p"


def test_the_step_of_a_key_is_found() -> None:
    campaign = parse_campaign(GOOD)
    assert find_step(campaign, "training/md_sampling").line == 5
    assert find_step(campaign, "training/md_sampling/trajectory").line == 5
    with pytest.raises(InvalidConfig, match="did you mean training/md_sampling"):
        find_step(campaign, "training/md_samplin")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "is empty"),
        ("- a\n", 1, "names and values"),
        ("store: a.h5\nsteps: [a]\n", 2, "names and values"),
        ("store: a.h5\n", 1, "'steps' is missing"),
        ("steps: {}\n", 1, "'store' is missing"),
        ("store: a.h5\nstep:\n  a: {import: b}\n", 2, "did you mean steps"),
        ("store: [1]\nsteps: {}\n", 1, "'store' is not valid"),
        ("store: a.h5\nsteps:\n  a: {import: b\n", 4, "no valid YAML"),
        ("store: a.h5\nsteps:\n  a: {import: b}\n  a: {import: c}\n", 4, "stands twice"),
        ("store: a.h5\nsteps:\n  a:\n    compute: md\n    compute: md\n", 5, "stands twice"),
        ("store: a.h5\nsteps:\n  a//b: {import: b}\n", 3, "cannot be a key"),
        ("store: a.h5\nsteps:\n  a:\n    imprt: b\n", 3, "did you mean import"),
        ("store: a.h5\nsteps:\n  a: {import: b, compute: md}\n", 3, "does not say how"),
        ("store: a.h5\nsteps:\n  a: {}\n", 3, "does not say how"),
        ("store: a.h5\nsteps:\n  a:\n    import: b\n    knd: x\n", 5, "did you mean kind"),
        ("store: a.h5\nsteps:\n  a:\n    compute: md\n    seed: much\n", 5, "'seed' is not valid"),
        ("store: a.h5\nsteps:\n  a:\n    compute: md\n    device: tpu\n", 5, "'cpu' or 'cuda'"),
        ("store: a.h5\nsteps:\n  a:\n    compute: md\n    when: 2024-99-99\n", 5, "cannot be read"),
        ("store: a.h5\nsteps:\n  a: !!python/object:os.system {}\n", 3, ""),
    ],
)
def test_wrong_files_are_refused_with_their_line(text: str, line: int, said: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_campaign(text, "h5ml.yaml")
    assert f"h5ml.yaml:{line}" in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_or_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_campaign(tmp_path / "no.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_campaign(tmp_path / "b.yaml")
