"""Every command that prints data has a JSON Schema under docs/schemas; those about files, which need no server, are run against theirs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import schema
from tests.cli.conftest import Ran
from tests.cli.test_cli_root import commands

Run = Callable[..., Ran]
EDITS = (
    "feed create", "feed update", "feed add-version", "feed add-location", "schema register", "schema set-status", "schema add-version",
    "env create", "env update", "env add-key",
)  # fmt: skip
# command -> the schemas of what it prints with -o json or jsonl.
PRINTED: dict[str, tuple[str, ...]] = {
    "init": ("init",),
    "feed list": ("feeds",), "feed show": ("feed", "as_of"),
    "schema list": ("schemas",), "schema show": ("schema", "as_of"), "schema hash": ("schema_hash",),
    "env list": ("environments",), "env show": ("environment", "as_of"),
    "env validate": ("validate",), "env apply": ("env-apply",), "env teardown": ("env-teardown",),
    "key list": ("keys",), "key check": ("keys",), "key verify": ("keys",), "key show": ("key_show",), "key init": ("key_init",),
    "key set": ("key_change",), "key rotate": ("key_change",), "key delete": ("key_delete",), "key export": ("key_export",),
    "key audit": ("key_audit",),
    "sim kalshi": ("sim",), "run connector": ("connector",),
    "journal tail": ("entry",), "journal show": ("record",), "journal streams": ("streams",),
    "replay": ("replay",), "data replay": ("replay",), "data import": ("import",), "book": ("book",),
    "validate": ("validate",), "diff": ("diff",), "commit": ("commit",), "config show": ("config",),
    "doctor": ("doctor",), "version": ("version",),
    "secmaster sync": ("secmaster_sync",), "secmaster import": ("secmaster_import",), "secmaster stats": ("secmaster_stats",),
    "secmaster list": ("markets",), "secmaster search": ("markets",), "secmaster show": ("market", "market_change"),
    "secmaster changes": ("market_change",), "secmaster export": ("market_export",),
    "day status": ("day_status",), "day history": ("day_history",), "day show": ("day_show",), "day recover": ("day_recover",),
    "day schedule": ("day_schedule",), "day rehearse": ("day_rehearse",),
    "gateway key create": ("gateway_key_created",), "gateway key list": ("gateway_keys",), "gateway key revoke": ("gateway_key",),
    "client list": ("clients",), "client show": ("client",), "client disconnect": ("client_action",), "client set-mode": ("client_action",),
    **dict.fromkeys(EDITS, ("edit",)),
}  # fmt: skip
WORDS_ONLY = {
    "up", "demo", "run archiver", "run projector", "run secmaster", "run gateway", "run worker", "completion",
    "day run", "day start", "day end", "day roll",
}  # fmt: skip
# Commands of parts that are being built bring their schemas with them.
BUILDING = ("journal query",)


def test_every_command_has_a_schema_of_what_it_prints() -> None:
    known = {" ".join(path) for path, _ in commands()}
    assert {name for name in known if not name.startswith(BUILDING)} == PRINTED.keys() | WORDS_ONLY
    there = {path.stem for path in schema.SCHEMAS.glob("*.json")}
    assert {name for names in PRINTED.values() for name in names} <= there


@pytest.mark.parametrize("name", ["feed", "schema", "environment"])
def test_schemas_of_files_are_those_of_the_models(name: str) -> None:
    text = (schema.SCHEMAS / f"{name}.json").read_text()
    assert text == schema.of_files()[name], "write them again: python -m tests.cli.schema"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_commands_about_files_print_what_their_schemas_say(ssmd: Run, project: Path) -> None:
    printed: set[str] = set()

    def ask(name: str, *args: str, code: int = 0) -> Ran:
        ran = ssmd(*args, "-o", "json")
        assert ran.code == code, ran
        schema.check(name, ran.document)
        printed.add(name)
        return ran

    ask("init", "init")
    (project / "exchanges/feeds/kraken.yaml").write_text("# ours")
    assert {row["change"] for row in ask("init", "init").document} == {"kept", "unchanged"}
    assert {row["change"] for row in ask("init", "init", "--force").document} == {"replaced", "unchanged"}
    ask("edit", "feed", "create", "bitstamp", "--endpoint", "wss://ws.example.com", "--effective-from", "2099-01-01")
    ask("edit", "feed", "add-location", "bitstamp", "--site", "lon1", "--site-type", "cloud")
    ask("edit", "feed", "update", "bitstamp", "--status", "active")
    folder = project / "exchanges" / "schemas"
    shutil.copy(folder / "entry.capnp", folder / "ticks.capnp")
    ask("edit", "schema", "register", "ticks", "--file", "ticks.capnp")
    ask("edit", "env", "create", "desk", "--feed", "kalshi", "--set", "shards.a.selector.series=[KXBTC15M]")
    ask("edit", "env", "add-key", "desk", "hook", "--type", "webhook", "--fields", "url", "--rotation-days", "9")
    assert [row["version"] for row in ask("feeds", "feed", "list").document if row["name"] == "bitstamp"] == [None]
    ask("schemas", "schema", "list")
    ask("environments", "env", "list")
    for name in ("bitstamp", "kalshi", "kraken", "polymarket"):
        ask("feed", "feed", "show", name)
    for name in ("block", "entry", "ticks"):
        ask("schema", "schema", "show", name)
    for name in ("desk", "kalshi-demo", "kalshi-prod", "local"):
        ask("environment", "env", "show", name)
        ask("key_export", "key", "export", name)
        ask("config", "config", "show", "--env", name, "--origin")
    ask("config", "config", "show", "--env", "desk")
    for args in (("feed", "show", "kalshi"), ("schema", "show", "entry"), ("env", "show", "desk")):
        assert ask("as_of", *args, "--as-of", "2027-01-01").document["as_of"] == "2027-01-01"
    ask("schema_hash", "schema", "hash", "ticks")
    with (folder / "ticks.capnp").open("a") as file:
        file.write("# more\n")
    ask("schema_hash", "schema", "hash", "ticks", code=1)
    assert printed == {"init", "edit", "feed", "feeds", "schema", "schemas", "schema_hash", "environment", "environments", "as_of",
                       "config", "key_export"}  # fmt: skip
