"""Which addresses photos are fetched from: the form they have, and the machines behind them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.core.photo_address import NEVER, FetchRules, PhotoAddress, is_public
from app.errors import ImageUrlRefused
from app.settings import Settings

OPEN = FetchRules(enabled=True)
PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.1.2.3", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::8.8.8.8",
    "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450:4001::5"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_not_reached(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not OPEN.reaches("shop.example", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_reached(address: str) -> None:
    assert OPEN.reaches("shop.example", ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_public_address_is_private_by_the_standard_library(address: ipaddress.IPv4Address) -> None:
    if is_public(address):
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@given(st.ip_addresses(v=6))
def test_no_public_address_carries_another_one(address: ipaddress.IPv6Address) -> None:
    if is_public(address):
        assert (address.ipv4_mapped, address.sixtofour, address.teredo) == (None, None, None)
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("https://shop.example/a.jpg", "shop.example", 443, "/a.jpg"),
        ("HTTP://Shop.Example", "shop.example", 80, "/"),
        ("http://shop.example:80?size=2", "shop.example", 80, "/?size=2"),
        ("https://shop.example./a%20b.jpg?x=1&y=/../#part", "shop.example", 443, "/a%20b.jpg?x=1&y=/../"),
        ("https://xn--mhren-jua.example/%C3%A4", "xn--mhren-jua.example", 443, "/%C3%A4"),
        ("https://8.8.8.8/a", "8.8.8.8", 443, "/a"),
        ("https://[2606:4700:4700:0::1111]/a", "[2606:4700:4700::1111]", 443, "/a"),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int, target: str) -> None:
    read = PhotoAddress.read(text, OPEN)
    assert (read.host, read.port, read.target) == (host, port, target)


REFUSED = [
    "", " ", "a.jpg", "/a.jpg", "//shop.example/a", "shop.example/a", "ftp://shop.example/a", "file:///etc/passwd",
    "gopher://shop.example/_", "data:image/png;base64,AAAA", "http:/shop.example", "http:///a", "http://", "http://:80/",
    "http://user@shop.example/", "http://user:secret@shop.example/", "http://shop.example@10.0.0.1/", "http://@shop.example/",
    "http://shop.example\\@10.0.0.1/", "http://shop.example\t/a", "http://shop.example/a b", "http://shop.example/\r\nA: b",
    "http://shop.example/\0", "http://shop.example/ä", "http://möhren.example/", "http://shop。example/", "http://①②⑦.0.0.1/",
    " http://shop.example/", "http://shop.example/ ", "http://shop_example/", "http://-shop.example/", "http://shop..example/",
    "http://.example/", f"http://{'x' * 64}.example/", f"http://{'x.' * 130}example/", f"http://shop.example/{'x' * 2048}",
    "http://shop.example:22/", "http://shop.example:0/", "http://shop.example:65616/", "http://shop.example:443443/",
    "http://shop.example:+80/", "http://shop.example:/a:b@c",
    # one and the same machine, in spellings that some programs read
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.1/",
    "http://127.0.0.01/", "http://127.0.0.1.1/", "http://0/", "http://0x/", "http://shop.example.1/", "http://256.0.0.1/",
    "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1/", "http://[1]/", "http://[]/", "http://[127.0.0.1]/",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(ImageUrlRefused):
        PhotoAddress.read(text, OPEN)


@given(
    st.text(), st.sampled_from(["", "http://", "https://shop.example", "https://shop.example/", "http://[", "http://10."])
)
def test_whatever_is_sent_is_read_or_refused(text: str, start: str) -> None:
    try:
        read = PhotoAddress.read(start + text, OPEN)
    except ImageUrlRefused:
        return
    assert read.port in (80, 443)
    assert f"{read.host}{read.target}".isascii()
    assert f"{read.host}{read.target}".isprintable()
    assert PhotoAddress.read(f"{read.scheme}://{read.authority}{read.target}", OPEN) == read


@pytest.mark.parametrize(
    ("location", "to"),
    [
        ("/b.jpg", "https://shop.example/b.jpg"),
        ("c.jpg?x", "https://shop.example/photos/c.jpg?x"),
        ("//cdn.example/d", "https://cdn.example/d"),
        ("https://other.example", "https://other.example/"),
        ("http://shop.example/a.jpg", None),
        ("ftp://shop.example/a", None),
        ("https://user@shop.example/a", None),
        ("https://shop.example:8443/a", None),
        ("//[/", None),
        ("/\xe4", None),
    ],
)
def test_a_redirect_leads_to_what_could_have_been_named(location: str, to: str | None) -> None:
    start = PhotoAddress.read("https://shop.example/photos/a.jpg", OPEN)
    if to is None:
        with pytest.raises(ImageUrlRefused):
            start.redirected(location, OPEN)
    else:
        assert start.redirected(location, OPEN) == PhotoAddress.read(to, OPEN)


def test_only_hosts_that_are_named_are_asked() -> None:
    rules = FetchRules(True, ("photos.example", "*.cdn.example"))
    for host in ("photos.example", "a.cdn.example", "a.b.cdn.example", "PHOTOS.example."):
        PhotoAddress.read(f"https://{host}/", rules)
    for host in ("example", "cdn.example", "evilcdn.example", "photos.example.evil.example", "8.8.8.8", "xphotos.example"):
        with pytest.raises(ImageUrlRefused, match="SAMESKU_IMAGE_URL_HOSTS"):
            PhotoAddress.read(f"https://{host}/", rules)


def test_a_private_network_is_reached_by_hosts_that_are_named_in_full() -> None:
    inside = ipaddress.ip_network("10.1.0.0/16")
    rules = FetchRules(True, ("photos.internal", "*.shop.example"), (inside,))
    reached = ipaddress.ip_address("10.1.2.3")
    assert rules.reaches("photos.internal", reached)
    assert not rules.reaches("any.shop.example", reached)
    assert not rules.reaches("photos.internal", ipaddress.ip_address("10.2.0.1"))
    assert not rules.reaches("photos.internal", ipaddress.ip_address("::ffff:10.1.2.3"))
    assert not FetchRules(True, (), (inside,)).reaches("photos.internal", reached)


@pytest.mark.parametrize("network", NEVER, ids=str)
def test_some_networks_are_never_reached(network: Any) -> None:
    rules = FetchRules(True, ("photos.internal",), (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
    assert rules.reaches("photos.internal", ipaddress.ip_address("10.1.2.3"))
    assert not rules.reaches("photos.internal", network[-1])


def test_settings_that_would_open_a_private_network_to_any_name_are_refused() -> None:
    inside = ("10.0.0.0/8",)
    for hosts in ((), ("*.shop.example",)):
        with pytest.raises(ValidationError, match="SAMESKU_IMAGE_URL_HOSTS"):
            Settings(image_url_hosts=hosts, image_url_networks=inside)
    kept = Settings(image_url_hosts=("photos.internal",), image_url_networks=inside)
    assert kept.image_url_networks == (ipaddress.ip_network("10.0.0.0/8"),)
    for host in ("Shop.example", "https://shop.example", "*", "*.", "a.*", "shop.example/", "shop.example:80"):
        with pytest.raises(ValidationError):
            Settings(image_url_hosts=(host,))
