"""What one process was told: flags over ``SSMD_*`` over the environment's file; read once, frozen, then only the narrow value travels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from journal.errors import CallerError
from journal.subjects import check_name
from ssmd.keys.resolve import Resolver
from ssmd.keys.secret import Secret, Variables
from ssmd.keys.source import Place
from ssmd.metadata.environment import Environment
from ssmd.metadata.project import Project, expanded

DATA_DIR = ".ssmd/data"
ENV = "local"
IMPORT = "import"  # the shard of imported recordings


@dataclass(frozen=True)
class Settings:
    """The default is the environment `local`: feed kalshi, UTC, days from 00:00, everything embedded.

    What the environment's file names is in `environment`; `nats_url`, `nats_token`, `replicas` and `storage_url` are what was said instead
    of it. `origins` has the flag or variable of each that was.
    """

    env: str = ENV
    data_dir: Path = Path(DATA_DIR)
    environment: Environment = field(default_factory=lambda: Environment(name=ENV, feed="kalshi"))
    project: Project = field(default_factory=lambda: Project.find(Path.cwd()), compare=False, repr=False)
    nats_url: str = field(default="", repr=False)  # may hold a password
    nats_token: Secret = field(default_factory=lambda: Secret(""))
    replicas: int = 0
    storage_url: str = ""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    variables: Variables = field(default_factory=lambda: Variables(os.environ), compare=False, repr=False)

    @property
    def embedded(self) -> bool:
        """Whether the journal is the server of `data_dir`."""
        return not self.nats_url and self.environment.journal.type == "embedded"

    @property
    def local_objects(self) -> Path | None:
        """The directory of the objects, where they are in one."""
        if not self.storage_url and self.environment.storage.type == "local":
            return Path(self.environment.storage.path or self.data_dir / "objects")
        return None

    @property
    def storage(self) -> str:
        """Where objects are, for people."""
        spec = self.environment.storage
        if self.storage_url:
            return shown(self.storage_url)
        return str(self.local_objects) if spec.type == "local" else f"s3://{spec.bucket}/{spec.prefix}".rstrip("/")

    @property
    def archived(self) -> bool:
        """Whether there is, or may be, an archive."""
        return self.local_objects is None or self.local_objects.is_dir()

    @property
    def feed(self) -> str:
        return self.environment.feed

    def environ(self) -> dict[str, str]:
        """These settings as the variables of a process started for us; a token travels this way, never on a command line."""
        values = {
            "SSMD_ENV": self.env,
            "SSMD_PROJECT": "" if self.project.packaged else str(self.project.root),
            "SSMD_DATA": str(self.data_dir),
            "SSMD_NATS": self.nats_url,
            "SSMD_NATS_TOKEN": self.nats_token.reveal(),
            "SSMD_REPLICAS": str(self.replicas or ""),
            "SSMD_STORAGE": self.storage_url,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def read(cls, flags: Mapping[str, str | None], environ: Mapping[str, str], directory: Path | None = None) -> Settings:
        """Of the project at or above `directory` (the working directory). Raises `CallerError` for values that cannot be."""
        origins: dict[str, str] = {}

        def value(name: str) -> str:
            variable = f"SSMD_{name.upper()}"
            if flags.get(name):
                origins[name] = {"data": "--data-dir"}.get(name, f"--{name}")
            elif environ.get(variable):
                origins[name] = variable
            return flags.get(name) or environ.get(variable) or ""

        directory = directory or Path.cwd()
        project = Project.find(directory, value("project"))
        env = choose_env(project, value("env"))
        url, token = _nats(value("nats"))
        replicas = value("replicas")
        environment = project.environments.read(env)
        if replicas not in {"", "1", "3", "5"}:
            raise CallerError(f"SSMD_REPLICAS={replicas}: a stream has 1, 3 or 5 replicas")
        if replicas in {"3", "5"} and not url and environment.journal.type == "embedded":
            raise CallerError(f"SSMD_REPLICAS={replicas}: the embedded server is one; name a cluster with --nats")
        data = value("data") or (directory if project.packaged else project.root) / DATA_DIR
        return cls(
            env=env,
            data_dir=expanded(data).absolute(),
            environment=environment,
            project=project,
            nats_url=url,
            nats_token=Secret(token or environ.get("SSMD_NATS_TOKEN", "")),
            replicas=int(replicas or 0),
            storage_url=_storage(value("storage")),
            origins=origins,
            variables=Variables(environ),
        )

    def place(self) -> Place:
        """Where its keys are looked for."""
        from ssmd.clock import machine_clock

        return Place(self.project.environments.directory, self.variables, machine_clock(), Path.home())

    @cached_property
    def resolver(self) -> Resolver:
        """The environment's keys, each fetched once."""
        return Resolver(self.env, self.environment.keys, self.place())


def choose_env(project: Project, named: str) -> str:
    """The environment `named`, else the only one there is, else `local`. Raises `CallerError`."""
    if named:
        return check_name("env", named)
    names = project.environments.names()
    if len(names) == 1:
        return names[0]
    if ENV not in names:
        shown_names = ", ".join(names) or "none: `ssmd env create NAME --feed FEED` makes one"
        raise CallerError(f"which environment? Name one with --env or SSMD_ENV: {shown_names}")
    return ENV


def _nats(urls: str) -> tuple[str, str]:
    """The URLs, several of one cluster separated by commas, without their token, so that they can be shown, and the token."""
    found = [_server(url.strip()) for url in urls.split(",") if url.strip()]
    return ",".join(url for url, _ in found), next((token for _, token in found if token), "")


def _server(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        port = parts.port or 4222
    except ValueError:
        raise CallerError("--nats: its host or port cannot be; write nats://HOST:PORT, and %2F for / and the like in a password") from None
    # What follows the host may be the end of a password that has a / or #.
    if parts.scheme not in {"nats", "tls", "ws", "wss"} or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise CallerError("--nats: write nats://HOST:PORT or nats://TOKEN@HOST:PORT (the token may be in SSMD_NATS_TOKEN)")
    if parts.password:
        return url, ""  # user and password stay: the client reads them from the URL
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{port}", "", "", "")), parts.username or ""


def _storage(url: str) -> str:
    """`url`, which is shown wherever objects are missed, and so holds no secret."""
    if "://" in url and not url.startswith("file:") and "@" in url:
        raise CallerError("--storage: no user or password is written into it: S3's are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return url


def shown(urls: str) -> str:
    """`urls` without what they may hold of secrets."""
    return ",".join(_shown(url) for url in urls.split(","))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
