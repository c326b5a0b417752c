"""Steps as they are typed."""

from __future__ import annotations

import pytest

from journal.errors import CallerError
from replay.pace import Stride
from ssmd.strides import parse


def test_a_line_is_a_step() -> None:
    assert parse("") == Stride(1)
    assert parse("100") == Stride(100)
    assert parse("1m30s") == Stride(ns=90 * 10**9)


@pytest.mark.parametrize("text", ["0", "-1", "huh", "1x", "9" * 40])
def test_another_line_says_what_there_is(text: str) -> None:
    with pytest.raises(CallerError, match="Enter is the next entry"):
        parse(text)
