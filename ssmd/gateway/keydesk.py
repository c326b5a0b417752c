"""Making and revoking keys of clients: an aggregate each, in stream ``{env}_key``."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid5

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate

from journal.application import application
from journal.clock import Clock
from journal.day import DayRule
from journal.errors import CallerError, NotFound, Superseded
from journal.protocols import Journal
from journal.recorder import JournalRecorder, our_errors
from ssmd.gateway.keys import ClientKey, digest_of, read_keys, stream_of
from ssmd.keys.secret import Secret

_NAMESPACE = UUID("d0a9a7a4-0df1-5f2c-8c5d-61c0f7e4a3b2")  # drawn once; another one would begin all histories anew
_MOST = 10_000  # keys of an environment that can be used at a time


class GatewayKey(Aggregate):
    TOPIC: ClassVar[str] = "gateway_key"

    def __init__(  # noqa: PLR0917  (the library's way)
        self, env: str, key_id: str, label: str, digest: str, scopes: list[str], feeds: list[str], at_ns: int, expires_ns: int
    ) -> None:
        del env, key_id, label, digest, scopes, feeds, at_ns, expires_ns  # what a key is, is folded by `ssmd.gateway.keys.learn`
        self.revoked = False

    class Created(Aggregate.Created):
        TOPIC: ClassVar[str] = "gateway_key.created"
        env: str
        key_id: str
        label: str
        digest: str
        scopes: list[str]
        feeds: list[str]
        at_ns: int
        expires_ns: int

    class Revoked(Aggregate.Event):
        TOPIC: ClassVar[str] = "gateway_key.revoked"
        key_id: str
        at_ns: int

        def apply(self, aggregate: Any) -> None:
            aggregate.revoked = True

    @staticmethod
    def create_id(env: str, key_id: str) -> UUID:
        return uuid5(_NAMESPACE, f"{env}/{key_id}")


class GatewayKeys(Application[UUID]):
    name = "gateway_keys"


class Shown(NamedTuple):
    """A new key, and its text, which nobody sees again."""

    key: ClientKey
    text: Secret


class KeyDesk:
    """Made on the journal's loop. Every method raises `StoreError`."""

    def __init__(self, journal: Journal, clock: Clock, env: str, rng: random.Random, days: DayRule) -> None:
        self._journal, self._clock, self._env, self._rng = journal, clock, env, rng
        recorder = JournalRecorder(journal, asyncio.get_running_loop(), stream_of(env), clock, random.SystemRandom(), days=days)
        self._app = application(GatewayKeys, recorder)

    async def issue(
        self, name: str, *, who: str, why: str = "", scopes: tuple[str, ...] = ("read",), feeds: tuple[str, ...] = (), expires_ns: int = 0
    ) -> Shown:
        """A new key. Raises `CallerError` for a name in use, a time gone by and one key too many."""
        now_ns = self._clock.wall_ns()
        if expires_ns and expires_ns <= now_ns:
            raise CallerError("the key would have expired already; name a time to come")
        valid = [k for k in (await read_keys(self._journal, self._env)).values() if k.state(now_ns) == "valid"]
        if name in {k.name for k in valid}:
            raise CallerError(f"there is a valid key called {name!r}; choose another name, or revoke that one first")
        if len(valid) >= _MOST:
            raise CallerError(f"there are {_MOST} valid keys; revoke some first")
        number, secret = self._rng.randbytes(6).hex(), self._rng.randbytes(32).hex()
        key = ClientKey(number, name, digest_of(secret), scopes, feeds, now_ns, who, why, expires_ns=expires_ns)

        def work() -> None:
            made = GatewayKey._create(  # noqa: SLF001
                GatewayKey.Created, timestamp=_moment(now_ns), env=self._env, key_id=number, label=name, digest=key.digest,
                scopes=[*scopes], feeds=[*feeds], at_ns=now_ns, expires_ns=expires_ns,
            )  # fmt: skip
            self._app.save(made, who=who, why=why)

        with our_errors():
            await asyncio.to_thread(work)
        return Shown(key, Secret(f"ssmd_{number}_{secret}"))

    async def revoke(self, which: str, *, who: str, why: str = "") -> ClientKey:
        """The key with this id or name, revoked. Raises `NotFound`, and `CallerError` where it was revoked before."""
        keys = await read_keys(self._journal, self._env)
        named = [k for k in keys.values() if k.name == which]
        key = keys.get(which) or next((k for k in named if not k.revoked_ns), named[-1] if named else None)
        if key is None:
            raise NotFound("key of a client", which, [n for k in keys.values() for n in (k.id, k.name)])
        if key.revoked_ns:
            raise CallerError(f"key {key.id} ({key.name}) was revoked before, by {key.revoked_by}")
        now_ns = self._clock.wall_ns()

        def work() -> None:
            found: GatewayKey = self._app.repository.get(GatewayKey.create_id(self._env, key.id))
            if found.revoked:
                raise Superseded(key.id)
            found.trigger_event(GatewayKey.Revoked, timestamp=_moment(now_ns), key_id=key.id, at_ns=now_ns)
            self._app.save(found, who=who, why=why)

        try:
            with our_errors():
                await asyncio.to_thread(work)
        except Superseded:
            raise CallerError(f"key {key.id} ({key.name}) was revoked by somebody else just now") from None
        return msgspec.structs.replace(key, revoked_ns=now_ns, revoked_by=who, revoked_why=why)


def _moment(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)
