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


def create(names: Sequence[str] = tuple(PROJECTIONS)) -> list[Projection]:
    """New, empty projections by name, in that order, sharing one table of symbols. Raises `NotFound`."""
    from projections.rows import Names

    shared = Names()
    made: list[Projection] = []
    for name in names:
        if name not in PROJECTIONS:
            raise NotFound("projection", name, list(PROJECTIONS))
        module, _, attribute = PROJECTIONS[name].partition(":")
        made.append(getattr(import_module(module), attribute)(shared))
    return made
