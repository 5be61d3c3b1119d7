"""Where a photo may be fetched from: what an address may look like, and which machines may be asked.

Whoever names an address has this service make a request for them (server-side request forgery, CWE-918). So little is
taken: an address is read once, by one small grammar, and what was read is what is asked; a name counts only as the
numeric addresses that it has, and those must be public.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urljoin

from app.errors import ImageUrlRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_CHARS = 2048
PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!-~]*)?",
    re.IGNORECASE | re.ASCII,
)
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)

# Not public, by the registries of special-purpose addresses (RFC 6890 and its updates) and without trusting one version of
# `ipaddress` to know them all. Of IPv6 only global unicast is public, less the ranges in it that carry an IPv4 address
# (Teredo in 2001::/23, 6to4 in 2002::/16) or belong to nobody.
_IPV4_SPECIAL = tuple(
    ipaddress.IPv4Network(one)
    for one in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_IPV6_SPECIAL = tuple(
    ipaddress.IPv6Network(one) for one in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
# nobody serves photos there, and clouds hand out their machines' credentials at 169.254.169.254
NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(one)
    for one in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
)


def is_public(address: Address) -> bool:
    """True if an address is somebody's on the public Internet, and stands for no other address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _IPV4_SPECIAL)
    return address in _IPV6_GLOBAL and address.is_global and not any(address in network for network in _IPV6_SPECIAL)


@dataclass(frozen=True, slots=True)
class FetchRules:
    """Who may be asked for photos.

    Attributes:
        enabled: False: nobody.
        hosts: names that may be asked, in lower case, `*.shop.example` for all below `shop.example`; empty: all.
        networks: that may be asked although they are not public, by hosts that `hosts` names in full.
        ports: that may be asked.
    """

    enabled: bool = False
    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = (80, 443)

    def names(self, host: str) -> bool:
        """True if a host may be asked, as far as its name is concerned."""
        return not self.hosts or host in self.hosts or any(one[:1] == "*" and host.endswith(one[1:]) for one in self.hosts)

    def reaches(self, host: str, address: Address) -> bool:
        """True if a host may be asked at a numeric address that its name has."""
        if is_public(address):
            return True
        own = host in self.hosts and any(address in network for network in self.networks)
        return own and not any(address in network for network in NEVER)


@dataclass(frozen=True, slots=True)
class PhotoAddress:
    """An address as it was read: `scheme`, `host` (lower case, IPv6 in brackets), `port`, and `target` (path and query)."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def read(cls, text: str, rules: FetchRules) -> Self:
        """Reads an address by the rules; nothing is looked up.

        Raises:
            ImageUrlRefused: it is not of the form that is taken, or the rules do not allow its host or port. The message
                says what the caller can see in the address, and nothing of any network.
        """
        if not rules.enabled:
            raise ImageUrlRefused(
                "this service fetches no photos: upload the photo, or have SAMESKU_IMAGE_URLS=true set where it runs."
            )
        found = _URL.fullmatch(text.partition("#")[0]) if len(text) <= MAX_CHARS else None
        if found is None:
            raise ImageUrlRefused(
                "image_url must be an address such as https://shop.example/photo.jpg: http or https, without a user name, "
                f"of at most {MAX_CHARS:,} ASCII characters; others are written as %C3%A4, in names as xn--."
            )
        scheme, host = found["scheme"].lower(), _host(found["host"].lower())
        port = int(found["port"] or PORTS[scheme])
        if port not in rules.ports:
            allowed = " or ".join(map(str, rules.ports))
            raise ImageUrlRefused(f"image_url names port {port}: photos are fetched from port {allowed} only.")
        if not rules.names(host):
            raise ImageUrlRefused("image_url names a host that photos are not fetched from: see SAMESKU_IMAGE_URL_HOSTS.")
        target = found["target"] or "/"
        return cls(scheme, host, port, target if target.startswith("/") else f"/{target}")

    def redirected(self, location: str, rules: FetchRules) -> PhotoAddress:
        """Returns where a redirect leads, by the same rules. Raises ImageUrlRefused, also on the way from https to http."""
        try:
            joined = urljoin(f"{self.scheme}://{self.authority}{self.target}", location)
        except ValueError as error:
            raise ImageUrlRefused("a redirect leads to no address.") from error
        to = PhotoAddress.read(joined, rules)
        if self.scheme == "https" and to.scheme == "http":
            raise ImageUrlRefused("a redirect from https to http is not followed.")
        return to

    @property
    def authority(self) -> str:
        """What the header `Host` says."""
        return self.host if self.port == PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """True if the host is a numeric address, which need not be looked up."""
        return self.host.startswith("[") or _NUMERIC_END.fullmatch(self.host) is not None

    @property
    def name(self) -> str:
        """What is looked up, and what the certificate must be for."""
        return self.host.strip("[]")


def _host(host: str) -> str:
    """Checks a host: a name, or a numeric address as it is usually written, so that no two programs read it differently."""
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        host = host.removesuffix(".")
        if _NUMERIC_END.fullmatch(host):  # 127.1, 0177.0.0.1, 2130706433 and 0x7f000001 are all 127.0.0.1 to somebody
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ImageUrlRefused("image_url names a numeric address in an unusual way: write it as 192.0.2.1.") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ImageUrlRefused("image_url names a host that cannot exist: write it as shop.example.")
    return host
