"""Objects in an S3 bucket, Amazon's or any server's that honours ``If-None-Match: *`` on a plain put.

Credentials and region are boto3's own business (environment, profile, role). Retries are bounded; what fails after them is `StorageError`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from journal.errors import CallerError, NotFound, StorageError
from journal.protocols import ObjectInfo
from journal.subjects import check_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# Larger objects go in parts, so that a lost connection costs one part; segments are seldom above it. S3 wants parts of at least 5 MiB.
MULTIPART_BYTES = 16 << 20
PART_BYTES = 8 << 20
_CONFIG = Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=5, read_timeout=60)
_GONE = frozenset({"NoSuchKey", "404", "NotFound"})
_EXISTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_WHY = {
    "NoSuchBucket": "create the bucket (`ssmd env apply` does) or correct its name",
    "BucketAlreadyExists": "somebody else has a bucket of this name: choose another",
    "AccessDenied": "give these credentials read, write, list and delete on the bucket",
    "403": "give these credentials read, write, list and delete on the bucket",
    "InvalidAccessKeyId": "correct the access key",
    "SignatureDoesNotMatch": "correct the secret key",
    "RequestTimeTooSkewed": "set this machine's clock",
}


class S3Storage:
    """Objects under `prefix` in `bucket`. Thread-safe; a put is whole or not at all, parts of a killed one are never visible."""

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str | None = None, region: str | None = None, **credentials: str
    ) -> None:
        """`endpoint` for servers other than Amazon's; `credentials` are boto3's keyword arguments of that kind."""
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        try:
            self._client: S3Client = boto3.client(
                "s3", endpoint_url=endpoint, region_name=region, config=_CONFIG, **_only_known(credentials)
            )
        except (BotoCoreError, ValueError) as error:
            raise StorageError(
                f"cannot open s3://{bucket}: {_words(error)}; set AWS_DEFAULT_REGION and credentials, or ?region= in the URL"
            ) from error

    @classmethod
    def of(cls, url: str) -> S3Storage:
        """``s3://bucket/prefix``, with ``?endpoint=http://host:port&region=name`` where they are not in the environment."""
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        if not parts.netloc or not set(query) <= {"endpoint", "region"}:
            raise CallerError(f"{url}: write s3://bucket/prefix, optionally with ?endpoint=URL&region=NAME")
        one = {name: values[0] for name, values in query.items()}
        return cls(parts.netloc, parts.path, endpoint=one.get("endpoint"), region=one.get("region"))

    def exists(self) -> bool:
        with self._explained("look at the bucket"):
            try:
                found = self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) in _GONE:
                    return False
                if self._region_of(error.response) not in ("", self._region):
                    raise self._elsewhere(self._region_of(error.response)) from error
                raise
        if (region := self._region_of(found)) not in ("", self._region):
            raise self._elsewhere(region)
        return True

    def create(self) -> None:
        if self.exists():
            return
        # S3 wants no word of its first region, and one of every other.
        where: Any = {} if self._region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        with self._explained("create the bucket"):
            try:
                self._client.create_bucket(Bucket=self._bucket, **where)
            except ClientError as error:
                if _code(error) != "BucketAlreadyOwnedByYou":
                    raise

    @property
    def _region(self) -> str:
        return self._client.meta.region_name

    def _region_of(self, answer: Any) -> str:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region", ""))

    def _elsewhere(self, region: str) -> StorageError:
        return StorageError(
            f"bucket {self._bucket} is in region {region}, not {self._region}: correct storage.region, or name another bucket"
        )  # fmt: skip

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        name = self._name(key)
        with self._explained(f"write {key} ({len(data)} bytes)"):
            if if_absent:
                try:
                    self._client.put_object(Bucket=self._bucket, Key=name, Body=data, ChecksumSHA256=_checksum(data), IfNoneMatch="*")
                except ClientError as error:
                    if _code(error) in _EXISTS:
                        return False
                    raise
            elif len(data) < MULTIPART_BYTES:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=data, ChecksumSHA256=_checksum(data))
            else:
                self._put_parts(name, data)
        return True

    def _put_parts(self, name: str, data: bytes) -> None:
        upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=name, ChecksumAlgorithm="SHA256")["UploadId"]
        try:
            done: list[Any] = []
            for number, at in enumerate(range(0, len(data), PART_BYTES), 1):
                part = data[at : at + PART_BYTES]
                checksum = _checksum(part)
                answer = self._client.upload_part(
                    Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, Body=part, ChecksumSHA256=checksum
                )
                done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
            self._client.complete_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            with suppress(BotoCoreError, ClientError):  # a bucket's lifecycle rule removes what this cannot
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
            raise

    def get(self, key: str) -> bytes:
        return self._get(key)

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        if size <= 0:
            self._get(key, Range="bytes=0-0")
            return b""
        return self._get(key, Range=f"bytes={offset}-{offset + size - 1}")

    def _get(self, key: str, **arguments: Any) -> bytes:
        name = self._name(key)
        with self._explained(f"read {key}"):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=name, **arguments)["Body"].read()
            except ClientError as error:
                if _code(error) in _GONE:
                    near = key.rpartition("/")[0]
                    raise NotFound("object", key, [o.key for o in self.list(f"{near}/" if near else "", most=1)]) from None
                if _code(error) == "InvalidRange":  # from behind the end
                    return b""
                raise

    def list(self, prefix: str, *, most: int | None = None) -> list[ObjectInfo]:
        """`most` bounds the pages of 1,000 that are asked for."""
        found = []
        for page in self._pages(self._prefix + prefix, "", most):
            found += [ObjectInfo(o["Key"][len(self._prefix) :], o["Size"]) for o in page.get("Contents", [])]
        return sorted(found)

    def folders(self, prefix: str) -> Sequence[str]:
        head = self._prefix + (f"{check_key(prefix)}/" if prefix else "")
        names = []
        for page in self._pages(head, "/", None):
            names += [p["Prefix"][len(head) : -1] for p in page.get("CommonPrefixes", [])]
        return sorted(names)

    def _pages(self, prefix: str, delimiter: str, most: int | None) -> Iterator[Any]:
        with self._explained(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, Delimiter=delimiter)
            for number, page in enumerate(pages, 1):
                yield page
                if number == most:
                    return

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._explained(f"delete {key}"):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            why = _WHY.get(_code(error) if isinstance(error, ClientError) else "", "check the server, the network and the credentials")
            raise StorageError(f"cannot {action} in s3://{self._bucket}/{self._prefix}: {_words(error)}; {why}") from error


def _words(error: Exception) -> str:
    """What the library says, without the user of an URL in it."""
    return re.sub(r"//[^/@\s]*@", "//", str(error))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _checksum(data: bytes) -> str:
    return b64encode(sha256(data).digest()).decode()


def _only_known(credentials: dict[str, str]) -> dict[str, Any]:
    known = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
    if unknown := set(credentials) - known:
        raise CallerError(f"unknown credentials {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return dict(credentials)
