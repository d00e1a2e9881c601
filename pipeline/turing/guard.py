"""What every request to the local server passes first: host, origin, size; and the headers of every answer.

A page of some other site, open in the same browser, can reach a server on this machine. It can send requests (refused
by their origin) and can let its own name point here, so that the browser takes us for its site (refused by the host).
"""

import ipaddress
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "script-src 'self'; style-src 'self'; img-src 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Hosts:
    """By which names browsers may address the server.

    An address in digits is never somebody else's name, so beyond this machine each is allowed, but no unknown name.

    Attributes
    ----------
    bound : the address that the server listens at
    names : further names, such as this machine's in the local network
    """

    bound: str
    names: frozenset[str] = field(default_factory=lambda: frozenset(own_names()))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        address = _address(self.bound)
        return self.bound == "localhost" or (address is not None and address.is_loopback)

    def allow(self, header: str) -> bool:
        """Whether the ``Host`` header of a request is one of ours."""
        try:
            name = (urlsplit(f"//{header}").hostname or "").lower()
        except ValueError:  # half a bracket
            return False
        if name == "localhost":
            return True
        if (address := _address(name)) is not None:
            return address.is_loopback or not self.is_local
        return not self.is_local and (name in self.names or name == self.bound.lower())


def own_names() -> list[str]:
    """What this machine is called, and as what it is announced in a local network."""
    name = socket.gethostname().lower()
    return [name, f"{name.split('.')[0]}.local"]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class Guard:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    largest : bytes that the body of a request may have; it is read whole, and only then handed on
    """

    def __init__(self, app: "ASGIApp", *, hosts: Hosts, largest: int) -> None:
        self.app = app
        self.hosts = hosts
        self.largest = largest

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Refuse the request, or hand it on with its body."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refused(scope)
        body = None if refused else await _read(receive, self.largest)
        if body is None:
            status, sentence = refused or (413, f"The request is larger than {self.largest} bytes.")
            await _refuse(send, scope["method"], status, sentence)
            return
        await self.app(scope, _replay(body, receive), _with_headers(send))

    def _refused(self, scope: "Scope") -> tuple[int, str] | None:
        """Status and sentence, if the headers are enough to refuse it."""
        headers = _headers(scope)
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self.hosts.allow(hosts[0]):
            return 400, "This server does not answer to that host name; open it by the address that it printed."
        if scope["method"] not in SAFE and not _same_origin(headers, hosts[0]):
            return 403, "Only this server's own pages may send answers to it."
        length = headers.get("content-length", ["0"])[0]
        if not length.isdecimal() or len(length) > 15 or int(length) > self.largest:
            return 413, f"The request is larger than {self.largest} bytes."
        return None


def _headers(scope: "Scope") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _same_origin(headers: dict[str, list[str]], host: str) -> bool:
    """Whether the browser says that our own page sent this; every browser says it in one of the two headers."""
    sites, origins = headers.get("sec-fetch-site", []), headers.get("origin", [])
    if not sites and not origins:
        return False
    own = {f"http://{host}".lower(), f"https://{host}".lower()}  # https where a proxy stands before us
    return all(site == "same-origin" for site in sites) and all(origin.lower() in own for origin in origins)


async def _read(receive: "Receive", largest: int) -> bytes | None:
    """The body, or None as soon as it is too large; one without a length is cut off, too."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > largest:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: "Receive") -> "Receive":
    pending = [body]

    async def again() -> "Message":
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


def _with_headers(send: "Send") -> "Send":
    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", [])}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending


async def _refuse(send: "Send", method: str, status: int, sentence: str) -> None:
    kind = "text/plain; charset=utf-8" if method in SAFE else "application/json"
    body = (sentence if method in SAFE else json.dumps({"error": sentence})).encode()
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
