"""What `ssmd doctor` looks at. Each check says what it found in words; a finding is something that breaks a promise."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from journal.clock import Clock
from journal.embedded import embedded_server, has_data
from journal.errors import JournalRefused, SsmdError
from journal.guard import binary
from journal.link import LEAST_VERSION, Access, ApiError, Link, NoResponders
from ssmd.moments import rfc3339
from ssmd.settings import Settings, shown
from ssmd.software import installed
from ssmd.wiring import journal_access, open_objects

PACKAGES = ("ssmd", "replay", "projections", "exchanges", "journal")
# Distributions whose absence or version breaks something, with the least version that was tried.
LIBRARIES = {
    "boto3": "1.44", "click": "8.5", "cryptography": "50", "msgspec": "0.22", "nats-py": "2.16", "numba": "0.68", "numpy": "2.4",
    "pycapnp": "2.2", "rich": "15", "websockets": "17", "zstandard": "0.25",
}  # fmt: skip
_LEAST_FREE_BYTES = 2 << 30  # a busy day of one venue: 5,000 frames a second of 300 bytes fill it in 24 minutes
_FSYNCS, _FSYNC_BYTES = 21, 64 << 10
_SLOW_FSYNC_S = 0.02
# A batch of 500 costs about four fsyncs and 7 ms (docs/decisions.md).
_BATCH, _BATCH_FSYNCS, _BATCH_S = 500, 4, 0.007
_MONITOR_PORT, _MONITOR_S, _MONITOR_BYTES = 8222, 2.0, 1 << 20
_COST = "a power cut loses what it acknowledged since the last fsync (with replicas on other machines: only if all lose power)"
_YEAR_2026_NS = 1_767_225_600_000_000_000

Status = Literal["ok", "note", "finding", "failed"]


class Check(NamedTuple):
    """`note`: worth knowing, or what cannot be known; `failed`: the check could not be made."""

    check: str
    status: Status
    detail: str


async def examine(settings: Settings, clock: Clock, monitor: str = "") -> list[Check]:
    """Every check, in the order of what stands on what. `monitor` is the URL of the NATS server's monitoring port; 8222 by default."""
    checks = [*_installation(), _directory(settings.data_dir), _fsync(settings.data_dir, clock)]
    checks += await _server(settings, clock, monitor)
    checks.append(_storage(settings))
    checks.append(_clock(clock))
    return checks


def _installation() -> Iterator[Check]:
    places = {name: str(Path(spec.origin).parent.parent) if (spec := find_spec(name)) and spec.origin else "" for name in PACKAGES}
    if len(set(places.values())) == 1:
        yield Check("packages", "ok", f"all five from {places['ssmd']}")
    else:
        found = ", ".join(f"{n} from {p or 'nowhere'}" for n, p in places.items())
        yield Check("packages", "finding", f"{found}: another package shadows ours; uninstall it, or give ssmd its own environment")
    python = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        yield Check("python", "ok", python)
    else:
        yield Check("python", "finding", f"{python}; ssmd is made for 3.11")
    bad = [f"{name} {have or 'missing'} (need {least})" for name, least in LIBRARIES.items() if _older(have := installed(name), least)]
    if bad:
        yield Check("libraries", "finding", f"{', '.join(bad)}: install from requirements.lock (make setup)")
    else:
        yield Check("libraries", "ok", ", ".join(f"{name} {installed(name)}" for name in LIBRARIES))


def _older(have: str, least: str) -> bool:
    return not have or _numbers(have) < _numbers(least)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:3] if part.isdigit()]


def _directory(data_dir: Path) -> Check:
    place = _existing(data_dir)
    try:
        probe = place / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("data directory", "finding", f"{data_dir} cannot be written: {error.strerror}; or name another --data-dir")
    size = f"{free / (1 << 30):.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        return Check("data directory", "finding", f"{data_dir} is writable but has only {size}: a full disk stops the capture")
    return Check("data directory", "ok", f"{data_dir} is writable, {size}")


def _existing(data_dir: Path) -> Path:
    """The directory, or the one it would be made in: looking makes nothing."""
    return next(p for p in (data_dir, *data_dir.parents) if p.exists())


def _fsync(data_dir: Path, clock: Clock) -> Check:
    path = _existing(data_dir) / f".doctor-fsync-{os.getpid()}"
    taken: list[int] = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_FSYNCS):
                file.write(bytes(_FSYNC_BYTES))
                start = clock.mono_ns()
                os.fsync(file.fileno())
                taken.append(clock.mono_ns() - start)
    except OSError as error:
        return Check("fsync", "failed", f"could not be measured: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    median_s = statistics.median(taken) / 1e9
    rate = int(_BATCH / (_BATCH_FSYNCS * median_s + _BATCH_S))
    detail = f"median {median_s * 1e3:.2f} ms, worst {max(taken) / 1e6:.2f} ms: about {rate:,} durable entries a second at most"
    if median_s < 20e-6:
        return Check("fsync", "note", f"{detail}; so fast that it may not reach a disk (tmpfs, or a virtual disk that ignores it)")
    return Check("fsync", "finding" if median_s > _SLOW_FSYNC_S else "ok", detail)


async def _server(settings: Settings, clock: Clock, monitor: str) -> list[Check]:
    if not settings.embedded:
        try:
            access = journal_access(settings)
        except SsmdError as error:
            return [Check("journal", "finding", str(error))]
        checks, server_id = await _asked(access, settings.env, clock)
        return [*checks, await asyncio.to_thread(_monitored, access.url(), monitor, server_id)] if server_id else checks
    checks = [_binary()]
    if not has_data(settings.data_dir):
        checks.append(Check("journal", "note", "nothing recorded here yet; the embedded server starts with the first capture or import"))
        return [*checks, _synced("sync_interval: always")]
    try:
        async with embedded_server(settings.data_dir, clock, read_only=True) as server:
            checks += (await _asked(Access(lambda: server.url, server.token), settings.env, clock))[0]
            checks.append(_synced((settings.data_dir / "nats" / "nats.conf").read_text()))
    except (SsmdError, OSError) as error:
        checks.append(Check("journal", "failed", str(error)))
    return checks


def _binary() -> Check:
    try:
        path = binary()
        words = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603  ours
    except (JournalRefused, OSError, subprocess.SubprocessError) as error:
        return Check("nats-server", "finding", f"the embedded server cannot run: {error}")
    found = words.rpartition("v")[2]
    if _numbers(found) < list(LEAST_VERSION):
        return Check("nats-server", "finding", f"{path} is {found}; {'.'.join(map(str, LEAST_VERSION))} or newer is needed: make setup")
    return Check("nats-server", "ok", f"{found} ({path})")


async def _asked(access: Access, env: str, clock: Clock) -> tuple[list[Check], str]:
    """What the server says of itself and of the environment's streams, and its id; "" when it could not be asked."""
    link = Link(access, clock)
    try:
        client = await link.client()
        v = client.connected_server_version
        at = f"{v.major}.{v.minor}.{v.patch} at {link.where}"
        account = await link.api("INFO")
        names = (await link.api("STREAM.NAMES", {"offset": 0})).get("streams") or []
        ours = [name for name in names if name.startswith(f"{env}_")]
        server_id = await link.server_id()
        configs = {name: (await link.api(f"STREAM.INFO.{name}"))["config"] for name in ours}
    except JournalRefused as error:
        return [Check("journal", "finding", str(error))], ""
    except (ApiError, NoResponders):
        said = f"{link.where} has no JetStream for us: start it with JetStream and allow it to our account"
        return [Check("journal", "finding", said)], ""
    except SsmdError as error:
        return [Check("journal", "failed", str(error))], ""
    finally:
        await link.close()
    stored = f"{int(account.get('storage', 0)) / (1 << 20):,.1f} MiB in {len(ours)} streams of {env}: {', '.join(ours) or 'none yet'}"
    checks = [Check("journal", "ok", f"nats-server {at}; {stored}"), *(_promises(name, config) for name, config in configs.items())]
    return checks, server_id


def _monitored(url: str, monitor: str, server_id: str) -> Check:
    """The sync setting, which a server tells on its monitoring port only."""
    where = shown(url)
    monitor = monitor or f"http://{urlsplit(where.partition(',')[0]).hostname}:{_MONITOR_PORT}"
    try:
        with build_opener(ProxyHandler({})).open(f"{monitor.rstrip('/')}/varz", timeout=_MONITOR_S) as answer:
            told = json.loads(answer.read(_MONITOR_BYTES))
        same, config = told["server_id"] == server_id, told["jetstream"]["config"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return Check(
            "sync", "note", f"the sync_interval of {where} is told on its monitoring port only, and {monitor} does not answer: name it by "
            f"--monitor. Without `sync_interval: always` {_COST}",
        )  # fmt: skip
    if not same:
        return Check("sync", "note", f"{monitor} is the monitoring port of another server than {where}; name its own with --monitor")
    if config.get("sync_always"):
        return _synced("sync_interval: always")
    every_s = config.get("sync_interval", 0) / 1e9
    return Check("sync", "finding", f"{where} fsyncs every {every_s:g} s: {_COST}. Set `sync_interval: always` in its jetstream block")


def _promises(stream: str, config: Mapping[str, Any]) -> Check:
    wrong = [
        words
        for bad, words in (
            (config.get("storage") != "file", "kept in memory: gone when the server stops"),
            (
                config.get("persist_mode", "default") == "async",
                "persist_mode async: a power cut loses what it acknowledged",
            ),
            (config.get("max_age", 0), "an age limit deletes what may not be archived yet"),
            (config.get("discard") != "new", "when it is full it deletes the oldest entries; it must refuse (discard: new)"),
            (not config.get("allow_atomic"), "no atomic batches: appends are one by one, ten times slower"),
        )
        if bad
    ]
    if wrong:
        return Check(stream, "finding", f"{'; '.join(wrong)}. Change the stream with `nats stream edit`, or make a new one")
    return Check(stream, "ok", f"file storage, {config.get('num_replicas', 1)} replica(s), refuses when full, atomic batches")


def _synced(configuration: str) -> Check:
    if "sync_interval: always" in configuration:
        return Check("sync", "ok", "sync_interval: always; a power cut costs nothing acknowledged, if the disk keeps what it has fsynced")
    return Check(
        "sync", "finding", "the server does not fsync each commit: a power cut loses up to two minutes of acknowledged entries; "
        "remove nats/nats.conf and restart",
    )  # fmt: skip


def _storage(settings: Settings) -> Check:
    where = settings.storage
    if settings.local_objects and not settings.local_objects.exists():
        return Check("storage", "note", f"{where}: nothing archived here yet")
    try:
        storage = open_objects(settings)
        found = storage.list(f"{settings.env}/")
    except (SsmdError, OSError) as error:
        return Check("storage", "failed", f"{where}: {error}")
    return Check("storage", "ok", f"{where}: {len(found)} objects of {settings.env}")


def _clock(clock: Clock) -> Check:
    now_ns = clock.wall_ns()
    if now_ns < _YEAR_2026_NS:
        return Check(
            "clock",
            "finding",
            f"{rfc3339(now_ns)} is the past: receive times would be wrong and venues refuse our signatures",
        )
    detail = rfc3339(now_ns)
    if (state := _kernel_clock()) is None:
        return Check("clock", "note", f"{detail}; whether it is synchronised cannot be known here")
    if not state:
        return Check("clock", "note", f"{detail}; not known to be synchronised: run chrony or ntpd where receive times matter")
    return Check("clock", "ok", f"{detail}, synchronised")


def _kernel_clock() -> bool | None:
    """What Linux says of the clock (adjtimex(2)): 5 is TIME_ERROR, not synchronised."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != 5
