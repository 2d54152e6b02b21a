"""The same over S3, against moto's server on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.project import Project
from tests.build.test_remote import Machine, content

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _wait(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("moto's server did not start")


@pytest.fixture
def machine(project: Project, endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    bucket = f"bucket-{tmp_path.name.replace('_', '-')}".lower()[:60].strip("-")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(bucket)
    return Machine(project, f"s3://{bucket}/prefix")


def test_what_one_machine_built_another_one_fetches(machine: Machine) -> None:
    machine.build("readwrite", record_seconds=30.0, stall_seconds=30.0)
    assert machine.said == []
    before = content(machine)
    machine.project.calls  # noqa: B018
    assert set(machine.build(record_seconds=30.0, stall_seconds=30.0).values()) == {"remote"}
    assert machine.said == [] and machine.project.calls == []
    assert content(machine) == before


def test_somebody_else_s_record_stays(machine: Machine) -> None:
    import s3fs

    machine.build("readwrite", record_seconds=30.0, stall_seconds=30.0)
    assert machine.remote is not None
    system = s3fs.S3FileSystem(use_listings_cache=False)
    path = system.find(f"{machine.url}/ac/graph")[0]
    before = system.cat_file(path)
    machine.remote._create(path, b"another machine's")
    assert system.cat_file(path) == before


def test_a_lying_bucket(machine: Machine) -> None:
    import s3fs

    machine.build("readwrite", record_seconds=30.0, stall_seconds=30.0)
    before = content(machine)
    system = s3fs.S3FileSystem(use_listings_cache=False)
    for path in system.find(f"{machine.url}/blobs"):
        system.pipe_file(path, b"x" * system.info(path)["size"])
    machine.build(record_seconds=30.0, stall_seconds=30.0)
    assert content(machine) == before
    assert machine.said and all("holds other bytes" in line for line in machine.said)


def test_a_bucket_that_is_not_there(machine: Machine) -> None:
    machine.url = "s3://no-such-bucket/prefix"
    assert set(machine.build("readwrite", record_seconds=30.0, stall_seconds=30.0).values()) == {"built"}
    assert len(machine.said) == 1 and machine.said[0].endswith("going on without it")


def test_a_server_that_is_out_of_reach(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    started = time.monotonic()
    assert set(machine.build("readwrite", record_seconds=3.0).values()) == {"built"}
    assert len(machine.said) == 1 and machine.said[0].endswith("going on without it")
    assert time.monotonic() - started < 60
