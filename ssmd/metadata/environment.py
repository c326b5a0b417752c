"""An environment: a feed, a schema, keys, and the backends, schedule and shards they run with.

Everything but the name and the feed has a default: the embedded one.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from journal.errors import CallerError
from ssmd.keys.source import parse_source
from ssmd.metadata.cron import Cron
from ssmd.metadata.model import (
    Address,
    ClockTime,
    FieldName,
    HttpUrl,
    KeyName,
    Model,
    Name,
    NatsUrl,
    RedisUrl,
    SecretReference,
    ShardName,
    Timezone,
    VenueUrl,
    WebOrigin,
    is_reference,
)


def _source(text: str) -> str:
    try:
        parse_source(text)
    except CallerError as error:
        raise ValueError(str(error)) from None
    return text


# Where the composition root puts values of keys.
RESOLVED = (
    "venue.endpoint", "venue.rest", "journal.url", "journal.token", "journal.user", "journal.password", "journal.credentials",
    "journal.nkey_seed", "storage.endpoint", "storage.region", "storage.access_key_id", "storage.secret_access_key", "cache.url",
    "cache.password", "scheduler.address", "scheduler.api_key",
)  # fmt: skip


class Schedule(Model):
    timezone: Timezone = Field("UTC", description="IANA name; trading days are dates in it.")
    day_start: ClockTime = Field("00:00", description='"HH:MM" at which a day begins.')
    day_end: ClockTime | None = Field(None, description='"HH:MM" at which it ends; else when the next one begins.')
    auto_roll: bool = Field(True, description="The next day begins by itself.")
    start_cron: Cron | None = Field(None, description='When it begins by itself, such as "30 9 * * MON-FRI"; else at day_start.')
    end_cron: Cron | None = Field(None, description="When it ends, instead of day_end.")
    sync_cron: Cron | None = Field(None, description="When the security master is synchronised in between.")


class Key(Model):
    type: Literal["api_key", "transport", "storage", "database", "tls", "webhook"] = Field(description="What it opens.")
    description: str = Field("", description="For people.")
    required: bool = Field(True, description="Without it the environment does not start.")
    fields: tuple[FieldName, ...] = Field(min_length=1, max_length=32, description="Names of its values.")
    source: Annotated[str, AfterValidator(_source)] = Field(
        "env", description="env, file:DIR, sealed-secret/NAME, vault/PATH, exec:COMMAND, age."
    )
    variables: dict[FieldName, str] = Field({}, description="Of source env: variables that are not called SSMD_KEY_FIELD.")
    rotation_days: int | None = Field(None, gt=0, le=3_650, description="It expires this long after it was set.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("a field is there twice")
        if unknown := [f for f in self.variables if f not in self.fields]:
            raise ValueError(f"variables name {', '.join(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not among the fields")
        if self.variables and self.source != "env":
            raise ValueError("variables are of source env")
        return self


class Venue(Model):
    """`simulated` needs no account: a venue of our own, which speaks the feed's protocol."""

    type: Literal["simulated", "live"] = Field("simulated", description="Ours, or the real one.")
    key: KeyName | None = Field(None, description="The key of type api_key that it is entered with.")
    endpoint: VenueUrl | None = Field(None, description="Instead of the feed's.")
    rest: HttpUrl | None = Field(None, description="Instead of the feed's.")


class Tls(Model):
    ca: str | None = Field(None, description="File of the authority that signed the server's certificate.")
    certificate: str | None = Field(None, description="File of ours, where the server asks for one.")
    key: str | None = Field(None, description="File of its private key.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class Journal(Model):
    type: Literal["embedded", "jetstream"] = Field("embedded", description="A server of our own, or one at url.")
    url: NatsUrl | None = Field(None, description="nats://HOST:PORT, several of one cluster separated by commas.")
    token: SecretReference | None = Field(None, description="$key:NAME.FIELD.")
    user: str | None = Field(None, description="With password.")
    password: SecretReference | None = Field(None, description="$key:NAME.FIELD.")
    credentials: SecretReference | None = Field(None, description="$key:NAME.FIELD with the text of a .creds file.")
    nkey_seed: SecretReference | None = Field(None, description="$key:NAME.FIELD.")
    tls: Tls | None = Field(None, description="Files.")
    replicas: Literal[1, 3, 5] = Field(1, description="Of streams made here.")
    max_stream_gib: int | None = Field(None, gt=0, le=1 << 20, description="Of each market stream; it refuses when full.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "jetstream") != (self.url is not None):
            raise ValueError("type jetstream needs an url; type embedded has none")
        given = [n for n in ("token", "user", "credentials", "nkey_seed", "tls") if getattr(self, n) is not None]
        if self.type == "embedded" and (given or self.replicas != 1):
            raise ValueError(f"the embedded server is one and ours: {', '.join(given) or 'replicas'} is for type jetstream")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        return self


class Storage(Model):
    type: Literal["local", "s3"] = Field("local", description="A directory, or a bucket.")
    path: str | None = Field(None, min_length=1, description="Of type local; else objects in the data directory.")
    bucket: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Of type s3.")
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_.%/-]*$", description="Of type s3: what keys begin with.")
    endpoint: HttpUrl | None = Field(None, description="Of type s3: of servers other than Amazon's.")
    region: str | None = Field(None, description="Of type s3.")
    access_key_id: SecretReference | None = Field(None, description="$key:NAME.FIELD; else boto3's own search.")
    secret_access_key: SecretReference | None = Field(None, description="$key:NAME.FIELD.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "s3") != (self.bucket is not None):
            raise ValueError("type s3 needs a bucket; type local has none")
        if self.type == "s3" and self.path is not None:
            raise ValueError("path is for type local")
        given = [n for n in ("endpoint", "region", "access_key_id", "secret_access_key") if getattr(self, n) is not None]
        if self.type == "local" and (given or self.prefix):
            raise ValueError(f"{', '.join(given) or 'prefix'} is for type s3")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together")
        return self


class Cache(Model):
    type: Literal["memory", "redis", "none"] = Field("memory", description="Where views are kept for other programs.")
    url: RedisUrl | None = Field(None, description="Of type redis: redis://HOST:PORT/DB.")
    password: SecretReference | None = Field(None, description="$key:NAME.FIELD.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "redis") != (self.url is not None):
            raise ValueError("type redis needs an url; the others have none")
        if self.password and self.type != "redis":
            raise ValueError("password is for type redis")
        return self


class Scheduler(Model):
    type: Literal["embedded", "temporal"] = Field("embedded", description="What drives trading days: ssmd itself, or a Temporal.")
    address: Address | None = Field(None, description="Of type temporal: HOST:PORT.")
    namespace: str = Field("default", min_length=1, description="Of type temporal.")
    task_queue: str | None = Field(None, min_length=1, description="Of type temporal; else ssmd-ENV.")
    tls: Tls | None = Field(None, description="Of type temporal: files; empty trusts the system's authorities.")
    api_key: SecretReference | None = Field(None, description="Of type temporal: $key:NAME.FIELD.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type == "temporal") != (self.address is not None):
            raise ValueError("type temporal needs an address; type embedded has none")
        given = [n for n in ("task_queue", "tls", "api_key") if getattr(self, n) is not None]
        if self.type == "embedded" and given:
            raise ValueError(f"{', '.join(given)} is for type temporal")
        return self


class GatewayTls(Model):
    certificate: str = Field(min_length=1, description="File with the certificate and those up to its authority, PEM.")
    key: str = Field(min_length=1, description="File of its private key, PEM.")


class GatewayLimits(Model):
    requests: int = Field(50, ge=1, le=100_000, description="Requests a second of one key, on average.")
    burst: int = Field(200, ge=1, le=1_000_000, description="Requests of one key at once, after a rest.")
    connections: int = Field(1_000, ge=1, le=100_000, description="Connections in all.")
    connections_per_key: int = Field(100, ge=1, le=100_000, description="Open streams of one key; all who come without one count as one.")
    subscriptions: int = Field(100, ge=1, le=10_000, description="Subscriptions of one stream.")
    buffer_messages: int = Field(20_000, ge=100, le=1_000_000, description="Messages that wait for one slow client.")
    buffer_mib: int = Field(8, ge=1, le=1_024, description="And what they may take.")
    past_at_once: int = Field(2, ge=1, le=64, description="Questions about the past that are answered at a time.")
    past_s: int = Field(20, ge=1, le=600, description="Seconds that one of them may take.")


class Gateway(Model):
    enabled: bool = Field(False, description="`ssmd up` serves clients, too; `ssmd run gateway` does in any case.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65_535, description="Port to listen on.")
    require_key: bool = Field(False, description="A key is needed on loopback, too; elsewhere it always is.")
    origins: tuple[WebOrigin, ...] = Field((), description="Of pages elsewhere that may ask (CORS) and connect; none by default.")
    tls: GatewayTls | None = Field(None, description="Files; without them HTTP is not encrypted.")
    compression: bool = Field(False, description="Streams are deflated for clients that offer it: less to send, more to compute.")
    limits: GatewayLimits = Field(GatewayLimits(), description="Of what a client may ask.")


class Archive(Model):
    retention_days: int | None = Field(None, gt=0, description="Days whose objects are kept; else all.")


class Symbol(Model):
    tier: int | None = Field(None, ge=0, le=9, description="0 is the most important.")
    category: str | None = Field(None, min_length=1, description="Such as crypto.")


MarketStatus = Literal["pending", "active", "paused", "closed", "determined", "settled", "unknown"]


def _power_of_ten(value: int) -> int:
    if value and str(value).strip("0") != "1":
        raise ValueError("a power of ten, such as 1000: of a market's volume only the number of its digits is known")
    return value


class Selector(Model):
    """What is chosen: any of the first five. Empty chooses everything. The last two choose among these."""

    symbols: tuple[str, ...] = Field((), description="Symbols of `symbols:`, or patterns such as KXBTC*.")
    tiers: tuple[int, ...] = Field((), description="Symbols of these tiers.")
    categories: tuple[str, ...] = Field((), description="Symbols and markets of these categories.")
    series: tuple[str, ...] = Field((), description="All markets of these series at the venue.")
    tags: tuple[str, ...] = Field((), description="All markets whose series has one of these tags at the venue.")
    statuses: tuple[MarketStatus, ...] = Field(
        ("pending", "active", "paused", "unknown"), min_length=1, description="What a market is when its capture begins."
    )
    min_volume: Annotated[int, AfterValidator(_power_of_ten)] = Field(
        0, ge=0, le=10**15, description="Contracts traded when its capture begins: a power of ten."
    )


class Resources(Model):
    cpu: str | None = Field(None, pattern=r"^[0-9]+(\.[0-9]+|m)?$", description='Such as "500m".')
    memory: str | None = Field(None, pattern=r"^[0-9]+(Ki|Mi|Gi)$", description='Such as "512Mi".')


class Shard(Model):
    selector: Selector = Field(Selector(), description="Its symbols.")
    replicas: Literal[1] = Field(1, description="Connectors of it; a stand-by is not built yet.")
    resources: Resources = Field(Resources(), description="Of each.")


class Environment(Model):
    name: Name = Field(description="The file's name without .yaml.")
    description: str = Field("", description="For people.")
    stage: Literal["dev", "test", "staging", "prod"] = Field("dev", description="Draft schemas are for dev only.")
    protected: bool = Field(False, description="Teardown is refused.")
    feed: str = Field(description="A file of exchanges/feeds.")
    schema_: str = Field("entry", alias="schema", description="A file of exchanges/schemas.")
    keys: dict[KeyName, Key] = Field({}, description="Secrets, by reference.")
    schedule: Schedule = Field(Schedule(), description="Its trading days.")
    venue: Venue = Field(Venue(), description="Where it connects.")
    journal: Journal = Field(Journal(), description="NATS.")
    storage: Storage = Field(Storage(), description="Objects.")
    cache: Cache = Field(Cache(), description="Views.")
    scheduler: Scheduler = Field(Scheduler(), description="What drives trading days.")
    gateway: Gateway = Field(Gateway(), description="Clients.")
    archive: Archive = Field(Archive(), description="What is kept.")
    symbols: dict[str, Symbol] = Field({}, description="What is known of symbols before the venue is asked.")
    shards: dict[ShardName, Shard] = Field({}, description="Without any: shard 0 with everything.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        venue = self.venue
        if venue.type == "simulated" and (venue.key or venue.endpoint or venue.rest):
            raise ValueError("venue: key, endpoint and rest are for type live")
        if venue.key and venue.key not in self.keys:
            raise ValueError(f"venue.key: no key {venue.key!r} is declared; declared: {', '.join(self.keys) or 'none'}")
        if venue.key and self.keys[venue.key].type != "api_key":
            raise ValueError(f"venue.key: {venue.key} is of type {self.keys[venue.key].type}, not api_key")
        for place, text in references(self):
            if place not in RESOLVED:
                raise ValueError(f"{place}: no value of a key is put here; $key:NAME.FIELD may stand at {', '.join(RESOLVED)}")
            name, _, field = text.removeprefix("$key:").partition(".")
            if name not in self.keys:
                raise ValueError(f"{place}: no key {name!r} is declared; declared: {', '.join(self.keys) or 'none'}")
            if field not in self.keys[name].fields:
                raise ValueError(f"{place}: key {name} has no field {field!r}; it has {', '.join(self.keys[name].fields)}")
        return self


def references(environment: Environment) -> list[tuple[str, str]]:
    """Every ``$key:NAME.FIELD`` with the dotted path of where it stands."""
    found: list[tuple[str, str]] = []

    def walk(path: str, value: object) -> None:
        if isinstance(value, str) and is_reference(value):
            found.append((path, value))
        elif isinstance(value, dict):
            for name, below in value.items():
                walk(f"{path}.{name}" if path else str(name), below)
        elif isinstance(value, list | tuple):
            for number, below in enumerate(value):
                walk(f"{path}[{number}]", below)

    walk("", environment.model_dump(by_alias=True, exclude={"description"}))
    return found
