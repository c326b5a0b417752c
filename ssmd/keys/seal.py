"""Bitnami's SealedSecret: a Kubernetes Secret, encrypted to a cluster's certificate, that only this cluster turns into the Secret.

A sealed value is base64 of: 2 bytes, big-endian, the length of what follows; a session key of 32 random bytes, encrypted with
RSA-OAEP (SHA-256 in both places) under the scope's label; the value, encrypted with AES-256-GCM under the session key and a nonce of
zeros (the key is used once). Source: https://github.com/bitnami-labs/sealed-secrets, docs/developer/crypto.md.

The field's name is not part of it: a sealed value is renamed to ``FIELD.previous`` by who cannot read it.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from journal.errors import BadFile, CallerError, KeyRefused
from ssmd.keys.secret import Secret
from ssmd.keys.values import PREVIOUS, PREVIOUS_UNTIL, SET_AT, check_size, decode
from ssmd.moments import parse_moment, rfc3339

Scope = Literal["strict", "namespace-wide", "cluster-wide"]

# Kubernetes refuses a Secret over 1 MiB; sealing adds a third, and half a kilobyte a value.
LIMIT_BYTES = 2 << 20
_SECRET_LIMIT_BYTES = 1 << 20
_ANNOTATION: Final = "sealedsecrets.bitnami.com/"
_OURS: Final = "ssmd/"
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_BRACKETS = 1_000
_ZERO_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealed file says in clear. `fields` are those with a value, `previous` those with an older one as well."""

    name: str
    namespace: str
    scope: Scope
    fields: tuple[str, ...]
    previous: tuple[str, ...]
    set_ns: int
    previous_until_ns: int


def seal(
    values: Mapping[str, Secret],
    certificate_pem: bytes,
    *,
    name: str,
    namespace: str,
    scope: Scope = "strict",
    set_ns: int,
    previous_until_ns: int = 0,
    existing: str = "",
) -> str:
    """The YAML of a SealedSecret with `values` by field, and with those of `existing` (such a YAML) that are not among them.

    With `previous_until_ns` the old sealed value of each field stays as ``FIELD.previous`` until then (not at all when that is `set_ns`);
    without it what `existing` says of previous values stays. Raises `KeyRefused`, and `BadFile` when `existing` is something else.
    """
    _check(name, namespace, scope)
    document = _load(existing, "the sealed file") if existing else _empty(name, namespace, scope)
    before = _describe(document, "the sealed file")
    if (before.name, before.namespace, before.scope) != (name, namespace, scope):
        raise KeyRefused(
            f"the sealed file is of {before.namespace}/{before.name} ({before.scope}), not of {namespace}/{name} ({scope}): "
            "nothing can be added to it; set all fields anew"
        )
    texts: dict[str, str] = document["spec"]["encryptedData"]
    until_ns = previous_until_ns or before.previous_until_ns
    if previous_until_ns:
        texts |= {f + PREVIOUS: texts[f] for f in values if f in texts}
    if until_ns <= set_ns:  # over, or never was
        until_ns = 0
        for field in [f for f in texts if f.endswith(PREVIOUS)]:
            del texts[field]
    stamps = {SET_AT: rfc3339(set_ns), PREVIOUS_UNTIL: rfc3339(until_ns)}
    new = dict(values) | {stamp: Secret(text) for stamp, text in stamps.items() if text}
    key, label = _public_key(certificate_pem), _label(name, namespace, scope)
    for field, secret in new.items():
        check_size(secret.reveal(), f"field {field}")
        texts[field] = _encrypt(secret.reveal().encode(), key, label)
    if sum(len(text) for text in texts.values()) > _SECRET_LIMIT_BYTES:
        raise KeyRefused(f"the fields together are larger than Kubernetes takes ({_SECRET_LIMIT_BYTES} bytes)")
    for stamp, text in stamps.items():
        _put(document["metadata"], stamp, text)
        _put(document["spec"]["template"]["metadata"], stamp, text)
        if not text:
            texts.pop(stamp, None)
    return _dump(document)


def unseal(text: str, private_key_pem: bytes) -> dict[str, Secret]:
    """Every sealed value by name, with the cluster's private key: for tests and disasters. Raises `KeyRefused`, `BadFile`."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: object = load_pem_private_key(private_key_pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise KeyRefused("this is not a PEM of an unencrypted RSA private key")
    document = _load(text, "the sealed file")
    found = _describe(document, "the sealed file")
    label = _label(found.name, found.namespace, found.scope)
    return {field: Secret(_decrypt(sealed, key, label, field)) for field, sealed in document["spec"]["encryptedData"].items()}


def read_sealed(text: str, where: str) -> Sealed:
    """What a sealed file says in clear. `where` begins each problem. Raises `BadFile`."""
    return _describe(_load(text, where), where)


def _encrypt(plain: bytes, key: Any, label: bytes) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    session = os.urandom(32)
    wrapped = key.encrypt(session, _padding(label))
    return base64.b64encode(len(wrapped).to_bytes(2, "big") + wrapped + AESGCM(session).encrypt(_ZERO_NONCE, plain, None)).decode()


def _decrypt(sealed: str, key: Any, label: bytes, field: str) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        raw = base64.b64decode(sealed, validate=True)
        end = 2 + int.from_bytes(raw[:2], "big")
        session = key.decrypt(raw[2:end], _padding(label))
        plain = AESGCM(session).decrypt(_ZERO_NONCE, raw[end:], None)
    except (ValueError, InvalidTag, binascii.Error):
        plain = None
    if plain is None:
        raise KeyRefused(f"field {field} does not open: it was sealed for another certificate, name, namespace or scope, or is damaged")
    return decode(plain, f"field {field}")


def _padding(label: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
    from cryptography.hazmat.primitives.hashes import SHA256

    return OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=label)


def _label(name: str, namespace: str, scope: Scope) -> bytes:
    return {"strict": f"{namespace}/{name}", "namespace-wide": namespace, "cluster-wide": ""}[scope].encode()


def _check(name: str, namespace: str, scope: str) -> None:
    if not NAME.fullmatch(name):
        raise KeyRefused(f"{name!r} is not a name of Kubernetes; use a-z, 0-9, '-' and '.'")
    if not NAME.fullmatch(namespace) or "." in namespace or len(namespace) > 63:
        raise KeyRefused(f"{namespace!r} is not a namespace of Kubernetes; use up to 63 of a-z, 0-9 and '-'")
    if scope not in get_args(Scope):
        raise KeyRefused(f"scope {scope!r} is not one of {', '.join(get_args(Scope))}")


def _public_key(certificate_pem: bytes) -> Any:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(certificate_pem).public_key()


def _empty(name: str, namespace: str, scope: Scope) -> Any:
    def metadata() -> dict[str, Any]:
        wide = {} if scope == "strict" else {_ANNOTATION + scope: "true"}
        return {"name": name, "namespace": namespace, "annotations": wide}

    return {
        "apiVersion": "bitnami.com/v1alpha1",
        "kind": "SealedSecret",
        "metadata": metadata(),
        "spec": {"encryptedData": {}, "template": {"metadata": metadata(), "type": "Opaque"}},
    }


def _put(metadata: Any, stamp: str, text: str) -> None:
    if text:
        metadata["annotations"][_OURS + stamp] = text
    else:
        metadata["annotations"].pop(_OURS + stamp, None)


def _load(text: str, where: str) -> Any:
    """The document, complete as far as we look at it, with its comments. Raises `BadFile`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(text) > LIMIT_BYTES:
        raise BadFile([f"{where}: larger than {LIMIT_BYTES} bytes"])
    # The parser's time is the square of the depth of brackets, of which a sealed file has a handful.
    if text.count("{") + text.count("[") > _MAX_BRACKETS:
        raise BadFile([f"{where}: is not a SealedSecret: it has more than {_MAX_BRACKETS} brackets"])
    try:
        document = YAML(typ="rt").load(text)
        whole = document["kind"] == "SealedSecret" and document["apiVersion"] == "bitnami.com/v1alpha1"
        metadata, spec = document["metadata"], document["spec"]
        sealed = _fill(spec, "encryptedData")
        strings = [metadata["name"], metadata["namespace"], *sealed, *sealed.values()]
        _fill(metadata, "annotations")
        _fill(_fill(_fill(spec, "template"), "metadata"), "annotations")
    except (YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        whole, strings = False, []
    if not whole or not all(isinstance(s, str) for s in strings):
        raise BadFile(
            [f"{where}: is not a SealedSecret (bitnami.com/v1alpha1) with metadata.name, metadata.namespace and spec.encryptedData"]
        )
    return document


def _fill(table: Any, name: str) -> Any:
    """The table `name` in `table`, made if it is not there. Raises `TypeError` for something else."""
    if table.get(name) is None:
        table[name] = {}
    if not isinstance(table[name], dict):
        raise TypeError(name)
    return table[name]


def _describe(document: Any, where: str) -> Sealed:
    metadata, names = document["metadata"], list(document["spec"]["encryptedData"])
    annotations = metadata["annotations"]
    wide: tuple[Scope, ...] = ("cluster-wide", "namespace-wide")  # in the controller's order
    scope: Scope = next((s for s in wide if annotations.get(_ANNOTATION + s) == "true"), "strict")
    return Sealed(
        metadata["name"],
        metadata["namespace"],
        scope,
        tuple(n for n in names if not n.endswith(PREVIOUS) and n not in {SET_AT, PREVIOUS_UNTIL}),
        tuple(n.removesuffix(PREVIOUS) for n in names if n.endswith(PREVIOUS)),
        _moment(annotations, SET_AT, where),
        _moment(annotations, PREVIOUS_UNTIL, where),
    )


def _moment(annotations: Mapping[str, Any], stamp: str, where: str) -> int:
    text = annotations.get(_OURS + stamp) or ""
    try:
        return parse_moment(str(text), 0) if text else 0
    except CallerError as error:
        raise BadFile([f"{where}: metadata.annotations.{_OURS}{stamp}: {error}"]) from None


def _dump(document: Any) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.width = LIMIT_BYTES  # a sealed value is one line, as kubeseal writes it
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()
