"""A real S3 server for tests: ministack, in a virtual environment of its own because it pins botocore."""

from __future__ import annotations

import http.client
from contextlib import AbstractContextManager
from pathlib import Path

import boto3

from tests.tools import Served, environment, started

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


class Server(Served):
    """One ministack process on 127.0.0.1; `kill` and `start` again keep its data."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        data, state = self.directory / "data", self.directory / "state"
        data.mkdir(parents=True, exist_ok=True)
        state.mkdir(exist_ok=True)
        settings = {
            "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(self.port), "SERVICES": "s3", "S3_PERSIST": "1", "S3_DATA_DIR": str(data),
            "PERSIST_STATE": "1", "STATE_DIR": str(state), "SFTP_ENABLED": "0",
        }  # fmt: skip
        self.launch([environment("ministack") / "ministack"], settings, self._answers)

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


def running(directory: Path) -> AbstractContextManager[Server]:
    return started(Server(directory))
