"""The bytes of jobs: in a folder, and in a bucket of an S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from atelier_gateway.jobs.blobs import BlobMissing, BlobStore
from atelier_gateway.jobs.values import new_id
from atelier_runtime.errors import ServiceUnavailable
from atelier_runtime.settings import StartupError
from tests.contract.job_client import done, output_names, output_of
from tests.contract.stack import Stack

_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server that has a bucket named photos."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    before = dict(os.environ)
    os.environ |= {**_KEYS, "AWS_ENDPOINT": url, "AWS_ALLOW_HTTP": "true"}
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="photos")
    client.close()
    yield url
    os.environ.clear()
    os.environ |= before
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file:{tmp_path}/files"
    request.getfixturevalue("s3")
    return f"s3://photos/{tmp_path.name}"


@pytest.fixture
def blobs(files: str) -> BlobStore:
    store = BlobStore(files)
    store.open()
    return store


async def test_what_was_put_is_read_in_whole_and_in_parts(blobs: BlobStore) -> None:
    data = bytes(range(256)) * 10_000  # more than one chunk
    await blobs.put("job_1/image.png", data)
    assert await blobs.get("job_1/image.png") == data
    for start, end in ((0, len(data)), (3, 10), (2**20 - 1, 2**20 + 1), (5, 5)):
        chunks = [chunk async for chunk in await blobs.stream("job_1/image.png", start, end)]
        assert b"".join(chunks) == data[start:end]
    await blobs.put("job_1/image.png", b"new")
    assert await blobs.get("job_1/image.png") == b"new"


async def test_what_is_missing_is_said_to_be(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await blobs.get("job_1/image.png")
    with pytest.raises(BlobMissing):
        await blobs.stream("job_1/image.png", 0, 5)


async def test_all_of_a_job_is_deleted_and_nothing_else(blobs: BlobStore) -> None:
    one, other = new_id(), new_id()
    for name in (f"{one}/a.png", f"{one}/b.png", f"{other}/a.png", "photos/wedding.png"):
        await blobs.put(name, b"12345")
    assert await blobs.bytes_held() == 20
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert await blobs.job_ids(tomorrow) == {one, other}, "what is not a job's is left alone"
    assert await blobs.job_ids(datetime.now(UTC) - timedelta(hours=1)) == set()
    await blobs.delete_of(one)
    await blobs.delete_of(one)
    assert await blobs.job_ids(tomorrow) == {other} and await blobs.bytes_held() == 10


async def test_a_store_belongs_to_one_database(blobs: BlobStore) -> None:
    await blobs.belong_to("first")
    await blobs.belong_to("first")
    with pytest.raises(StartupError, match="another database"):
        await blobs.belong_to("second")


async def test_a_bucket_that_is_not_there(s3: str) -> None:
    blobs = BlobStore("s3://nowhere/x")
    blobs.open()
    with pytest.raises(StartupError, match="ATELIER_GATEWAY_JOBS_FILES"):
        await blobs.belong_to("first")
    with pytest.raises(ServiceUnavailable):
        await blobs.put("x", b"1")


async def test_a_store_that_is_away(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    blobs = BlobStore("s3://photos/x")
    blobs.open()
    with pytest.raises(ServiceUnavailable):
        await blobs.put("job_1/a.png", b"1")
    assert not blobs.is_usable
    await blobs.try_again()
    assert not blobs.is_usable


async def test_a_store_that_is_back(blobs: BlobStore, tmp_path: Path) -> None:
    """Without another job: nobody may submit one while it is said that none is accepted."""
    assert blobs.is_usable
    blobs.is_usable = False
    await blobs.try_again()
    assert blobs.is_usable and await blobs.bytes_held() == 0, "nothing of the trial stays"


def test_what_cannot_be_opened_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="ATELIER_GATEWAY_JOBS_FILES"):
        BlobStore(f"file:{tmp_path}/file/below").open()


def test_a_job_whose_files_are_in_a_bucket(s3: str) -> None:
    with Stack(jobs_files="s3://photos/jobs") as stack:
        job = done(stack)
        assert job["status"] == "completed" and output_names(job) == ["drawn", "image"]
        assert output_of(stack, job, "image")[:4] == b"\x89PNG"
        url = job["outputs"][0]["url"]
        assert stack.client.get(url, headers={"Range": "bytes=1-3"}).content == b"PNG"
        image = {"job": job["id"], "output": "drawn"}
        again = done(stack, type="restore", input={"image": image})
        assert again["status"] == "completed"
