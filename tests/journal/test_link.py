"""What a server sends, cut anywhere: messages reach their sinks whole."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from journal.link import Access, _Client

Message = tuple[int, bytes, bytes, bytes, bytes | None]
token = st.binary(min_size=1, max_size=8).map(lambda b: b.hex().encode())
payload = st.binary(max_size=60) | st.sampled_from([b"\r\n", b"PING\r\n", b"MSG a 1 0\r\n\r\n"])
messages = st.tuples(
    st.integers(1, 4),
    token,
    st.just(b"") | token,
    payload,
    st.none() | st.sampled_from([b"NATS/1.0 100\r\n\r\n", b"NATS/1.0\r\nA:b\r\n\r\n"]),
)


def on_the_wire(message: Message) -> bytes:
    sid, subject, reply, data, headers = message
    words = [subject, b"%d" % sid, *([reply] if reply else [])]
    if headers is None:
        return b"MSG %b %d\r\n%b\r\n" % (b" ".join(words), len(data), data)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (b" ".join(words), len(headers), len(headers) + len(data), headers, data)


@given(st.lists(messages | st.just(b"PONG\r\n"), max_size=12), st.lists(st.integers(0, 400), max_size=12))
def test_messages_arrive_however_the_bytes_are_cut(sent: list[Message | bytes], cuts: list[int]) -> None:
    found: list[Message] = []
    pongs = 0

    async def body() -> None:
        nonlocal pongs
        client = _Client()

        async def pong() -> None:
            nonlocal pongs
            pongs += 1

        client._process_pong = pong  # type: ignore[method-assign]
        for sid in (1, 2, 3):  # 4 is nobody's
            client.sinks[sid] = lambda subject, reply, data, headers, sid=sid: found.append((sid, subject, reply, data, headers))  # type: ignore[misc]
        wire = b"".join(m if isinstance(m, bytes) else on_the_wire(m) for m in sent)
        edges = sorted({min(c, len(wire)) for c in cuts} | {0, len(wire)})
        for start, end in pairwise(edges):
            await client._ps.parse(wire[start:end])
        assert client._ps.buf == b""

    asyncio.run(body())
    assert found == [m for m in sent if not isinstance(m, bytes) and m[0] != 4]
    assert pongs == sent.count(b"PONG\r\n")


@pytest.mark.parametrize("line", [b"MSG a x 1\r\n", b"HMSG a\r\n", b"NONSENSE\r\n", b"MSG\r\n"])
def test_nonsense_ends_the_connection(line: bytes) -> None:
    async def body() -> None:
        with pytest.raises(ProtocolError):
            await _Client()._ps.parse(line)

    asyncio.run(body())


def test_the_private_side_of_nats_is_what_it_was() -> None:
    """The module leans on these; another release is looked at before the pin is moved."""
    assert version("nats-py").startswith("2.16.")
    client = _Client()
    for name in ("_ps", "_pending", "_pending_data_size", "_transport", "_remove_sub"):
        assert hasattr(client, name)


def test_secrets_are_not_shown() -> None:
    access = Access(lambda: "nats://me:secret@host:4222, nats://tok@other", token="secret", password="secret")  # noqa: S106
    assert repr(access) == "Access(nats://host:4222, nats://other)"
