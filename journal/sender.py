"""Sending messages to one JetStream stream: one attempt, and what the answer to it means."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from journal import cursor
from journal.batch import Message, render_batch, render_one
from journal.cursor import Bounds
from journal.errors import CallerError, EntryTooLarge, JournalFull, JournalRefused, JournalUnavailable
from journal.link import ApiError, Link, NoResponders, ReplyLost
from journal.subjects import Stream

STREAM_FULL = frozenset({10023, 10047, 10077})
# The last two are a cluster's, while another message on the subject or with the id is under way; nobody knows yet what will come of it.
_WRONG_LAST = frozenset({10070, 10071, 10164, 10158})
_DUPLICATE = 10201
_TOO_LARGE = 10054
_INCOMPLETE = 10176
_SERVER_FAULT = 500

_log = logging.getLogger("journal")


class LookAgain(Exception):
    """The append may be stored, or what it expected is not so."""

    def __init__(self, *, duplicate: bool = False, lost: ReplyLost | None = None) -> None:
        self.duplicate = duplicate
        self.lost = lost


class Sender:
    """One handle's way to one stream."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.link = link
        self.stream = stream
        self.atomic = True
        self._limit = 0  # of one message, from the stream's configuration

    async def know(self) -> None:
        """Ask for the stream's configuration if that has not been done. Raises `CallerError` when there is no stream."""
        if not self._limit:
            await self.bounds()

    async def limit(self) -> int:
        """Bytes of the largest message the stream takes, headers included."""
        await self.bounds()
        return self._least()

    def _least(self) -> int:
        return min(self.link.max_payload, self._limit) if self._limit > 0 else self.link.max_payload

    async def bounds(self) -> Bounds:
        found = await cursor.bounds(self.link, self.stream.name)
        if found is None:
            raise CallerError(f"stream {self.stream.name} does not exist; create it with ensure()")
        self._limit = found.config.get("max_msg_size", -1)
        if self.atomic and not found.config.get("allow_atomic"):
            self.atomic = False
            _log.warning(
                "stream %s on %s has no atomic batches: its entries are appended one by one, which is slow, and an append that fails may be"
                " stored in part; set allow_atomic on it", self.stream.name, self.link.where,
            )  # fmt: skip
        return found

    async def send(self, messages: Sequence[Message], expectations: Sequence[bytes]) -> int:
        """Sequence of the first, all being durable; `expectations` of the first messages. Raises `LookAgain` and the store's errors."""
        await self.link.client()
        limit = self._least()
        ack, future = self.link.expect()
        begun = None
        try:
            if len(messages) == 1:
                self.link.send(render_one(messages[0], expectations[0], ack, limit))
            else:
                inbox, begun = self.link.expect()
                # Unique on the server: the inbox is.
                batch_id = b"%b" % ack.replace(b".", b"-")
                self.link.send(render_batch(messages, batch_id, expectations, (inbox, ack), limit))
            await self.link.drain()
            answer = await self.link.reply(future)
        except ReplyLost as error:
            raise LookAgain(lost=error) from error
        except ApiError as error:
            cause = error
            if begun is not None and begun.done():
                try:
                    await self.link.reply(begun)
                except ApiError as first_error:
                    cause = first_error
            if cause.code == _INCOMPLETE:
                # A message of the batch could not be kept (a full disk), or the batch was given up; a dying disk may have stored a part.
                raise LookAgain(lost=ReplyLost(f"{self.stream.name} on {self.link.where}: {cause}; is its disk full?")) from error
            raise self._refusal(cause) from error
        except NoResponders as error:
            await self.bounds()
            raise JournalUnavailable(f"{self.stream.name} has no leader on {self.link.where} just now") from error
        finally:
            future.cancel()
            if begun is not None:
                begun.cancel()
        if answer.get("duplicate"):
            raise LookAgain(duplicate=True)
        return int(answer["seq"]) - len(messages) + 1

    def _refusal(self, error: ApiError) -> Exception:
        where = f"{self.stream.name} on {self.link.where}"
        if error.code in _WRONG_LAST:
            return LookAgain()
        if error.code == _DUPLICATE:
            return LookAgain(duplicate=True)
        if error.code in STREAM_FULL:
            return JournalFull(f"{where} refuses more: {error}; archive and purge, or raise its limit")
        if error.code == _TOO_LARGE:
            return EntryTooLarge(f"{where}: {error}")
        if error.status >= _SERVER_FAULT:
            return JournalUnavailable(f"{where}: {error}")
        return JournalRefused(f"{where} refused an append: {error}")
