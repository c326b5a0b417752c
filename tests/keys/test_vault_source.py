"""Source vault: what it refuses to talk to, and, against a real server where that was asked for (suite vault), the contract."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from journal.errors import KeyRefused, KeyUnavailable
from ssmd.keys.source import Found, KeySource, open_key_source
from ssmd.keys.vault import VaultSource
from ssmd.moments import rfc3339
from tests.keys.answers import answering, make_tls
from tests.keys.sealing import make_certificate
from tests.keys.source_contract import CANARY, HOUR_NS, NOW_NS, WANTED, Home, SourceContract, check_silent, shown
from tests.openbao import Server, make_service_account_token, reviewing_tokens, running

READ = """
path "secret/data/ssmd/*" { capabilities = ["read"] }
path "team/kv/data/*" { capabilities = ["read"] }
path "old/*" { capabilities = ["read"] }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("openbao")) as server:
        yield server


class VaultHolder:
    """A path of its own in the server, read with a token that may read and nothing else."""

    def __init__(self, root: Path, server: Server, mount: str = "secret", path: str = "") -> None:
        self.home = Home(root, {"VAULT_ADDR": server.url, "VAULT_TOKEN": server.make_token(READ)})
        self.server = server
        self.mount = mount
        self.path = path or f"ssmd/{root.name}"

    def put(self, texts: Mapping[str, Any], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        if previous:
            self.server.do("POST", f"{self.mount}/data/{self.path}", {"data": dict(previous)})
        self.server.do("POST", f"{self.mount}/data/{self.path}", {"data": dict(texts)})
        if until_ns:
            self.server.do("POST", f"{self.mount}/metadata/{self.path}", {"custom_metadata": {"previous-until": rfc3339(until_ns)}})

    def spoil(self) -> None:
        self.home.environ["VAULT_TOKEN"] = self.server.make_token('path "secret/data/else" { capabilities = ["read"] }')

    def source(self) -> KeySource:
        return open_key_source(f"vault/{self.mount}/{self.path}", self.home.place)


@pytest.mark.vault
class TestVault(SourceContract):
    @pytest.fixture
    def holder(self, tmp_path: Path, server: Server) -> VaultHolder:
        return VaultHolder(tmp_path, server)

    def test_a_version_says_when_it_was_set(self, holder: VaultHolder) -> None:
        before_ns = time.time_ns()
        holder.put({"api_key": "x"})
        assert before_ns - 1_000_000 <= holder.source().fetch(WANTED).set_ns <= time.time_ns()

    def test_a_deleted_version_is_absent(self, holder: VaultHolder) -> None:
        holder.put({"api_key": "x"})
        holder.server.do("DELETE", f"secret/data/{holder.path}")
        assert holder.source().fetch(WANTED) == Found({})

    def test_a_previous_version_that_was_destroyed_is_no_previous_value(self, holder: VaultHolder) -> None:
        holder.put({"api_key": "new"}, previous={"api_key": "old"}, until_ns=NOW_NS + HOUR_NS)
        holder.server.do("PUT", f"secret/destroy/{holder.path}", {"versions": [1]})
        assert shown(holder.source().fetch(WANTED)) == ({"api_key": "new"}, {})

    def test_a_number_is_refused_and_not_shown(self, holder: VaultHolder) -> None:
        holder.put({"api_key": 73_737_373})
        with pytest.raises(KeyRefused, match="api_key is not a text") as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value, "73737373")

    def test_a_mount_whose_path_has_slashes(self, holder: VaultHolder) -> None:
        holder.server.call("POST", "sys/mounts/team/kv", {"type": "kv", "options": {"version": "2"}})
        holder.mount, holder.path = "team/kv", "a/b"
        _wait_for_upgrade(holder)
        assert shown(holder.source().fetch(WANTED))[0] == {"api_key": "x"}

    def test_version_1_of_the_engine(self, holder: VaultHolder) -> None:
        holder.server.call("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
        holder.mount, holder.path = "old", "a/b"
        assert holder.source().fetch(WANTED) == Found({})
        holder.server.do("POST", "old/a/b", {"api_key": "new", "api_key.previous": "old", "previous-until": rfc3339(NOW_NS + 1)})
        assert shown(holder.source().fetch(WANTED)) == ({"api_key": "new"}, {"api_key": "old"})

    @pytest.mark.parametrize(("path", "message"), [("nowhere/x", "or nothing is mounted there"), ("cubbyhole/x", "is not a key-value one")])
    def test_other_mounts_are_refused(self, holder: VaultHolder, path: str, message: str) -> None:
        with pytest.raises(KeyRefused, match=message):
            open_key_source(f"vault/{path}", holder.home.place).fetch(WANTED)

    def test_a_token_that_is_not_valid_is_refused_and_not_shown(self, holder: VaultHolder) -> None:
        holder.put({"api_key": "x"})
        holder.home.environ["VAULT_TOKEN"] = f"s.{CANARY}"
        with pytest.raises(KeyRefused, match="the token is not valid") as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)

    def test_the_token_of_vault_login(self, holder: VaultHolder) -> None:
        holder.put({"api_key": "x"})
        file = holder.home.place.home / ".vault-token"
        file.write_text(holder.home.environ.pop("VAULT_TOKEN") + "\n")
        file.chmod(0o600)
        assert holder.source().fetch(WANTED).values
        file.chmod(0o644)
        with pytest.raises(KeyRefused, match=r"run chmod 600 .*/\.vault-token"):
            holder.source().fetch(WANTED)

    def test_the_service_account_of_a_pod(self, holder: VaultHolder) -> None:
        holder.put({"api_key": "x"})
        del holder.home.environ["VAULT_TOKEN"]
        good, other = make_service_account_token("md", "ssmd"), make_service_account_token("md", CANARY)
        with reviewing_tokens({good: "md:ssmd", other: f"md:{CANARY}"}) as kubernetes:
            do = holder.server.do
            do("POST", "sys/auth/cluster-a", {"type": "kubernetes"})
            reviewer = {"kubernetes_host": kubernetes, "kubernetes_ca_cert": make_certificate().decode(), "token_reviewer_jwt": good}
            do("POST", "auth/cluster-a/config", {**reviewer, "disable_local_ca_jwt": True})
            do("PUT", "sys/policies/acl/ssmd", {"policy": READ})
            role = {
                "bound_service_account_names": ["ssmd"],
                "bound_service_account_namespaces": ["md"],
                "token_policies": ["ssmd"],
                "audience": "",
            }
            do("POST", "auth/cluster-a/role/reader", role)
            file = holder.home.root / "jwt"
            file.write_text(good)
            holder.home.environ |= {"SSMD_VAULT_ROLE": "reader", "SSMD_VAULT_JWT_FILE": str(file), "VAULT_K8S_MOUNT": "cluster-a"}
            assert shown(holder.source().fetch(WANTED))[0] == {"api_key": "x"}
            for token in (other, f"{CANARY}.a.b"):
                file.write_text(token)
                with pytest.raises(KeyRefused, match="login as reader") as refused:
                    holder.source().fetch(WANTED)
                check_silent(refused.value, CANARY, token)
            holder.home.environ["VAULT_K8S_MOUNT"] = "cluster-b"
            with pytest.raises(KeyRefused, match="login as reader"):
                holder.source().fetch(WANTED)

    def test_a_sealed_server_is_worth_a_retry(self, holder: VaultHolder, tmp_path: Path) -> None:
        with running(tmp_path) as other:
            other.do("PUT", "sys/seal")
            holder.home.environ["VAULT_ADDR"] = other.url
            with pytest.raises(KeyUnavailable, match="is sealed"):
                holder.source().fetch(WANTED)


def _wait_for_upgrade(holder: VaultHolder) -> None:
    """A new mount of version 2 refuses writes for a moment."""
    for _ in range(100):
        if not holder.server.call("POST", f"{holder.mount}/data/{holder.path}", {"data": {"api_key": "x"}}).get("errors"):
            return
        time.sleep(0.05)
    raise AssertionError("the engine is not ready")


class TestRefusals:
    """What needs no real server."""

    def fetch(self, tmp_path: Path, **environ: str) -> Found:
        home = Home(tmp_path, {"VAULT_TOKEN": CANARY, **environ})
        return VaultSource("secret/ssmd/venue", home.place).fetch(WANTED)

    def refused(self, tmp_path: Path, match: str, kind: type[Exception] = KeyRefused, **environ: str) -> None:
        with pytest.raises(kind, match=match) as refused:
            self.fetch(tmp_path, **environ)
        check_silent(refused.value)

    @pytest.mark.parametrize("path", ["", "secret", "../sys/x", "secret/../x", "secret/a b", "secret/a?list=true", "secret/a%2fb"])
    def test_a_path_that_is_none(self, path: str, tmp_path: Path) -> None:
        with pytest.raises(KeyRefused, match="write MOUNT/PATH"):
            VaultSource(path, Home(tmp_path).place)

    @pytest.mark.parametrize("url", ["", "vault.example.com:8200", "ftp://vault", "https://", f"https://user:{CANARY}@vault.example.com"])
    def test_an_address_that_is_none(self, url: str, tmp_path: Path) -> None:
        self.refused(tmp_path, "set VAULT_ADDR to", VAULT_ADDR=url)

    def test_a_token_does_not_travel_in_clear(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "would get the token in clear: use https", VAULT_ADDR="http://vault.example.com:8200")
        with answering(200, b"{}") as url:
            self.refused(tmp_path, "no secrets engine is mounted", VAULT_ADDR=url)

    def test_no_token(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "no token: run `vault login`", VAULT_ADDR="http://127.0.0.1:1", VAULT_TOKEN="")
        self.refused(
            tmp_path,
            "no service account token is in /none",
            VAULT_ADDR="http://127.0.0.1:1",
            VAULT_TOKEN="",
            SSMD_VAULT_ROLE="r",
            SSMD_VAULT_JWT_FILE="/none",
        )

    def test_no_answer_is_worth_a_retry(self, tmp_path: Path) -> None:
        with answering(200, b"") as url:
            pass
        self.refused(tmp_path, "does not answer", KeyUnavailable, VAULT_ADDR=url)

    @pytest.mark.parametrize(
        ("status", "body", "kind", "message"),
        [
            (307, b"", KeyRefused, "with a redirection"),
            (200, b"<html>" + CANARY.encode(), KeyRefused, "something else than JSON"),
            (200, b"[1]", KeyRefused, "something else than JSON"),
            (200, b'{"data": 5}', KeyRefused, "no secrets engine"),
            (200, b'{"data": {"type": "pki", "path": "secret/"}}', KeyRefused, "not a key-value one"),
            (200, b'{"a": "' + b"k" * 5_000_000 + b'"}', KeyRefused, "answered more than 4194304 bytes"),
            (400, b'{"errors": ["canary-7f3a"]}', KeyRefused, "refused the request"),
            (403, b'{"errors": ["canary-7f3a"]}', KeyRefused, "the token is not valid"),
            (418, b"", KeyRefused, "refused the request"),
            (429, b"", KeyUnavailable, "try again"),
            (500, b'{"errors": ["canary-7f3a"]}', KeyUnavailable, "try again"),
            (503, b'{"errors": ["Vault is sealed"]}', KeyUnavailable, "is sealed"),
        ],
    )
    def test_other_answers(self, status: int, body: bytes, kind: type[Exception], message: str, tmp_path: Path) -> None:
        with answering(status, body) as url:
            self.refused(tmp_path, message, kind, VAULT_ADDR=url)

    def test_a_certificate_that_is_not_trusted_is_refused(self, tmp_path: Path) -> None:
        tls, ours = make_tls(tmp_path)
        with answering(200, b"{}", tls) as url:
            self.refused(tmp_path, "is not trusted: set VAULT_CACERT", VAULT_ADDR=url)
            self.refused(tmp_path, "VAULT_CACERT: no such file", VAULT_ADDR=url, VAULT_CACERT=str(tmp_path / "none.pem"))
            self.refused(tmp_path, "no secrets engine is mounted", VAULT_ADDR=url, VAULT_CACERT=str(ours))

    def test_the_machines_own_variables_are_not_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".vault-token").write_text(CANARY)
        for name, text in {
            "HOME": str(tmp_path),
            "VAULT_TOKEN": CANARY,
            "http_proxy": "http://127.0.0.1:1",
            "VAULT_NAMESPACE": "n",
        }.items():
            monkeypatch.setenv(name, text)
        with answering(200, b"{}") as url:
            self.refused(tmp_path, "no token", VAULT_ADDR=url, VAULT_TOKEN="")
            self.refused(tmp_path, "no secrets engine", VAULT_ADDR=url)
