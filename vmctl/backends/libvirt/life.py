"""Starting and ending machines: the steps behind the adapter's verbs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vmctl.backends.base import Attachment, Ref
from vmctl.backends.libvirt import addresses, folder, imagemachine, limits, network, observe
from vmctl.backends.libvirt.client import Client, Domain
from vmctl.backends.libvirt.console import ConsoleAttachment
from vmctl.backends.libvirt.errors import translated
from vmctl.backends.wire import machine
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import CannotInvoke, NotFound, ProgramNotFound, TimedOut, Unsupported, WrongState
from vmctl.model.state import ALIVE, Exit, State

_OFF_GRACE = 10.0
"""Seconds from the end of the init to the end of QEMU, as libvirt sees it (it waits until QEMU is reaped)."""
_POLL = (0.01, 0.2)
_SIGKILL = 9

Answer = TypeVar("Answer")


class Life:
    """One object for each backend: it holds nothing but the connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def state(self, ref: Ref, domain: Domain) -> tuple[State, Exit | None]:
        """The machine's state now, and its end if it has ended. Raises NotFound."""
        with translated("cannot ask for the machine's state"):
            native, reason = domain.state()
        return observe.ending(ref.directory, native, reason)

    def running(self, ref: Ref) -> None:
        """Raises WrongState unless the machine runs."""
        state, _ = self.state(ref, self._client.domain(ref.id))
        if state is not State.RUNNING:
            raise WrongState(f"the machine is {state}", hint="only a running machine takes sessions")

    # -- start --------------------------------------------------------------------------------------------------

    def start(self, ref: Ref, *, attach: bool) -> Attachment | None:
        """See ``Backend.start``."""
        domain = self._client.domain(ref.id)
        order = folder.load_order(ref.directory)
        state, _ = self.state(ref, domain)
        if state is State.PAUSED:
            raise WrongState("the machine is paused", hint="vmctl resume it")
        if state is State.STARTING and order.process is not None:
            # Whoever started it died before the init was told what to run.
            return self._boot(ref, order, self._guest_network(ref, domain, order), attach=attach, fresh=False)
        if state in ALIVE:
            return self.attach(ref) if attach else None
        if order.network != "none" and self._client.system:
            network.ensure_network(self._client.connection(), order.network)
        started_at = time.time_ns()
        try:
            folder.save_marks(ref.directory, folder.Marks(started_at=started_at, booted=order.process is None))
            if order.process is None:
                return self._switch_on(ref, domain, attach=attach)
            guest = self._guest_network(ref, domain, order)
            with translated("cannot start the machine"):
                domain.create()
            return self._boot(ref, order, guest, attach=attach, fresh=True)
        except BaseException as error:
            self.switch_off(domain)
            failed = Exit(code=_code_of(error), at=time.time_ns(), error=str(error) or "interrupted")
            folder.save_marks(ref.directory, folder.Marks(started_at=started_at, forced=failed))
            raise

    def _guest_network(self, ref: Ref, domain: Domain, order: folder.Order) -> machine.GuestNetwork | None:
        if order.network == "none":
            return None
        if not self._client.system:
            return addresses.user_network(ref.id)
        return addresses.settle(self._client.connection(), domain, ref.id, order.network)

    def _boot(
        self, ref: Ref, order: folder.Order, guest: machine.GuestNetwork | None, *, attach: bool, fresh: bool
    ) -> Attachment | None:
        session = imagemachine.boot(ref.directory, order, guest, fresh=fresh)
        marks = folder.load_marks(ref.directory)
        folder.save_marks(ref.directory, folder.Marks(started_at=marks.started_at, booted=True))
        if attach:
            return WireAttachment(session)
        session.close()
        return None

    def _switch_on(self, ref: Ref, domain: Domain, *, attach: bool) -> Attachment | None:
        """A machine without our init; attached means its console, from the first byte."""
        import libvirt

        with translated("cannot start the machine"):
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if attach else 0)
            if not attach:
                return None
            attachment = self.console(ref, attached=True)
            domain.resume()
        return attachment

    # -- sessions -----------------------------------------------------------------------------------------------

    def attach(self, ref: Ref) -> Attachment:
        """The main process's session; a machine without our init has its console instead."""
        self.running(ref)
        order = folder.load_order(ref.directory)
        if order.process is None:
            return self.console(ref, attached=True)
        session = imagemachine.connect(ref.directory)
        try:
            session.attach(stdin=order.process.stdin)
        except BaseException:
            session.close()
            raise
        return WireAttachment(session)

    def console(self, ref: Ref, *, attached: bool) -> Attachment:
        """``attached``: the session stands for the machine, so that a signal asks it to end."""

        def interrupt(_number: int) -> None:
            with translated("cannot stop the machine"):
                self._client.domain(ref.id).shutdownFlags(0)

        def ended() -> Exit | None:
            try:
                return self.wait(ref, _OFF_GRACE)
            except (TimedOut, NotFound):
                return None

        path = folder.console_socket(ref.directory)
        return ConsoleAttachment(path, ended=ended, interrupt=interrupt if attached else None)

    # -- end ----------------------------------------------------------------------------------------------------

    def stop(self, ref: Ref, *, timeout: float, signal: str | None) -> None:
        """See ``Backend.stop``."""
        domain = self._client.domain(ref.id)
        state, _ = self.state(ref, domain)
        if state not in ALIVE:
            return
        order = folder.load_order(ref.directory)
        number = limits.signal_number(signal or order.stop_signal)
        if timeout > 0:
            if state is State.PAUSED:
                with translated("cannot resume the machine"):
                    domain.resume()
            if self._ask_to_end(ref, domain, order, timeout, number):
                return
        self.force(ref, domain)

    def _ask_to_end(self, ref: Ref, domain: Domain, order: folder.Order, timeout: float, number: int) -> bool:
        """Whether it has ended by itself within ``timeout``, and libvirt has seen it."""
        if order.process is not None:
            return imagemachine.poweroff(ref.directory, timeout, number) and self._wait_off(domain, _OFF_GRACE)
        with translated("cannot stop the machine"):
            if domain.isActive():
                domain.shutdownFlags(0)
        return self._wait_off(domain, timeout)

    def kill(self, ref: Ref, number: int) -> None:
        """See ``Backend.kill``."""
        domain = self._client.domain(ref.id)
        state, _ = self.state(ref, domain)
        if state not in ALIVE:
            raise WrongState("the machine is not running", hint="vmctl ps -a shows its state")
        if number == _SIGKILL:
            self.force(ref, domain)
            return
        if folder.load_order(ref.directory).process is None:
            raise Unsupported("no signal but SIGKILL reaches a machine that boots by itself", hint="vmctl stop it")
        if state is not State.RUNNING:
            raise WrongState(f"the machine is {state}", hint="only a running machine takes signals")
        session = imagemachine.connect(ref.directory)
        try:
            session.signal(number)
        finally:
            session.close()

    def force(self, ref: Ref, domain: Domain) -> None:
        """Switch it off and write down that it was us."""
        marks = folder.load_marks(ref.directory)
        if self.switch_off(domain):
            forced = folder.Marks(started_at=marks.started_at, booted=marks.booted, forced=folder.forced_exit())
            folder.save_marks(ref.directory, forced)

    def switch_off(self, domain: Domain) -> bool:
        """End QEMU now; False if it was off (or gone) already."""
        try:
            with translated("cannot end the machine"):
                if not domain.isActive():
                    return False
                domain.destroy()
        except (NotFound, WrongState):
            return False
        return True

    def freeze(self, ref: Ref, before: State, after: State, act: Callable[[Domain], object]) -> None:
        """From one state to another, silent when there already. Raises WrongState."""
        domain = self._client.domain(ref.id)
        state, _ = self.state(ref, domain)
        if state is after:
            return
        if state is not before:
            raise WrongState(f"the machine is {state}", hint="vmctl ps -a shows its state")
        with translated("cannot pause or resume the machine"):
            act(domain)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait(self, ref: Ref, timeout: float | None) -> Exit:
        """See ``Backend.wait``. A state costs libvirt 0.1 ms, so asking is as good as an event, and never missed."""
        domain = self._client.domain(ref.id)

        def end() -> Exit | None:
            state, end = self.state(ref, domain)
            if state in ALIVE or state is State.CREATED:
                return None
            return end or Exit(code=125, error=f"the machine is {state}")

        found = _poll(end, timeout)
        if found is None:
            raise TimedOut(f"the machine is still {self.state(ref, domain)[0]}")
        return found

    def _wait_off(self, domain: Domain, timeout: float) -> bool:
        def off() -> bool | None:
            try:
                with translated("cannot ask for the machine's state"):
                    return None if domain.isActive() else True
            except NotFound:
                return True

        return _poll(off, timeout) is True


def _code_of(error: BaseException) -> int:
    """126 and 127 are the workload's; whatever else keeps a machine from starting is vmctl's 125."""
    return error.exit_code if isinstance(error, CannotInvoke | ProgramNotFound) else 125


def _poll(ask: Callable[[], Answer | None], timeout: float | None) -> Answer | None:
    """Ask, ever less often, until there is an answer; None when ``timeout`` seconds are over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _POLL[0]
    while (answer := ask()) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL[1])
    return answer
