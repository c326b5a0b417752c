"""What shards choose: selectors that match nothing, and two that choose the same."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ssmd.metadata.environment import Environment, Selector, Symbol
from ssmd.metadata.problem import Problem

PATTERN = frozenset("*?[")
_SHOWN = 5  # of the symbols that are chosen twice


def selector_problems(environment: Environment) -> Iterator[Problem]:
    """Series and tags are the venue's, and so may categories be: whether there are markets of one cannot be known here."""
    for name, shard in environment.shards.items():
        if name == "import":
            yield Problem(("shards", name), "error", "shard import is where imported recordings go; choose another name")
        for part, text in _matches_nothing(shard.selector, environment.symbols):
            yield Problem(("shards", name, "selector", part), "error", text)
        for text in _misspelt(shard.selector, environment.symbols):
            yield Problem(("shards", name, "selector", "categories"), "warning", text)
    yield from _chosen_twice(environment)


def chooses(selector: Selector, symbol: str, known: Symbol | None) -> bool:
    """Whether `symbol`, of which `known` is declared, is in the shard of `selector`, as far as the environment's file tells."""
    if is_everything(selector) or any(fnmatchcase(symbol, pattern) for pattern in selector.symbols):
        return True
    if symbol.partition("-")[0] in selector.series:
        return True
    return known is not None and (known.tier in selector.tiers or known.category in selector.categories)


def is_everything(selector: Selector) -> bool:
    """Whether nothing chooses; a status or a volume may still narrow it."""
    return not (selector.symbols or selector.tiers or selector.categories or selector.series or selector.tags)


def _matches_nothing(selector: Selector, symbols: dict[str, Symbol]) -> Iterator[tuple[str, str]]:
    for wanted in selector.symbols:
        if any(fnmatchcase(symbol, wanted) for symbol in symbols):
            continue
        if PATTERN & set(wanted):
            yield "symbols", f"{wanted} matches none of the {len(symbols)} symbols that are declared under symbols:"
        elif symbols:  # without any declared, a symbol stands for itself
            near = get_close_matches(wanted, symbols, n=3)
            nearest = f"; nearest: {', '.join(near)}" if near else ""
            yield "symbols", f"{wanted} is not declared under symbols:{nearest}"
    for tier in selector.tiers:
        if tier not in (have := {s.tier for s in symbols.values() if s.tier is not None}):
            yield "tiers", f"no symbol under symbols: has tier {tier}; {_listed(sorted(map(str, have)))}"


def _misspelt(selector: Selector, symbols: dict[str, Symbol]) -> Iterator[str]:
    """A category that no symbol has may be the venue's own; one that is almost a symbol's is worth a word."""
    kinds = {s.category for s in symbols.values() if s.category is not None}
    for category in selector.categories:
        if category not in kinds and (near := get_close_matches(category, kinds, n=3)):
            yield f"no symbol under symbols: has category {category!r}, there are {', '.join(near)}; the venue may have markets of it"


def _listed(known: list[str]) -> str:
    return f"there are {', '.join(known[:20])}" if known else "none has any"


def _chosen_twice(environment: Environment) -> Iterator[Problem]:
    shards = {name: shard.selector for name, shard in environment.shards.items()}
    if len(shards) > 1:
        for name in (n for n, selector in shards.items() if is_everything(selector)):
            yield Problem(
                ("shards", name, "selector"), "error", "chooses everything, and there are other shards: each symbol belongs to one"
            )
    shards = {name: selector for name, selector in shards.items() if not is_everything(selector)}
    exact = {s for selector in shards.values() for s in selector.symbols if not PATTERN & set(s)}
    owners = {
        s: [n for n, x in shards.items() if chooses(x, s, environment.symbols.get(s))] for s in sorted({*environment.symbols, *exact})
    }
    for what in ("series", "categories", "tags"):
        wanted = {name: set(getattr(selector, what)) for name, selector in shards.items()}
        kind = {"categories": "category", "tags": "tag"}.get(what, what)
        owners |= {f"{kind} {s}": [n for n, of in wanted.items() if s in of] for s in sorted(set().union(*wanted.values()))}
    shared: dict[tuple[str, str], list[str]] = {}
    for what, names in owners.items():
        for other in names[1:]:
            shared.setdefault((names[0], other), []).append(what)
    for (one, other), found in shared.items():
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        text = f"chooses {', '.join(found[:_SHOWN])}{more}, which shard {one} chooses too: each symbol belongs to one"
        yield Problem(("shards", other, "selector"), "error", text)
