"""A gateway's admin API, as the commands use it."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from journal.errors import CallerError, SsmdError
from ssmd.gateway.answers import Client, Clients, Done
from ssmd.gateway.problem import ProblemDocument
from ssmd.keys.secret import Secret

_T = TypeVar("_T")
TIMEOUT_S = 10.0
_MOST = 64 << 20  # bytes of an answer
_ADMIN = "`ssmd gateway key create NAME --scope admin` makes a key that may do this: put it into SSMD_GATEWAY_KEY"


class RemoteGateway:
    """At `url`, with a key where it needs one. Each call is one request; raises `CallerError`, `SsmdError`."""

    def __init__(self, url: str, key: Secret) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
            raise CallerError("--gateway: write http://HOST:PORT or https://HOST:PORT; the key belongs into SSMD_GATEWAY_KEY")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._key = key

    def clients(self) -> Clients:
        return self._ask("GET", "/v1/clients", Clients)

    def client(self, name: str) -> Client:
        return self._ask("GET", f"/v1/clients/{quote(name, safe='')}", Client)

    def disconnect(self, name: str, *, reason: str, who: str) -> Done:
        return self._ask("DELETE", f"/v1/clients/{quote(name, safe='')}", Done, {"reason": reason, "who": who})

    def set_mode(self, name: str, mode: str, *, interval: str, reason: str, who: str) -> Done:
        body = {"mode": mode, "interval": interval, "reason": reason, "who": who}
        return self._ask("POST", f"/v1/clients/{quote(name, safe='')}/mode", Done, body)

    def _ask(self, method: str, path: str, kind: type[_T], body: dict[str, str] | None = None) -> _T:
        headers = {"Authorization": f"Bearer {self._key.reveal()}"} if self._key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._secure:
            connection: HTTPConnection = HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )  # fmt: skip
        else:
            connection = HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
            answer = connection.getresponse()
            data = answer.read(_MOST)
        except ssl.SSLCertVerificationError as error:
            raise CallerError(
                f"{self.url}: its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE names the file of who signed it"
            ) from None
        except (OSError, HTTPException) as error:
            said = getattr(error, "strerror", None) or error or type(error).__name__
            other = "" if isinstance(error, ConnectionRefusedError) else f", does it speak {'http' if self._secure else 'https'}"
            raise SsmdError(
                f"{self.url} does not answer: {said}; is `ssmd run gateway` running there{other}? --gateway names another"
            ) from None
        finally:
            connection.close()
        if answer.status == 200:
            try:
                return msgspec.json.decode(data, type=kind)
            except msgspec.MsgspecError as error:
                raise SsmdError(f"{self.url} is no gateway of this version of ssmd: {error}") from None
        raise self._refusal(answer.status, data)

    def _refusal(self, status: int, data: bytes) -> Exception:
        try:
            problem = msgspec.json.decode(data, type=ProblemDocument)
        except msgspec.MsgspecError:
            return SsmdError(f"{self.url} answered HTTP {status}, and is no gateway of ssmd")
        if status == 401:
            said = problem.detail if self._key else "a key is needed"
            return CallerError(f"{self.url}: {said}; {_ADMIN}")
        if status == 403:
            return CallerError(f"{self.url}: {problem.detail}; {_ADMIN}")
        if status == 404:
            near = f"; nearest: {', '.join(problem.nearest)}" if problem.nearest else ""
            return CallerError(f"{problem.detail}{near}; `ssmd client list` shows those that are connected")
        return (CallerError if status < 500 else SsmdError)(f"{self.url}: {problem.detail}")
