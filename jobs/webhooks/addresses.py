"""`allowed_addresses`: the addresses of a host to which a delivery may be sent.

Who adds an endpoint must not have workers ask servers that only they can reach. What is checked here is what is
connected to: a name that means something else a moment later has no effect.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from docworker.db.errors import DocworkerError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")


class RefusedAddressError(DocworkerError):
    """A host has an address that nothing may be sent to: private, or this machine's own, or no single host's."""


async def allowed_addresses(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """All addresses of the host, as the resolver orders them. Raises RefusedAddressError where one of them is not
    public and in none of the allowed networks; OSError where the host has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for one in addresses:
        if not is_allowed(ip_address(one), allowed):
            raise RefusedAddressError(
                f"{host} has the address {one}, which is not public: DOCWORKER_WEBHOOK_ALLOWED_NETWORKS may allow it"
            )
    return addresses


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is public, or in one of these networks. An IPv4 address within an IPv6 one is looked at as itself."""
    address = _meant(address)
    if any(address in network for network in allowed if network.version == address.version):
        return True
    is_special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    is_local = address.is_link_local or address.is_private or (address.version == 6 and address.is_site_local)
    return address.is_global and not is_special and not is_local


def _meant(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address
