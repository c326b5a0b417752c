"""Source ``vault/PATH``: HashiCorp Vault or OpenBao, key-value engine. PATH is as for ``vault kv get``: ``secret/ssmd/kalshi``.

``VAULT_ADDR``, ``VAULT_NAMESPACE`` and ``VAULT_CACERT`` are Vault's own. Who we are: ``VAULT_TOKEN``; else with ``SSMD_VAULT_ROLE`` the
Kubernetes service account (its token in ``SSMD_VAULT_JWT_FILE``, the method at ``VAULT_K8S_MOUNT``); else ``~/.vault-token``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exchanges.proxies import is_direct
from journal.errors import CallerError, KeyRefused, KeyUnavailable, SsmdError
from journal.link import without_secret
from ssmd.keys.files import read_private
from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import PREVIOUS, PREVIOUS_UNTIL, assemble, list_names
from ssmd.moments import parse_moment

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 10
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
# Vault's own limit for a request is 32 MiB; a key of 32 fields is far below this.
_ANSWER_LIMIT_BYTES = 4 << 20
_TOKEN_LIMIT_BYTES = 65_536
_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+")


class VaultSource:
    """A key was set when its version was made. The version before is the previous value where custom metadata has ``previous-until``."""

    def __init__(self, rest: str, place: Place) -> None:
        path = rest.strip("/")
        if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
            raise KeyRefused(f"key source vault/{rest}: write MOUNT/PATH as for `vault kv get`, for example vault/secret/ssmd/kalshi")
        self._path = path
        self._shown = without_secret(place.environ.get("VAULT_ADDR", ""))
        self._place = place

    def fetch(self, wanted: Wanted) -> Found:
        where = f"key {wanted.name}: vault/{self._path}"
        session, client = self._connect(where)
        with session:
            texts, set_ns = self._read(client, wanted, where)
        for name in list_names(wanted):
            if not isinstance(texts.get(name, ""), str):
                raise KeyRefused(f"{where}: {name} is not a text")
        return assemble(texts, wanted, where, self._place.clock, set_ns=set_ns)

    def _read(self, client: Any, wanted: Wanted, where: str) -> tuple[Mapping[str, Any], int]:
        """Texts by name, and when they were set, 0 from version 1 of the engine."""
        mount, version = self._find_mount(client, where)
        path = self._path.removeprefix(mount).strip("/")
        if version == 1:
            return _table(self._get(client, f"{mount}{path}", where), "data"), 0
        answer = self._get(client, f"{mount}data/{path}", where)
        data, metadata = _table(answer, "data", "data"), _table(answer, "data", "metadata")
        until = _table(metadata, "custom_metadata").get(PREVIOUS_UNTIL, "")
        number = metadata.get("version", 0)
        if until and isinstance(number, int) and number > 1:
            old = _table(self._get(client, f"{mount}data/{path}", where, version=number - 1), "data", "data")
            data = {f + PREVIOUS: old[f] for f in wanted.fields if f in old} | {PREVIOUS_UNTIL: until} | data
        try:
            set_ns = parse_moment(str(metadata["created_time"]), 0) if data else 0
        except (KeyError, CallerError):
            set_ns = 0
        return data, set_ns

    def _find_mount(self, client: Any, where: str) -> tuple[str, int]:
        """With its slash, and the engine's version: asked as Vault's own command line does, since a mount's path may have slashes."""
        answer = self._get(client, f"sys/internal/ui/mounts/{self._path}", where)
        mount = _table(answer, "data")
        if not mount:
            raise KeyRefused(f"{where}: no secrets engine is mounted there; see `vault secrets list`")
        if mount.get("type") not in {"kv", "generic"} or not isinstance(mount.get("path"), str):
            raise KeyRefused(f"{where}: the engine mounted there is not a key-value one; see `vault secrets list`")
        return mount["path"], 2 if _table(mount, "options").get("version") == "2" else 1

    def _get(self, client: Any, path: str, where: str, **params: Any) -> Any:
        """The answer, None for 404."""
        return self._ask(where, lambda: client.adapter.get(f"/v1/{path}", params=params))

    def _ask(self, where: str, call: Any) -> Any:
        """Calls, and says what went wrong. Never with the server's own words, nor with the request, which has the token."""
        import hvac.exceptions as hvac  # type: ignore[import-untyped]
        import requests

        problem: SsmdError
        try:
            answer = call()
        except hvac.InvalidPath:
            return None
        except (hvac.Forbidden, hvac.Unauthorized):
            problem = KeyRefused(
                f"{where}: {self._shown} refused: the token is not valid, its policy does not read this path, or nothing is mounted there"
            )
        except (hvac.VaultDown, hvac.VaultNotInitialized):
            problem = KeyUnavailable(f"{where}: {self._shown} is sealed, starting or a standby without a leader")
        except (hvac.InternalServerError, hvac.BadGateway, hvac.RateLimitExceeded) as error:
            problem = KeyUnavailable(f"{where}: {self._shown} failed ({type(error).__name__}); try again")
        except hvac.VaultError as error:
            problem = KeyRefused(f"{where}: {self._shown} refused the request ({type(error).__name__})")
        except requests.exceptions.SSLError:
            problem = KeyRefused(f"{where}: the certificate of {self._shown} is not trusted: set VAULT_CACERT to its authority's file")
        except _TooLong:
            problem = KeyRefused(f"{where}: {self._shown} answered more than {_ANSWER_LIMIT_BYTES} bytes")
        except (requests.exceptions.RequestException, OSError) as error:
            problem = KeyUnavailable(f"{where}: {self._shown} does not answer ({type(error).__name__}); is VAULT_ADDR right?")
        else:
            if isinstance(answer, dict):
                return answer
            problem = KeyRefused(
                f"{where}: {self._shown} answered with something else than JSON, or with a redirection; is VAULT_ADDR right?"
            )
        raise problem

    def _connect(self, where: str) -> tuple[requests.Session, Any]:
        import hvac
        import requests

        environ = self._place.environ
        url = environ.get("VAULT_ADDR", "")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise KeyRefused(f"{where}: set VAULT_ADDR to the server's URL, without a user, for example https://vault.example.com:8200")
        if parts.scheme == "http" and not is_direct(url) and environ.get("SSMD_VAULT_INSECURE") != "1":
            raise KeyRefused(
                f"{where}: {self._shown} would get the token in clear: use https, or set SSMD_VAULT_INSECURE=1 where that is safe"
            )
        authority = environ.get("VAULT_CACERT", "")
        if authority and not Path(authority).exists():
            raise KeyRefused(f"{where}: VAULT_CACERT: no such file: {authority}")
        session = requests.Session()
        session.trust_env = False  # a proxy or a .netrc of the process must not get, or replace, the token
        session.verify = authority or True
        session.hooks["response"].append(_read_limited)
        # hvac looks in the process's own variables for what it is not given: everything is given.
        client = hvac.Client(
            url=url.rstrip("/"),
            token="",
            verify=session.verify,
            timeout=TIMEOUT_S,
            session=session,
            namespace=environ.get("VAULT_NAMESPACE") or None,
            allow_redirects=False,  # the token goes nowhere else
        )
        try:
            client.token = self._find_token(client, where)
        except SsmdError:
            session.close()
            raise
        return session, client

    def _find_token(self, client: Any, where: str) -> str:
        environ = self._place.environ
        if token := environ.get("VAULT_TOKEN"):
            return token
        if role := environ.get("SSMD_VAULT_ROLE"):
            path = Path(environ.get("SSMD_VAULT_JWT_FILE") or SERVICE_ACCOUNT)
            # Kubernetes gives it to every user of the container.
            jwt = read_private(path, limit_bytes=_TOKEN_LIMIT_BYTES, others=0o022, mode="go-w")
            if jwt is None:
                raise KeyRefused(f"{where}: SSMD_VAULT_ROLE is set, and no service account token is in {path}; set SSMD_VAULT_JWT_FILE")
            login = {"role": role, "jwt": jwt.data.decode(errors="replace").strip()}
            mount = environ.get("VAULT_K8S_MOUNT") or "kubernetes"
            answer = self._ask(f"{where}: login as {role}", lambda: client.adapter.post(f"/v1/auth/{mount}/login", json=login))
            token = _table(answer, "auth").get("client_token")
            if not isinstance(token, str):
                raise KeyRefused(f"{where}: login as {role}: no authentication method is mounted at auth/{mount}; set VAULT_K8S_MOUNT")
            return token
        file = read_private(self._place.home / ".vault-token", limit_bytes=_TOKEN_LIMIT_BYTES, others=0o077)
        if file is None or not file.data.strip():
            raise KeyRefused(f"{where}: no token: run `vault login`, or set VAULT_TOKEN, or SSMD_VAULT_ROLE in a Kubernetes pod")
        return file.data.decode(errors="replace").strip()


class _TooLong(Exception):
    pass


def _read_limited(response: requests.Response, **_: Any) -> None:
    """A hook of requests, called before it reads a body, however long."""
    body = b""
    for chunk in response.iter_content(65_536):
        body += chunk
        if len(body) > _ANSWER_LIMIT_BYTES:
            response.close()
            raise _TooLong
    response._content = body  # noqa: SLF001  (where requests itself puts what it has read)


def _table(answer: Any, *path: str) -> dict[str, Any]:
    """The object at `path`, empty where there is none."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer if isinstance(answer, dict) else {}
