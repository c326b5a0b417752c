"""What one process was told: read once, frozen, then only the narrow value travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from journal.errors import CallerError
from journal.subjects import check_name

DATA_DIR = ".ssmd/data"
ENV = "local"
IMPORT = "import"  # the shard of imported recordings


@dataclass(frozen=True, slots=True)
class Settings:
    """The default is the environment `local`: feed kalshi, UTC, days from 00:00, everything embedded."""

    env: str = ENV
    data_dir: Path = Path(DATA_DIR)
    nats_url: str = ""  # "": the embedded server of `data_dir`
    nats_token: str = field(default="", repr=False)
    replicas: int = 1  # of streams made on `nats_url`
    storage_url: str = ""  # "": `data_dir`/objects
    feed: str = "kalshi"
    timezone: str = "UTC"

    @property
    def storage(self) -> str:
        """Where objects are: the URL given, else the local directory."""
        return self.storage_url or str(self.data_dir / "objects")

    @property
    def archived(self) -> bool:
        """Whether there is, or may be, an archive."""
        return bool(self.storage_url) or Path(self.storage).is_dir()

    def environ(self) -> dict[str, str]:
        """These settings as the variables of a process started for us; a token travels this way, never on a command line."""
        values = {
            "SSMD_ENV": self.env,
            "SSMD_DATA": str(self.data_dir),
            "SSMD_NATS": self.nats_url,
            "SSMD_NATS_TOKEN": self.nats_token,
            "SSMD_REPLICAS": str(self.replicas) if self.replicas != 1 else "",
            "SSMD_STORAGE": self.storage_url,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def read(cls, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
        """Flags over `SSMD_*` over defaults. Raises `CallerError` for values that cannot be."""

        def value(name: str, default: str = "") -> str:
            return flags.get(name) or environ.get(f"SSMD_{name.upper()}") or default

        url, token = _nats(value("nats"))
        replicas = environ.get("SSMD_REPLICAS") or "1"
        if replicas not in {"1", "3", "5"}:
            raise CallerError(f"SSMD_REPLICAS={replicas}: a stream has 1, 3 or 5 replicas")
        if replicas != "1" and not url:
            raise CallerError(f"SSMD_REPLICAS={replicas}: the embedded server is one; name a cluster with --nats")
        return cls(
            env=check_name("env", value("env", ENV)),
            data_dir=Path(value("data", DATA_DIR)).expanduser().absolute(),
            nats_url=url,
            nats_token=token or environ.get("SSMD_NATS_TOKEN", ""),
            replicas=int(replicas),
            storage_url=value("storage"),
        )


def _nats(urls: str) -> tuple[str, str]:
    """The URLs, several of one cluster separated by commas, without their token, so that they can be shown, and the token."""
    found = [_server(url.strip()) for url in urls.split(",") if url.strip()]
    return ",".join(url for url, _ in found), next((token for _, token in found if token), "")


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        port = parts.port or 4222
    except ValueError:
        raise CallerError(f"--nats: {parts.hostname} has a port that is not a number; write nats://HOST:PORT") from None
    if parts.scheme not in {"nats", "tls", "ws", "wss"} or not parts.hostname:
        raise CallerError("--nats: write nats://HOST:PORT or nats://TOKEN@HOST:PORT (the token may be in SSMD_NATS_TOKEN)")
    if parts.password:
        return url, ""  # user and password stay: the client reads them from the URL
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{port}", "", "", "")), parts.username or ""


def shown(urls: str) -> str:
    """`urls` without what they may hold of secrets."""
    return ",".join(_shown(url) for url in urls.split(","))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
