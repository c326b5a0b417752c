"""What an environment's file says of its servers and secrets is what the processes use: NATS with nkeys over TLS, S3 with credentials."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import nkeys
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ssmd import venues
from ssmd.metadata.project import packaged
from ssmd.settings import Settings
from ssmd.wiring import open_objects
from tests import ministack
from tests.authority import make_authority
from tests.journal.servers import nats_server

ENVIRONMENT = """\
name: desk
feed: kalshi
keys:
  bus: {{type: transport, fields: [seed], source: "file:../../secrets"}}
  store: {{type: storage, fields: [id, secret]}}
journal:
  type: jetstream
  url: {url}
  nkey_seed: $key:bus.seed
  tls: {{ca: {ca}}}
  max_stream_gib: 1
storage:
  type: s3
  bucket: market-data
  prefix: desk-1
  endpoint: {s3}
  region: us-east-1
  access_key_id: $key:store.id
  secret_access_key: $key:store.secret
"""


def new_seed() -> tuple[str, str]:
    """A seed and its public key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


def ssmd(project: Path, *args: str, code: int = 0, **environ: str) -> Any:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SSMD_", "AWS_"))}
    environ = {**kept, "SSMD_STORE_ID": "test", "SSMD_STORE_SECRET": "hush", **environ}
    argv = [sys.executable, "-m", "ssmd.cli", *args]
    done = subprocess.run(argv, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "hush" not in done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.timeout(180)
def test_up_records_through_nkeys_tls_and_s3_credentials(tmp_path: Path) -> None:
    (secrets := tmp_path / "secrets").mkdir(mode=0o700)
    (tls := tmp_path / "tls").mkdir()
    (folder := tmp_path / "exchanges" / "environments").mkdir(parents=True)
    make_authority(tls)
    seed, public = new_seed()
    other, _ = new_seed()
    pem = tls / "venue.pem"
    extra = f'tls {{ cert_file: "{pem}", key_file: "{pem}" }}'
    (tmp_path / "s3").mkdir()
    with (
        nats_server(tmp_path, access=f'users: [{{ nkey: "{public}" }}]', extra=extra) as server,
        ministack.running(tmp_path / "s3") as s3,
    ):
        s3.make_bucket("market-data")
        text = ENVIRONMENT.format(url=f"tls://127.0.0.1:{server.port}", ca=tls / "ca.pem", s3=s3.endpoint)
        (folder / "desk.yaml").write_text(text)
        feeds = tmp_path / "exchanges" / "feeds"
        feeds.symlink_to(Path(__file__).parents[2] / "exchanges" / "feeds")

        assert "key bus of environment desk: file:../../secrets has no seed" in ssmd(tmp_path, "journal", "streams", code=2)
        (secrets / "seed").write_text(other)
        (secrets / "seed").chmod(0o600)
        assert "refused our credentials" in ssmd(tmp_path, "journal", "streams", code=2)
        (secrets / "seed").write_text(seed + "\n")

        ssmd(tmp_path, "up", "--for", "6s", "--speed", "20")
        streams = {row["stream"]: row["last"] for row in msgspec.json.decode(ssmd(tmp_path, "journal", "streams"))}
        assert streams["desk_md_0"] > 100
        verified = ssmd(tmp_path, "replay", "--date", "today", "--from", "archive", "--verify")
        assert verified
        written = [p.read_bytes() for p in (tmp_path / ".ssmd").rglob("*") if p.is_file()]
        assert not any(seed.encode() in data or b"hush" in data for data in written)
    (folder / "desk.yaml").write_text(text.replace("fields: [seed]", "fields: [sed]"))
    assert "desk.yaml:8: " in (said := ssmd(tmp_path, "journal", "streams", code=2)) or "key bus has no field 'seed'" in said


def test_urls_and_region_may_be_values_of_keys(tmp_path: Path) -> None:
    folder = tmp_path / "exchanges"
    shutil.copytree(packaged().exchanges / "feeds", folder / "feeds")
    (folder / "environments").mkdir()
    (folder / "environments" / "desk.yaml").write_text(
        "name: desk\nfeed: kalshi\nkeys:\n  venue: {type: api_key, fields: [key_id, private_key, ws, rest]}\n"
        "  store: {type: storage, fields: [region]}\nvenue: {type: live, key: venue, endpoint: $key:venue.ws, rest: $key:venue.rest}\n"
        "storage: {type: s3, bucket: market-data, region: $key:store.region}\n"
    )
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    environ = {
        "SSMD_VENUE_WS": "wss://ws.example.com/v2", "SSMD_VENUE_REST": "https://rest.example.com/v2", "SSMD_VENUE_PRIVATE_KEY": pem,
        "SSMD_VENUE_KEY_ID": "0b5bd2b1-0b3b-4a3e-a6a0-000000000000", "SSMD_STORE_REGION": "eu-west-2",
    }  # fmt: skip
    settings = Settings.read({"env": "desk"}, environ, tmp_path)
    found = venues.access(settings, "kalshi", date(2026, 11, 22))
    assert (found.websocket_url, found.rest_url) == ("wss://ws.example.com/v2", "https://rest.example.com/v2")
    assert found.signer is not None
    storage: Any = open_objects(settings)
    assert storage._client.meta.region_name == "eu-west-2"


def test_what_keeps_the_connector_from_capturing_is_on_the_screen(tmp_path: Path) -> None:
    (folder := tmp_path / "exchanges" / "environments").mkdir(parents=True)
    (tmp_path / "exchanges" / "feeds").symlink_to(Path(__file__).parents[2] / "exchanges" / "feeds")
    (folder / "away.yaml").write_text(
        "name: away\nfeed: kalshi\nkeys: {k: {type: api_key, fields: [key_id, private_key]}}\n"
        "venue: {type: live, key: k, endpoint: 'ws://127.0.0.1:9/ws', rest: 'http://127.0.0.1:9/api'}\n"
    )
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SSMD_")}
    environ |= {"SSMD_K_KEY_ID": "5f3f1b0a-1111-4222-8333-abcdefabcdef", "SSMD_K_PRIVATE_KEY": private}
    argv = [sys.executable, "-m", "ssmd.cli", "up", "--for", "5s"]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "0 books, 0 trades, 0 gaps; connector: discovering" in done.stderr
