"""Synchronisations under way: which pages are done and which markets were seen, in the view's file.

A run is held by its process (a lock the kernel drops with the process), so a killed one is found and gone on with and a living one is not.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ssmd.secmaster.view import GONE, View

_MOST_AGE_NS = 3_600 * 10**9  # a venue forgets a cursor some time, and what was seen an hour ago may have changed
_RUN = 500
_COLUMNS = "name, source, since_ns, started_ns, sequence, cursor, pages, markets, counts"


class Run(NamedTuple):
    """`sequence` is how far the view was when it began. `since_ns` 0 is a full one; `source` is what is asked, of whom."""

    id: int
    name: str
    source: str
    since_ns: int
    started_ns: int
    sequence: int
    cursor: str
    pages: int
    markets: int
    counts: Counter[str]


class Runs:
    """One synchronisation of this process; `close` lets go of it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lock: int | None = None
        self._path: Path | None = None

    def resume(self, source: str, now_ns: int, *, full: bool) -> Run | None:
        """The newest unfinished run of `source` that nobody is at any more."""
        for row in list(self._view.query(f"SELECT id, {_COLUMNS} FROM runs ORDER BY id DESC")):  # noqa: S608 (constant)
            run = _run(*row)
            if not self._take(run.id):
                continue
            fresh = abs(now_ns - run.started_ns) < _MOST_AGE_NS  # a clock may have been ahead
            if fresh and run.source == source and bool(run.since_ns) != full:
                return run
            if not fresh or run.source == source:
                self._forget(run.id)
            self.close()
        return None

    def begin(self, name: str, source: str, since_ns: int, now_ns: int) -> Run:
        with self._view.change() as db:
            sequence = self._view.place.sequence
            values = (name, source, since_ns, now_ns, sequence, "", 0, 0, "{}")
            added = db.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608 (constant)
            number = int(added.lastrowid or 0)
            self._take(number)  # before anybody else sees it
        return _run(number, *values)

    def page(self, run: Run, cursor: str, symbols: Collection[str], counts: Counter[str]) -> Run:
        """A page is done, and `cursor` is what comes next."""
        run = run._replace(cursor=cursor, pages=run.pages + 1, markets=run.markets + len(symbols), counts=run.counts + counts)
        with self._view.change() as db:
            if not run.since_ns:
                db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", [(run.id, symbol) for symbol in symbols])
            db.execute(
                "UPDATE runs SET cursor = ?, pages = ?, markets = ?, counts = ? WHERE id = ?",
                (run.cursor, run.pages, run.markets, msgspec.json.encode(run.counts).decode(), run.id),
            )
        return run

    def missing(self, run: Run, series: Collection[str]) -> Iterator[list[str]]:
        """Markets that a full run has not seen and that were there before it began; not those settled, which venues forget."""
        after, of_series = "", f" AND series IN ({','.join('?' * len(series))})" if series else ""
        while True:
            found = [
                symbol
                for (symbol,) in self._view.query(
                    "SELECT symbol FROM markets WHERE symbol > ? AND status NOT IN (?, 'settled') AND sequence <= ?"  # noqa: S608 (marks)
                    " AND NOT EXISTS (SELECT 1 FROM seen WHERE run = ? AND seen.symbol = markets.symbol)"
                    f"{of_series} ORDER BY symbol LIMIT {_RUN}",
                    (after, GONE, run.sequence, run.id, *series),
                )
            ]
            if not found:
                return
            yield found
            after = found[-1]

    def counted(self, series: Collection[str], *, settled: bool) -> int:
        """Markets that are there, with or without those that are `settled`."""
        marks = ",".join("?" * len(series))
        where = f" AND series IN ({marks})" if series else ""
        query = f"SELECT count(*) FROM markets WHERE status NOT IN (?, ?){where}"  # noqa: S608 (marks)
        return int(next(self._view.query(query, (GONE, GONE if settled else "settled", *series)))[0])

    def finish(self, run: Run) -> None:
        self._forget(run.id)
        self.close()

    def _forget(self, number: int) -> None:
        with self._view.change() as db:
            db.execute("DELETE FROM seen WHERE run = ?", (number,))
            db.execute("DELETE FROM runs WHERE id = ?", (number,))
        if self._path:
            self._path.unlink(missing_ok=True)

    def _take(self, number: int) -> bool:
        path = self._view.path.with_name(f"{self._view.path.name}.run-{number}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock, self._path = lock, path
        return True

    def close(self) -> None:
        """Let go of the run; unfinished, the next one goes on with it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = self._path = None


def _run(*columns: Any) -> Run:
    return Run._make((*columns[:-1], Counter(msgspec.json.decode(columns[-1]))))
