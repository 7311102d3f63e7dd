"""Addresses for image machines: chosen here and told to the init, so that no start waits for DHCP.

(Measured: a lease on libvirt's default network takes 5 to 11 s, for its bridge runs the spanning tree protocol and its
DHCP server pings an address before it gives it away; registering a fixed one there costs 0.4 s of firewall reload.)

The register is the metadata of our domains, which every user of the daemon sees; a lock on the host orders choices.
libvirt's own DHCP server does not hand out an address that answers its ping, and we take none that it has leased.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.etree import ElementTree as ET

from vmctl.backends.libvirt.client import Connection, Domain
from vmctl.backends.libvirt.errors import translated
from vmctl.backends.libvirt.plan import mac_of
from vmctl.backends.wire.machine import GuestNetwork

NAMESPACE = "urn:vmctl:address:1"
ET.register_namespace("vmctladdress", NAMESPACE)
_KEY = "vmctladdress"
_LOCK = "vmctl-libvirt-addresses.lock"

_Address = ipaddress.IPv4Address


def user_network(instance_id: str) -> GuestNetwork:
    """QEMU's user-mode network: the same private one in every machine."""
    return GuestNetwork(mac=mac_of(instance_id), address="10.0.2.15/24", gateway="10.0.2.2", dns=("10.0.2.3",))


def settle(connection: Connection, domain: Domain, instance_id: str, network: str) -> GuestNetwork:
    """An address in ``network`` that nobody has, noted in the domain: the one it had before if that is still free.

    A network of which libvirt does not know the addresses (a bridge), or that is full: DHCP.
    """
    mac = mac_of(instance_id)
    with _host_lock(), translated(f"cannot choose an address in '{network}'"):
        found = connection.networkLookupByName(network)
        root = ET.fromstring(found.XMLDesc(0))  # noqa: S314 - libvirt's own
        plan = _plan(root)
        if plan is None:
            return GuestNetwork(mac=mac)
        interface, candidates = plan
        taken = {interface.ip, *_reserved(root)}
        taken |= {_Address(str(lease["ipaddr"])) for lease in found.DHCPLeases() if _of_another(lease, mac)}
        own: _Address | None = None
        for other in connection.listAllDomains():
            address = _noted(other)
            if other.name() == domain.name():
                own = address
            elif address is not None:
                taken.add(address)
        chosen = _choose(candidates, taken, own, instance_id)
        if chosen is None:
            return GuestNetwork(mac=mac)
        if chosen != own:
            _note(domain, chosen)
    gateway = str(interface.ip)
    return GuestNetwork(
        mac=mac, address=f"{chosen}/{interface.network.prefixlen}", gateway=gateway, dns=(gateway,)
    )


def noted_in(domain: ET.Element) -> str:
    """The address that a domain's XML notes; empty if none."""
    found = domain.find(f"metadata/{{{NAMESPACE}}}address")
    return "" if found is None else found.get("ip", "")


def _plan(network: ET.Element) -> tuple[ipaddress.IPv4Interface, list[_Address]] | None:
    """The host's end of the network, and the addresses that machines may have."""
    for ip in network.iterfind("ip"):
        if ip.get("family", "ipv4") != "ipv4" or ip.get("address") is None:
            continue
        interface = ipaddress.IPv4Interface(f"{ip.get('address')}/{ip.get('prefix') or ip.get('netmask') or 24}")
        span = ip.find("dhcp/range")
        if span is not None:
            first, last = int(_Address(span.get("start", ""))), int(_Address(span.get("end", "")))
        else:
            first = int(interface.network.network_address) + 1
            last = int(interface.network.broadcast_address) - 1
        return interface, [_Address(number) for number in range(first, min(last, first + 0xFFFF) + 1)]
    return None


def _choose(candidates: list[_Address], taken: set[_Address], own: _Address | None, seed: str) -> _Address | None:
    """The own one, else the first free one from a place that follows from ``seed`` (so reuse is late)."""
    if own in candidates and own not in taken:
        return own
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) % max(1, len(candidates))
    return next((one for one in candidates[start:] + candidates[:start] if one not in taken), None)


def _reserved(network: ET.Element) -> Iterator[_Address]:
    for host in network.iterfind("ip/dhcp/host"):
        with suppress(ValueError):
            yield _Address(host.get("ip", ""))


def _of_another(lease: dict[str, object], mac: str) -> bool:
    return str(lease.get("mac", "")).lower() != mac and "." in str(lease.get("ipaddr", ""))


def _noted(domain: Domain) -> _Address | None:
    import libvirt

    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
        return _Address(ET.fromstring(text).get("ip", ""))  # noqa: S314
    except (libvirt.libvirtError, ValueError):  # none noted, or the domain is gone
        return None


def _note(domain: Domain, address: _Address) -> None:
    import libvirt

    note = ET.tostring(ET.Element("address", ip=str(address)), encoding="unicode")
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, note, _KEY, NAMESPACE, flags)


@contextmanager
def _host_lock() -> Iterator[None]:
    """One choice at a time on this host, whoever makes it (a lock needs no right to write)."""
    folder = Path("/run/lock")
    path = (folder if folder.is_dir() else Path(tempfile.gettempdir())) / _LOCK
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path, flags)
    except FileNotFoundError:
        lock = os.open(path, flags | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
