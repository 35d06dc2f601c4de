"""Campaign files: their form, and errors with line numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from h5ml.schemas.campaign import ComputeStep, ImportStep, find_step, find_steps, load_campaign, parse_campaign
from h5ml.schemas.errors import InvalidConfig
from h5ml.schemas.scheduling import AddressPlace, LocalPlace, QueuePlace, SerialPlace, parse_place

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
    assert campaign.scheduler == LocalPlace(workers=2)
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
        ("store: a.h5\nsteps:\n\ta: {import: b}\n", 3, "no tabs"),
        ("store: a.h5\nsteps:\n  a: {import: b\x00}\n", 3, "no valid YAML"),
        ("store: a.h5\nsteps:\n  a:\n", 3, "nothing"),
        ("store: a.h5\nsteps:\n  a:\n    compute: md\n    resources: {gpus: 1}\n", 5, "one of GPU, threads"),
        ("store: a.h5\nscheduler:\n  slurm:\n    queue: q\n    memory_gb: 1\nsteps: {}\n", 5, "did you mean memory_GB"),
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
    with pytest.raises(InvalidConfig, match="no text"):
        load_campaign(tmp_path / "b.yaml")


def test_entries_that_stand_once_can_be_merged_into_steps() -> None:
    text = """\
store: a.h5
steps:
  a: &usual {compute: md, temperature_K: 300, seed: 1}
  b:
    <<: *usual
    seed: 2
"""
    step = parse_campaign(text).steps["b"]
    assert isinstance(step, ComputeStep)
    assert (step.module, step.seed, step.options, step.lines["seed"]) == ("md", 2, {"temperature_K": 300}, 6)


MATRIX = """\
store: s.h5
steps:
  md/{name}/T={T:.1f}:
    matrix: {name: [urea, ice], T: [200, 300]}
    compute: md
    crystal: crystals/{name}
    temperature_K: "{T}"
    pressures: ["{T}", 1]
  crystals/{name}: {matrix: [{name: urea}, {name: ice}], import: "{name}.cif"}
"""


def test_a_matrix_makes_steps_with_its_values() -> None:
    campaign = parse_campaign(MATRIX)
    steps = [step for step in campaign.steps.values() if isinstance(step, ComputeStep)]
    assert [step.key for step in steps] == [
        "md/urea/T=200.0",
        "md/urea/T=300.0",
        "md/ice/T=200.0",
        "md/ice/T=300.0",
    ]
    assert steps[3].options == {"crystal": "crystals/ice", "temperature_K": 300, "pressures": [300, 1]}
    assert [step.file for step in campaign.steps.values() if isinstance(step, ImportStep)] == ["urea.cif", "ice.cif"]
    assert find_steps(campaign, "md/*/T=200.0") == ["md/urea/T=200.0", "md/ice/T=200.0"]
    assert find_steps(campaign, "**=300.0") == ["md/urea/T=300.0", "md/ice/T=300.0"]
    with pytest.raises(InvalidConfig, match="No step"):
        find_steps(campaign, "md/*")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("T={T:.1f}", "T", 3, "every name of the matrix must stand in the key"),
        ("crystals/{name}\n", "crystals/{nme}\n", 6, "did you mean name"),
        ('"{T}"\n', "{T}\n", 7, "in quotes"),
        ("[200, 300]", "[]", 4, "list of values"),
        ("[200, 300]", "200", 4, "list of values"),
        ("{T:.1f}", "{T:.1q}", 3, "cannot be written"),
        ('"{T}"\n', '"{T"\n', 7, "cannot be read"),
        ('"{T}"\n', '"{0}"\n', 7, "Only names"),
        ("[{name: urea}, {name: ice}]", "[{name: urea}, {nam: ice}]", 9, "same names"),
        ("[urea, ice]", "[[urea], ice]", 6, "cannot stand within a text"),
        ("{name: [urea, ice], T: [200, 300]}", "5", 4, "no matrix"),
    ],
)
def test_a_wrong_matrix_is_said_with_its_line(old: str, new: str, line: int, message: str) -> None:
    assert old in MATRIX
    with pytest.raises(InvalidConfig) as caught:
        parse_campaign(MATRIX.replace(old, new, 1))
    assert f"campaign:{line}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (None, SerialPlace()),
        ("serial", SerialPlace()),
        ("local:3", LocalPlace(workers=3)),
        ("local:workers=2,gpus=1,memory_GB=1.5", LocalPlace(workers=2, gpus=1, memory_GB=1.5)),
        ("local", LocalPlace()),
        ({"local": {"threads": 4}}, LocalPlace(threads=4)),
        ("tcp://a:1", AddressPlace(address="tcp://a:1")),
        ({"address": "tls://a:1"}, AddressPlace(address="tls://a:1")),
        ("slurm", QueuePlace(system="slurm")),
        ({"pbs": {"queue": "long", "maximum_jobs": 9}}, QueuePlace(system="pbs", queue="long", maximum_jobs=9)),
    ],
)
def test_places_are_read_from_texts_and_entries(value: object, place: object) -> None:
    assert parse_place(value) == place


def test_a_wrong_scheduler_is_said_with_its_line() -> None:
    with pytest.raises(InvalidConfig, match=r"campaign:2") as caught:
        parse_campaign("store: s.h5\nscheduler: {slurm: {max_jobs: 3}}\nsteps: {}\n")
    assert "did you mean" in str(caught.value)
