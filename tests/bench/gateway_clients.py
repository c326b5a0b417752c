"""Clients of the gateway's benchmark, on raw sockets: ``python -m tests.bench.gateway_clients load|beside JSON``.

Most count frames and bytes, some parse all that they get and tell how old it is. `beside` is the same with and without one that reads
nothing, in turns.
"""

from __future__ import annotations

import base64
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from journal.codec import decode
from tests.bench.gateway_parts import ACK, SYMBOLS, name
from tests.journal.servers import TOKEN

_QUIET_S = 0.5


class _Message(msgspec.Struct):
    kind: str = ""
    recv_ns: int = 0
    position: str = ""


_messages = msgspec.json.Decoder(list[_Message])


class Reader:
    """Takes a server's frames apart. `take` is given each payload, where there is one; else payloads are skipped."""

    def __init__(self, sock: socket.socket, take: Callable[[bytes], None] | None) -> None:
        self.sock = sock
        self._take = take
        self._left = 0
        self._rest = b""
        self.frames = 0
        self.bytes = 0

    def feed(self, data: memoryview) -> None:
        self.bytes += len(data)
        if self._take:
            self._whole(self._rest + bytes(data))
            return
        at = self._left
        if self._rest:
            data = memoryview(self._rest + bytes(data))
            self._rest = b""
        size = len(data)
        while at < size:
            head = _head(data, at)
            if head is None:
                self._rest = bytes(data[at:])
                at = size
                break
            self.frames += 1
            at += sum(head)
        self._left = at - size

    def _whole(self, data: bytes) -> None:
        at = 0
        while (head := _head(data, at)) and at + sum(head) <= len(data):
            begin, size = head
            self.frames += 1
            if data[at] & 15 < 8 and self._take:
                self._take(data[at + begin : at + begin + size])
            at += begin + size
        self._rest = data[at:]


def _head(data: bytes | memoryview, at: int) -> tuple[int, int] | None:
    """Sizes of the header and the payload of the frame at `at`."""
    left = len(data) - at
    if left < 2:
        return None
    size = data[at + 1]
    if size < 126:
        return 2, size
    if size == 126:
        return (4, data[at + 2] << 8 | data[at + 3]) if left >= 4 else None
    return (10, int.from_bytes(data[at + 2 : at + 10], "big")) if left >= 10 else None


def masked(data: bytes) -> bytes:
    """A client's binary frame; its mask is zero."""
    size = len(data)
    return struct.pack("!BBH", 0x82, 0x80 | 126, size) + bytes(4) + data


class Ages:
    """How old messages are when they are parsed."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []  # when, when it was made, its sequence (0: not told)
        self._nats = b""

    def json(self, payload: bytes) -> None:
        now = time.time_ns()
        for message in _messages.decode(payload):
            if message.recv_ns and message.kind != "snapshot":
                self.seen.append((now, message.recv_ns, int(message.position.rpartition(":")[2])))

    def nats(self, payload: bytes) -> None:
        """Entries in nats-server's protocol: ``HMSG subject sid header total``."""
        now, data, at = time.time_ns(), self._nats + payload, 0
        while (end := data.find(b"\r\n", at)) >= 0:
            words = data[at:end].split()
            if words and words[0] in {b"HMSG", b"MSG"}:
                head, total = int(words[-2]) if words[0] == b"HMSG" else 0, int(words[-1])
                if len(data) < end + 4 + total:
                    break
                self.seen.append((now, decode(data[end + 2 + head : end + 2 + total]).recv_ns, 0))
                end += 2 + total
            at = end + 2
        self._nats = data[at:]

    def quantiles(self, acks: Path) -> dict[str, float]:
        """In ms, since they were made and (``durable``) since the journal had said that they are durable; it may be read before."""
        pairs = list(ACK.iter_unpack(acks.read_bytes()))
        lasts = [last for last, _ in pairs]
        durable = [now - pairs[bisect_left(lasts, at)][1] for now, _, at in self.seen if 0 < at <= lasts[-1]]
        found = {}
        for prefix, ages in (("", [now - made for now, made, _ in self.seen]), ("durable ", durable)):
            ages.sort()
            for q in (0.5, 0.99, 0.999) if ages else ():
                found[f"{prefix}p{q * 100:g}"] = ages[min(int(q * len(ages)), len(ages) - 1)] / 1e6
        return found


def dial(kind: str, port: int, symbols: list[str], *, room: int = 0) -> socket.socket:
    """`room`: bytes that this side's kernel keeps, 0 for as many as it likes."""
    sock = socket.socket()
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    path = "/" if kind == "nats" else f"/v1/stream?symbols={','.join(symbols)}&channels=book,trade"
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        got = sock.recv(1)
        answer += got
        if not got:
            break
    if not answer.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(answer + sock.recv(1_000))
    if kind == "nats":
        options = {"auth_token": TOKEN, "verbose": False, "pedantic": False, "headers": True, "protocol": 1, "lang": "raw", "version": "0"}
        chosen = ["local.kalshi.>"] if symbols == ["*"] else [f"local.kalshi.*.{symbol}" for symbol in symbols]
        lines = [f"CONNECT {json.dumps(options)}", *(f"SUB {subject} {n}" for n, subject in enumerate(chosen))]
        sock.sendall(masked("".join(f"{line}\r\n" for line in lines).encode()))
    sock.setblocking(False)
    return sock


def cpu_s(pid: int) -> float:
    """Of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Clients(msgspec.Struct, frozen=True):
    """`each`: symbols of one, 0 for all. The first `parsing` parse what they get."""

    kind: str
    port: int
    clients: int
    each: int
    parsing: int
    acks: str


class Crowd:
    """All of them, connected."""

    def __init__(self, of: Clients) -> None:
        rng, self._ages, self._parsing, self._acks = random.Random(2), Ages(), of.parsing, Path(of.acks)
        self._readers: list[Reader] = []
        self._poll = selectors.DefaultSelector()
        self._room = memoryview(bytearray(1 << 20))
        self.ended = 0
        for number in range(of.clients):
            sock = dial(of.kind, of.port, [name(n) for n in rng.sample(range(SYMBOLS), of.each)] if of.each else ["*"])
            own = Ages() if of.kind == "nats" else self._ages
            own.seen = self._ages.seen  # each has bytes of its own that are not whole yet
            take = None if number >= of.parsing else own.nats if of.kind == "nats" else own.json
            self._readers.append(Reader(sock, take))
            self._poll.register(sock, selectors.EVENT_READ, self._readers[-1])

    def read(self, seconds: float, quiet_s: float = 1e9) -> None:
        """For so long, or until nothing has come for `quiet_s`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not (some := self._poll.select(min(left, quiet_s))) and quiet_s < left:
                break
            for ready, _ in some:
                reader: Reader = ready.data
                if count := reader.sock.recv_into(self._room):
                    reader.feed(self._room[:count])
                else:
                    self._poll.unregister(reader.sock)
                    self.ended += 1

    def window(self, seconds: float) -> dict[str, float]:
        """What is seen in it."""
        self._ages.seen.clear()
        before = [(r.frames, r.bytes) for r in self._readers]
        began, cpu = time.monotonic(), time.process_time()
        self.read(seconds)
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        counts = [(r.frames - f, r.bytes - b) for r, (f, b) in zip(self._readers, before, strict=True)]
        frames, size = (sum(part) for part in zip(*counts, strict=True))
        parsed = sum(size for _, size in counts[: self._parsing])
        deliveries = len(self._ages.seen) * size / parsed if parsed else 0.0  # the others get messages of the same size
        found = {"frames": frames / took, "bytes": size / took, "deliveries": deliveries / took, "load_cpu": cpu / took}
        return {**found, **self._ages.quantiles(self._acks), "ended": self.ended}


def load(*, of: dict[str, Any], warm_s: float, seconds: float) -> None:
    """Says when all have what there is, when the window begins, and what was seen in it."""
    crowd = Crowd(Clients(**of))
    crowd.read(30, _QUIET_S)
    print("ready", flush=True)
    crowd.read(warm_s)
    print("begin", flush=True)
    print(json.dumps(crowd.window(seconds)), flush=True)


def beside(*, of: dict[str, Any], pid: int, pairs: int, warm_s: float, seconds: float) -> None:
    """Windows without and with one more client that chose all and reads nothing, in turns: a line each, one without at both ends."""
    crowd, port = Crowd(Clients(**of)), of["port"]
    crowd.read(30, _QUIET_S)
    print("ready", flush=True)
    for number in range(2 * pairs + 1):
        still = dial("gateway", port, ["*"], room=4_096) if number % 2 else None
        crowd.read(warm_s)
        cpu = cpu_s(pid)
        found = crowd.window(seconds) | {"cpu": cpu_s(pid) - cpu}
        if still:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/clients", timeout=30) as answer:
                line = max(json.load(answer)["clients"], key=lambda client: client["waiting_bytes"])
            found |= {"waiting": line["waiting"], "waiting_bytes": line["waiting_bytes"], "dropped": line["dropped"]}
            still.close()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    stage, given = sys.argv[1], json.loads(sys.argv[2])
    (load if stage == "load" else beside)(**given)
