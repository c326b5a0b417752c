"""The security master as one SQLite file: what ``projections.secmaster`` folds, by symbol, by what it is, and by its words.

The file holds nothing that is not in the journal, except where unfinished synchronisations are: it may be deleted at any time and is made
again. Rows and position change in one transaction, so any number of processes may use one file; whoever reads entries first folds them.
Memory is SQLite's page cache and one run of entries, however many markets there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from journal.entry import Entry, Event, Record
from journal.errors import StorageError
from journal.market import Market
from projections.secmaster import Known, canonical, change_of, changed, expires_ns
from ssmd.secmaster.stream import Synced, synced_of

VERSION = 2  # of the tables and of the fold: a file of another one is deleted and made again
_CACHE_KIB = 65_536
_PAGE = 8_192
_BUSY_S = 60.0  # another process folds a run in less than a second; a disk may be slow
_ASKED = 500  # symbols of one query
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE markets (
  id INTEGER PRIMARY KEY, symbol TEXT NOT NULL UNIQUE,
  sequence INTEGER NOT NULL, raw_sequence INTEGER NOT NULL,
  status TEXT NOT NULL, series TEXT NOT NULL, category TEXT NOT NULL, event TEXT NOT NULL,
  open_ns INTEGER NOT NULL, close_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL,
  known BLOB NOT NULL
);
CREATE INDEX by_status ON markets (status, symbol);
CREATE INDEX by_series ON markets (series, symbol, status);
CREATE INDEX by_category ON markets (category, symbol, status);
CREATE INDEX by_event ON markets (event, symbol);
CREATE INDEX by_open ON markets (status, open_ns);
CREATE INDEX by_close ON markets (status, close_ns);
CREATE INDEX by_expiry ON markets (expires_ns, symbol, status);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, source TEXT NOT NULL, since_ns INTEGER NOT NULL,
  started_ns INTEGER NOT NULL, sequence INTEGER NOT NULL, cursor TEXT NOT NULL, pages INTEGER NOT NULL, markets INTEGER NOT NULL,
  counts TEXT NOT NULL
);
CREATE TABLE seen (run INTEGER NOT NULL, symbol TEXT NOT NULL, PRIMARY KEY (run, symbol)) WITHOUT ROWID;
"""
# Without its content, which the rows have: 'delete' is told what was indexed.
_WORDS = "CREATE VIRTUAL TABLE words USING fts5 (symbol, title, series, rules, content='', tokenize='unicode61 remove_diacritics 2');"
_UPSERT = """
INSERT INTO markets (id, symbol, sequence, raw_sequence, status, series, category, event, open_ns, close_ns, expires_ns, known)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, raw_sequence = excluded.raw_sequence, status = excluded.status,
  series = excluded.series, category = excluded.category, event = excluded.event, open_ns = excluded.open_ns,
  close_ns = excluded.close_ns, expires_ns = excluded.expires_ns, known = excluded.known
"""
_KNOWN = msgspec.msgpack.Decoder(Known)
_SYNCED = msgspec.msgpack.Decoder(tuple[int, int, Synced])
_ENCODER = msgspec.msgpack.Encoder()
_T = TypeVar("_T")
# What to do, by how SQLite's names of errors begin.
_ADVICE = {
    "SQLITE_FULL": "make room on its disk",
    "SQLITE_READONLY": "whoever asks must be able to write it; name a directory of yours with --data-dir",
    "SQLITE_CANTOPEN": "it must be a file in a directory that can be written; name another with --data-dir",
    "SQLITE_BUSY": "another process is at it; try again",
}
GONE = ""  # the status of a market that was removed


class Row(NamedTuple):
    """One market. `sequence` is its newest change's, `raw_sequence` that of the newest one with the venue's object, 0 if none."""

    id: int
    sequence: int
    raw_sequence: int
    known: Known


class Place(NamedTuple):
    """How far the view is: `id` is that of the entry at `sequence`, `effective_ns` its effective time."""

    sequence: int = 0
    id: str = ""
    effective_ns: int = 0


def mark_of(entry: Entry) -> str:
    """What tells an entry from one of another journal: the n-th change of a market has the same id in both, not the same time."""
    return f"{entry.id}@{entry.recv_ns}"


class View:
    """A file, or with `words` False one without full text. Synchronous: a run of 1,000 entries takes about 50 ms."""

    def __init__(self, path: Path, *, words: bool = True) -> None:
        self.path = path
        self._words = words
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        for tried in range(2):
            try:
                db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            except sqlite3.OperationalError as error:
                raise self._broken(error) from error
            try:
                # 2 kB rows waste less of a larger page; what a rebuild writes again and again is written to the file every 64 MB.
                db.execute(f"PRAGMA page_size = {_PAGE}")
                db.execute(f"PRAGMA wal_autocheckpoint = {(64 << 20) // _PAGE}")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                db.execute("BEGIN IMMEDIATE")
                version = db.execute("PRAGMA user_version").fetchone()[0]
                empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if empty:
                    self._make(db)
                db.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                db.close()
                if tried or isinstance(error, sqlite3.OperationalError):
                    raise self._broken(error) from error
            else:
                if empty or version == VERSION:
                    return db
                db.close()
            delete(self.path)
        raise StorageError(f"the view {self.path} is made again by another version of ssmd at the same time; use one version")

    def _make(self, db: sqlite3.Connection) -> None:
        for statement in (_TABLES + (_WORDS if self._words else "")).split(";"):
            if statement.strip():
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        self._db.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement that only reads. Raises `StorageError`."""
        try:
            # A cursor itself would be closed with the generator, perhaps after its database.
            yield from iter(self._db.execute(sql, values).fetchone, None)
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises `StorageError`."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error

    def _broken(self, error: sqlite3.Error) -> StorageError:
        """What is wrong and what to do. A file that is damaged is deleted."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return self._damaged(error)
        advice = next((advice for start, advice in _ADVICE.items() if name.startswith(start)), "delete it if it stays so: it is made again")
        return StorageError(f"the view {self.path}: {error}; {advice}")

    def known(self, blob: bytes) -> Known:
        """The column `known`. Raises `StorageError` for what it never is."""
        return self._decoded(_KNOWN, blob)

    def decode_synced(self, blob: bytes) -> tuple[int, int, Synced]:
        """Sequence, number and content of a synchronisation. Raises `StorageError`."""
        return self._decoded(_SYNCED, blob)

    def _decoded(self, decoder: msgspec.msgpack.Decoder[_T], blob: bytes) -> _T:
        try:
            return decoder.decode(blob)
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        delete(self.path)  # everything in it is in the journal
        return StorageError(f"the view {self.path} was damaged ({error}) and is deleted; run it again: it is made from the journal")

    # The fold

    @property
    def place(self) -> Place:
        found = dict(self.query("SELECT name, value FROM meta WHERE name IN ('sequence', 'id', 'effective_ns')"))
        return Place(**found)

    def clear(self) -> None:
        """Begin anew. Unfinished synchronisations go too: they are of what was there."""
        with self.change() as db:
            for table in ("words", "seen", "runs", "markets", "meta"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            self._make(db)

    def fold(self, records: Sequence[Record]) -> bool:
        """Fold those behind the view's place; whether they joined on to it. Raises `CorruptionError`, `StorageError`."""
        with self.change() as db:
            place = self.place
            records = [r for r in records if r.sequence > place.sequence]
            if not records:
                return True
            if records[0].sequence != place.sequence + 1:
                return False  # somebody has cleared it meanwhile
            self._fold(db, records)
            entry = records[-1].entry
            effective_ns = max(place.effective_ns, *(r.entry.effective_ns for r in records))
            self._set(db, sequence=records[-1].sequence, id=mark_of(entry), effective_ns=effective_ns)
        return True

    def _fold(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        changes = [(r, change) for r in records if (change := change_of(r.entry))]
        before = self.rows({change.symbol for _, change in changes})
        after: dict[str, Row] = {}
        newest = db.execute("SELECT coalesce(max(id), 0) FROM markets").fetchone()[0]
        for (sequence, entry), change in changes:
            row = after.get(change.symbol) or before.get(change.symbol)
            known = changed(row.known if row else None, change, entry)
            if row is None:
                newest += 1
            raw_sequence = sequence if entry.raw else row.raw_sequence if row else 0
            after[change.symbol] = Row(row.id if row else newest, sequence, raw_sequence, known)
        db.executemany(_UPSERT, [_columns(symbol, row) for symbol, row in after.items()])
        if self._words:
            _index(db, before, after)
        for (_, entry), _ in changes:
            if isinstance(entry.body, Event) and entry.body.causation:
                stream, _, number = entry.body.causation.rpartition(":")
                if number.isdecimal():
                    self._set(db, **{f"told.{stream}": int(number)})
        for sequence, entry in records:
            if synced := synced_of(entry):
                self._set(db, **{f"synced.{entry.symbol}": _ENCODER.encode((sequence, entry.frame, synced))})
                if synced.full:
                    self._set(db, **{f"full.{entry.symbol}": _ENCODER.encode((sequence, entry.frame, synced))})

    def _set(self, db: sqlite3.Connection, **values: Any) -> None:
        db.executemany("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", list(values.items()))

    # Markets

    def known_of(self, symbols: Iterable[str]) -> set[str]:
        """Those of `symbols` that were ever there."""
        return self._among("symbol", symbols)

    def groups_of(self, kind: Literal["series", "category"], names: Iterable[str]) -> set[str]:
        """Those of `names` that there is a market of."""
        return self._among(kind, names)

    def _among(self, column: str, values: Iterable[str]) -> set[str]:
        wanted, found = list(values), set[str]()
        for at in range(0, len(wanted), _ASKED):
            some = wanted[at : at + _ASKED]
            # One look into the index for each, however many markets a group has.
            rows = ",".join(["(?)"] * len(some))
            sql = f"WITH asked(name) AS (VALUES {rows}) SELECT name FROM asked WHERE EXISTS (SELECT 1 FROM markets WHERE {column} = name)"  # noqa: S608
            found.update(name for (name,) in self.query(sql, some))
        return found

    def rows(self, symbols: Iterable[str]) -> dict[str, Row]:
        """Those of `symbols` that were ever there."""
        wanted, found = list(symbols), {}
        for at in range(0, len(wanted), _ASKED):
            some = wanted[at : at + _ASKED]
            marks = ",".join("?" * len(some))
            sql = f"SELECT symbol, id, sequence, raw_sequence, known FROM markets WHERE symbol IN ({marks})"  # noqa: S608 (marks)
            for symbol, number, sequence, raw_sequence, known in self.query(sql, some):
                found[symbol] = Row(number, sequence, raw_sequence, self.known(known))
        return found

    def digest(self) -> str:
        """The digest that the fold has at the same place."""
        total = blake2b(digest_size=32)
        for symbol, blob in self.query("SELECT symbol, known FROM markets ORDER BY symbol"):  # text is compared by its bytes
            name = symbol.encode()
            total.update(len(name).to_bytes(8, "little") + name + blake2b(canonical(self.known(blob)), digest_size=32).digest())
        return total.hexdigest()

    def synced(self, feed: str, *, full: bool = False) -> tuple[int, int, Synced] | None:
        """Sequence, number and content of the last synchronisation of `feed`, or of the last full one."""
        name = f"{'full' if full else 'synced'}.{feed}"
        for (value,) in self.query("SELECT value FROM meta WHERE name = ?", [name]):
            return self.decode_synced(value)
        return None

    def synced_ns(self) -> int:
        """When the newest synchronisation of any source began, 0 if there was none."""
        found = self.query("SELECT value FROM meta WHERE name LIKE 'synced.%'")
        return max((self.decode_synced(value)[2].started_ns for (value,) in found), default=0)

    def told(self, stream: str) -> int:
        """Sequence of the last message of a market stream that changed a market, 0 if none did."""
        return next((int(value) for (value,) in self.query("SELECT value FROM meta WHERE name = ?", [f"told.{stream}"])), 0)


def delete(path: Path) -> None:
    """Remove a view's files. Whoever has it open keeps what it has."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def _columns(symbol: str, row: Row) -> tuple[Any, ...]:
    m = row.known.market
    head = (row.id, symbol, row.sequence, row.raw_sequence)
    if m is None:
        return (*head, GONE, "", "", "", 0, 0, 0, _ENCODER.encode(row.known))
    return (*head, m.status, m.series, m.category, m.event, m.open_ns, m.close_ns, expires_ns(m), _ENCODER.encode(row.known))


def _texts(market: Market | None) -> tuple[str, str, str, str] | None:
    if market is None:
        return None
    m = market
    series = " ".join((m.series, m.event, m.category, *m.tags))
    return m.symbol, f"{m.title}\n{m.subtitle}", series, f"{m.rules}\n{m.rules_secondary}"


def _index(db: sqlite3.Connection, before: dict[str, Row], after: dict[str, Row]) -> None:
    """Bring the words of what changed up to date."""
    out, into = [], []
    for symbol, row in after.items():
        was = _texts(before[symbol].known.market) if symbol in before else None
        now = _texts(row.known.market)
        if was != now:
            if was:
                out.append((row.id, *was))
            if now:
                into.append((row.id, *now))
    db.executemany("INSERT INTO words (words, rowid, symbol, title, series, rules) VALUES ('delete', ?, ?, ?, ?, ?)", out)
    db.executemany("INSERT INTO words (rowid, symbol, title, series, rules) VALUES (?, ?, ?, ?, ?)", into)
