"""The view's file damaged, cut, of another program, deleted, on a full disk or not to be written: told, and made again from the journal."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from journal.errors import StorageError
from journal.memory import MemoryJournal
from ssmd.secmaster.query import Filter, counts, last_syncs, search, select
from ssmd.secmaster.reading import History, catch_up
from ssmd.secmaster.stream import secmaster
from ssmd.secmaster.view import View
from tests.secmaster.listing import ENV, Listing, ledger_of, market, synchronise

COUNT = 300


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def holed(path: Path) -> None:
    """Every page but the first has other bytes in its middle."""
    rng, data = random.Random(2), bytearray(path.read_bytes())
    for page in range(8_192, len(data), 8_192):
        data[page : page + 4_000] = rng.randbytes(4_000)
    path.write_bytes(data)


def another(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE markets (a)")
    db.close()


def other_rows(path: Path) -> None:
    """What SQLite finds nothing wrong with."""
    with sqlite3.connect(path) as db:
        db.execute("UPDATE markets SET known = x'93c1'")
    db.close()


def made(tmp_path: Path) -> tuple[MemoryJournal, Path, str]:
    journal = MemoryJournal()
    ledger = ledger_of(tmp_path, journal)
    asyncio.run(synchronise(ledger, Listing([market(n) for n in range(COUNT)])))
    digest = ledger.view.digest()
    ledger.view.close()
    return journal, ledger.view.path, digest


def look(journal: MemoryJournal, path: Path) -> str:
    """As commands do: open, catch up, ask everything."""
    view = View(path)
    try:
        asyncio.run(catch_up(view, History(secmaster(ENV), journal)))
        assert len(list(select(view, Filter()))) == counts(view)["markets"] == COUNT
        assert search(view, "thing happen", 5)
        assert last_syncs(view)
        return view.digest()
    finally:
        view.close()


@pytest.mark.parametrize("damage", [garbage, cut, holed, another, other_rows, Path.unlink, lambda path: path.write_bytes(b"")])
def test_what_is_damaged_is_told_at_most_once(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    journal, path, digest = made(tmp_path)
    damage(path)
    found = ""
    for _ in range(2):
        try:
            found = look(journal, path)
        except StorageError as error:
            assert "is deleted; run it again" in str(error)  # noqa: PT017  it may be found out at opening already
        else:
            break
    assert found == digest


def test_deleted_while_others_read_and_write(tmp_path: Path) -> None:
    """They keep what they have, and whoever comes makes it again."""
    journal, path, digest = made(tmp_path)
    reader = View(path)
    found = select(reader, Filter())
    first = next(found)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert look(journal, path) == digest
    assert [first, *found][-1].symbol
    assert reader.digest() == digest
    reader.close()  # takes nothing from the new one
    assert look(journal, path) == digest


@pytest.mark.parametrize("sign", ["file", "directory"])
def test_a_place_where_no_file_can_be(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "view.sqlite"
    if sign == "directory":
        path.mkdir()
    else:
        (tmp_path / "views").write_text("a file")
        path = tmp_path / "views" / "view.sqlite"
    with pytest.raises((StorageError, OSError)) as caught:
        View(path)
    assert str(path.name if sign == "directory" else "views") in str(caught.value)


def test_a_full_disk_is_told_and_what_is_journalled_is_kept(tmp_path: Path) -> None:
    """The kernel refuses what is beyond half of what is needed, in a process of its own."""
    journal, path, digest = made(tmp_path)
    half = path.stat().st_size // 2
    small = tmp_path / "small.sqlite"
    if (child := os.fork()) == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
            look(journal, small)
        except StorageError as error:
            code = 0 if "small.sqlite: " in str(error) and "is deleted" not in str(error) else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert look(journal, small) == digest
