"""Source ``sealed-secret/NAME``: the Secret that the cluster unsealed, mounted as a directory of files."""

from __future__ import annotations

import os
from pathlib import Path

from journal.errors import BadFile, KeyRefused
from ssmd.keys.directory import read_directory
from ssmd.keys.files import check_directory, read_shared
from ssmd.keys.seal import LIMIT_BYTES, NAME, Sealed, read_sealed
from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import PREVIOUS_UNTIL, SET_AT, assemble, decode
from ssmd.moments import rfc3339

MOUNT = "/var/run/secrets/ssmd"


def name_sealed(directory: Path, env: str, key: str) -> Path:
    """The file beside the environment."""
    return directory / f"{env}.{key}.sealed.yaml"


class SealedSource:
    """Reads ``${SSMD_SECRETS:-/var/run/secrets/ssmd}/NAME/FIELD``; the times are those in the volume, else those of the sealed file."""

    def __init__(self, rest: str, place: Place) -> None:
        if not NAME.fullmatch(rest):
            raise KeyRefused(f"key source sealed-secret/{rest}: {rest!r} is not a name of Kubernetes; use a-z, 0-9, '-' and '.'")
        self._name = rest
        self._mount = Path(place.environ.get("SSMD_SECRETS") or MOUNT) / rest
        self._place = place

    @property
    def is_mounted(self) -> bool:
        """Whether the cluster's volume is here, whatever we may do with it."""
        return os.path.isdir(self._mount)  # noqa: PTH112  (Path.is_dir raises where we may not look)

    def sealed(self, wanted: Wanted) -> Sealed | None:
        """What the file beside the environment says, no values; None where there is none. Raises `KeyRefused`."""
        path = name_sealed(self._place.directory, wanted.env, wanted.name)
        read = read_shared(path, limit_bytes=LIMIT_BYTES)
        if read is None:
            return None
        try:
            found = read_sealed(decode(read, str(path)), str(path))
        except BadFile as error:
            raise KeyRefused(str(error)) from None
        if found.name != self._name:
            raise KeyRefused(f"{path} seals a Secret called {found.name!r}, the environment wants {self._name!r}; seal it again")
        return found

    def fetch(self, wanted: Wanted) -> Found:
        sealed = self.sealed(wanted)
        if not check_directory(self._mount):
            if sealed is None:
                return Found({})
            when = f" on {rfc3339(sealed.set_ns)[:10]}" if sealed.set_ns else ""
            raise KeyRefused(
                f"key {wanted.name} is sealed ({', '.join(sealed.fields) or 'no field'}{when}) and only the cluster can unseal it: "
                f"mount Secret {self._name} at {self._mount}, or set SSMD_SECRETS to where {self._name}/ is"
            )
        texts, _ = read_directory(self._mount, wanted)
        if sealed and SET_AT not in texts:
            texts |= {SET_AT: rfc3339(sealed.set_ns), PREVIOUS_UNTIL: rfc3339(sealed.previous_until_ns)}
        return assemble(texts, wanted, f"key {wanted.name}: {self._mount}", self._place.clock)
