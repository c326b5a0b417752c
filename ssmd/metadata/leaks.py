"""Secrets pasted in clear where only references belong. What is found is never repeated."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

# Shapes that nothing but a secret has.
_SHAPES = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"AGE-SECRET-KEY-1[A-Z0-9]{20,}", re.IGNORECASE), "an age identity"),
    (re.compile(r"\bS[UAONCX][A-Z2-7]{56}\b"), "a NATS seed"),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"), "a token (JWT)"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "an AWS access key"),
    (re.compile(r"\b(?:hvs|hvb|s)\.[A-Za-z0-9_-]{24,}"), "a Vault token"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}"), "a GitHub token"),
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
# Bits a character: 40 random characters of base64 have 4.9 ± 0.1, words joined by dashes and slashes at most 4.2.
_RANDOM_BITS = 4.4


def find_leaks(text: str, *, encoded: bool) -> Iterator[tuple[int, str]]:
    """(line from 1, what it looks like), one a line. With `encoded` also long random base64, which hashes and ciphertexts are too."""
    for number, line in enumerate(text.splitlines(), 1):
        for shape, what in _SHAPES:
            if shape.search(line):
                yield number, what
                break
        else:
            if encoded and any(_is_random(found) for found in _BASE64.findall(line)):
                yield number, "a key in base64"


def _is_random(text: str) -> bool:
    if not (re.search("[a-z]", text) and re.search("[A-Z]", text) and re.search("[0-9]", text)):
        return False
    if sum(text.count(mark) for mark in "-_/") > len(text) / 8:  # words; of random characters one in 32 or 64 is one of these
        return False
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values()) >= _RANDOM_BITS
