"""libvirt's networks: the default one is made where it is missing, and a machine's addresses are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree as ET

from vmctl.backends.libvirt.client import Connection, Domain, Network
from vmctl.backends.libvirt.errors import translated
from vmctl.errors import NotFound, VmctlError

DEFAULT = "default"
_SUBNETS = ("192.168.122", "192.168.123", "192.168.124", "10.122.0")
"""The first is libvirt's own choice; the others are for hosts where something else has it."""


def ensure_network(connection: Connection, name: str) -> None:
    """The network is there and active; the default one is created if missing. Raises NotFound for any other."""
    with translated(f"cannot look for the network '{name}'"):
        network = next((one for one in connection.listAllNetworks() if one.name() == name), None)
    if network is None:
        if name != DEFAULT:
            raise NotFound(f"libvirt has no network '{name}'", hint="virsh net-list --all; or use --network default")
        define_network(connection, name)
        return
    with translated(f"cannot start the network '{name}'"):
        if not network.isActive():
            network.create()


def define_network(connection: Connection, name: str, subnets: Iterable[str] = _SUBNETS) -> Network:
    """A NAT network with DHCP, started now and with the host, in the first subnet that nothing else uses."""
    problem: VmctlError | None = None
    for subnet in subnets:
        with translated(f"cannot define the network '{name}'"):
            network = connection.networkDefineXML(network_xml(name, subnet))
        try:
            with translated(f"cannot start the network '{name}'"):
                network.create()
                network.setAutostart(1)
        except VmctlError as error:
            problem = error
            with translated(f"cannot undefine the network '{name}'"):
                network.undefine()
            continue
        return network
    raise problem or VmctlError(f"no subnet to try for the network '{name}'")


def network_xml(name: str, subnet: str) -> str:
    """The definition of a NAT network: ``subnet`` is the first three bytes of an IPv4 network, such as 10.1.2."""
    root = ET.Element("network")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "forward", mode="nat")
    ip = ET.SubElement(root, "ip", address=f"{subnet}.1", netmask="255.255.255.0")
    dhcp = ET.SubElement(ip, "dhcp")
    ET.SubElement(dhcp, "range", start=f"{subnet}.2", end=f"{subnet}.254")
    return ET.tostring(root, encoding="unicode")


def leases(connection: Connection) -> dict[str, str]:
    """MAC -> IPv4 address, of every active network: one call a network, however many machines there are."""
    found: dict[str, str] = {}
    with translated("cannot list leases"):
        for network in connection.listAllNetworks():
            if network.isActive():
                for lease in network.DHCPLeases():
                    found[str(lease.get("mac", "")).lower()] = str(lease.get("ipaddr", ""))
    return found


def addresses(domain: Domain, *, agent: bool) -> tuple[str, ...]:
    """Addresses of a running machine: from leases, then its guest agent (if it may have one), then ARP.

    Each source may fail for reasons of its own (no agent, an ARP table that libvirt cannot parse): the next is asked.
    """
    import libvirt

    sources = [libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE]
    if agent:
        sources.append(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    sources.append(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)
    for source in sources:
        try:
            found = _addresses(domain.interfaceAddresses(source))
        except libvirt.libvirtError:
            continue
        if found:
            return found
    return ()


def _addresses(interfaces: dict[str, Mapping[str, object]]) -> tuple[str, ...]:
    found: list[str] = []
    for name, interface in interfaces.items():
        entries = interface.get("addrs")
        if name != "lo" and isinstance(entries, list):
            found += [str(entry["addr"]) for entry in entries if not str(entry["addr"]).startswith("fe80:")]
    return tuple(dict.fromkeys(found))
