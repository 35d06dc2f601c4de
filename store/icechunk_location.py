"""Where an Icechunk store lies (a folder or a bucket), and what its library's errors mean there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies

from ..schemas.errors import H5mlError, InvalidConfig, NotAStore, StoreDamaged, StoreWriteFailed

BRANCH = "main"
REFERENCE = Path("refs", f"branch.{BRANCH}", "ref.json")
_ANSWER_S = 10.0
_CONNECT = "check the network, the endpoint_url (AWS_ENDPOINT_URL) and the region, then try again"
_OPTIONS = {"endpoint_url", "region", "anonymous"}
_ABSENT = ("repository doesn't exist",)
_UNREACHABLE = (
    "dispatch failure",
    "error sending request",
    "connection refused",
    "connection reset",
    "connectorerror",
    "dns error",
    "timed out",
    "timeout",
    "error trying to connect",
)
_REFUSED = ("accessdenied", "access denied", "forbidden", "invalidaccesskey", "signaturedoesnotmatch", "credential")
_NO_BUCKET = ("nosuchbucket", "bucket does not exist")
_SYSTEM = ("no space left", "permission denied", "read-only file system", "quota exceeded", "input/output error")
_DAMAGED = (
    "invalid icechunk",
    "not found",
    "incomplete frame",
    "cannot serialize",
    "unknown frame descriptor",
    "decode",
    "decompress",
    "checksum",
    "utf8 error",
    "no such file",
)


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location.

    Attributes
    ----------
    text : str
        As the user wrote it.
    folder : Path or None
        A local folder, or
    bucket, prefix : str
        a place in a bucket.
    endpoint_url, region : str or None
        Of an S3-compatible service.
    anonymous : bool
        Read a public bucket without credentials.
    """

    text: str
    folder: Path | None = None
    bucket: str = ""
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool = False

    def check(self) -> None:
        """Fail within seconds where nobody answers: the library would try for more than half a minute.

        Raises
        ------
        NotAStore
            If no connection to the endpoint can be made.
        """
        if self.endpoint_url is None or getproxies():
            return
        url = urlsplit(self.endpoint_url)
        try:
            port = url.port or (80 if url.scheme == "http" else 443)
            socket.create_connection((url.hostname or "", port), timeout=_ANSWER_S).close()
        except (OSError, ValueError) as error:
            raise NotAStore(
                f"The store at {self.text} cannot be reached.",
                key=self.text,
                expected=f"an S3-compatible service at {self.endpoint_url}",
                found=str(error),
                hint=_CONNECT,
            ) from error

    def storage(self) -> Any:
        """The library's handle of the place; credentials come from the environment."""
        import icechunk

        if "ICECHUNK_LOG" not in os.environ:
            icechunk.set_logs_filter("error")  # or it warns of local folders, which h5ml's lock makes safe
        if self.folder is not None:
            return icechunk.local_filesystem_storage(str(self.folder.resolve()))
        return icechunk.s3_storage(
            bucket=self.bucket,
            prefix=self.prefix or None,
            region=self.region or "us-east-1",
            endpoint_url=self.endpoint_url,
            allow_http=bool(self.endpoint_url and self.endpoint_url.startswith("http://")),
            from_env=None if self.anonymous else True,
            anonymous=True if self.anonymous else None,
            force_path_style=self.endpoint_url is not None,
        )


def parse_location(location: str | Path) -> Location:
    """Understand a folder's path or ``s3://bucket/prefix?endpoint_url=...&region=...``.

    Parameters
    ----------
    location : str or Path
        Options that are missing come from ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION`` and
        ``AWS_DEFAULT_REGION``.

    Returns
    -------
    Location
        Nothing is opened.

    Raises
    ------
    InvalidConfig
        For a URL without a bucket, with an unknown option, or with credentials in it.
    """
    text = str(location)
    if "://" not in text or text.startswith("file://"):
        return Location(text, folder=Path(text.removeprefix("file://")))
    url = urlsplit(text)
    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    if url.scheme != "s3" or not url.netloc or "@" in url.netloc or not set(options) <= _OPTIONS:
        raise InvalidConfig(
            "This is no place for an Icechunk store.",
            expected="a folder, or s3://bucket/prefix with the options " + ", ".join(sorted(_OPTIONS)),
            found=text if "@" not in url.netloc else "a URL with credentials in it",
            hint="credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    environ = os.environ.get
    return Location(
        text,
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        endpoint_url=options.get("endpoint_url") or environ("AWS_ENDPOINT_URL_S3") or environ("AWS_ENDPOINT_URL"),
        region=options.get("region") or environ("AWS_REGION") or environ("AWS_DEFAULT_REGION"),
        anonymous=options.get("anonymous", "").lower() in {"1", "true", "yes"},
    )


@contextmanager
def translated(location: str, *, key: str | None = None, writing: bool = False) -> Iterator[None]:
    """Turn the library's errors into h5ml's; everything else passes.

    Parameters
    ----------
    location : str
        Of the store.
    key : str, optional
        The group concerned.
    writing : bool
        Whether an error that says nothing more means a failed write (else damage).
    """
    try:
        yield
    except BaseException as error:
        if not _foreign(error):
            raise
        raise meaning(error, location, key=key, writing=writing) from error


def _foreign(error: BaseException) -> bool:
    """Whether it comes from the library: its error classes, or a panic of its Rust code."""
    names = {f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__}
    return "pyo3_runtime.PanicException" in names or any(name.startswith(("icechunk.", "_icechunk")) for name in names)


def meaning(error: BaseException, location: str, *, key: str | None = None, writing: bool = False) -> H5mlError:
    """What an error of the library means for the user (parameters as of `translated`)."""
    text = str(error)
    lower = text.lower()

    def says(words: tuple[str, ...]) -> bool:
        return any(word in lower for word in words)

    facts: dict[str, Any] = {"key": key or location, "found": _first_line(text)}
    failed = StoreWriteFailed if writing else NotAStore
    if says(_ABSENT):
        return NotAStore(
            f"There is no store at {location}.", hint="check the path, or make a new store there", key=location
        )
    if says(_NO_BUCKET):
        return NotAStore("The bucket does not exist.", hint="make the bucket, or check its name and endpoint", **facts)
    if says(_SYSTEM):
        hint = "check free space, quota and permissions; what was committed is intact"
        return (StoreWriteFailed if writing else StoreDamaged)("The operating system refused.", hint=hint, **facts)
    if says(_UNREACHABLE):
        return failed(f"The store at {location} cannot be reached.", hint=_CONNECT, **facts)
    if says(_REFUSED):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for an account that may use the bucket"
        return failed(f"The service refused access to {location}.", hint=hint, **facts)
    if writing and not says(_DAMAGED):
        return StoreWriteFailed("A write failed; the last commit is intact.", hint="try again", **facts)
    return StoreDamaged(
        "A part of the store is missing or not as it was written.",
        hint="run `h5ml audit`; a copy made with `h5ml copy` can replace what is lost",
        **facts,
    )


def _first_line(text: str) -> str:
    """What the library says, without the trace of its source lines."""
    lines = [line.strip(" x|`->\n\t") for line in text.splitlines()]
    return next((line for line in lines if line), "an error without a message")[:300]
