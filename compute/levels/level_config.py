"""The settings that name a level of theory, for every module that labels structures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from ...schemas.config import Config, Field

EngineName = Literal["tblite", "pyscf", "aims", "ase", "potential"]
Property = Literal["energy", "forces", "stress", "dipole", "charges"]

_METHODS = {"tblite": "GFN2-xTB", "pyscf": "PBE", "aims": "PBE"}
_ONLY_FOR = {
    "basis": ("pyscf",),
    "dispersion": ("pyscf", "aims"),
    "kpts": ("pyscf", "aims", "ase"),
    "conv_tol": ("tblite", "pyscf", "aims"),
    "max_cycles": ("tblite", "pyscf", "aims"),
    "species_dir": ("aims",),
    "tier": ("aims",),
    "command": ("aims", "ase"),
}


def _plain(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


class LevelSettings(Config):
    """A level of theory, and how to compute with it."""

    engine: EngineName = Field("tblite", description="The program: tblite, pyscf, aims, ase or potential.")
    method: str | None = Field(
        None,
        description="GFN1-xTB or GFN2-xTB (tblite), HF or a functional (pyscf, aims), the calculator's name (ase); "
        "null: GFN2-xTB with tblite, PBE with pyscf and aims.",
    )
    basis: str | None = Field(None, description="Basis set of pyscf; null: def2-SVP, gth-dzvp where periodic.")
    dispersion: str | None = Field(
        None, description="Dispersion: d3bj, d3zero or d4 with pyscf; ts, mbd or mbd-nl with aims; null: none."
    )
    kpts: tuple[int, int, int] | float | None = Field(
        None,
        description="Mesh of k-points of periodic structures: three numbers, or a length (Angstrom) that gives "
        "max(1, round(length |b|)) points along each reciprocal vector; null: Gamma.",
    )
    spin_treatment: Literal["auto", "restricted", "unrestricted"] = Field(
        "auto", description="Restricted for singlets and unrestricted else (auto), or the same for all structures."
    )
    conv_tol: float | None = Field(
        None,
        gt=0,
        le=10.0,
        description="Convergence: energy in Hartree (pyscf) or eV (aims), accuracy factor (tblite); null: the "
        "engine's.",
    )
    max_cycles: int | None = Field(
        None, ge=1, description="Most cycles of the self-consistent field; null: the engine's."
    )
    keywords: dict[str, Any] = Field({}, description="Further settings of the engine, by its own names.")
    fallbacks: tuple[dict[str, Any], ...] | None = Field(
        None,
        description="Keywords to try in this order where the field does not converge; null: the engine's own, empty: "
        "none.",
    )
    species_dir: str | None = Field(None, description="Folder of the species defaults of aims (light, tight, ...).")
    tier: int | None = Field(
        None, ge=0, le=4, description="Basis tier of aims for all elements; null: as in the defaults."
    )
    interface: Literal["files", "socket", "library"] = Field(
        "files", description="How aims is talked to: files, i-PI socket, or its library through asi4py."
    )
    command: str | None = Field(None, description="Command that starts the program, where it is one of its own.")
    threads: int = Field(1, ge=1, description="Threads of each calculation.")
    calculation_limit_s: float | None = Field(
        None, gt=0, description="A calculation that takes longer (s) is ended and marked as failed; null: no limit."
    )

    @property
    def method_name(self) -> str:
        """The method, or the engine's usual one."""
        return self.method or _METHODS.get(self.engine, "")

    @field_validator("keywords", mode="before")
    @classmethod
    def _typed(cls, value: Any) -> Any:
        """Numbers and yes or no as such, where they come as text from the command line."""
        if not isinstance(value, Mapping):
            return value
        return {name: _plain(item) if isinstance(item, str) else item for name, item in value.items()}

    @field_validator("kpts", mode="after")
    @classmethod
    def _points(cls, value: tuple[int, int, int] | float | None) -> tuple[int, int, int] | float | None:
        if isinstance(value, tuple) and min(value) < 1:
            raise ValueError(f"a mesh needs three numbers of at least 1; found {value}")
        if isinstance(value, float) and value <= 0.0:
            raise ValueError(f"the length of a mesh must be above 0 Angstrom; found {value:g}")
        return value

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        for name, engines in _ONLY_FOR.items():
            if getattr(self, name) is not None and self.engine not in engines:
                raise ValueError(f"{name} is a setting of {' and '.join(engines)}, not of {self.engine}")
        if self.interface != "files" and self.engine != "aims":
            raise ValueError("only aims has another interface than files")
        if self.engine == "ase" and self.method is None:
            raise ValueError(
                "engine = ase needs method: the name of one of ASE's calculators, such as espresso or cp2k"
            )
        if self.engine == "potential" and (self.method is not None or self.keywords):
            raise ValueError("engine = potential takes the input model as it is: leave method and keywords out")
        if self.calculation_limit_s is not None and self.engine in ("tblite", "potential"):
            raise ValueError(
                f"{self.engine} computes within this process and cannot be ended; leave calculation_limit_s out"
            )
        return self
