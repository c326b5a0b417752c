"""What every thread may decode is decoded by decoders that were made when the module was imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


_DECODES = {"msgspec.json.decode", "msgspec.msgpack.decode"}
_MAKES = {"msgspec.json.Decoder", "msgspec.msgpack.Decoder"}


def made_late(source: str) -> list[int]:
    """Lines where a decoder is made when it is needed: ``decode(…, type=…)``, or ``Decoder(…)`` in a function."""
    tree = ast.parse(source)
    within = {id(part) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for part in ast.walk(f)}
    calls = [(ast.unparse(call.func), call) for call in ast.walk(tree) if isinstance(call, ast.Call)]
    return sorted(
        call.lineno
        for name, call in calls
        if (name in _DECODES and any(keyword.arg == "type" for keyword in call.keywords)) or (name in _MAKES and id(call) in within)
    )


@pytest.mark.parametrize("package", ["journal", "projections", "replay"])
def test_threads_share_decoders_that_are_there(package: str) -> None:
    """Two threads that are the first to decode a type may crash the process; the event loops and their threads share these packages."""
    found = {str(path.relative_to(ROOT)): lines for path in (ROOT / package).rglob("*.py") if (lines := made_late(path.read_text()))}
    assert found == {}


def test_a_decoder_that_is_made_late_is_seen() -> None:
    assert made_late("msgspec.json.decode(b'1', type=int)\nmsgspec.json.decode(b'1')\nD = msgspec.json.Decoder(int)") == [1]
    assert made_late("def f():\n    return msgspec.msgpack.Decoder(int)") == [2]
