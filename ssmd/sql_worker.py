"""A process of its own that answers one SQL statement: it is given tables and no files, no network, no secrets and bounded memory.

Run by path in isolated mode by `ssmd.sql`, so it imports nothing of ours. DuckDB's own limits are not enough (2.0.0): a
`repeat('x', 2000000000)` takes gigabytes whatever `memory_limit` says, and hears no interrupt for half a minute; a process has hard limits
and can be killed.

In:  a line of JSON (what is asked), then for each table asked for an Arrow IPC stream.
Out: a line ``{"tables": [...]}``, a line ``{"columns": [[name, type], ...]}``, an Arrow IPC stream of rows, a line ``{"rows": N}``; in
place of any line, and after it nothing, ``{"error": TEXT}``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from base64 import b64decode
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

_ROWS = 2_048  # of a batch of the answer
_BEYOND = 1 << 30  # besides DuckDB's own memory: 0.3 to 0.5 GiB of libraries, stacks and Arrow's buffers were seen
# Of DuckDB, of Arrow, of Python when there is no memory left, for a thread either.
_FAILURES = (duckdb.Error, pa.ArrowException, MemoryError, RuntimeError, OSError)
_ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
# Each text of `data` is tried: one that is no JSON would end the query.
_TABLE = "CREATE TABLE {} AS SELECT * REPLACE (CASE WHEN json_valid(data) THEN data ELSE to_json(data) END::JSON AS data) FROM incoming"


def main(source: BinaryIO, sink: BinaryIO) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked hears it too, and ends us
    asked = json.loads(source.readline())
    try:
        memory = asked["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (memory + _BEYOND, memory + _BEYOND))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _answer(asked, source, sink)
    except BrokenPipeError:  # nobody hears
        os._exit(1)
    except _FAILURES as error:
        _tell(sink, {"error": str(error) or f"Out of Memory Error: {type(error).__name__}"})


def _answer(asked: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    connection = _connect(asked)
    statements = connection.extract_statements(asked["sql"])
    if len(statements) != 1 or statements[0].type not in _ALLOWED:
        kinds = ", ".join(str(s.type).removeprefix("StatementType.") for s in statements) or "none"
        _tell(sink, {"error": f"one SELECT is answered, and nothing is changed; this is: {kinds}"})
        return
    schemas = {name: pa.ipc.read_schema(pa.py_buffer(b64decode(text))) for name, text in asked["tables"].items()}
    for name, schema in schemas.items():
        _make(connection, name, schema.empty_table())
    connection.sql(asked["sql"])  # says what is wrong with it
    tables = [name for name, schema in schemas.items() if _needs(connection, asked["sql"], name, schema)]
    for name in schemas:
        connection.execute(f"DROP TABLE {name}")
    _tell(sink, {"tables": tables})
    for name in tables:
        _make(connection, name, pa.ipc.open_stream(source))
    connection.execute("SET lock_configuration = true")
    threading.Thread(target=_watch, args=(source,), daemon=True).start()
    relation = connection.sql(asked["sql"])
    reader = relation.to_arrow_reader(_ROWS)
    _tell(sink, {"columns": [[n, str(t)] for n, t in zip(relation.columns, relation.types, strict=True)]})
    rows = 0
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        try:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
            said: dict[str, Any] = {"rows": rows}
        except BrokenPipeError:
            raise
        except _FAILURES as error:
            said = {"error": str(error)}
    _tell(sink, said)


def _needs(connection: duckdb.DuckDBPyConnection, sql: str, name: str, schema: pa.Schema) -> bool:
    """Whether the statement cannot do without the table. DuckDB's `get_table_names` does not know columns, and refuses joins by USING."""
    connection.execute(f"DROP TABLE {name}")
    try:
        connection.sql(sql)
    except duckdb.Error:
        return True
    finally:
        _make(connection, name, schema.empty_table())
    return False


def _watch(source: BinaryIO) -> None:
    """End with whoever asked: then nobody hears the answer."""
    os.read(source.fileno(), 1)
    os._exit(1)


def _make(connection: duckdb.DuckDBPyConnection, name: str, rows: Any) -> None:
    connection.register("incoming", rows)
    connection.execute(_TABLE.format(name))
    connection.unregister("incoming")


def _connect(asked: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false", "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
            "python_enable_replacements": "false", "memory_limit": f"{asked['memory_bytes']}B", "threads": str(asked["threads"]),
            "temp_directory": asked["spill"], "max_temp_directory_size": f"{asked['spill_bytes']}B",
        },
    )  # fmt: skip
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _tell(sink: BinaryIO, said: dict[str, Any]) -> None:
    sink.write(json.dumps(said).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # a thread may still wait for the end of stdin
