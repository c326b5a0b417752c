"""Source ``exec:COMMAND``: what a program writes, for password managers and clouds that ssmd does not know."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
from contextlib import suppress

from journal.clock import Clock
from journal.errors import KeyRefused, KeyUnavailable
from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import LIMIT_BYTES, assemble, decode, drop_newline, list_names

TIMEOUT_S = 10
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_PASSED = ("PATH", "HOME")


class ProgramSource:
    """Runs COMMAND, without a shell, where the environment files are, with PATH, HOME, ``SSMD_KEY_ENV`` and ``SSMD_KEY_NAME``.

    It writes one JSON object of texts by field, or, where the key has one field, the value alone; nothing, or ``{}``, is an absent key.
    Exit code 75 says that it is worth a retry. Its stderr is not repeated: there are programs that write secrets there.
    """

    def __init__(self, rest: str, place: Place, *, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._argv = shlex.split(rest)
        except ValueError as error:
            raise KeyRefused(f"key source exec: {rest!r} is not a command: {error}") from None
        if not self._argv:
            raise KeyRefused("key source exec: names no command")
        self._command = rest
        self._place = place
        self._timeout_s = timeout_s

    def fetch(self, wanted: Wanted) -> Found:
        environ = {name: self._place.environ[name] for name in _PASSED if name in self._place.environ}
        environ |= {"SSMD_KEY_ENV": wanted.env, "SSMD_KEY_NAME": wanted.name}
        where = f"key {wanted.name}: exec:{self._command}"
        by_hand = (
            f"run it by hand: cd {shlex.quote(str(self._place.directory))} && "
            f"SSMD_KEY_ENV={wanted.env} SSMD_KEY_NAME={wanted.name} {self._command}"
        )
        try:
            process = subprocess.Popen(  # noqa: S603  (the command is in the user's own environment file)
                self._argv,
                cwd=self._place.directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is not a command"
            raise KeyRefused(f"{where}: {reason}") from error
        out, why = _read(process, self._place.clock, self._timeout_s)
        if why == "late":
            raise KeyUnavailable(f"{where}: not done after {self._timeout_s:g} s; {by_hand}")
        if why == "long":
            raise KeyRefused(f"{where}: wrote more than {LIMIT_BYTES} bytes; is it a key? {by_hand}")
        if process.returncode == _TRY_AGAIN:
            raise KeyUnavailable(f"{where}: exit code {_TRY_AGAIN}, try again; {by_hand}")
        if process.returncode:
            ended = f"exit code {process.returncode}" if process.returncode > 0 else _signal_name(-process.returncode)
            raise KeyRefused(f"{where}: {ended}; {by_hand}")
        return assemble(_parse(decode(out, f"{where}: its output"), wanted, where), wanted, where, self._place.clock)


def _read(process: subprocess.Popen[bytes], clock: Clock, timeout_s: float) -> tuple[bytes, str]:
    """What it wrote, and why no more was read: ``late``, ``long`` or nothing. It has ended when this returns."""
    assert process.stdout is not None  # noqa: S101  (stdout is a pipe)
    data, why = b"", ""
    until_ns = clock.mono_ns() + int(timeout_s * 1e9)
    with process.stdout as stdout:
        while not why:
            left_s = (until_ns - clock.mono_ns()) / 1e9
            # Not read to the end: a child that outlives the program may hold the pipe.
            if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                why = "late"
            elif not (more := os.read(stdout.fileno(), LIMIT_BYTES)):
                break
            elif len(data := data + more) > LIMIT_BYTES:
                why = "long"
    if not why:
        try:
            process.wait(max(0.1, (until_ns - clock.mono_ns()) / 1e9))
        except subprocess.TimeoutExpired:
            why = "late"
    if why:
        os.killpg(process.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
        process.wait()
    return data, why


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of real-time signals only the first and the last have one
        return f"signal {number}"


def _parse(text: str, wanted: Wanted, where: str) -> dict[str, str]:
    """Texts by name. Raises `KeyRefused`."""
    if not text.strip():
        return {}
    loaded: object = None
    with suppress(ValueError, RecursionError):  # the exception holds the text
        loaded = json.loads(text)
    table = loaded if isinstance(loaded, dict) else None
    if len(wanted.fields) == 1 and not (table is not None and (not table or wanted.fields[0] in table)):
        return {wanted.fields[0]: drop_newline(text)}
    if table is None:
        raise KeyRefused(f"{where}: its output is not a JSON object of texts by field ({', '.join(wanted.fields)})")
    for name in list_names(wanted):
        if not isinstance(table.get(name, ""), str):
            raise KeyRefused(f"{where}: {name} is not a text")
    return table
