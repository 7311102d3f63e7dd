"""Looking at machines, one or all: libvirt's answers put together into what the contract asks for."""

from __future__ import annotations

from vmctl.backends.base import Ref
from vmctl.backends.libvirt import folder, limits, network, observe
from vmctl.backends.libvirt.client import Client, Connection, Domain
from vmctl.backends.libvirt.errors import translated
from vmctl.backends.libvirt.states import DomainState
from vmctl.errors import NotFound, VmctlError
from vmctl.model.observed import Foreign, Observed, Usage
from vmctl.model.state import Kind

_OFF = (DomainState.SHUTOFF, DomainState.CRASHED)


def inspect(client: Client, ref: Ref) -> Observed:
    """One machine, with its limits as the cgroup has them and its addresses from whoever knows them."""
    domain = client.domain(ref.id)
    with translated("cannot inspect the machine"):
        described = observe.describe(domain.XMLDesc())
        native, reason = domain.state()
        running = native not in _OFF
        limit = observe.enforced_cpu(domain, described) if running and client.system else None
    if described.owner is None:
        raise NotFound("the machine carries no mark of vmctl", hint="was its definition edited?")
    found: tuple[str, ...] = (described.address,) if described.address else ()
    if running and not found:
        order = folder.find_order(ref.directory)
        found = network.addresses(domain, agent=order is not None and order.process is None)
    return observe.observed(
        described.owner, described, (native, reason), system=client.system, addresses=found, cpu_millis=limit
    )


def instances(client: Client) -> list[Observed]:
    """All of ours: a bulk call for states, one for the leases of each network, and a machine's XML (0.15 ms)."""
    import libvirt

    with translated("cannot list machines"):
        connection = client.connection()
        entries = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
        described = [(observe.describe_safely(entry[0]), observe.native_state(entry)) for entry in entries]
    ours = [(one, one.owner, state) for one, state in described if one is not None and one.owner is not None]
    unknown = any(state[0] not in _OFF and not one.address for one, _, state in ours)
    leases = network.leases(connection) if unknown else {}
    return [
        observe.observed(
            owner,
            one,
            state,
            system=client.system,
            addresses=(one.address,) if one.address else tuple(leases[mac] for mac in one.macs if mac in leases),
        )
        for one, owner, state in ours
    ]


def foreign(client: Client) -> list[Foreign]:
    """All running machines that are not ours: all the memory they can take, QEMU's included, and what they hold.

    Never waits for a machine that is busy (being started or ended, say): what it holds counts as nothing then.
    """
    import libvirt

    with translated("cannot list machines"):
        connection = client.connection()
        running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        read = [(domain, observe.describe_safely(domain)) for domain in running]
        others = {domain.name(): (domain, one) for domain, one in read if one is not None and one.owner is None}
        resident = _resident(connection, [domain for domain, _ in others.values()])
    return [
        Foreign(
            backend="libvirt",
            native_name=name,
            kind=Kind.VM,
            running=True,
            cpu_millis=one.cpu_millis,
            memory=one.memory + limits.qemu_memory(one.memory, one.vcpus, one.accel),
            resident=resident.get(name, 0),
        )
        for name, (_, one) in others.items()
    ]


def _resident(connection: Connection, domains: list[Domain]) -> dict[str, int]:
    """Bytes that each holds of the host's memory, by name."""
    import libvirt

    if not domains:
        return {}
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    entries = connection.domainListGetStats(domains, libvirt.VIR_DOMAIN_STATS_BALLOON, flags)
    return {domain.name(): values.get("balloon.rss", 0) * 1024 for domain, values in entries}


def stats(client: Client, refs: list[Ref]) -> list[Usage]:
    """One sample of each that runs, in one call after the look-ups."""
    import libvirt

    groups = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
    groups |= libvirt.VIR_DOMAIN_STATS_INTERFACE | libvirt.VIR_DOMAIN_STATS_BLOCK
    found = [(ref.id, domain) for ref in refs if (domain := client.find(ref.id)) is not None]
    running = [(instance_id, domain) for instance_id, domain in found if _is_active(domain)]
    if not running:
        return []
    with translated("cannot measure the machines"):
        entries = client.connection().domainListGetStats([domain for _, domain in running], groups)
        by_name = {domain.name(): values for domain, values in entries}
        return [
            observe.usage_of(instance_id, by_name[name])
            for instance_id, domain in running
            if (name := domain.name()) in by_name
        ]


def end_of(client: Client, instance_id: str) -> str:
    """``exit=<code>`` for a machine that has just ended, if it can be told."""
    try:
        domain = client.domain(instance_id)
        with translated("cannot ask for the machine's state"):
            owner = observe.describe(domain.XMLDesc()).owner
            native, reason = domain.state()
    except VmctlError:
        return ""
    _, end = observe.ending(owner.directory, native, reason) if owner else (None, None)
    return "" if end is None else f"exit={end.code}"


def _is_active(domain: Domain) -> bool:
    try:
        with translated("cannot ask for the machine's state"):
            return bool(domain.isActive())
    except NotFound:
        return False
