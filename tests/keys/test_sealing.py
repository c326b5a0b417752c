"""SealedSecrets: what is sealed opens with the cluster's key and in its scope only; the certificate that it is sealed with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ruamel.yaml import YAML

from journal.errors import BadFile, KeyRefused, KeyUnavailable
from ssmd.keys.certificate import load_certificate
from ssmd.keys.seal import Scope, read_sealed, seal, unseal
from ssmd.keys.secret import Secret
from tests.keys.answers import answering, make_tls
from tests.keys.sealing import make_certificate, make_key, private_pem
from tests.keys.source_contract import CANARY, HOUR_NS, NOW_NS, PEM, TEXTS, StandingClock, check_silent

SCOPES = get_args(Scope)
STAMPS = {"set-at": "2026-11-22T16:00:00.000000000Z"}


def secrets(**texts: str) -> dict[str, Secret]:
    return {name: Secret(text) for name, text in texts.items()}


def sealed(values: dict[str, Secret], *, existing: str = "", set_ns: int = NOW_NS, **more: Any) -> str:
    return seal(values, make_certificate(), **{"name": "venue", "namespace": "md", "set_ns": set_ns, "existing": existing, **more})


def opened(text: str) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in unseal(text, private_pem()).items()}


@pytest.mark.parametrize("scope", SCOPES)
def test_every_value_opens_again_in_every_scope(scope: Scope) -> None:
    text = sealed(secrets(**TEXTS, canary=CANARY), scope=scope)
    assert opened(text) == {**TEXTS, "canary": CANARY, **STAMPS}
    assert CANARY not in text
    assert base64.b64encode(CANARY.encode()).decode() not in text


@pytest.mark.parametrize("scope", SCOPES)
def test_it_opens_in_its_scope_only(scope: Scope) -> None:
    text = sealed(secrets(a=CANARY), scope=scope)
    opens = {
        "elsewhere": text.replace("namespace: md", "namespace: other"),
        "renamed": text.replace("name: venue", "name: other"),
        "rescoped": text.replace(f"{scope}: 'true'", "strict: 'true'")
        if scope != "strict"
        else text.replace("annotations:", "annotations:\n    sealedsecrets.bitnami.com/cluster-wide: 'true'", 1),
    }
    allowed = {"strict": set(), "namespace-wide": {"renamed"}, "cluster-wide": {"renamed", "elsewhere"}}[scope]
    for name, changed in opens.items():
        assert changed != text
        if name in allowed:
            assert opened(changed)["a"] == CANARY
            continue
        with pytest.raises(KeyRefused, match="was sealed for another certificate, name, namespace or scope") as refused:
            opened(changed)
        check_silent(refused.value)


def test_another_private_key_and_damage_open_nothing() -> None:
    text = sealed(secrets(a=CANARY))
    with pytest.raises(KeyRefused, match="another certificate"):
        unseal(text, private_pem(make_key(3072)))
    value = YAML(typ="safe").load(text)["spec"]["encryptedData"]["a"]
    for damaged in (value[:-8] + "AAAAAAA=", value[:40], "", "!", value[:100] + ("B" if value[100] == "A" else "A") + value[101:]):
        with pytest.raises(KeyRefused, match="field a does not open"):
            opened(text.replace(value, f'"{damaged}"'))
    for pem in (b"", b"nonsense", make_certificate()):
        with pytest.raises(KeyRefused, match="is not a PEM of an unencrypted RSA private key"):
            unseal(text, pem)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_manifest_is_as_kubeseal_writes_it(scope: Scope) -> None:
    document = YAML(typ="safe").load(sealed(secrets(api_key="x"), scope=scope, previous_until_ns=NOW_NS + HOUR_NS))
    wide = {} if scope == "strict" else {f"sealedsecrets.bitnami.com/{scope}": "true"}
    metadata = {
        "name": "venue",
        "namespace": "md",
        "annotations": {**wide, "ssmd/set-at": STAMPS["set-at"], "ssmd/previous-until": "2026-11-22T17:00:00.000000000Z"},
    }
    values = document["spec"].pop("encryptedData")
    assert document == {
        "apiVersion": "bitnami.com/v1alpha1",
        "kind": "SealedSecret",
        "metadata": metadata,
        "spec": {"template": {"metadata": metadata, "type": "Opaque"}},
    }
    assert list(values) == ["api_key", "set-at", "previous-until"]
    raw = base64.b64decode(values["api_key"])
    assert (raw[:2], len(raw)) == (b"\1\0", 2 + 256 + 1 + 16)  # RSA of 2,048 bits, one byte of value, the tag


def test_two_seals_of_a_value_have_nothing_in_common() -> None:
    one, two = (YAML(typ="safe").load(sealed(secrets(a="x")))["spec"]["encryptedData"]["a"] for _ in range(2))
    assert base64.b64decode(one)[2:] != base64.b64decode(two)[2:]


def test_setting_one_field_keeps_the_others_and_the_comments_as_they_are() -> None:
    first = sealed(secrets(a="1", b="2")).replace("  type: Opaque", "  type: Opaque # ours").replace("kind:", "# by hand\nkind:")
    second = sealed(secrets(b="3"), existing=first, set_ns=NOW_NS + 1)
    assert opened(second) == {"a": "1", "b": "3", "set-at": "2026-11-22T16:00:00.000000001Z"}
    assert "# by hand\nkind:" in second
    changed = [line for line in second.splitlines() if line not in first.splitlines()]
    assert sorted(line.split(":")[0].strip() for line in changed) == ["b", "set-at", "ssmd/set-at", "ssmd/set-at"]


def test_a_rotation_keeps_the_old_value_without_having_read_it() -> None:
    first = sealed(secrets(a="old", b="2"))
    until_ns = NOW_NS + HOUR_NS
    second = sealed(secrets(a="new"), existing=first, previous_until_ns=until_ns)
    found = opened(second)
    assert {n: found[n] for n in ("a", "a.previous", "b")} == {"a": "new", "a.previous": "old", "b": "2"}
    assert found["previous-until"] == "2026-11-22T17:00:00.000000000Z"
    said = read_sealed(second, "f")
    assert (said.fields, said.previous, said.set_ns, said.previous_until_ns) == (("a", "b"), ("a",), NOW_NS, until_ns)
    # Setting the other field within the grace does not end it; after it, the old value goes.
    third = sealed(secrets(b="3"), existing=second, set_ns=NOW_NS + 5)
    assert opened(third)["a.previous"] == "old"
    fourth = sealed(secrets(b="4"), existing=third, set_ns=until_ns)
    assert set(opened(fourth)) == {"a", "b", "set-at"}
    assert "previous" not in fourth
    # Without grace nothing of before is kept, also not what still had some.
    assert set(opened(sealed(secrets(a="newest"), existing=third, previous_until_ns=NOW_NS))) == {"a", "b", "set-at"}


@pytest.mark.parametrize("change", [{"name": "other"}, {"namespace": "other"}, {"scope": "cluster-wide"}])
def test_a_file_of_another_secret_is_not_added_to(change: dict[str, Any]) -> None:
    with pytest.raises(KeyRefused, match=r"is of md/venue \(strict\), not of .*set all fields anew"):
        sealed(secrets(a="1"), existing=sealed(secrets(b="2")), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Upper"}, "is not a name of Kubernetes"),
        ({"name": "a/b"}, "is not a name of Kubernetes"),
        ({"namespace": "a.b"}, "is not a namespace"),
        ({"namespace": "n" * 64}, "is not a namespace"),
        ({"scope": "wide"}, "is not one of strict"),
    ],
)
def test_names_that_the_cluster_would_refuse_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyRefused, match=message):
        sealed(secrets(a="1"), **change)


def test_sizes_are_bounded() -> None:
    with pytest.raises(KeyRefused, match="field a is larger than 65536") as refused:
        sealed(secrets(a=CANARY * 6_000))
    check_silent(refused.value)
    with pytest.raises(KeyRefused, match="together are larger"):
        sealed({f"f{n}": Secret("k" * 65_000) for n in range(16)})
    with pytest.raises(BadFile, match="larger than"):
        read_sealed("#" * (2 << 20) + "#", "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a",
        "kind: SealedSecret",
        "\0",
        "{" * (1 << 20),
        "a: &a [*a]\nb: !!python/object:os.system {}",
        "kind: SealedSecret\napiVersion: v1",
    ],
    ids=["empty", "list", "text", "bare", "nul", "deep", "tags", "version"],
)
def test_what_is_no_sealed_secret_is_refused(text: str) -> None:
    with pytest.raises(BadFile, match=r"f\.yaml: is not a SealedSecret"):
        read_sealed(text, "f.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a: AQ", "a: 5 #"),
        ("  name: venue", "  name: 5"),
        ("encryptedData:", "encryptedData: 5 #"),
        ("kind: S", "kind: s"),
        ("  annotations:\n    ssmd", "  annotations: []\n  x:\n    ssmd"),
        ("  template:", "  template: []\n  x:"),
    ],
)
def test_a_sealed_secret_with_a_wrong_type_inside_is_refused(old: str, new: str) -> None:
    text = sealed(secrets(a="1"))
    assert old in text
    with pytest.raises(BadFile):
        read_sealed(text.replace(old, new, 1), "f.yaml")


def test_a_manifest_of_somebody_else_is_added_to() -> None:
    bare = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\n"
    bare += "metadata:\n  name: venue\n  namespace: md\n  annotations:\nspec:\n  encryptedData:\n"
    assert opened(sealed(secrets(a="1"), existing=bare)) == {"a": "1", **STAMPS}


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(BadFile, match=r"f\.yaml: metadata\.annotations\.ssmd/set-at: 'yesterday-ish' is not a time"):
        read_sealed(sealed(secrets(a="1")).replace("ssmd/set-at: '2026-11-22T16:00:00.000000000Z'", "ssmd/set-at: yesterday-ish"), "f.yaml")


class TestCertificate:
    def load(self, pem: bytes, tmp_path: Path) -> bytes:
        path = tmp_path / "certificate.pem"
        path.write_bytes(pem)
        return load_certificate(str(path), StandingClock())

    def test_from_a_file(self, tmp_path: Path) -> None:
        assert self.load(make_certificate(), tmp_path) == make_certificate()

    @pytest.mark.parametrize(
        ("pem", "message"),
        [
            (lambda: make_certificate(days=-1), "expired on 2026-11-21T16:00:00Z"),
            (lambda: make_certificate(Ed25519PrivateKey.generate()), "not a certificate of an RSA key"),
            (lambda: make_certificate(make_key(1024)), "2048 bits or more"),
            (private_pem, "has a private key in it"),
            (PEM.encode, "has a private key in it"),
            (lambda: b"", "is not a PEM of a certificate"),
            (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a PEM of a certificate"),
            (lambda: b"k" * 70_000, "larger than 65536"),
        ],
    )
    def test_what_cannot_be_sealed_with_is_refused(self, pem: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(KeyRefused, match=message):
            self.load(pem(), tmp_path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(KeyRefused, match=r"none\.pem cannot be read: No such file.*kubeseal --fetch-cert"):
            load_certificate(str(tmp_path / "none.pem"), StandingClock())

    def test_from_a_controller_on_this_machine(self) -> None:
        with answering(200, make_certificate()) as url:
            assert load_certificate(url, StandingClock()) == make_certificate()

    @pytest.mark.parametrize("url", ["http://example.com/v1/cert.pem", "ftp://127.0.0.1/cert.pem", "file:///etc/passwd"])
    def test_a_way_on_which_it_can_be_changed_is_refused(self, url: str) -> None:
        with pytest.raises(KeyRefused, match="use https, or a file"):
            load_certificate(url, StandingClock())

    def test_a_user_in_the_url_is_not_shown(self) -> None:
        with pytest.raises(KeyRefused) as refused:
            load_certificate(f"http://user:{CANARY}@example.com/cert.pem", StandingClock())
        check_silent(refused.value)

    @pytest.mark.parametrize(
        ("status", "body", "message"), [(302, b"", "answered 302"), (404, b"", "answered 404"), (200, b"k" * 70_000, "larger than")]
    )
    def test_other_answers(self, status: int, body: bytes, message: str) -> None:
        with answering(status, body) as url, pytest.raises(KeyRefused, match=message):
            load_certificate(url, StandingClock())

    def test_a_controller_that_is_not_trusted_is_refused(self, tmp_path: Path) -> None:
        tls, _ = make_tls(tmp_path)
        with answering(200, make_certificate(), tls) as url, pytest.raises(KeyRefused, match=r"is not trusted: .*self-signed"):
            load_certificate(url, StandingClock())

    def test_no_answer_is_worth_a_retry(self) -> None:
        with answering(200, b"") as url:
            pass
        with pytest.raises(KeyUnavailable, match=r"does not answer: .*refused"):
            load_certificate(url, StandingClock())
