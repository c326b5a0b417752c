"""What answers about the past has the keys that it needs, and no other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ssmd.gateway.inheritance import environ_of
from ssmd.keys.secret import Variables
from ssmd.metadata.environment import Environment
from ssmd.settings import Settings
from tests.gateway.served import GOLD, gateway, seeded

STRANGE = {
    "SSMD_KALSHI_PRIVATE_KEY": "of the venue", "SSMD_KEY_FILE": "/of/the/venue", "SSMD_GATEWAY_KEY": "of an administrator",
    "VAULT_TOKEN": "of everything", "SSMD_AGE_PASSPHRASE": "of every file", "AWS_SECRET_ACCESS_KEY": "of the bucket",
    "GITHUB_TOKEN": "of something else",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="another process's variables are looked at in /proc")
def test_the_reader_has_no_key_that_it_does_not_need(tmp_path: Path) -> None:
    data, told = seeded(tmp_path)
    with gateway(data, told, variables=STRANGE) as served:
        served.good(f"/v1/markets/{GOLD}/book?as_of={told.times['delta']}")
        had = Path(f"/proc/{served.reader}/environ").read_bytes().split(b"\0")
        gateways = Path(f"/proc/{served.process.pid}/environ").read_bytes()
    for name, value in STRANGE.items():
        assert value.encode() in gateways
        assert not any(pair.startswith(name.encode()) or value.encode() in pair for pair in had)


def environment(**more: object) -> Environment:
    keys = {
        "venue": {"type": "api_key", "fields": ["id", "secret"]},
        "bus": {"type": "transport", "fields": ["token"]},
        "bucket": {"type": "storage", "fields": ["id", "secret"], "variables": {"secret": "MY_BUCKET"}},
        "safe": {"type": "transport", "fields": ["token"], "source": "vault/kv/bus"},
    }
    return Environment.model_validate({"name": "local", "feed": "kalshi", "keys": keys, "venue": {"type": "live", "key": "venue"}, **more})


GIVEN = {
    "PATH": "/bin", "LC_ALL": "C", "https_proxy": "http://proxy", "SSMD_CLOCK": "2@1", "SSMD_VENUE_ID": "no", "SSMD_VENUE_SECRET": "no",
    "SSMD_BUS_TOKEN": "1", "SSMD_BUS_TOKEN_PREVIOUS": "2", "SSMD_BUCKET_ID": "3", "MY_BUCKET": "4", "VAULT_TOKEN": "5", "AWS_REGION": "6",
    "SSMD_SECRETS": "no", "SSMD_PARENT": "no",
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, set()),
        (
            {"journal": {"type": "jetstream", "url": "nats://n:4222", "token": "$key:bus.token"}},
            {"SSMD_BUS_TOKEN", "SSMD_BUS_TOKEN_PREVIOUS"},
        ),
        ({"journal": {"type": "jetstream", "url": "nats://n:4222", "token": "$key:safe.token"}}, {"VAULT_TOKEN"}),
        ({"storage": {"type": "s3", "bucket": "abc"}}, {"AWS_REGION"}),
        (
            {
                "storage": {
                    "type": "s3", "bucket": "abc", "access_key_id": "$key:bucket.id", "secret_access_key": "$key:bucket.secret",
                }
            },
            {"AWS_REGION", "SSMD_BUCKET_ID", "MY_BUCKET"},
        ),
    ],
)  # fmt: skip
def test_what_opens_the_journal_and_the_objects_is_passed_on(more: dict[str, object], names: set[str]) -> None:
    settings = replace(Settings.read({}, {}), environment=environment(**more), variables=Variables(GIVEN))
    found = environ_of(settings, {})
    assert set(found) - set(settings.environ()) == {"PATH", "LC_ALL", "https_proxy", "SSMD_CLOCK", *names}
