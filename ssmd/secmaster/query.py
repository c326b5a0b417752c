"""What is asked of a view: lists, ranked words, near names, counts. Nothing here holds more than what is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from journal.errors import NotFound
from journal.market import Market
from projections.secmaster import Known
from ssmd.secmaster.view import GONE, Row, View

_TOKEN = re.compile(r"[^\W_]+")
_MOST_TOKENS = 16
_RANKED = 20_000  # about 50 ms
_NEAR = 200  # names that are compared with an unknown one
# Of a word in the symbol, the title, series and category, the rules.
_WEIGHTS = "8.0, 10.0, 4.0, 1.0"


class Filter(NamedTuple):
    """Each that is not empty must hold. Times are bounds of when a market is expected to expire, with their ends; then in that order."""

    category: str = ""
    series: str = ""
    event: str = ""
    status: str = ""
    expires_from_ns: int = 0
    expires_to_ns: int = 0


class Found(NamedTuple):
    symbol: str
    known: Known
    market: Market
    rank: float = 0.0


def select(view: View, wanted: Filter, limit: int | None = None) -> Iterator[Found]:
    """Markets that are there, by symbol, or by expiry where that is bounded."""
    named = [(name, value) for name in ("category", "series", "event", "status") if (value := getattr(wanted, name))]
    conditions = [f"{name} = ?" for name, _ in named]
    values: list[Any] = [value for _, value in named]
    order = "symbol"
    if not wanted.status:
        conditions.append("status <> ?")
        values.append(GONE)
    if wanted.expires_to_ns:
        conditions.append("expires_ns BETWEEN ? AND ?")
        values += [max(1, wanted.expires_from_ns), wanted.expires_to_ns]
        order = "expires_ns, symbol"
        if not wanted.status:
            conditions.append("status NOT IN ('determined', 'settled')")
    sql = f"SELECT symbol, known FROM markets WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT ?"  # noqa: S608 (constants)
    for symbol, blob in view.query(sql, [*values, -1 if limit is None else limit]):
        known = view.known(blob)
        if known.market is not None:
            yield Found(symbol, known, known.market)


def search(view: View, text: str, limit: int) -> list[Found]:
    """Markets whose words are all in `text`, the last one perhaps unfinished, best first; where there is none, those that have some.

    Of a word that most markets have, the newest `_RANKED` are ranked.
    """
    tokens = _TOKEN.findall(text)[:_MOST_TOKENS]
    if not tokens:
        return []
    quoted = [f'"{token}"' for token in tokens]
    for match in (" AND ".join([*quoted[:-1], f"{quoted[-1]}*"]), " OR ".join(quoted)):
        sql = (
            "SELECT m.symbol, m.known, w.score FROM"  # noqa: S608 (a constant)
            f" (SELECT * FROM (SELECT rowid AS id, bm25(words, {_WEIGHTS}) AS score FROM words WHERE words MATCH ?"
            f" ORDER BY rowid DESC LIMIT {_RANKED}) ORDER BY score LIMIT ?) w"
            " JOIN markets m ON m.id = w.id ORDER BY w.score, m.status NOT IN ('active', 'pending'), m.symbol"
        )
        found = view.query(sql, (match, limit))
        known = [(symbol, view.known(blob), -score) for symbol, blob, score in found]
        if hits := [Found(s, k, k.market, rank) for s, k, rank in known if k.market is not None]:
            return hits
    return []


def row_of(view: View, symbol: str) -> Row:
    """The market `symbol`, also one that was removed. Raises `NotFound` with near names."""
    if row := view.rows([symbol]).get(symbol):
        return row
    raise NotFound("market", symbol, near(view, symbol), hint="" if view.place.sequence else "nothing is known yet: `ssmd secmaster sync`")


def near_names(view: View, wanted: Filter) -> str:
    """Which name of a filter there is none of, with near ones; "" where all are known."""
    for name in ("category", "series", "event"):
        value = getattr(wanted, name)
        if value and not list(view.query(f"SELECT 1 FROM markets WHERE {name} = ? LIMIT 1", (value,))):  # noqa: S608 (a column)
            # As they begin; else all, as far as one looks.
            for start in (value[:3].upper(), ""):
                sql = f"SELECT DISTINCT {name} FROM markets WHERE upper({name}) LIKE ? AND {name} <> '' LIMIT {_NEAR}"  # noqa: S608 (a column)
                if known := [n for (n,) in view.query(sql, (f"{start}%",))]:
                    return str(NotFound(name, value, known))
    return ""


def near(view: View, symbol: str) -> list[str]:
    """Names like `symbol`: those that begin as it does, as far as there are any."""
    upper = symbol.upper()
    for length in range(len(upper), -1, -1):
        start = upper[:length]
        query = "SELECT symbol FROM markets WHERE symbol >= ? AND symbol < ? ORDER BY symbol LIMIT ?"
        if found := [s for (s,) in view.query(query, (start, f"{start}\U0010ffff", _NEAR))]:
            return found
    return []


def counts(view: View) -> dict[str, Any]:
    """How many markets there are, by status, and of the largest categories and series."""
    by_status = dict(view.query("SELECT status, count(*) FROM markets GROUP BY status ORDER BY status"))
    removed = by_status.pop(GONE, 0)
    by_category = dict(
        view.query("SELECT category, count(*) AS n FROM markets WHERE status <> '' GROUP BY category ORDER BY n DESC, category")
    )
    series = next(view.query("SELECT count(DISTINCT series) FROM markets WHERE status <> ''"))[0]
    return {
        "markets": sum(by_status.values()), "removed": removed, "series": series, "by_status": by_status, "by_category": by_category,
    }  # fmt: skip


def last_syncs(view: View) -> list[dict[str, Any]]:
    """The last synchronisation of each source, and the last full one's time."""
    found: dict[str, dict[str, Any]] = {}
    for name, blob in view.query("SELECT name, value FROM meta WHERE name LIKE 'synced.%' OR name LIKE 'full.%' ORDER BY name"):
        kind, _, source = name.partition(".")
        _, _, synced = view.decode_synced(blob)
        row = found.setdefault(source, {"source": source})
        row[f"{kind}_ns"] = synced.finished_ns
        if kind == "synced":
            row |= {"markets": synced.markets, "counts": synced.counts}
    return list(found.values())
