"""The page: static files of this package, read once, served beside REST. They hold no secret, so nobody needs a key for them."""

from __future__ import annotations

import gzip
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, no HTML made of text (Trusted Types without a policy), in nobody's frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # asked for each time, answered with 304 while the tag is the same
    "Vary": "Accept-Encoding",
}


class Asset(NamedTuple):
    media: str
    tag: str
    plain: bytes
    packed: bytes  # gzip


class Pages:
    """An ASGI application for HTTP: ``/`` and ``/page/…`` itself, all else by the one behind it."""

    def __init__(self, behind: ASGIApp) -> None:
        self._behind = behind
        self._assets = dict(_read("/page/", files("ssmd.gateway") / "page"))
        self._assets["/"] = self._assets.pop("/page/index.html")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asset = self._assets.get(scope["path"])
        if asset is None or scope["method"] not in {"GET", "HEAD"}:
            await self._behind(scope, receive, send)
            return
        await _answer(asset, scope)(scope, receive, send)


def _answer(asset: Asset, scope: Scope) -> Response:
    asked = Headers(scope=scope)
    packs = "gzip" in asked.get("accept-encoding", "")
    headers = {**_HEADERS, "ETag": f'"{asset.tag}{"-gzip" if packs else ""}"'}
    if asset.tag in asked.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.packed if packs else asset.plain
    if packs:
        headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(body))
    return Response(b"" if scope["method"] == "HEAD" else body, headers=headers, media_type=asset.media)


def _read(path: str, folder: Traversable) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for item in folder.iterdir():
        suffix = f".{item.name.rpartition('.')[2]}"
        if item.is_dir():
            found += _read(f"{path}{item.name}/", item)
        elif suffix in _MEDIA:
            data = item.read_bytes()
            tag = blake2b(data, digest_size=12).hexdigest()
            found.append((path + item.name, Asset(_MEDIA[suffix], tag, data, gzip.compress(data, mtime=0))))
    return found
