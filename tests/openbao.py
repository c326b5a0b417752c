"""A real OpenBao for tests, and the little of Kubernetes that it asks; in a virtual environment of its own because it is 180 MB."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.tools import Served, environment, started

ROOT = "root-token"


class Server(Served):
    """One ``bao server -dev``, in memory, with a key-value engine of version 2 at ``secret/``."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        argv: list[str | Path] = [
            environment("openbao") / "bao",
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-listen-address=127.0.0.1:{self.port}",
            f"-dev-root-token-id={ROOT}",
        ]
        self.launch(argv, {"HOME": str(self.directory)}, self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return "secret/" in self.call("GET", "sys/mounts").get("data", {})
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None, *, token: str = ROOT) -> Any:
        """The answer of its API, {} when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None, {"X-Vault-Token": token})
            return json.loads(connection.getresponse().read() or b"{}")
        finally:
            connection.close()

    def do(self, method: str, path: str, body: Any = None) -> Any:
        """As `call`; an answer with errors is one here too."""
        answer = self.call(method, path, body)
        if answer.get("errors"):
            raise RuntimeError(f"{method} {path}: {answer['errors']}")
        return answer

    def make_token(self, policy: str) -> str:
        """One with exactly the rules of `policy`, in HCL."""
        name = f"p{sha256(policy.encode()).hexdigest()[:8]}"
        self.do("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        token: str = self.do("POST", "auth/token/create", {"policies": [name], "no_default_policy": False})["auth"]["client_token"]
        return token


def running(directory: Path) -> AbstractContextManager[Server]:
    return started(Server(directory))


def make_service_account_token(namespace: str, account: str) -> str:
    """A JWT of the shape that Kubernetes gives to a pod. Its signature is of nobody: `reviewing_tokens` knows the ones it gave."""
    claims = {
        "iss": "kubernetes/serviceaccount",
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": "0b1e2d3c",
    }
    parts = [json.dumps({"alg": "RS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@contextmanager
def reviewing_tokens(known: dict[str, str]) -> Iterator[str]:
    """Fake of one endpoint of Kubernetes, TokenReview; its URL. A token in `known` is of its user, ``namespace:account``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            user = known.get(asked["spec"]["token"]) if self.path == "/apis/authentication.k8s.io/v1/tokenreviews" else None
            status: dict[str, Any] = {"authenticated": False, "error": "unknown token"}
            if user:
                status = {
                    "authenticated": True,
                    "user": {"username": f"system:serviceaccount:{user}", "uid": "0b1e2d3c", "groups": ["system:serviceaccounts"]},
                }
            body = json.dumps({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
