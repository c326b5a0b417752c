"""Where the capture of a market has come to its end: what connectors said in the market streams."""

from __future__ import annotations

from typing import Any

from journal.entry import Control, Lifecycle
from journal.protocols import JournalReader
from ssmd.services.inheritance import DEFINITION, FINALISED
from ssmd.services.predecessor import detail_of


async def endings(reader: JournalReader, env: str, feed: str, symbol: str) -> list[dict[str, Any]]:
    """One of each market stream in which the market's capture is finalised and was not begun again, by stream."""
    found = []
    for stream in await reader.streams(env):
        if not stream.is_market:
            continue
        record = await reader.last(stream, stream.subject(feed, "control", symbol))
        if record is None or not isinstance(body := record.entry.body, Control) or body.action != FINALISED:
            continue
        latest = await reader.last(stream, stream.subject(feed, "lifecycle", symbol))
        if latest and latest.sequence > record.sequence and isinstance(told := latest.entry.body, Lifecycle) and told.event == DEFINITION:
            continue
        detail = detail_of(body)
        found.append({"position": f"{stream.name}:{record.sequence}", "reason": detail.get("reason", ""), "last": detail.get("last", "")})
    return found
