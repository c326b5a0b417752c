"""A process that synchronises for the tests: ``python -m tests.secmaster.syncer URL VIEW WHO MARKETS VERSION``.

The venue lists `MARKETS` markets, every seventh of them changed in `VERSION` 2, every eleventh gone in `VERSION` 3. It says when it is
ready, begins when it is told, and prints what it has journalled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from msgspec.structs import replace

from journal.clock import WallClock
from journal.jetstream import JetStreamJournal
from journal.market import Market
from tests.journal.servers import TOKEN
from tests.secmaster.listing import Listing, ledger_of, market, synchronise


def listed(count: int, version: int) -> list[Market]:
    markets = [market(n, close_ns=0) for n in range(count)]
    if version >= 2:
        markets[::7] = [replace(m, title=f"{m.title} Really?", status="paused", venue_status="inactive") for m in markets[::7]]
    if version >= 3:
        del markets[::11]
    return markets


async def main(url: str, view: Path, who: str, count: int, version: int) -> None:
    clock = WallClock()
    journal = await JetStreamJournal.connect(url, clock, token=TOKEN)
    ledger = ledger_of(view.parent, journal, clock, name=view.stem, who=who)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    summary = await synchronise(ledger, Listing(listed(count, version), page=100), clock)
    print(json.dumps({"counts": summary.synced.counts, "resumed": summary.resumed, "digest": ledger.view.digest()}), flush=True)
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
