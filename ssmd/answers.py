"""An answer to SQL as text or as a file: exact numbers, times as RFC 3339, a few batches of rows at once in memory."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from journal.errors import CallerError
from ssmd import render
from ssmd.moments import rfc3339

_EPOCH = date(1970, 1, 1)
_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def unique(names: Iterable[str]) -> list[str]:
    """The names, those that came before with ``_1``, ``_2`` behind."""
    out: list[str] = []
    for name in names:
        found, number = name, 0
        while found in out:
            number += 1
            found = f"{name}_{number}"
        out.append(found)
    return out


def rows(batches: Iterable[pa.RecordBatch], columns: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Rows as documents. `columns` are names and DuckDB's types."""
    names = unique(name for name, _ in columns)
    for batch in batches:
        values = [_values(column, kind) for column, (_, kind) in zip(batch.columns, columns, strict=True)]
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


def _values(column: pa.Array, kind: str) -> list[Any]:
    if kind == "JSON":
        return [None if v is None else _json(v) for v in column.to_pylist()]
    shape = _shape(column.type)
    plain = column.cast(_plain(column.type)) if _plain(column.type) != column.type else column
    return plain.to_pylist() if shape is None else [None if v is None else shape(v) for v in plain.to_pylist()]


def _json(text: str) -> Any:
    try:
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))  # on one line, its numbers as they are
    except msgspec.DecodeError:  # a number that DuckDB takes and others do not
        return text


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type with its dates and times as integers: Python has no type for all of them."""
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_date32(kind):
        return pa.int32()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    return kind


def _shape(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What makes of a value of the type what is printed; None where it is the value."""
    types = pa.types
    if types.is_timestamp(kind):
        return lambda v: _time(v * _NS[kind.unit], zone=kind.tz is not None)
    if types.is_decimal(kind):
        return _number
    if types.is_list(kind) and (item := _shape(kind.value_type)):
        return lambda v: [None if i is None else item(i) for i in v]
    if types.is_struct(kind):
        inner = {f.name: shape for f in kind if (shape := _shape(f.type))}
        return lambda v: {n: None if i is None else inner[n](i) if n in inner else i for n, i in v.items()}
    if types.is_map(kind):
        keys, items = (_shape(t) or (lambda v: v) for t in (kind.key_type, kind.item_type))
        return lambda v: {str(keys(k)): None if i is None else items(i) for k, i in v}
    if types.is_binary(kind) or types.is_large_binary(kind):
        return lambda v: {"b64": b64encode(v).decode()}
    if types.is_date32(kind):
        return _date
    if types.is_time(kind):
        return _clock
    if types.is_interval(kind) or types.is_duration(kind):
        return str
    return None


def _time(ns: int, *, zone: bool) -> str:
    try:
        text = rfc3339(ns) or "1970-01-01T00:00:00.000000000Z"
    except (ValueError, OverflowError, OSError):  # beyond the year 9999, or one of DuckDB's infinities
        return f"{ns} ns"
    return text if zone else text.removesuffix("Z")


def _date(days: int) -> str:
    try:
        return (_EPOCH + timedelta(days)).isoformat()
    except OverflowError:
        return f"{days} days"


def _clock(value: time) -> str:
    return value.isoformat()


def _number(value: Decimal) -> int | str:
    """Integers as integers, others as decimal strings: no double comes near a price."""
    return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else format(value, "f")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that becomes it when all went well. Raises `CallerError` where there can be none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise CallerError(f"{path}: {error.strerror}; name a file in a folder that is there and can be written") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], int]]:
    """What writes rows, with their types, and says how many they are. Raises `CallerError` for a type that Parquet does not have."""
    schema = pa.schema([pa.field(name, f.type) for name, f in zip(unique(schema.names), schema, strict=True)])
    try:
        with replacing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:

            def write(batch: pa.RecordBatch) -> int:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                return int(batch.num_rows)

            yield write
    except pa.ArrowException as error:
        raise CallerError(f"{path}: {error}; cast that column in the SQL, for example to VARCHAR") from None


def first(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    """At most `limit` rows."""
    for batch in batches:
        yield batch if limit is None else batch.slice(0, limit)
        if limit is not None and (limit := limit - batch.num_rows) <= 0:
            return


def write(columns: list[tuple[str, str]], batches: Iterable[pa.RecordBatch], output: str, file: TextIO) -> int:
    """Write the rows as they come, as a table all at once; how many."""
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in rows(batches, columns):
            count += 1
            yield row

    if output == "table":
        render.rows(list(counted()), "table")
    elif output == "json":
        file.write("[")
        file.writelines(f"{',' if n else ''}\n  {line}" for n, line in enumerate(render.lines(counted(), "jsonl")))
        file.write("\n]\n" if count else "]\n")
    else:
        file.writelines(f"{line}\n" for line in render.lines(counted(), output))
        if output == "csv" and not count:
            file.write(",".join(unique(name for name, _ in columns)) + "\n")
    return count
