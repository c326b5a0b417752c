"""SealedSecrets against other people's code: what they seal we open, what we seal they open, and the manifest is a valid one."""

from __future__ import annotations

import base64
import subprocess
from typing import get_args

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from ruamel.yaml import YAML

from ssmd.keys.seal import Scope, seal, unseal
from ssmd.keys.secret import Secret
from tests.keys.sealing import make_certificate, make_key, private_pem
from tests.keys.source_contract import HOUR_NS, NOW_NS, TEXTS
from tests.kubeseal import ask

pytestmark = pytest.mark.npm
LABELS = {"strict": "md/venue", "namespace-wide": "md", "cluster-wide": ""}


def manifest(scope: Scope) -> str:
    values = {name: Secret(text) for name, text in TEXTS.items()}
    return seal(values, make_certificate(), name="venue", namespace="md", scope=scope, set_ns=NOW_NS, previous_until_ns=NOW_NS + HOUR_NS)


@pytest.mark.parametrize("scope", get_args(Scope))
def test_what_we_seal_they_open(scope: Scope) -> None:
    key = base64.b64encode(make_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()
    sealed = YAML(typ="safe").load(manifest(scope))["spec"]["encryptedData"]
    for name in ("pem", "unicode"):
        assert ask("decrypt", key=key, label=LABELS[scope], sealed=sealed[name]) == TEXTS[name]
    with pytest.raises(subprocess.CalledProcessError):
        ask("decrypt", key=key, label="other", sealed=sealed["pem"])


def test_what_they_seal_we_open() -> None:
    """Their label is the namespace: scope namespace-wide."""
    pem = make_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    document = YAML(typ="safe").load(manifest("namespace-wide"))
    for name in ("pem", "unicode"):
        theirs = ask("encrypt", pem=pem, namespace="md", text=TEXTS[name])
        text = manifest("namespace-wide").replace("encryptedData:", f"encryptedData:\n    theirs: {theirs}")
        assert unseal(text, private_pem())["theirs"].reveal() == TEXTS[name]
        assert len(theirs) == len(document["spec"]["encryptedData"][name])


@pytest.mark.parametrize("scope", get_args(Scope))
def test_the_manifest_is_valid(scope: Scope) -> None:
    document = YAML(typ="safe").load(manifest(scope))
    assert ask("validate", document=document) == ""
    document["spec"]["encryptedData"]["pem"] = 5
    assert "encryptedData/pem must be string" in ask("validate", document=document)
