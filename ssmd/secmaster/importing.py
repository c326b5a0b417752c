"""Markets of a file as changes, the same way as those of a venue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice

from journal.clock import Clock
from journal.market import Change, Market, compare
from ssmd.render import Meter
from ssmd.secmaster.ledger import RUN, Ledger, Proposal

SOURCE = "import"


async def import_markets(ledger: Ledger, clock: Clock, markets: Iterable[Market], meter: Meter) -> Counter[str]:
    """Journal how `markets` differ from those that are there; how many changes of each kind. Raises `StoreError`."""
    await ledger.open()
    counts: Counter[str] = Counter()
    left = iter(markets)
    while some := list(islice(left, RUN)):
        now_ns = clock.wall_ns()
        counts.update(await ledger.propose({m.symbol: Proposal(partial(_decide, m, now_ns)) for m in some}))
        meter.advance(len(some))
    return counts


def _decide(new: Market, now_ns: int, old: Market | None) -> Sequence[Change]:
    return compare(old, new, SOURCE, now_ns)
