"""The projections there are. Names are looked up when needed: importing the folds costs about a second."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from journal.errors import NotFound
from projections.projection import Projection

PROJECTIONS = {
    "book": "projections.book:BookProjection",
    "coverage": "projections.coverage:CoverageProjection",
    "status": "projections.status:StatusProjection",
    "ticker": "projections.ticker:TickerProjection",
    "trades": "projections.trades:TradesProjection",
}
# Of domain streams; no part of a market stream's fold unless named.
DOMAIN = {"secmaster": "projections.secmaster:SecmasterProjection"}


def create(names: Sequence[str] = tuple(PROJECTIONS)) -> list[Projection]:
    """New, empty projections by name, in that order, sharing one table of symbols. Raises `NotFound`."""
    from projections.rows import Names

    shared, known = Names(), PROJECTIONS | DOMAIN
    made: list[Projection] = []
    for name in names:
        if name not in known:
            raise NotFound("projection", name, list(known))
        module, _, attribute = known[name].partition(":")
        made.append(getattr(import_module(module), attribute)(shared))
    return made
