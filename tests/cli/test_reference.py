from __future__ import annotations

import json

from h5ml.schemas.kinds import BUILT_IN


def test_kinds(call) -> None:
    text = call("kinds").stdout
    for name, kind in BUILT_IN.items():
        assert f"| {name} " in text
        assert kind.description in text
    one = call("kinds", "trajectory").stdout
    assert "| positions " in one
    assert "eV/Angstrom^3" in one
    assert "0 production, 1 equilibration" in one
    assert {k["name"] for k in json.loads(call("kinds", "--json").stdout)} >= set(BUILT_IN)
    assert "did you mean trajectory" in call("kinds", "trajectry", code=5).stderr


def test_modules(call) -> None:
    assert "| md " in call("modules").stdout
    one = call("modules", "md").stdout
    for word in ("--crystal", "structures", "| temperature_K ", "trajectory"):
        assert word in one
    assert json.loads(call("modules", "md", "--json").stdout)[0]["reads"]["crystal"]["kind"] == "structures or clusters"
    assert "did you mean" in call("modules", "mdd", code=2).stderr


def test_config(call) -> None:
    from h5ml.compute.md import MODULE

    text = call("config", "md").stdout
    for name, field in MODULE.config.model_fields.items():
        assert f"| {name} " in text
        assert field.description in text
    assert "temperature_K" in json.loads(call("config", "md", "--json").stdout)["properties"]
    assert call("config", "nothing", code=2).stderr.startswith("There is no module")
