"""Files that hold secrets: read only where nobody else could have written or read them, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from journal.errors import KeyRefused


class Read(NamedTuple):
    data: bytes
    modified_ns: int


def read_private(path: Path, *, limit_bytes: int, others: int = 0o027, mode: str = "600") -> Read | None:
    """A regular file on which nobody has the permissions `others`; None where there is none.

    It belongs to us, to root or to the owner of its directory, whom we trust by naming it: in a sticky directory anybody may make a file.
    The default allows a group to read: Kubernetes mounts secrets that way (fsGroup). `mode` is what the message says to chmod it to.
    Raises `KeyRefused`, never with what was read.
    """
    try:
        # Not blocking: a FIFO would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeyRefused(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeyRefused(f"{path} is not a file")
        if status.st_uid not in {0, os.geteuid(), path.parent.stat().st_uid}:
            raise KeyRefused(
                f"{path} belongs to user {status.st_uid}, not to you, root or the owner of {path.parent}: run chown {os.geteuid()} {path}"
            )
        if status.st_mode & others:
            allowed = "write to" if status.st_mode & others & 0o022 else "read"
            raise KeyRefused(f"others may {allowed} {path}: run chmod {mode} {path}{_mounted(path)}")
        data = b""
        while len(data) <= limit_bytes and (more := file.read(limit_bytes + 1 - len(data))):
            data += more
    if len(data) > limit_bytes:
        raise KeyRefused(f"{path} is larger than {limit_bytes} bytes: is it a key?")
    return Read(data, status.st_mtime_ns)


def read_shared(path: Path, *, limit_bytes: int) -> bytes | None:
    """A file of the repository, with nothing in clear: as trusted as the environment beside it, which says what is read.

    None where there is none. Raises `KeyRefused`.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise KeyRefused(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise KeyRefused(f"{path} is larger than {limit_bytes} bytes")
    return data


def check_directory(path: Path) -> bool:
    """Whether there is such a directory. Raises `KeyRefused` when somebody else may put files of theirs in the place of ours.

    A writable one with the sticky bit passes (Kubernetes mounts are drwxrwxrwt): in it only a file's owner, who is checked, replaces it.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise KeyRefused(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise KeyRefused(f"{path} is not a directory")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise KeyRefused(f"others may write to {path}: run chmod go-w {path}")
    return True


def write_whole(path: Path, data: bytes, *, mode: int, replace: bool = True) -> bool:
    """`data` in place of what was there, on the disk when this returns; False where something is there and is not to be replaced.

    A crash leaves the old file or the new one. Raises `KeyRefused`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if mode == 0o600 else 0o777)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600 from the beginning
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            if replace:
                Path(name).replace(path)
            else:
                os.link(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        _fsync_directory(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise KeyRefused(f"{path} cannot be written: {error.strerror}") from error
    return True


def remove_file(path: Path) -> bool:
    """Whether it was there; it is gone from the disk when this returns. Raises `KeyRefused`."""
    try:
        path.unlink()
        _fsync_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KeyRefused(f"{path} cannot be removed: {error.strerror}") from error
    return True


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _mounted(path: Path) -> str:
    """What to do instead where Kubernetes mounted the file: it cannot be changed there."""
    return "; of a Kubernetes volume set defaultMode: 0440, and fsGroup" if (path.parent / "..data").is_symlink() else ""
