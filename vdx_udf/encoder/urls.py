"""Fetches a picture from a URL, if the rules admit its scheme, its host and the address that the host really has."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from vdx_udf import settings
from vdx_udf.errors import VdxError

Address = IPv4Address | IPv6Address
# IPv6 prefixes behind which an IPv4 address of any kind can hide: NAT64 and 6to4.
_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("2002::/16"))
_ATTEMPTS = 3  # at a connection that fails
_REDIRECTS = (301, 302, 303, 307, 308)


class UrlError(VdxError):
    """This URL is not fetched, or could not be; the message is the reason."""


class UrlRules:
    """What `vdx serve --urls RULE` admits. Without a rule nothing is.

    A rule is `[http://|https://]HOST`, HOST a name with `*` for any part of it (`*.example.com`, `*`), or a network
    (`10.1.0.0/16`, `127.0.0.1`). Names lead to public addresses only, whatever the DNS says, unless a network rule
    names the address; a network rule also admits URLs that hold such an address instead of a name.
    Raises UrlError for what is no rule.
    """

    def __init__(self, rules: Iterable[str] = ()):
        self._hosts, self._networks = [], []
        for rule in rules:
            scheme, _, host = rule.rpartition("://")
            with suppress(ValueError):
                self._networks.append(ip_network(host))
                continue
            if scheme not in ("", "http", "https") or not host or not host.isascii() or set(host) & set("/@:?# "):
                raise UrlError(
                    f"{rule!r} is no rule for URLs: write [http://|https://]HOST, such as https://*.example.com, or a network"
                )
            self._hosts.append((scheme or "*", host.lower()))

    def __bool__(self) -> bool:
        return bool(self._hosts or self._networks)

    def check(self, url: SplitResult) -> None:
        """Raises UrlError unless scheme and host are admitted."""
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UrlError("only http:// and https:// URLs are fetched")
        if url.username is not None or url.password is not None:
            raise UrlError("a URL with a user name or password is not fetched; pass the bytes with url()")
        if not any(fnmatchcase(url.scheme, scheme) and fnmatchcase(url.hostname, host) for scheme, host in self._hosts):
            with suppress(ValueError):
                if self._is_named(ip_address(url.hostname)):
                    return
            raise UrlError(f"no rule admits {url.scheme}://{url.hostname[:60]}; the rules are set by vdx install --urls RULE")

    def admits(self, address: Address) -> bool:
        """Whether a connection to this address may be made."""
        if self._is_named(address):
            return True
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped:
                return self.admits(address.ipv4_mapped)
            if any(address in network for network in _TRANSLATED):
                return False
        return address.is_global and not address.is_multicast

    def _is_named(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def fetch(url: str, rules: UrlRules) -> bytes:
    """The bytes behind a URL: at most MAX_IMAGE_BYTES, within URL_SECONDS, over at most URL_REDIRECTS redirects.

    Sends neither credentials nor cookies nor a referrer, and asks no proxy. A connection that fails is tried three times.
    Raises UrlError.
    """
    deadline, place = time.monotonic() + settings.URL_SECONDS, ""
    for _ in range(settings.URL_REDIRECTS + 1):
        try:
            parts = urlsplit(url := urljoin(url, place))
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError as error:
            raise UrlError(f"not a URL: {error}") from None
        rules.check(parts)
        answer = _answer(parts, port, rules, deadline)
        if isinstance(answer, bytes):
            return answer
        place = answer
    raise UrlError(f"more than {settings.URL_REDIRECTS} redirects")


def _answer(url: SplitResult, port: int, rules: UrlRules, deadline: float) -> bytes | str:
    """The content, or where it redirects to."""
    for attempt in range(_ATTEMPTS):
        try:
            with _connected(url, port, rules, deadline, attempt) as connection:
                path = quote(urlunsplit(("", "", url.path or "/", url.query, "")), safe="%/?:=&~+!$,;'@()*[]")
                connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "vdx-udf"})
                answer = _read(connection.getresponse())
                if time.monotonic() > deadline:  # what was cut off can look like an end
                    raise TimeoutError
                return answer
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise UrlError(f"no complete answer within {settings.URL_SECONDS} s") from None
            if attempt == _ATTEMPTS - 1:
                raise UrlError(f"cannot be fetched: {type(error).__name__}: {str(error)[:100]}") from None
    raise AssertionError


@contextmanager
def _connected(
    url: SplitResult, port: int, rules: UrlRules, deadline: float, attempt: int
) -> Iterator[http.client.HTTPConnection]:
    """A connection to an admitted address of the host, to the very address that was looked at; cut off at the deadline.

    Each attempt takes the host's next address.
    """
    host, left = url.hostname, max(0.1, deadline - time.monotonic())
    found = [ip_address(entry[4][0].partition("%")[0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    admitted = [str(address) for address in found if rules.admits(address)]
    if not admitted:
        raise UrlError("its host has no public address, and no rule names its network")
    connection = (http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection)(host, port)
    with socket.create_connection((admitted[attempt % len(admitted)], port), left) as raw, raw.dup() as handle:
        # Ends the connection in whatever state it is, and however slowly the other side sends.
        cut_off = threading.Timer(left, handle.shutdown, [socket.SHUT_RDWR])
        cut_off.daemon = True
        cut_off.start()
        try:
            connection.sock = raw
            if url.scheme == "https":
                connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
            yield connection
        finally:
            cut_off.cancel()
            connection.close()


def _read(response: http.client.HTTPResponse) -> bytes | str:
    """The content, or where a redirect leads."""
    if response.status in _REDIRECTS and (place := response.headers["Location"]):
        return place
    if response.status != 200:
        raise UrlError(f"answered with status {response.status}")
    if (response.headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise UrlError("the answer is compressed, which was not asked for")
    content = bytearray()
    while piece := response.read(1 << 16):
        content += piece
        if len(content) > settings.MAX_IMAGE_BYTES:
            raise UrlError(f"larger than {settings.MAX_IMAGE_BYTES} bytes")
    if response.length:  # what http.client leaves out of its own accord: an answer that ends early
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(content)
