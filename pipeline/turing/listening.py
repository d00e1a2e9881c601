"""Start the server: the socket first, so that a port in use is a sentence, then uvicorn on it until it is stopped."""

import socket
import sys
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.turing.guard import Hosts

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LARGEST_HEADERS = 16_384  # bytes of request line and headers that are kept while more is awaited


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any free one).

    Raises
    ------
    InputError
        If the address does not exist here or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        message = f"--host {host} --port {port}: no such address ({error}); give one of this machine, such as 127.0.0.1"
        raise InputError(message) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # right after a kill the port is held for a while
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        message = f"--host {host} --port {port}: cannot listen there ({error}); choose another with --host or --port"
        raise InputError(message) from error
    return bound


def run(app: "ASGIApp", bound: socket.socket, hosts: Hosts, what: str) -> None:
    """Say where the page is, and serve it until Ctrl-C.

    Raises
    ------
    InputError
        If another server was faster to listen there.
    """
    import uvicorn

    try:
        bound.listen()  # two may bind a port that they share out later; and from here on no browser is turned away
    except OSError as error:
        message = f"{_address(bound, hosts)}: cannot listen there ({error}); choose another with --port"
        raise InputError(message) from error
    if not hosts.is_local:
        print(
            f"warning: {hosts.bound} is reachable from other machines: whoever is in the same network can open the "
            "page and write to the file; there is no password and no encryption",
            file=sys.stderr,
        )
    print(f"{what}: {_address(bound, hosts)} (Ctrl-C stops the server)", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would name annotators
        server_header=False,
        http="h11",  # of uvicorn's two parsers the one that bounds headers
        h11_max_incomplete_event_size=LARGEST_HEADERS,
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _address(bound: socket.socket, hosts: Hosts) -> str:
    name, port = bound.getsockname()[:2]
    name = _address_in_network() if name in ("0.0.0.0", "::") else hosts.bound  # noqa: S104 - where it was asked for
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _address_in_network() -> str:
    """In digits, as phones rarely find a machine by its name; the name where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses the way out and sends nothing; nobody has this address (RFC 5737)
        except OSError:
            return socket.gethostname()
        return probe.getsockname()[0]
