"""A feed: a data source of a venue, as it is from a date on."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from ssmd.metadata.model import ClockTime, HttpUrl, Model, Name, Timezone, VenueUrl, Version, in_force, is_reference, overlaps


class Protocol(Model):
    transport: Literal["wss", "https", "tcp", "multicast"] = Field(description="How bytes travel.")
    message: Literal["json", "fix", "itch", "sbe", "protobuf"] = Field("json", description="How a message is written.")


class RateLimit(Model):
    requests: int = Field(gt=0, description="Requests allowed in each period.")
    per_s: int = Field(1, gt=0, description="Length of the period in seconds.")


class Supports(Model):
    order_book: bool = Field(False, description="It sends order books.")
    trades: bool = Field(False, description="It sends trades.")
    historical: bool = Field(False, description="The venue serves past data.")


class Recovery(Model):
    """Of multicast feeds: where what was missed can be asked for."""

    snapshot_endpoint: VenueUrl = Field(description="Where snapshots are served.")
    replay_endpoint: VenueUrl | None = Field(None, description="Where missed messages are sent again.")


class FeedVersion(Model):
    version: Version = Field(description="Such as 1 or 2.1; in quotes.")
    effective_from: date = Field(description="First day it is in force.")
    effective_to: date | None = Field(None, description="Last day it is in force; else until the next version.")
    protocol: Protocol = Field(description="Transport and message format.")
    endpoint: VenueUrl = Field(description="Where the connector connects.")
    rest: HttpUrl | None = Field(None, description="Where markets are listed.")
    auth_method: Literal["none", "signature", "hmac", "token"] = Field("none", description="How requests are authenticated.")
    rate_limit: RateLimit | None = Field(None, description="Of the venue's requests.")
    max_symbols_per_connection: int | None = Field(None, gt=0, description="Symbols one connection may subscribe.")
    supports: Supports = Field(Supports(), description="What the feed offers.")
    sequenced: bool = Field(False, description="Messages are numbered, so that gaps show.")
    sequence_field: str | None = Field(None, min_length=1, description="The field with the number.")
    sequence_scope: Literal["connection", "subscription", "symbol", "channel"] | None = Field(None, description="What shares a counter.")
    recovery: Recovery | None = Field(None, description="Of multicast feeds.")
    parser: dict[str, JsonValue] = Field({}, description="Settings of the venue's decoder.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.sequenced != (self.sequence_field is not None and self.sequence_scope is not None):
            raise ValueError("sequenced: true needs sequence_field and sequence_scope, and they need it")
        behind = (self.recovery.snapshot_endpoint, self.recovery.replay_endpoint or "") if self.recovery else ()
        if any(map(is_reference, (self.endpoint, self.rest or "", *behind))):
            raise ValueError("a feed has no keys: write the URL here, or the reference as venue.endpoint or venue.rest of an environment")
        if self.recovery and self.protocol.transport != "multicast":
            raise ValueError("recovery is for multicast; other transports resubscribe")
        schemes = {"wss": ("wss", "ws"), "https": ("https", "http"), "tcp": ("tcp",), "multicast": ("udp",)}[self.protocol.transport]
        if not self.endpoint.startswith(tuple(f"{s}://" for s in schemes)):
            raise ValueError(f"endpoint of transport {self.protocol.transport} begins with {schemes[0]}://")
        return self


class Calendar(Model):
    timezone: Timezone = Field("UTC", description="IANA name.")
    holidays: tuple[date, ...] = Field((), description="Days on which the venue is closed.")
    open: ClockTime | None = Field(None, description='"HH:MM"; without it the venue never closes.')
    close: ClockTime | None = Field(None, description='"HH:MM".')

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.open is None) != (self.close is None):
            raise ValueError("open and close belong together")
        return self


class CaptureLocation(Model):
    """Provenance: where data of this feed is recorded."""

    site: str = Field(min_length=1, description="Name of the place.")
    site_type: Literal["cloud", "colocation", "on_premises", "home"] = Field(description="What kind of place.")
    provider: str | None = Field(None, description="Who runs it.")
    region: str | None = Field(None, description="Of the provider.")
    clock: Literal["ntp", "ptp", "gps", "none"] = Field("ntp", description="What the clock is disciplined by.")


class Feed(Model):
    name: Name = Field(description="The file's name without .yaml.")
    display_name: str | None = Field(None, description="For people.")
    venue: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="The exchange.")
    type: Literal["websocket", "rest", "multicast"] = Field("websocket", description="Kind of feed.")
    status: Literal["active", "deprecated", "disabled"] = Field("active", description="A disabled feed is refused.")
    versions: tuple[FeedVersion, ...] = Field(min_length=1, description="By date.")
    calendar: Calendar = Field(Calendar(), description="When the venue trades.")
    capture_locations: tuple[CaptureLocation, ...] = Field((), description="Where it is recorded.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if wrong := overlaps(self.versions):
            raise ValueError("; ".join(wrong))
        fits = {"websocket": ("wss",), "rest": ("https",), "multicast": ("multicast", "tcp")}[self.type]
        for version in self.versions:
            if version.protocol.transport not in fits:
                raise ValueError(f"version {version.version}: a {self.type} feed has transport {' or '.join(fits)}")
        return self

    def version(self, day: date) -> FeedVersion | None:
        """The version in force on `day`, None when there is none."""
        found: Any = in_force(self.versions, day)
        return found if isinstance(found, FeedVersion) else None
