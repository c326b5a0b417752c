"""SQL over tables that we hand over, in a process that can do nothing else (`ssmd.sql_worker`).

`Session.ask` comes first, then `table` for each that it names, in their order, then `answer`. All of them block.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import pyarrow as pa

from journal.clock import Clock
from journal.errors import CallerError

MEMORY_BYTES = 1 << 30
_SPILL_BYTES = 8 << 30  # of sorts and tables that exceed the memory, in a directory that goes with the query
# Nothing of ours, which may hold keys. Arrow's allocator and the C library's for many threads would reserve a gigabyte that is not used.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
_MAX_SQL = 1 << 20
_WORKER = Path(__file__).with_name("sql_worker.py")


class Answer(NamedTuple):
    """Names and DuckDB's types of the columns; rows in batches, which raise `CallerError` when the query fails underway."""

    columns: list[tuple[str, str]]
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Session:
    """One statement in one process. Raises `CallerError` with DuckDB's words."""

    def __init__(self, clock: Clock, *, time_limit_s: float, memory_bytes: int = MEMORY_BYTES) -> None:
        self._clock = clock
        self._time_limit_s = self._left_s = time_limit_s
        self._memory_bytes = memory_bytes
        self._late = False
        self._spill = tempfile.TemporaryDirectory(prefix="ssmd-query-")
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._spill.name,
            env=_ENVIRONMENT,
        )
        assert self._process.stdin is not None  # noqa: S101  we asked for pipes
        assert self._process.stdout is not None  # noqa: S101
        self._to, self._from = self._process.stdin, self._process.stdout

    def ask(self, sql: str, tables: Mapping[str, pa.Schema]) -> list[str]:
        """Which of the tables the statement reads."""
        if len(sql) > _MAX_SQL:
            raise CallerError(f"SQL of {len(sql)} characters: at most {_MAX_SQL}")
        asked = {
            "sql": sql, "memory_bytes": self._memory_bytes, "threads": min(4, os.cpu_count() or 1),
            "spill": self._spill.name, "spill_bytes": _SPILL_BYTES,
            "tables": {name: b64encode(schema.serialize().to_pybytes()).decode() for name, schema in tables.items()},
        }  # fmt: skip
        self._write(msgspec.json.encode(asked) + b"\n")
        found: list[str] = self._told("tables")
        return found

    @contextmanager
    def table(self, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
        """What takes the rows of the next table."""
        with pa.ipc.new_stream(self._to, schema) as writer:

            def write(batch: pa.RecordBatch) -> None:
                try:
                    writer.write_batch(batch)
                except BrokenPipeError:
                    self._told("")  # says why

            yield write
        self._to.flush()

    def answer(self) -> Answer:
        columns = [(name, kind) for name, kind in self._told("columns")]
        try:
            with self._waiting():
                reader = pa.ipc.open_stream(self._from)
        except (pa.ArrowException, OSError):
            self._told("")  # says why
        return Answer(columns, reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                with self._waiting():
                    batch = reader.read_next_batch()
            except StopIteration:
                break
            except (pa.ArrowException, OSError):
                self._told("")  # says why
            yield batch
        self._told("rows")

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """The time limit is for the SQL: it does not run while rows are handed over or printed."""
        began_ns = self._clock.mono_ns()
        timer = threading.Timer(max(0.0, self._left_s), self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._left_s -= (self._clock.mono_ns() - began_ns) / 1e9

    def _end(self) -> None:
        self._late = True
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(BrokenPipeError):  # what was not sent to it
                pipe.close()
        self._spill.cleanup()

    def _write(self, data: bytes) -> None:
        try:
            self._to.write(data)
            self._to.flush()
        except BrokenPipeError:
            self._told("")

    def _told(self, name: str) -> Any:
        """What the next line says of `name`. Raises `CallerError` with what it says instead, or why there is none."""
        with self._waiting():
            line = self._from.readline()
        said: dict[str, Any] = msgspec.json.decode(line) if line.endswith(b"\n") else {}
        if name in said:
            return said[name]
        if self._late:
            raise CallerError(
                f"the SQL was not answered within {self._time_limit_s:g} s; ask for fewer entries (--since, --until, --symbol, --date), "
                "join and sort less, or allow more with --time-limit"
            )
        if "error" in said:
            raise CallerError(f"SQL: {_meant(said['error'])}")
        raise CallerError(
            f"the process that answers SQL ended by itself ({self._process.wait()}), for want of memory perhaps: it may use "
            f"{self._memory_bytes >> 20} MiB; ask for fewer entries, or for less at once"
        )


def _meant(error: str) -> str:
    """DuckDB's message; where it tells to change settings, which are locked, what to do instead."""
    if any(sign in error for sign in ("Out of Memory", "MemoryError", "failed to allocate", "start new thread")):
        return f"{error.partition(chr(10))[0]}; ask for fewer entries or columns, or aggregate before sorting"
    return error
