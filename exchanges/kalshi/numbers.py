"""Kalshi's decimal strings as exact integers. No float, no rounding: what does not fit raises `BadFrame`.

Prices are micro-dollars (exponent -6, what the venue documents as its finest answer), counts hundredths (exponent -2, its granularity).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

PRICE_EXPONENT = -6
SIZE_EXPONENT = -2
DOLLAR = 1_000_000
CENT = DOLLAR // 100
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 15 digits before the point keep hundredths within 64 bits; 18 behind it bound the text.
_DECIMAL = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,18}))?")
# RFC 3339 with what datetime cannot hold (digits beyond the microsecond) in a group of its own.
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
# Distinct texts remembered: 10,000 prices at $0.0001 and the common counts; about 8 MB when full.
_REMEMBERED = 1 << 16


class BadFrame(ValueError):
    """A frame, or a number in it, is not what the protocol says. The message is journalled with the frame."""


def fixed(text: str, decimals: int) -> int:
    """``text * 10**decimals`` exactly. Trailing zeros beyond `decimals` are the same number; other digits there are an error."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise BadFrame(f"{text[:40]!a} is not a decimal number")
    sign, whole, fraction = match.groups(default="")
    digits = fraction.rstrip("0")
    if len(digits) > decimals:
        raise BadFrame(f"{text} has more than {decimals} decimals")
    value = int(whole + digits.ljust(decimals, "0"))
    return -value if sign else value


@lru_cache(_REMEMBERED)
def price(text: str) -> int:
    """A dollar string between 0 and 1 in micro-dollars."""
    value = fixed(text, -PRICE_EXPONENT)
    if not 0 <= value <= DOLLAR:
        raise BadFrame(f"price {text} is not between 0 and 1 dollar")
    return value


@lru_cache(_REMEMBERED)
def size(text: str) -> int:
    """A count string in hundredths; negative in deltas."""
    return fixed(text, -SIZE_EXPONENT)


def count(text: str) -> int:
    """A count that cannot be negative."""
    value = size(text)
    if value < 0:
        raise BadFrame(f"count {text} is negative")
    return value


def amount(text: str) -> int:
    """A dollar string of any size in micro-dollars (settlement values); within 64 bits."""
    value = fixed(text, -PRICE_EXPONENT)
    if not -(2**63) <= value < 2**63:
        raise BadFrame(f"{text} dollars do not fit 64 bits of micro-dollars")
    return value


def cents(value: int) -> int:
    """Integer cents between 0 and 100 in micro-dollars."""
    if not 0 <= value <= 100:
        raise BadFrame(f"price {value} is not between 0 and 100 cents")
    return value * CENT


def instant_ns(text: str) -> int:
    """An RFC 3339 time in nanoseconds since 1970; years outside what 64 bits hold are an error."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise BadFrame(f"{text[:40]!a} is not an RFC 3339 time")
    moment, fraction, zone = match.groups(default="")
    try:
        at = datetime.fromisoformat(moment.upper() + ("+00:00" if zone in "Zz" else zone))
    except ValueError as error:
        raise BadFrame(f"{text[:40]!a} is not an RFC 3339 time") from error
    delta = at - _EPOCH
    ns = (delta.days * 86_400 + delta.seconds) * SECOND_NS + int(fraction.ljust(9, "0"))
    if not -(2**63) <= ns < 2**63:
        raise BadFrame(f"{text} is outside 64 bits of nanoseconds")
    return ns
