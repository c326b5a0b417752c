"""One contract for every storage: memory, a directory, and S3 on a real server."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from journal.errors import BadSubject, CallerError, NotFound, StorageError
from journal.memory import MemoryStorage
from journal.protocols import Storage
from journal.s3 import MULTIPART_BYTES, S3Storage
from journal.storage import LocalStorage, open_storage
from tests import ministack

BUCKET = "archive"
_serial = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ministack.Server]:
    with ministack.running(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket(BUCKET)
        yield running


def s3(server: ministack.Server, prefix: str | None = None) -> S3Storage:
    prefix = f"p{next(_serial)}/archive" if prefix is None else prefix
    return S3Storage(BUCKET, prefix, endpoint=server.endpoint, region="us-east-1", **ministack.CREDENTIALS)


@pytest.fixture(params=["memory", "local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return s3(request.getfixturevalue("server"))
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "objects")


def test_what_was_put_is_read_back_and_replaced(storage: Storage) -> None:
    assert storage.put("local/kalshi/2026-08-10/manifest.json", b"one")
    assert storage.put("local/kalshi/2026-08-10/manifest.json", b"two")
    assert storage.get("local/kalshi/2026-08-10/manifest.json") == b"two"


@pytest.mark.parametrize("size", [0, 1, MULTIPART_BYTES - 1, MULTIPART_BYTES, MULTIPART_BYTES + 9_000_001])
def test_objects_of_any_size(storage: Storage, size: int) -> None:
    data = Random(size).randbytes(size)
    storage.put("big", data)
    assert storage.get("big") == data
    assert [tuple(o) for o in storage.list("")] == [("big", size)]


def test_if_absent_never_replaces(storage: Storage) -> None:
    assert storage.put("a/b", b"first", if_absent=True)
    assert not storage.put("a/b", b"second", if_absent=True)
    assert storage.get("a/b") == b"first"


def test_of_racing_writers_one_wins(storage: Storage) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        if storage.put("a/b", b"%d" % number * 50_000, if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert storage.get("a/b") == b"%d" % won[0] * 50_000


def test_a_reader_sees_the_old_object_or_the_new_one(storage: Storage) -> None:
    versions = [bytes([n]) * 100_000 for n in range(30)]
    storage.put("a", versions[0])
    done = threading.Event()

    def write() -> None:
        for version in versions:
            storage.put("a", version)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {storage.get("a")}
    while not done.is_set():
        seen.add(storage.get("a"))
    writer.join()
    assert seen <= set(versions)


def test_ranges(storage: Storage) -> None:
    storage.put("a", b"0123456789")
    assert storage.get_range("a", 2, 3) == b"234"
    assert storage.get_range("a", 8, 100) == b"89"
    assert storage.get_range("a", 10, 5) == b""
    assert storage.get_range("a", 3, 0) == b""
    with pytest.raises(NotFound):
        storage.get_range("b", 0, 1)


def test_lists_by_prefix_and_by_folder(storage: Storage) -> None:
    for key in ("b/x/2", "b/x/1", "b/xy", "b/z/%2E/w", "top"):
        storage.put(key, b"12")
    assert [o.key for o in storage.list("")] == ["b/x/1", "b/x/2", "b/xy", "b/z/%2E/w", "top"]
    assert [o.key for o in storage.list("b/x")] == ["b/x/1", "b/x/2", "b/xy"]
    assert [o.key for o in storage.list("b/x/")] == ["b/x/1", "b/x/2"]
    assert list(storage.list("nothing/here")) == []
    assert storage.folders("") == ["b"]
    assert storage.folders("b") == ["x", "z"]
    assert storage.folders("b/x") == []
    assert storage.folders("nothing") == []


def test_more_objects_than_one_page(storage: Storage) -> None:
    keys = [f"many/{n:04}/x" for n in range(1_100)]
    for key in keys:
        storage.put(key, b"")
    assert [o.key for o in storage.list("many/")] == keys
    assert len(storage.folders("many")) == 1_100


def test_delete_and_delete_again(storage: Storage) -> None:
    storage.put("a/b", b"1")
    storage.delete("a/b")
    storage.delete("a/b")
    storage.delete("never/there")
    assert list(storage.list("")) == []
    with pytest.raises(NotFound):
        storage.get("a/b")


def test_not_found_names_its_neighbours(storage: Storage) -> None:
    storage.put("a/2026-08-10", b"")
    with pytest.raises(NotFound, match="2026-08-10"):
        storage.get("a/2026-08-11")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".tmp/a", "a b", "a\0", "ä", "a\n"])
def test_keys_that_could_leave_the_place_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(BadSubject):
        storage.put(key, b"")
    with pytest.raises(BadSubject):
        storage.get(key)


class StorageMachine(RuleBasedStateMachine):
    """Any storage behaves as `MemoryStorage` does."""

    tested: Any = None  # makes an empty storage

    keys = st.builds("/".join, st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "x%2E", "y"]), st.sampled_from(["1", "10", "2.z"])))

    @initialize()
    def begin(self) -> None:
        self.model, self.real = MemoryStorage(), type(self).tested()

    @rule(key=keys, data=st.binary(max_size=100), if_absent=st.booleans())
    def put(self, key: str, data: bytes, if_absent: bool) -> None:
        assert self.real.put(key, data, if_absent=if_absent) == self.model.put(key, data, if_absent=if_absent)

    @rule(key=keys, offset=st.integers(0, 120), size=st.integers(0, 120))
    def read(self, key: str, offset: int, size: int) -> None:
        assert _or_missing(self.real.get, key) == _or_missing(self.model.get, key)
        assert _or_missing(self.real.get_range, key, offset, size) == _or_missing(self.model.get_range, key, offset, size)

    @rule(key=keys, cut=st.integers(0, 6))
    def look(self, key: str, cut: int) -> None:
        assert self.real.list(key[:cut]) == self.model.list(key[:cut])
        folder = key[:cut].rpartition("/")[0]
        assert self.real.folders(folder) == self.model.folders(folder)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.real.delete(key)
        self.model.delete(key)


def _or_missing(read: Any, *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except NotFound:
        return None


def test_local_is_as_memory(tmp_path: Path) -> None:
    class Local(StorageMachine):
        tested = staticmethod(lambda: LocalStorage(tmp_path / str(next(_serial))))

    run_state_machine_as_test(Local, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


def test_s3_is_as_memory(server: ministack.Server) -> None:
    class Remote(StorageMachine):
        tested = staticmethod(lambda: s3(server))

    run_state_machine_as_test(Remote, settings=settings(max_examples=10, stateful_step_count=20, deadline=None))


# A process that replaces one object for ever with versions of one repeated byte.
_WRITER = """
import sys
from journal.storage import open_storage
storage = open_storage(sys.argv[1])
size = int(sys.argv[2])
print("ready", flush=True)
while True:
    for version in range(1, 256):
        storage.put("a/b", bytes([version]) * size)
        storage.put(f"a/once-{version}", bytes([version]) * size, if_absent=True)
"""


def _killed_writer(url: str, size: int, after_s: float) -> None:
    env = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]),
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", _WRITER, url, str(size)], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)


def _assert_whole(storage: Storage, size: int) -> None:
    found = storage.list("")
    assert found
    for key, length in found:
        data = storage.get(key)
        assert length == len(data) == size
        assert data == data[:1] * size


def test_a_kill_during_puts_leaves_whole_objects_and_no_litter(tmp_path: Path) -> None:
    root, rng = tmp_path / "objects", Random(1)
    for _ in range(12):
        _killed_writer(str(root), 3_000_000, rng.uniform(0.02, 0.15))
        _assert_whole(LocalStorage(root), 3_000_000)
        assert not list((root / ".tmp").iterdir())  # opening it swept


def test_a_kill_during_multipart_puts_leaves_whole_objects(server: ministack.Server) -> None:
    prefix, size, rng = f"killed{next(_serial)}", MULTIPART_BYTES + 1, Random(2)
    for _ in range(2):
        _killed_writer(f"s3://{BUCKET}/{prefix}?endpoint={server.endpoint}", size, rng.uniform(0.6, 1.2))
        _assert_whole(s3(server, prefix), size)


def test_objects_survive_a_kill_of_the_s3_server(tmp_path: Path) -> None:
    with ministack.running(tmp_path) as own:
        own.make_bucket(BUCKET)
        storage = s3(own)
        storage.put("a/b", b"kept")
        own.kill()
        with pytest.raises(StorageError, match="check the server"):
            storage.get("a/b")
        own.start()
        assert storage.get("a/b") == b"kept"


def test_a_temporary_file_of_a_living_writer_is_not_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with storage._temporary() as (_, path):
        LocalStorage(tmp_path)
        assert path.exists()
    assert not path.exists()


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    code = f"""
        import resource, signal
        from journal.errors import StorageError
        from journal.storage import LocalStorage
        storage = LocalStorage({str(tmp_path)!r})
        storage.put("a/b", b"old")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            storage.put("a/b", bytes(1_000_000))
        except StorageError as error:
            print(error)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, check=True)
    assert "cannot write a/b (1000000 bytes)" in done.stdout
    assert "free space" in done.stdout
    assert LocalStorage(tmp_path).get("a/b") == b"old"
    assert [o.key for o in LocalStorage(tmp_path).list("")] == ["a/b"]
    assert not list((tmp_path / ".tmp").iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000  # only the child was limited


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EIO, "check")]
)
def test_errors_of_the_disk_say_what_to_do(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(StorageError, match=words), LocalStorage(tmp_path)._explained("write x"):
        raise OSError(code, os.strerror(code))


def test_a_root_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = LocalStorage(tmp_path / "file")
    with pytest.raises(StorageError, match="choose another directory"):
        storage.put("a", b"")
    assert list(storage.list("")) == []


def test_a_missing_bucket_and_an_absent_server_say_what_to_do(server: ministack.Server) -> None:
    with pytest.raises(StorageError, match="create the bucket"):
        S3Storage("no-such-bucket", endpoint=server.endpoint, region="us-east-1", **ministack.CREDENTIALS).get("a")
    with pytest.raises(StorageError, match="check the server"):
        S3Storage(BUCKET, endpoint="http://127.0.0.1:9", region="us-east-1", **ministack.CREDENTIALS).put("a", b"")


def test_the_table_of_schemes(tmp_path: Path, server: ministack.Server) -> None:
    assert isinstance(open_storage("memory:"), MemoryStorage)
    open_storage(tmp_path / "a").put("k", b"1")
    assert open_storage(f"file://{tmp_path}/a").get("k") == b"1"
    opened = open_storage(f"s3://{BUCKET}/table?endpoint={server.endpoint}&region=us-east-1")
    assert isinstance(opened, S3Storage)
    for bad in ("gs://bucket", "http://x", "file://host/path", "s3://", f"s3://{BUCKET}/a?secret=1"):
        with pytest.raises(CallerError, match=r"known:|write"):
            open_storage(bad)


def test_what_holds_the_objects_is_made_once(server: ministack.Server, tmp_path: Path) -> None:
    bucket = f"made-{next(_serial)}"
    remote = S3Storage(bucket, "p", endpoint=server.endpoint, region="us-east-1", **ministack.CREDENTIALS)
    for storage in (LocalStorage(tmp_path / "a" / "b"), remote):
        assert not storage.exists()
        storage.create()
        assert storage.exists()
        storage.put("a", b"x")
        storage.create()
        assert storage.get("a") == b"x"
    assert MemoryStorage().exists()


def test_a_bucket_in_another_region_is_not_ours(server: ministack.Server) -> None:
    bucket = f"made-{next(_serial)}"
    S3Storage(bucket, endpoint=server.endpoint, region="eu-west-1", **ministack.CREDENTIALS).create()
    elsewhere = S3Storage(bucket, endpoint=server.endpoint, region="us-east-1", **ministack.CREDENTIALS)
    for attempt in (elsewhere.exists, elsewhere.create):
        with pytest.raises(StorageError, match=r"in region eu-west-1, not us-east-1: correct storage\.region"):
            attempt()
