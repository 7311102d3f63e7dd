"""The only composition root: what a command needs, made at first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from vmctl.backends import registry
from vmctl.backends.base import Ref
from vmctl.errors import PermissionDenied, VmctlError
from vmctl.paths import Paths

if TYPE_CHECKING:
    from vmctl.allocation.allocator import Allocator
    from vmctl.backends.base import Backend
    from vmctl.config import Config
    from vmctl.images.store import ImageStore
    from vmctl.ledger.ledger import Ledger
    from vmctl.model.spec import InstanceSpec


class App:
    """Ledger, allocator, image store and backends of one command; ``close`` releases them.

    ``notice`` shows one line to the user (on stderr): the only way operations may speak before they return.
    """

    def __init__(self, paths: Paths, config: Config, notice: Callable[[str], None]) -> None:
        self.paths = paths
        self.config = config
        self.notice = notice
        self.swept = False
        """Whether this command has looked for what dead ones left (``ops.sweep``)."""
        self._backends: dict[str, Backend] = {}

    @cached_property
    def ledger(self) -> Ledger:
        from vmctl.ledger.ledger import Ledger

        self._make_state_folders()
        return Ledger.open(self.paths.ledger, self.paths.run)

    @cached_property
    def allocator(self) -> Allocator:
        from vmctl.allocation.allocator import Allocator
        from vmctl.allocation.inventory import read_host

        return Allocator(self.ledger, self.paths.run, lambda: read_host(self.paths.state))

    @cached_property
    def images(self) -> ImageStore:
        from vmctl.images.store import ImageStore

        self._make_state_folders()
        return ImageStore(self.paths.images, self.paths.cache)

    def backend(self, name: str) -> Backend:
        """The backend called ``name``, opened once. Raises UsageError for an unknown name."""
        if name not in self._backends:
            self._backends[name] = registry.open_backend(name, self.paths.state)
        return self._backends[name]

    def backend_of(self, spec: InstanceSpec) -> Backend:
        """The backend that is to serve ``spec``: the one it names, or the default one of its kind."""
        return self.backend(spec.backend or registry.default_backend(spec.kind))

    def ref(self, instance_id: str) -> Ref:
        """What a backend needs to address the body of an instance."""
        return Ref(instance_id, self.paths.instance(instance_id))

    def close(self) -> None:
        """Release connections and files. Instances go on."""
        for backend in self._backends.values():
            backend.close()
        if "ledger" in self.__dict__:
            self.ledger.close()

    def _make_state_folders(self) -> None:
        """QEMU and sandboxes run as other users: they may pass through the state folder, not read it (0711)."""
        try:
            for folder in (self.paths.state, self.paths.instances, self.paths.cache, self.paths.run):
                if not folder.is_dir():
                    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
                    folder.chmod(0o711)
        except PermissionError as error:
            raise PermissionDenied(
                f"cannot create {error.filename}", hint="run as root, or set VMCTL_STATE_DIR to a folder of your own"
            ) from error
        except OSError as error:
            hint = "set VMCTL_STATE_DIR to a folder on a disk that can be written"
            raise VmctlError(f"cannot create {error.filename}: {error.strerror}", hint=hint) from error
