from __future__ import annotations

import socket

import pytest

from bgpy.addresses import address_bytes, all_loopback, format_address, is_loopback, is_wildcard, resolve_addresses
from bgpy.errors import ConnectError


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f01:203", "::1%lo"])
def test_loopback_addresses_are_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        *("128.0.0.1", "126.255.255.255", "0.0.0.0", "::ffff:128.0.0.1"),
        *("::", "::2", "::127.0.0.1", "::fffe:127.0.0.1", "64:ff9b::127.0.0.1", "fe80::1%eth0"),
        *("localhost", "", "127.1", "0x7f.0.0.1"),
    ],
)
def test_everything_else_is_not_loopback(address: str) -> None:
    assert not is_loopback(address)


def test_mapped_addresses_fold_to_ipv4() -> None:
    assert address_bytes("::ffff:10.0.0.7") == address_bytes("10.0.0.7") == b"\x0a\0\0\7"
    assert address_bytes("0:0:0:0:0:0:0:1") == address_bytes("::1%lo") == bytes(15) + b"\1"


def test_bytes_of_names_are_none() -> None:
    assert address_bytes("127.0.0.1") == b"\x7f\0\0\1"
    assert address_bytes("example") is None
    assert address_bytes("exam\0ple") is address_bytes("\ud800") is None  # which the system's call does not take


def test_wildcards() -> None:
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert not is_wildcard("127.0.0.1")
    assert not is_wildcard("localhost")


def test_one_outside_address_among_many_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in a hosts file may mean both the loopback and an outside address."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("127.0.0.1", "10.0.0.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    addresses = resolve_addresses("mixed", 80)
    assert addresses == [(socket.AF_INET, ("127.0.0.1", 80)), (socket.AF_INET, ("10.0.0.1", 80))]
    assert not all_loopback(addresses)
    assert all_loopback(addresses[:1])
    assert not all_loopback([])


def test_numeric_hosts_resolve_to_themselves() -> None:
    assert resolve_addresses("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert all(is_wildcard(address[0]) for _, address in resolve_addresses("", 80))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_impossible_hosts_are_connect_errors(host: str) -> None:
    with pytest.raises(ConnectError) as caught:
        resolve_addresses(host, 80)
    assert caught.value.address == f"{host}:80"


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_ports_that_are_none_are_connect_errors_and_not_another_port(port: int) -> None:
    with pytest.raises(ConnectError, match="from 0 to 65535"):
        resolve_addresses("127.0.0.1", port)


def test_unknown_hosts_are_connect_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ConnectError, match="Name or service not known"):
        resolve_addresses("nowhere", 1)


def test_addresses_are_written_for_people() -> None:
    assert format_address("127.0.0.1", 80) == "127.0.0.1:80"
    assert format_address("::1", 80) == "[::1]:80"
