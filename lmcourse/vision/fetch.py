"""fetch: the bytes behind an http(s) URL, within limits of size, time and redirects.

Who asks for a stranger's sake must not become a stranger's hand inside: a server that fetches any URL can be sent to
the machine's own services, to its neighbours, or to a cloud's metadata. So a name is resolved first, every address is
looked at, and the connection goes to the very address that was looked at: a name server that changes its answer between
the look and the call changes nothing. Each redirect is a new URL and is treated like the first.

Lesson: 6 (what a server must not fetch)
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from lmcourse.errors import PromptError

__all__ = ["fetch"]

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 64 * 1024


def fetch(url: str, *, over_network: bool, timeout_seconds: float, most_bytes: int) -> bytes:
    """The body of the answer; PromptError says why there is none. over_network: public addresses only."""
    deadline = time.monotonic() + timeout_seconds
    for _ in range(_MOST_REDIRECTS + 1):
        parts = _split(url)
        connection = _connect(parts, deadline, public_only=over_network)
        ringing = threading.Timer(_left(deadline, parts), _hang_up, [connection])  # a slow trickle resets timeouts
        ringing.start()
        try:
            answer = _ask(connection, parts)
            if answer.status not in _REDIRECTS:
                return _read(answer, parts, deadline, most_bytes)
            url = urljoin(url, answer.getheader("Location") or "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            _left(deadline, parts)
            raise _failed(parts, f"{type(error).__name__}: {error}"[:200]) from error
        finally:
            ringing.cancel()
            connection.close()
    raise _failed(parts, f"more than {_MOST_REDIRECTS} redirects")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or any(ord(letter) <= 32 for letter in url):
        raise PromptError("this is not an http(s) URL", expected="https://host/picture.png", got=url[:80])
    return parts


def _connect(parts: SplitResult, deadline: float, *, public_only: bool) -> http.client.HTTPConnection:
    """Connected to an address that was looked at."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _failed(parts, f"the name {host!r} is not known") from error
    for _, _, _, _, address in found:
        if public_only and not _is_public(str(address[0])):
            raise PromptError(
                "this picture may not be fetched",
                expected="a public address",
                got=f"{host}, which is an address inside",
                where=_shown(parts),
                next_step="send the picture itself, as a data: URL",
            )
    connection = http.client.HTTPConnection(host, port, timeout=_left(deadline, parts))
    try:
        sock = socket.create_connection((str(found[0][4][0]), port), timeout=_left(deadline, parts))
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except OSError as error:
        raise _failed(parts, f"{type(error).__name__}: {error}"[:200]) from error
    connection.sock = sock
    return connection


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def _hang_up(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _ask(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    connection.putrequest("GET", _ascii(path), skip_accept_encoding=True)
    connection.putheader("User-Agent", "lmcourse")
    connection.putheader("Accept", "image/*")
    connection.endheaders()
    return connection.getresponse()


def _ascii(path: str) -> str:
    return "".join(letter if letter.isascii() else "".join(f"%{b:02X}" for b in letter.encode()) for letter in path)


def _read(answer: http.client.HTTPResponse, parts: SplitResult, deadline: float, most_bytes: int) -> bytes:
    if answer.status != 200:
        raise _failed(parts, f"{answer.status} {answer.reason}")
    content = bytearray()
    while piece := answer.read1(_PIECE):
        content += piece
        if len(content) > most_bytes:
            raise PromptError(
                "the picture's file is too big", expected=f"at most {most_bytes} bytes", got="more", where=_shown(parts)
            )
        _left(deadline, parts)
    _left(deadline, parts)  # an answer that was hung up on looks complete
    return bytes(content)


def _left(deadline: float, parts: SplitResult) -> float:
    """Seconds that are left, or the error that none are."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise _failed(parts, "no answer in time")
    return seconds


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]


def _failed(parts: SplitResult, got: str) -> PromptError:
    return PromptError(
        "the picture cannot be fetched", expected="a picture", got=got, where=_shown(parts),
        next_step="open the URL in a browser; or give the picture's file",
    )  # fmt: skip
