"""Lets only the browser of the person who started the page talk to it.

Every request needs the token, in a cookie that the printed address sets. Requests for another host (DNS rebinding), of
another site or origin, and pages that would frame this one are refused.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
CLOSED = "This page opens only at the address that diffedit printed when it started; copy it from there."


class Guard:
    """ASGI middleware: passes on the requests of the page's own browser, refuses all others with 403."""

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self._app, self._token, self.cookie = app, token, f"diffedit-{port}"
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message["headers"] if name.decode() not in HEADERS]
                message["headers"] = own + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self._answer(scope, receive, protected)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = ",".join(headers.getlist("host"))
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if host not in self._hosts or not self._is_own(scope["method"], headers, host):
            await PlainTextResponse(CLOSED, 403)(scope, receive, send)
        elif scope["method"] in SAFE and self._is_token(given):
            response = RedirectResponse(scope["path"], 303)
            response.set_cookie(self.cookie, self._token, httponly=True, samesite="strict")
            await response(scope, receive, send)
        elif self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, "")):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(CLOSED, 403)(scope, receive, send)

    def _is_own(self, method: str, headers: Headers, host: str) -> bool:
        """Whether the page itself asks or, if the request only reads, a person opened its address."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin", *(["none"] if method in SAFE else [])):
            return False
        return origin == f"http://{host}" or (method in SAFE and origin is None)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token.encode())


def new_token() -> str:
    """Returns a token of 256 random bits."""
    return secrets.token_urlsafe(32)
