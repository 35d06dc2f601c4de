"""A bucket on this machine, and who wrote what to it."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from h5ml.compute.module import Map, Module
from h5ml.schemas.config import Config, Field
from h5ml.schemas.kinds import TABLE

from .toys import note

NAME = "bucket"
HINDRANCES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_SESSION_TOKEN", "AWS_PROFILE", "H5ML_STORE")
SECRET = "AWS_SECRET_ACCESS_KEY"
WHO = "AWS_ACCESS_KEY_ID"
ROWS = 1250
"""Of a bulky result: 10 kB."""


class Bulk(Config):
    """Many quick items whose results are bulky."""

    count: int = Field(300, ge=1, description="How many items.")
    bad: int = Field(-1, description="An item that fails while the file H5ML_TOY_BAD exists.")


def bulky(item: tuple[int, int]) -> xr.Dataset:
    """One item."""
    index, bad = item
    note(f"item {index}")
    if index == bad and Path(os.environ.get("H5ML_TOY_BAD", "/nowhere")).exists():
        raise ValueError(f"item {index} is bad")
    return TABLE.dataset({"x": (("row",), np.arange(ROWS) * np.sqrt(float(index + 1)), {"units": "1"})})


def bulk(config: Bulk, inputs: Any, context: Any) -> Any:
    """Yield one map, and look at its results in order."""
    results = yield Map(bulky, [(index, config.bad) for index in range(config.count)], name="bulky")
    return {"sums": TABLE.dataset({"x": (("row",), [float(one["x"].sum()) for one in results], {"units": "1"})})}


BULK = Module("toy_bulk", "1", Bulk, {}, {"sums": TABLE}, bulk)


class Bucket:
    """An S3 server with one bucket.

    Attributes
    ----------
    url : str
        Of the server.
    written : dict
        Sizes of the objects written, by access key and folder of the store; processes are told apart by giving each
        another access key.
    """

    def __init__(self, url: str, client: Any) -> None:
        self.url, self._client = url, client
        self.written: dict[tuple[str, str], list[int]] = defaultdict(list)

    def objects(self, prefix: str) -> dict[str, int]:
        """Names and sizes of all objects below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=NAME, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def note(self, request: dict[str, Any]) -> None:
        """Count a request to the server."""
        if request["REQUEST_METHOD"] == "PUT":
            who = request.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
            folder = request["PATH_INFO"].split("/")[-2]
            self.written[who, folder].append(
                int(request.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH", request["CONTENT_LENGTH"]))
            )


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Start the server, and name it to this process and its children."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    noted: list[Bucket] = []
    call = moto.DomainDispatcherApplication.__call__

    def counted(self: Any, request: dict[str, Any], start: Any) -> Any:
        for each in noted:
            each.note(request)
        return call(self, request, start)

    monkeypatch.setattr(moto.DomainDispatcherApplication, "__call__", counted)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        for name in HINDRANCES:
            monkeypatch.delenv(name, raising=False)
        url = "http://{}:{}".format(*server.get_host_and_port())
        values = {WHO: "key", SECRET: "secret", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": url}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
        client.create_bucket(Bucket=NAME)
        noted.append(Bucket(url, client))
        yield noted[0]
    finally:
        server.stop()
