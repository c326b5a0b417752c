"""Markets as files: JSON Lines, CSV and Parquet out; JSON Lines and Parquet of the same form in.

Integers with their exponents as in `journal.market.Market`, so that what is exported and imported again is the same market.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from journal.entry import canonical_json
from journal.errors import BadFile, CallerError
from journal.market import MAX_SYMBOL, Market
from ssmd import render
from ssmd.secmaster.query import Filter, Found, select
from ssmd.secmaster.view import View

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = 2_500  # rows of one group of a Parquet file; each takes about 20 kB while it is made
_MAX_LINE = 2 << 20
_MAX_MARKET = 256 << 10  # old and new are one entry, which is at most 1 MiB
_EXTRA = ("first_seen_ns", "changed_ns")
_INTS = {"price_exponent", "size_exponent", "settlement_value", "volume_class"}
_LISTS = {"tags", "flaws"}


def write(view: View, form: str, target: str | None) -> int:
    """Write all markets to the file `target`, or to stdout; how many."""
    found = select(view, Filter())
    if form == "parquet":
        if target is None:
            raise CallerError("Parquet needs a file")
        with _replacing(Path(target)) as partial:
            return _write_parquet(found, partial)
    if target is None:
        return _write_text(found, form, sys.stdout)
    with _replacing(Path(target)) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        return _write_text(found, form, file)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that becomes it when all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def row(found: Found) -> dict[str, Any]:
    """One market, every field, in one order."""
    document = {name: msgspec.to_builtins(getattr(found.market, name)) for name in Market.__struct_fields__}
    return document | {"first_seen_ns": found.known.first_ns, "changed_ns": found.known.changed_ns}


def _write_text(found: Iterable[Found], form: str, file: TextIO) -> int:
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for market in found:
            count += 1
            yield row(market)

    file.writelines(f"{line}\n" for line in render.lines(counted(), form))
    return count


def _schema() -> pa.Schema:
    import pyarrow as pa

    def kind(name: str) -> pa.DataType:
        if name.endswith("_ns"):
            return pa.timestamp("ns", "UTC")
        if name in _INTS:
            return pa.int64()
        if name in _LISTS:
            return pa.list_(pa.string())
        if name == "price_ranges":
            return pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("step", pa.int64())]))
        return pa.bool_() if name == "can_close_early" else pa.string()

    return pa.schema([(name, kind(name)) for name in (*Market.__struct_fields__, *_EXTRA)])


def _write_parquet(found: Iterable[Found], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    left, count, schema = iter(found), 0, _schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := [row(f) for f in islice(left, _GROUP)]:
            for document in rows:  # 0 is no time
                document.update({name: value or None for name, value in document.items() if name.endswith("_ns")})
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            count += len(rows)
    return count


def read(path: Path) -> Iterator[Market]:
    """The markets of a file that `write` made, by its name's end: .parquet, else JSON Lines. Raises `BadFile` with the line."""
    documents = _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)
    for place, document in documents:
        fields = {name: value for name, value in document.items() if name not in _EXTRA}
        try:
            if unknown := set(fields) - set(Market.__struct_fields__):
                raise BadFile([f"{path}: {place}: unknown fields {', '.join(sorted(unknown))}"])
            market = msgspec.convert(fields, Market)
        except msgspec.MsgspecError as error:
            raise BadFile([f"{path}: {place}: {error}"]) from None
        if not 0 < len(market.symbol) <= MAX_SYMBOL:
            raise BadFile([f"{path}: {place}: a symbol of {len(market.symbol)} characters; it has 1 to {MAX_SYMBOL}"])
        if len(canonical_json(market)) > _MAX_MARKET:
            raise BadFile([f"{path}: {place}: {market.symbol} is larger than {_MAX_MARKET} bytes"])
        if "status" not in fields:
            raise BadFile([f"{path}: {place}: {market.symbol} has no status, so nothing would capture it; say pending, active or another"])
        yield market


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while text := file.readline(_MAX_LINE + 1):
            number += 1
            if len(text) > _MAX_LINE:
                raise BadFile([f"{path}: line {number}: longer than {_MAX_LINE} bytes"])
            if not text.strip():
                continue
            try:
                document = msgspec.json.decode(text)
            except msgspec.MsgspecError as error:
                raise BadFile(
                    [f"{path}: line {number}: no JSON ({error}); `ssmd secmaster export --format jsonl` writes such files"]
                ) from None
            if not isinstance(document, dict):
                raise BadFile([f"{path}: line {number}: no object"])
            yield f"line {number}", document


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(_GROUP):
            plain = pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in batch.schema])
            for document in batch.cast(plain).to_pylist():
                number += 1
                document.update({name: value or 0 for name, value in document.items() if name.endswith("_ns")})
                yield f"row {number}", document
    except pa.ArrowException as error:
        raise BadFile([f"{path}: no Parquet file that can be read: {error}"]) from None
