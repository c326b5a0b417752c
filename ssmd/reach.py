"""Whether what an environment names answers: its journal, storage, cache and venue. Nothing is written anywhere.

Each is asked at once and given `TIMEOUT_S`, in a thread of its own: name resolution and boto3 cannot be interrupted otherwise.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from journal.clock import Clock
from journal.errors import CallerError, SsmdError, VenueRefused, VenueUnavailable
from ssmd.metadata.problem import Problem
from ssmd.settings import Settings

TIMEOUT_S = 5.0


def reach_problems(settings: Settings, clock: Clock, timeout_s: float = TIMEOUT_S) -> Iterator[Problem]:
    """A note for each that answers, in the order journal, storage, cache, venue; an error for each that does not."""
    asked = {
        name: _start(probe, settings, clock)
        for name, probe in (("journal", _journal), ("storage", _storage), ("cache", _cache), ("venue", _venue))
    }
    end_ns = clock.mono_ns() + int(timeout_s * 1e9)
    for name, answer in asked.items():
        try:
            good, text = answer.get(timeout=max(0.0, (end_ns - clock.mono_ns()) / 1e9))
        except queue.Empty:
            good, text = False, f"no answer within {timeout_s:g} s"
        yield Problem((name,), "note" if good else "error", text)


def _start(probe: Callable[[Settings, Clock], str], settings: Settings, clock: Clock) -> queue.SimpleQueue[tuple[bool, str]]:
    answer: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put((True, probe(settings, clock)))
        except SsmdError as error:
            answer.put((False, settings.resolver.redact(str(error))))
        except Exception as error:  # noqa: BLE001  (a thread of its own: nobody else would say it)
            # Without its words: they may be a resolved reference.
            answer.put((False, f"could not be asked ({type(error).__name__}): is what the environment says of it right?"))

    # A daemon: one that hangs does not keep the process.
    threading.Thread(target=run, name=f"reach {probe.__name__}", daemon=True).start()
    return answer


def _journal(settings: Settings, clock: Clock) -> str:
    if settings.embedded:
        import subprocess

        from journal.guard import binary

        try:
            said = subprocess.run([binary(), "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout  # noqa: S603  ours
        except (OSError, subprocess.SubprocessError) as error:
            raise SsmdError(f"the embedded nats-server cannot run: {error}; install ssmd again") from None
        return f"the embedded nats-server runs: {said.strip()}"
    return asyncio.run(_asked(settings, clock))


async def _asked(settings: Settings, clock: Clock) -> str:
    from journal.link import ApiError, Link, NoResponders
    from ssmd.wiring import journal_access

    link = Link(journal_access(settings), clock)
    try:
        v = (await link.client()).connected_server_version
        await link.api("INFO")
    except (ApiError, NoResponders):
        raise SsmdError(f"{link.where} has no JetStream for us: start it with JetStream and allow it to our account") from None
    finally:
        await link.close()
    return f"nats-server {v.major}.{v.minor}.{v.patch} at {link.where}, with JetStream"


def _storage(settings: Settings, clock: Clock) -> str:
    """Lists only: a probe that writes could be taken for an object of the archive, or stay behind."""
    from ssmd.wiring import open_objects

    del clock
    if settings.local_objects:
        place = next(p for p in (settings.local_objects, *settings.local_objects.absolute().parents) if p.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise SsmdError(f"{settings.local_objects} cannot be written: correct storage.path, or the permissions of {place}")
        return f"{settings.local_objects} can be written" + ("" if place == Path(settings.local_objects) else " when it is made")
    folders = open_objects(settings).folders(settings.env)
    return f"{settings.storage} lists {len(folders)} folders of {settings.env}; writing was not tried"


def _cache(settings: Settings, clock: Clock) -> str:
    from ssmd.wiring import open_cache

    del clock
    spec = settings.environment.cache
    if spec.type != "redis":
        return {"memory": "in this process", "none": "none is wanted"}[spec.type]

    async def ping() -> None:
        cache = open_cache(settings)
        try:
            await cache.ping()
        finally:
            await cache.close()

    asyncio.run(ping())
    return f"{spec.url} answers"  # without a secret in it: the model sees to that, or it is a reference


def _venue(settings: Settings, clock: Clock) -> str:
    """One public request, unsigned: whether the key is right is `ssmd key verify`'s question."""
    from exchanges.venues import VENUES
    from journal.day import to_date
    from ssmd.wiring import day_rule

    if settings.environment.venue.type == "simulated":
        return "simulated, by `ssmd up`"
    feed = settings.project.feeds.read(settings.feed)
    version = feed.version(to_date(day_rule(settings).day_of(clock.wall_ns())))
    if feed.venue not in VENUES:
        return f"the adapter of {feed.venue} is not built yet; not tried"
    said = settings.environment.venue.rest or (version.rest if version else None)
    url = settings.resolver.value(said).reveal() if said else VENUES[feed.venue].rest_url
    if not _is_url(url):
        raise CallerError(f"{said or 'venue.rest'} is no URL: write https://HOST/PATH")
    # A URL that came from a key is shown as the reference it is.
    return _PROBES[feed.venue](url.rstrip("/"), said or url)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False


def _kalshi(url: str, where: str) -> str:
    from http.client import HTTPException

    from exchanges.kalshi.rest import error_text, fetch, parse_trading

    try:
        status, body = fetch(f"{url}/exchange/status")
    except (OSError, HTTPException) as error:
        raise VenueUnavailable(
            f"{where} does not answer: {getattr(error, 'reason', None) or error}; check venue.rest, or the feed's"
        ) from None
    if status != 200:
        raise VenueRefused(f"{where} answered HTTP {status} {error_text(body)}".rstrip() + "; check venue.rest, or the feed's")
    return f"{where} answers; trading is {'' if parse_trading(body) else 'not '}active"


# One question to each venue that is built.
_PROBES: dict[str, Callable[[str, str], str]] = {"kalshi": _kalshi}
