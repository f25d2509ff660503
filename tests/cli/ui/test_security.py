"""Only the browser that opened the printed address is answered; all others get nothing but a sentence."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from diffedit_cli.cli.ui.security import CLOSED, HEADERS, Guard

PORT, TOKEN = 8123, "t0ken-of-this-page"
HOST = f"127.0.0.1:{PORT}"
BASE = f"http://{HOST}"
COOKIE = {"cookie": f"diffedit-{PORT}={TOKEN}"}
OWN = COOKIE | {"origin": BASE}


async def inside(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("inside", headers={"content-security-policy": "none at all"})(scope, receive, send)


def ask(
    method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, base: str = BASE
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(inside, port=PORT, token=TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, headers=headers or {})

    return asyncio.run(asked())


def test_the_printed_address_gives_the_cookie_and_goes_on_without_the_token() -> None:
    answer = ask(path=f"/review?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/review")
    cookie = answer.headers["set-cookie"].lower()
    assert f"diffedit-{PORT}={TOKEN}".lower() in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_browser_with_the_cookie_may_read(method: str) -> None:
    assert ask(method, headers=COOKIE).status_code == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_the_page_itself_may_write(method: str) -> None:
    assert ask(method, headers=OWN).text == "inside"
    assert ask(method, headers=OWN | {"sec-fetch-site": "same-origin"}).text == "inside"
    local = f"http://localhost:{PORT}"
    assert ask(method, headers=COOKIE | {"origin": local}, base=local).text == "inside"


WRONG_TOKENS = ("", "t0ken", TOKEN + "x", TOKEN.upper(), "é" * 30, "x" * 10_000)


@pytest.mark.parametrize("token", WRONG_TOKENS, ids=range(len(WRONG_TOKENS)))
def test_a_wrong_token_opens_nothing(token: str) -> None:
    answers = [
        ask(path=f"/?token={token}"),
        ask(headers={"cookie": f"diffedit-{PORT}={token}".encode("ascii", "replace").decode()}),
        ask(headers={"cookie": f"diffedit-{PORT + 1}={TOKEN}"}),
        ask("POST", path=f"/?token={TOKEN}", headers={"origin": BASE}),
    ]
    assert [(answer.status_code, answer.text) for answer in answers] == [(403, CLOSED)] * 4
    assert not any("set-cookie" in answer.headers for answer in answers)


OTHER_HOSTS = (
    *("evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", f"127.0.0.1:{PORT}.evil.example"),
    *(f"evil@127.0.0.1:{PORT}", f"[::1]:{PORT}", f"0.0.0.0:{PORT}", f"LOCALHOST:{PORT}", f"127.1:{PORT}", ""),
)


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize("path", ["/", f"/?token={TOKEN}"])
def test_another_host_is_refused_even_with_the_token(host: str, path: str) -> None:
    """DNS rebinding: the name of another site that resolves to this machine."""
    answer = ask(path=path, headers=COOKIE | {"host": host})
    assert (answer.status_code, answer.text) == (403, CLOSED)


@pytest.mark.parametrize("hosts", [[], [HOST, "evil.example"], [HOST, HOST]])
def test_one_host_is_named(hosts: list[str]) -> None:
    headers = [(b"host", host.encode()) for host in hosts] + [(b"cookie", COOKIE["cookie"].encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(Guard(inside, port=PORT, token=TOKEN)(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 403


ORIGINS = ("http://evil.example", "null", f"https://{HOST}", "http://127.0.0.1", f"http://localhost:{PORT}", "")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_is_refused(method: str, origin: str) -> None:
    assert ask(method, headers=COOKIE | {"origin": origin}).status_code == 403


def test_a_form_without_an_origin_is_refused() -> None:
    assert ask("POST", headers=COOKIE).status_code == 403
    assert ask("DELETE", headers=COOKIE | {"sec-fetch-site": "same-origin"}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_site_is_refused(method: str, site: str) -> None:
    headers = (OWN if method == "POST" else COOKIE) | {"sec-fetch-site": site}
    assert ask(method, headers=headers).status_code == 403


def test_an_address_that_a_person_types_only_reads() -> None:
    assert ask(headers=COOKIE | {"sec-fetch-site": "none"}).status_code == 200
    assert ask("POST", headers=OWN | {"sec-fetch-site": "none"}).status_code == 403


@pytest.mark.parametrize("headers", [{}, COOKIE, OWN | {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("path", ["/", f"/?token={TOKEN}"])
def test_every_answer_has_the_headers(headers: dict[str, str], path: str) -> None:
    """They also replace those of the application."""
    answer = ask(path=path, headers=headers)
    assert {name: answer.headers.get_list(name) for name in HEADERS} == {name: [said] for name, said in HEADERS.items()}


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(Guard(inside, port=PORT, token=TOKEN)({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
