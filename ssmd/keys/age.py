"""Source ``age``: ``ENV.KEY.age`` beside the environment, encrypted as https://age-encryption.org/v1 says; safe to commit.

To whom: the public keys in ``recipients.txt`` beside it, one a line, else the passphrase in ``SSMD_AGE_PASSPHRASE``, else the
identity of the one who writes. Whoever reads has one of the identities, or the passphrase.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from journal.clock import Clock
from journal.errors import KeyRefused
from ssmd.keys.files import read_private, read_shared, write_whole
from ssmd.keys.secret import Secret
from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import check_size
from ssmd.moments import rfc3339

RECIPIENTS = "recipients.txt"
IDENTITY = "SSMD_AGE_IDENTITY"
PASSPHRASE = "SSMD_AGE_PASSPHRASE"
VERSION = 1
# 32 fields, now and before, of 16 KiB on average: as much as Kubernetes takes for a Secret. Armor adds a third.
_LIMIT_BYTES = 1 << 20
_FILE_LIMIT_BYTES = 3 << 19
_MAX_RECIPIENTS = 100


class AgeSource:
    def __init__(self, rest: str, place: Place) -> None:
        del rest  # nothing follows age
        self._place = place

    def path(self, wanted: Wanted) -> Path:
        return self._place.directory / f"{wanted.env}.{wanted.name}.age"

    def needs_passphrase(self, wanted: Wanted) -> bool:
        """Whether the key is there, opens with a passphrase, and none is given."""
        read = self._read(wanted)
        return read is not None and _is_scrypt(read) and not self._passphrase()

    def fetch(self, wanted: Wanted) -> Found:
        read = self._read(wanted)
        if read is None:
            return Found({})
        found = _parse(self._decrypt(read, self.path(wanted)), self.path(wanted), wanted)
        values = {f: found.values[f] for f in wanted.fields if found.values.get(f)}
        previous = {f: found.previous[f] for f in wanted.fields if found.previous.get(f)}
        if not previous or found.previous_until_ns <= self._place.clock.wall_ns():
            return Found(values, found.set_ns)
        return Found(values, found.set_ns, previous, found.previous_until_ns)

    def store(self, wanted: Wanted, found: Found) -> Path:
        """Encrypt exactly `found` in place of what was there: to set one field, fetch, change and store. Raises `KeyRefused`."""
        for name, secret in [*found.values.items(), *found.previous.items()]:
            check_size(secret.reveal(), f"key {wanted.name}: {name}")
        plain = json.dumps(
            {
                "version": VERSION,
                "env": wanted.env,
                "key": wanted.name,
                "set_ns": found.set_ns,
                "values": {name: secret.reveal() for name, secret in found.values.items()},
                "previous": {name: secret.reveal() for name, secret in found.previous.items()},
                "previous_until_ns": found.previous_until_ns,
            },
            ensure_ascii=False,
        ).encode()
        if len(plain) > _LIMIT_BYTES:
            raise KeyRefused(f"key {wanted.name} is larger than {_LIMIT_BYTES} bytes")
        write_whole(self.path(wanted), self._encrypt(plain), mode=0o644)
        return self.path(wanted)

    def _read(self, wanted: Wanted) -> bytes | None:
        return read_shared(self.path(wanted), limit_bytes=_FILE_LIMIT_BYTES)

    def _encrypt(self, plain: bytes) -> bytes:
        import pyrage  # type: ignore[import-untyped]

        recipients = self._recipients()
        passphrase = self._passphrase()
        if not recipients and not passphrase:
            recipients = [identity.to_public() for identity in self._identities()]
        try:
            sealed: bytes = (
                pyrage.encrypt(plain, recipients, armored=True)
                if recipients
                else pyrage.passphrase.encrypt(plain, passphrase, armored=True)
            )
        except pyrage.EncryptError as error:
            raise KeyRefused(f"age cannot encrypt: {error}") from None
        return sealed

    def _decrypt(self, sealed: bytes, path: Path) -> bytes:
        import pyrage

        scrypt = _is_scrypt(sealed)
        passphrase = self._passphrase()
        if scrypt and not passphrase:
            raise KeyRefused(f"{path} opens with a passphrase: set {PASSPHRASE}")
        try:
            plain: bytes = pyrage.passphrase.decrypt(sealed, passphrase) if scrypt else pyrage.decrypt(sealed, self._identities())
        except pyrage.DecryptError as error:
            reason = f"{error}".lower()
        else:
            return plain
        if scrypt:
            raise KeyRefused(f"{path} does not open with the passphrase in {PASSPHRASE} ({reason})")
        raise KeyRefused(
            f"{path} does not open with the identity in {self._identity_path()} ({reason}); "
            f"ask someone who can open it to add your public key to {self._place.directory / RECIPIENTS} and to set the key again"
        )

    def _passphrase(self) -> str:
        return self._place.environ.get(PASSPHRASE, "")

    def _identity_path(self) -> Path:
        return find_identity(self._place.environ, self._place.home)

    def _identities(self) -> list[Any]:
        """Those in the identity file. Raises `KeyRefused` without one."""
        import pyrage

        path = self._identity_path()
        read = read_private(path, limit_bytes=65_536, others=0o077)
        if read is None:
            raise KeyRefused(f"no identity in {path}: run `ssmd key init`, or set {IDENTITY} or {PASSPHRASE}")
        found, bad = [], 0
        for number, line in enumerate(read.data.decode(errors="replace").splitlines(), 1):
            try:
                found += [pyrage.x25519.Identity.from_str(line.strip())] if line.strip() and not line.startswith("#") else []
            except pyrage.IdentityError:
                bad = bad or number
        if bad or not found:
            raise KeyRefused(f"{path}: line {bad or 1} is not an age identity (AGE-SECRET-KEY-1…)")
        return found

    def _recipients(self) -> list[Any]:
        import pyrage

        path = self._place.directory / RECIPIENTS
        read = read_shared(path, limit_bytes=65_536)
        if read is None:
            return []
        found = []
        for number, line in enumerate(read.decode(errors="replace").splitlines(), 1):
            text = line.partition("#")[0].strip()
            try:
                found += [pyrage.x25519.Recipient.from_str(text)] if text else []
            except pyrage.RecipientError:
                # Not quoted: people paste the wrong half.
                raise KeyRefused(f"{path}: line {number} is not an age public key (age1…)") from None
        if not found or len(found) > _MAX_RECIPIENTS:
            raise KeyRefused(f"{path} has {len(found)} public keys; it takes 1 to {_MAX_RECIPIENTS}")
        return found


def find_identity(environ: Mapping[str, str], home: Path) -> Path:
    """Where the identity is, or would be."""
    named = environ.get(IDENTITY, "")
    return Path(named) if named else home / ".config" / "ssmd" / "identity.age"


def create_identity(path: Path, clock: Clock) -> str:
    """A new X25519 identity in a file that only we can read, as age-keygen writes it; its public key. Raises `KeyRefused`."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    public = str(identity.to_public())
    text = f"# created: {rfc3339(clock.wall_ns())}\n# public key: {public}\n{identity}\n"
    if not write_whole(path, text.encode(), mode=0o600, replace=False):
        raise KeyRefused(f"{path} is there; another identity would not open what was encrypted to it")
    return public


def _is_scrypt(sealed: bytes) -> bool:
    """Whether it is encrypted with a passphrase, armored or not."""
    if sealed.lstrip().startswith(b"-----BEGIN"):
        # The first line of base64 holds the first 48 bytes: the version's line, 22, and the beginning of the stanza's.
        lines = sealed.split(maxsplit=6)
        try:
            sealed = base64.b64decode(lines[4]) if len(lines) > 4 else b""
        except binascii.Error:
            return False
    return sealed.startswith(b"age-encryption.org/v1\n-> scrypt ")


def _parse(plain: bytes, path: Path, wanted: Wanted) -> Found:
    """What `AgeSource.store` wrote for this very key: a file of production under another name opens nothing. Raises `KeyRefused`."""
    try:
        loaded = json.loads(plain)
        version, set_ns, until_ns = loaded["version"], loaded["set_ns"], loaded["previous_until_ns"]
        values, previous, whose = loaded["values"], loaded["previous"], (loaded.get("env"), loaded.get("key"))
        whole = all(isinstance(n, int) for n in (version, set_ns, until_ns)) and all(
            isinstance(text, str) for table in (values, previous) for text in table.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, version, whose = False, VERSION, (None, None)
    if whole and version != VERSION:
        raise KeyRefused(f"{path} was written by a newer ssmd (version {version}); update ssmd")
    if not whole:
        raise KeyRefused(f"{path} holds something else than a key of ssmd's; set the key again")
    if whose != (wanted.env, wanted.name):
        raise KeyRefused(f"{path} was written for another key or environment, then copied or renamed; restore it, or set the key again")
    return Found(
        {name: Secret(text) for name, text in values.items()},
        set_ns,
        {name: Secret(text) for name, text in previous.items()},
        until_ns,
    )
