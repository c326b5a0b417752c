"""Cap'n Proto messages whose root holds only lists: written as one segment, viewed in place from any number of them.

Written by hand so that equal lists make equal bytes whatever version of pycapnp is installed, and so that neither the archiver nor a
fold needs it. Layout: https://capnproto.org/encoding.html. Tests compare both directions with pycapnp on every field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from journal.errors import BadObject

_WORD = struct.Struct("<Q")
_TWO_WORDS = struct.Struct("<QQ")
_U32, _BYTES, _POINTERS, _STRUCTS = 4, 2, 6, 7  # element size codes of list pointers
_MAX_SEGMENTS = 512  # pycapnp's own limit
# A list pointer counts in 29 bits; archive blocks stay far below.
_MAX_COUNT = (1 << 29) - 1

Field = Any  # a structured array, a "<u4" array, a list of byte strings, or one byte string


def write(fields: Sequence[Field]) -> bytes:
    """The message whose root's pointers are `fields`. Texts carry their closing NUL (see `texts`)."""
    at = len(fields)  # words from the first pointer
    pointers = bytearray()
    out: list[bytes | bytearray] = [b"", pointers]
    for index, field in enumerate(fields):
        if len(field) == 0:
            pointers += bytes(8)
            continue
        shape, payload = _list(field)
        pointers += _WORD.pack(1 | (at - index - 1) << 2 | shape << 32)
        out.append(payload)
        at += len(payload) >> 3
    out[0] = struct.pack("<IIQ", 0, at + 1, len(fields) << 48)
    return b"".join(out)


def texts(values: Iterable[str]) -> list[bytes]:
    """`values` as `write` takes them."""
    return [v.encode() + b"\0" if v else b"" for v in values]


def _list(field: Field) -> tuple[int, bytes]:
    if isinstance(field, bytes):
        return _BYTES | _count(len(field)), _padded(field)
    if isinstance(field, list):
        return _POINTERS | _count(len(field)), _blobs(field)
    if field.dtype.names is None:
        return _U32 | _count(len(field)), _padded(field.tobytes())
    words = field.dtype.itemsize >> 3
    return _STRUCTS | _count(len(field) * words), _WORD.pack(len(field) << 2 | words << 32) + field.tobytes()


def _count(n: int) -> int:
    if n > _MAX_COUNT:
        raise ValueError(f"{n} elements in one list; at most {_MAX_COUNT}")
    return n << 3


def _blobs(values: list[bytes]) -> bytes:
    at = len(values)
    pointers, out = [], []
    for index, value in enumerate(values):
        if value:
            pointers.append(1 | (at - index - 1) << 2 | (_BYTES | _count(len(value))) << 32)
            out.append(_padded(value))
            at += len(out[-1]) >> 3
        else:
            pointers.append(0)
    return struct.pack(f"<{len(pointers)}Q", *pointers) + b"".join(out)


def _padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) & 7)


class Message:
    """Reads what any writer of the schema may have written: several segments, far pointers, wider or narrower structs.

    Every method raises `BadObject` for bytes that are no such message. Arrays are contiguous and read-only views of `buf`; copies where
    the writer's structs are not as wide as ours.
    """

    def __init__(self, buf: bytes) -> None:
        self._buf = buf
        try:
            segments = struct.unpack_from("<I", buf)[0] + 1
            if segments > _MAX_SEGMENTS:
                raise BadObject(f"{segments} segments in one message; at most {_MAX_SEGMENTS}")
            sizes = struct.unpack_from(f"<{segments}I", buf, 4)
            at = (4 + 4 * segments + 7) & ~7
            self._starts = []
            for size in sizes:
                self._starts.append(at)
                at += 8 * size
            if at > len(buf):
                raise BadObject(f"message of {at} bytes is cut off at {len(buf)}")
            root, shape = self._locate(self._starts[0])
        except (struct.error, IndexError) as error:
            raise BadObject(f"{len(buf)} bytes are no Cap'n Proto message: {error}") from error
        if shape & 3:
            raise BadObject("the message's root is no struct")
        self._pointers = root + 8 * (shape >> 32 & 0xFFFF)
        self._count = shape >> 48

    def _locate(self, at: int) -> tuple[int, int]:
        """Where the pointer word at byte `at` points to, and the word that describes what is there (0: null)."""
        (word,) = _WORD.unpack_from(self._buf, at)
        if word & 3 == 2:  # far: the content or its pointer is in another segment
            pad = self._starts[word >> 32] + ((word & 0xFFFFFFFF) >> 3) * 8
            if word & 4:  # double far: the pad is a far pointer to the content and a tag that describes it
                far, tag = _TWO_WORDS.unpack_from(self._buf, pad)
                return self._starts[far >> 32] + ((far & 0xFFFFFFFF) >> 3) * 8, tag
            at = pad
            (word,) = _WORD.unpack_from(self._buf, at)
        offset = (word & 0xFFFFFFFF) >> 2
        return at + 8 * (1 + offset - ((offset & 1 << 29) << 1)), word

    def _field(self, index: int, code: int) -> tuple[int, int] | None:
        """Start and element count of list `index`; None where it is null or the writer's schema was older."""
        if index >= self._count:
            return None
        return self._list_at(self._pointers + 8 * index, code)

    def _list_at(self, at: int, code: int) -> tuple[int, int] | None:
        try:
            start, word = self._locate(at)
        except (struct.error, IndexError) as error:
            raise BadObject(f"a pointer leads out of the message: {error}") from error
        if word == 0:
            return None
        if word & 3 != 1 or word >> 32 & 7 != code or start < 0:
            raise BadObject(f"pointer {word:#x} is no list of element size {code}")
        return start, word >> 35

    def structs(self, index: int, dtype: np.dtype[Any]) -> Any:
        """The list of data-only structs, as an array of `dtype`."""
        found = self._field(index, _STRUCTS)
        if found is None:
            return np.zeros(0, dtype)
        start, words = found
        try:
            (tag,) = _WORD.unpack_from(self._buf, start)
            n, data = (tag & 0xFFFFFFFF) >> 2, 8 * (tag >> 32 & 0xFFFF)
            stride = data + 8 * (tag >> 48)
            if n * stride > 8 * words or (n and not stride):
                raise BadObject(f"a list of {words} words cannot hold {n} structs of {stride} bytes")
            if data >= dtype.itemsize:
                items: Any = np.ndarray((n,), dtype, self._buf, start + 8, (stride,))
                return items if stride == dtype.itemsize else items.copy()
            short = np.ndarray((n, data), np.uint8, self._buf, start + 8, (stride, 1))
        except (struct.error, TypeError, ValueError) as error:
            raise BadObject(f"a list of structs leads out of the message: {error}") from error
        wide = np.zeros((n, dtype.itemsize), np.uint8)  # fields the writer did not know are zero
        wide[:, :data] = short
        return wide.view(dtype)[:, 0]

    def integers(self, index: int) -> Any:
        """A List(UInt32)."""
        found = self._field(index, _U32)
        if found is None:
            return np.zeros(0, "<u4")
        try:
            return np.frombuffer(self._buf, "<u4", found[1], found[0])
        except ValueError as error:
            raise BadObject(f"a list of integers leads out of the message: {error}") from error

    def blobs(self, index: int) -> list[bytes]:
        """A List(Data)."""
        found = self._field(index, _POINTERS)
        if found is None:
            return []
        start, n = found
        if start + 8 * n > len(self._buf):
            raise BadObject("a list of pointers leads out of the message")
        return [self._blob(start + 8 * i) for i in range(n)]

    def texts(self, index: int) -> list[str]:
        """A List(Text)."""
        return [_text(b) for b in self.blobs(index)]

    def text(self, index: int) -> str:
        """A Text."""
        return _text(self._blob(self._pointers + 8 * index)) if index < self._count else ""

    def _blob(self, at: int) -> bytes:
        found = self._list_at(at, _BYTES)
        if found is None:
            return b""
        start, n = found
        if start + n > len(self._buf):
            raise BadObject("a byte list leads out of the message")
        return self._buf[start : start + n]


def _text(blob: bytes) -> str:
    try:
        return blob[:-1].decode()
    except UnicodeDecodeError as error:
        raise BadObject(f"a text is not UTF-8: {error}") from error
