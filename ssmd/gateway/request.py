"""What clients of the stream send: one JSON object a message, told apart by ``op``; or the parameters of the URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import msgspec

from journal.errors import CallerError
from ssmd.gateway.buffer import Policy
from ssmd.gateway.message import CHANNELS, Topic
from ssmd.gateway.refusal import refusal

MAX_MESSAGE = 64 << 10  # bytes
MAX_SYMBOLS = 2_000  # named in one request
WILDCARD = "*"

Channel = Literal["book", "bbo", "trade", "ticker", "market", "gap", "day"]
DEFAULT_CHANNELS: tuple[Channel, ...] = ("book", "trade")
Mode = Literal["realtime", "conflated", "latest"]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Id = Annotated[str, msgspec.Meta(max_length=64)]
Symbols = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], ...], msgspec.Meta(max_length=MAX_SYMBOLS)]
Channels = Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1, max_length=len(CHANNELS))]
Interval = Annotated[int, msgspec.Meta(ge=10, le=60_000)]
Positions = Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)]

# channel, what is chosen by ("symbol", "series", "category", "all"), name
Selector = tuple[str, str, str]


class Request(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`id` comes back with the answer."""

    id: Id = ""


class Subscribe(Request, tag="subscribe", frozen=True, kw_only=True):
    """Any of `symbols` ("*": all), `series` and `category`; each may be left out where the channels are about no symbol.

    `resume`: the last position that was seen, of each stream; `mark`: the newest that was told, by which the gateway knows whether they
    are still of the same streams. `interval_ms` is of mode conflated.
    """

    channels: Channels = DEFAULT_CHANNELS
    symbols: Symbols = ()
    series: Symbols = ()
    category: Text = ""
    mode: Mode = "realtime"
    interval_ms: Interval = 500
    resume: Text | Positions = ()
    mark: Annotated[str, msgspec.Meta(max_length=8_192)] = ""

    @property
    def positions(self) -> tuple[str, ...]:
        """`resume` as several."""
        return ((self.resume,) if self.resume else ()) if isinstance(self.resume, str) else self.resume


class Unsubscribe(Request, tag="unsubscribe", frozen=True, kw_only=True):
    subscription: Text


class Snapshot(Request, tag="snapshot", frozen=True, kw_only=True):
    """Send the state again of `symbols`."""

    channels: Channels = ("book",)
    symbols: Symbols


class Configure(Request, tag="configure", frozen=True, kw_only=True):
    """What happens when the client is slow."""

    policy: Policy


class Ping(Request, tag="ping", frozen=True, kw_only=True):
    pass


class _Named(msgspec.Struct):
    id: Id = ""


_EXAMPLE = '{"op":"subscribe","channels":["book"],"symbols":["NAME"]}'
REQUESTS = (Subscribe, Unsubscribe, Snapshot, Configure, Ping)
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Subscribe | Unsubscribe | Snapshot | Configure | Ping)


def parse(data: bytes) -> Request:
    """Raises `CallerError`."""
    try:
        found: Request = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CallerError(
            f'{refusal(error, *REQUESTS)}; a request is for example {{"op":"subscribe","channels":["book"],"symbols":["NAME"]}}'
        ) from None
    except RecursionError:
        raise CallerError("nested too deeply") from None
    return found


def id_of(data: bytes) -> str:
    """The `id` of a request that cannot be understood, where it has one."""
    try:
        return msgspec.json.decode(data, type=_Named).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def parse_url(query: str) -> tuple[Policy | None, Subscribe | None]:
    """``symbols=A,B&channels=book,trade&mode=…&interval_ms=…&resume=…&mark=…&policy=…``: the policy, and the subscription if one is named.

    Raises `CallerError`.
    """
    try:
        given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True, max_num_fields=16).items()}
    except ValueError as error:
        raise CallerError(f"the URL's query: {error}") from None
    values: dict[str, Any] = {name: value for name, value in given.items() if name != "policy"}
    for name in ("symbols", "series", "channels", "resume"):
        if name in given:
            values[name] = tuple(part for part in given[name].split(",") if part)
    try:
        policy = Policy(given["policy"]) if "policy" in given else None
    except ValueError:
        raise CallerError(f"policy {given['policy'][:100]!r}: write {', '.join(Policy)}") from None
    if not values:
        return policy, None
    try:
        return policy, msgspec.convert(values, Subscribe, strict=False)
    except msgspec.ValidationError as error:
        raise CallerError(
            f"the URL's query: {refusal(error, Subscribe)}; known: symbols, series, category, channels, mode, interval_ms, resume, mark,"
            " policy"
        ) from None


def selectors(asked: Subscribe) -> frozenset[Selector]:
    """What a subscription chooses. Gaps of everything, and days, are about no symbol. Raises `CallerError` when that is nothing."""
    chosen: set[Selector] = set()
    for channel in asked.channels:
        if channel == "day":
            chosen.add((channel, "symbol", ""))
            continue
        named = [("all", "") if s == WILDCARD else ("symbol", s) for s in asked.symbols]
        named += [("series", s) for s in asked.series]
        named += [("category", asked.category)] if asked.category else []
        if not named and channel != "gap":
            raise CallerError(f'channel {channel} of what? Name symbols (["*"] for all), series or a category')
        chosen |= {(channel, kind, name) for kind, name in named}
        if channel == "gap":
            chosen |= {(channel, "symbol", "")} if named else {(channel, "all", "")}
    return frozenset(chosen)


def matches(chosen: frozenset[Selector], topic: Topic, kinds: Callable[[str], tuple[str, str]]) -> bool:
    """`kinds`: series and category of a symbol, "" where not known."""
    channel, symbol = topic
    if (channel, "symbol", symbol) in chosen or (channel, "all", "") in chosen:
        return True
    series, category = kinds(symbol)
    return (channel, "series", series) in chosen or (channel, "category", category) in chosen
