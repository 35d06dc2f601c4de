"""The entry ``scheduler:`` of a campaign, and the option ``--scheduler``: where work runs."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import InvalidConfig, nearest

System = Literal["slurm", "pbs", "lsf"]
_SYSTEMS = ("slurm", "pbs", "lsf")
_FORMS = "serial, local:N, local:workers=2,threads=4,gpus=1, tcp://host:port, slurm, pbs or lsf"


class SerialPlace(BaseModel):
    """Everything in this process, one after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalPlace(BaseModel):
    """Worker processes on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(2, ge=1, description="Worker processes; each has one task at a time.")
    threads: int = Field(1, ge=1, description="Threads that the libraries of a worker may use.")
    gpus: int = Field(0, ge=0, description="GPUs; the first workers get one each.")
    memory_GB: float | None = Field(None, gt=0, description="Memory of a worker, above which it is restarted (GB).")


class AddressPlace(BaseModel):
    """A dask scheduler that runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(pattern=r"^(tcp|tls|ucx)://", description="Such as tcp://host:8786.")


class QueuePlace(BaseModel):
    """Workers in jobs of a batch system, as many as there is work for (dask-jobqueue)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: System = "slurm"
    minimum_jobs: int = Field(0, ge=0, description="Jobs that are kept when there is nothing to do.")
    maximum_jobs: int = Field(4, ge=1, description="Most jobs at a time.")
    workers: int = Field(1, ge=1, description="Workers in a job; each has one task at a time.")
    threads: int = Field(1, ge=1, description="Threads that the libraries of a worker may use.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of a worker; one worker in a job then.")
    memory_GB: float = Field(4.0, gt=0, description="Memory of a job (GB).")
    walltime: str = Field("01:00:00", description="Time limit of a job, as the batch system writes it.")
    queue: str | None = Field(None, description="Queue or partition.")
    account: str | None = Field(None, description="Account or project that pays.")
    directives: list[str] = Field(default_factory=list, description="More lines of the job's head (--gres=gpu:1).")
    prologue: list[str] = Field(default_factory=list, description="Shell lines before the worker starts.")
    interface: str | None = Field(None, description="Network interface that the nodes reach each other by (ib0).")
    python: str | None = Field(None, description="The Python of the workers; this one by default.")
    log_folder: str | None = Field(None, description="Where the jobs write what they print.")


Place = SerialPlace | LocalPlace | AddressPlace | QueuePlace


def parse_place(value: Any) -> Place:
    """Where work runs, from a text or from the entry of a campaign.

    Raises
    ------
    InvalidConfig
        If it is neither; the message gives the forms there are.
    """
    if value is None or value == "":
        return SerialPlace()
    if isinstance(value, Place):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((name, settings),) = value.items()
        return _named(str(name), {} if settings is None else settings, value)
    if isinstance(value, str):
        if re.match(r"(tcp|tls|ucx)://", value):
            return AddressPlace(address=value)
        name, _, rest = value.partition(":")
        return _named(name, _settings(rest, value), value, colon=":" in value)
    raise _wrong(value)


def _settings(rest: str, value: str) -> dict[str, Any]:
    if rest.isdigit():
        return {"workers": int(rest)}
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    if any(not equals for _, equals, _ in pairs):
        raise _wrong(value)
    return {name.strip(): text.strip() for name, _, text in pairs}


def _named(name: str, settings: Any, value: Any, *, colon: bool = False) -> Place:
    if name == "address" and isinstance(settings, str):
        settings = {"address": settings}
    if not isinstance(settings, dict) or (colon and not settings):
        raise _wrong(value)
    models: dict[str, type[BaseModel]] = {"serial": SerialPlace, "local": LocalPlace, "address": AddressPlace}
    model = QueuePlace if name in _SYSTEMS else models.get(name)
    if model is None:
        raise _wrong(value, nearest(name, [*models, *_SYSTEMS]))
    try:
        made = model.model_validate({**settings, "system": name} if model is QueuePlace else settings)
    except ValidationError as error:
        first = error.errors()[0]
        entry = str(first["loc"][0]) if first["loc"] else name
        raise InvalidConfig(
            f"The setting {entry!r} of the scheduler {name} is not valid.",
            expected=", ".join(model.model_fields) if first["type"] == "extra_forbidden" else first["msg"],
            found=f"{entry} = {first.get('input')!r}"[:200],
            hint=nearest(entry, model.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None
    assert isinstance(made, Place)
    return made


def _wrong(value: Any, hint: str | None = None) -> InvalidConfig:
    return InvalidConfig(
        "There is no such scheduler.", expected=_FORMS, found=str(value), hint=hint or "for example --scheduler local:2"
    )
