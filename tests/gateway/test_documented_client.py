"""The client that docs/gateway.md shows keeps a book by the rules that it gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "gateway.md"


def told(kind: str, at: int, before: int | None, **levels: Any) -> dict[str, Any]:
    prev = None if before is None else f"local_md_0:{before}"
    return {
        "type": "book",
        "symbol": "A",
        "kind": kind,
        "position": f"local_md_0:{at}",
        "prev_position": prev,
        "bids": [],
        "asks": [],
        **levels,
    }


def test_the_client_keeps_totals_and_asks_once_for_what_it_missed() -> None:
    code = next(c for c in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "def take" in c)
    names: dict[str, Any] = {}
    exec(code.replace("asyncio.run(main())", ""), names)  # noqa: S102  (our own page)
    take, books, newest = names["take"], names["books"], names["newest"]
    opening = told("snapshot", 5, None, bids=[["0.41", "7.00"], ["0.40", "2.00"]], asks=[["0.50", "1.00"]])
    assert take(opening) is None
    assert take(told("delta", 7, 5, bids=[["0.41", "0.00"], ["0.39", "4.00"]])) is None
    assert books["A"] == {"bids": {"0.40": "2.00", "0.39": "4.00"}, "asks": {"0.50": "1.00"}, "position": "local_md_0:7"}
    assert take(told("delta", 9, 8, asks=[["0.50", "3.00"]])) == "A", "a message was lost"
    assert take(told("delta", 10, 9)) is None, "it has asked"
    assert (books, newest) == ({}, {"local_md_0": 10})
    assert take(opening | {"position": "local_md_0:10"}) is None
    assert take({"type": "stale", "symbol": "A", "position": "local_md_0:11"}) is None
    assert (books, newest) == ({}, {"local_md_0": 11})
    assert take({"type": "subscribed", "resumed": False}) is None
    assert newest == {}
