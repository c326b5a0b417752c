"""Object storage: a local directory, and the table from an URL to its class (S3 is in `journal.s3`, memory in `journal.memory`)."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

from journal.errors import CallerError, NotFound, StorageError
from journal.memory import MemoryStorage
from journal.protocols import ObjectInfo, Storage
from journal.subjects import check_key

_TEMPORARY = ".tmp"
# Keys shown as nearest to one that is not there: listing more would read directories for an error message.
_NEAREST = 1_000


class LocalStorage:
    """Objects as files below `root`, which is made at the first put. Any number of processes may share it.

    A put writes ``.tmp/…``, fsyncs, renames it into place and fsyncs the directories: a crash leaves the old object or the new one.
    What a killed process left in ``.tmp`` is removed by the next one to open the directory.
    """

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root)
        self._serial = count()
        self._sweep()

    def exists(self) -> bool:
        return self._root.is_dir()

    def create(self) -> None:
        with self._explained("make the directory"):
            self._make(self._root)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        target = self._path(key)
        with self._explained(f"write {key} ({len(data)} bytes)"):
            if if_absent and target.exists():
                return False
            self._make(target.parent)
            with self._temporary() as (fd, path):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
                if if_absent:
                    try:
                        os.link(path, target)
                    except FileExistsError:
                        return False
                else:
                    path.replace(target)
            _fsync_directory(target.parent)
        return True

    def get(self, key: str) -> bytes:
        with self._reading(key) as path:
            return path.read_bytes()

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        with self._reading(key) as path, path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._explained(f"list {prefix}"):
            found = []
            for key, path in self._walk(prefix):
                with suppress(FileNotFoundError):  # deleted while we look
                    found.append(ObjectInfo(key, path.stat().st_size))
        return sorted(found)

    def folders(self, prefix: str) -> Sequence[str]:
        if prefix:
            check_key(prefix)
        head = f"{prefix}/" if prefix else ""
        with self._explained(f"list {prefix}"):
            try:
                with os.scandir(self._root / prefix) as entries:
                    names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []
            # A directory whose last object was deleted stays, but is no folder.
            return [name for name in names if next(self._walk(f"{head}{name}/"), None)]

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(f"delete {key}"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _fsync_directory(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _make(self, directory: Path) -> None:
        missing = [directory, *directory.parents]
        missing = missing[: next(i for i, d in enumerate(missing) if d.is_dir())]
        directory.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _fsync_directory(made.parent)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """A new locked file in ``.tmp``; gone afterwards, unless it was renamed. The lock tells `_sweep` that its writer lives."""
        directory = self._root / _TEMPORARY
        directory.mkdir(exist_ok=True)
        while True:
            path = directory / f"{os.getpid()}-{id(self):x}-{next(self._serial)}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)  # swept between open and lock
        try:
            yield fd, path
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def _sweep(self) -> None:
        with suppress(OSError):  # read-only or not there: the first put says so
            for path in (self._root / _TEMPORARY).iterdir():
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()

    def _walk(self, prefix: str) -> Iterator[tuple[str, Path]]:
        above = prefix.rpartition("/")[0]
        directory = self._root / check_key(above) if above else self._root
        for parent, names, files in os.walk(directory, onerror=_raise):
            names[:] = [n for n in names if not n.startswith(".")]
            base = Path(parent).relative_to(self._root)
            for name in files:
                if (key := (base / name).as_posix()).startswith(prefix):
                    yield key, Path(parent) / name

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with self._explained(f"read {key}"):
            try:
                yield path
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                near = key.rpartition("/")[0]
                known = [k for k, _ in zip((k for k, _ in self._walk(near + "/" if near else "")), range(_NEAREST), strict=False)]
                raise NotFound("object", key, known) from None

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = _WHY.get(error.errno or 0, "check the disk and the directory")
            raise StorageError(f"cannot {action} in {self._root}: {error.strerror or error}; {why}") from error


_WHY = {
    errno.ENOSPC: "the disk is full: free space, what is journalled is kept and archived then",
    errno.EDQUOT: "the quota is used up: free space, what is journalled is kept and archived then",
    errno.EROFS: "the file system is read-only: mount it writable or choose another directory",
    errno.EACCES: "no permission: give this user the directory or choose another",
    errno.EPERM: "no permission: give this user the directory or choose another",
    errno.EFBIG: "the process may not write such large files: raise its limit (ulimit -f) or free space",
    errno.EEXIST: "something on the path is a file: choose another directory",
    errno.ENOTDIR: "something on the path is a file: choose another directory",
}


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_storage(url: str | Path) -> Storage:
    """The storage at `url`: a path or ``file://``, ``s3://bucket/prefix``, ``memory:``. Raises `CallerError` for any other scheme."""
    text = str(url)
    scheme = urlsplit(text).scheme if ":" in text else ""
    if scheme not in _SCHEMES:
        raise CallerError(f"no storage of type {scheme!r} ({text}); known: a path, {', '.join(sorted(filter(None, _SCHEMES)))}")
    return _SCHEMES[scheme](text)


def _local(url: str) -> Storage:
    if not url.startswith("file:"):
        return LocalStorage(url)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise CallerError(f"{url}: write file:///absolute/path")
    return LocalStorage(unquote(parts.path))


def _s3(url: str) -> Storage:
    from journal.s3 import S3Storage  # boto3 takes 200 ms to import

    return S3Storage.of(url)


_SCHEMES: dict[str, Callable[[str], Storage]] = {"": _local, "file": _local, "s3": _s3, "memory": lambda _: MemoryStorage()}
