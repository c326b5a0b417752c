"""A real S3 server for tests: ministack, in a virtual environment of its own because it pins botocore."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from tests.tools import environment

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
_START_S = 30


class Server:
    """One ministack process on 127.0.0.1; `kill` and `start` again keep its data."""

    def __init__(self, directory: Path) -> None:
        self._command = environment("ministack") / "ministack"
        self._directory = directory
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data, state = self._directory / "data", self._directory / "state"
        data.mkdir(parents=True, exist_ok=True)
        state.mkdir(exist_ok=True)
        settings = {
            "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port), "SERVICES": "s3", "S3_PERSIST": "1", "S3_DATA_DIR": str(data),
            "PERSIST_STATE": "1", "STATE_DIR": str(state), "SFTP_ENABLED": "0",
        }  # fmt: skip
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._command], env={"PATH": os.environ["PATH"], **settings}, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ministack did not start: {(self._directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def make_bucket(self, name: str) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106  (the server checks none)
        )
        client.create_bucket(Bucket=name)
        client.close()

    def kill(self) -> None:
        """SIGKILL, its children included."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    server = Server(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()
