"""The way to Docker's daemon: JSON calls and raw streams over its socket; the SDK for what is rare and bulky."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from vmctl.backends.docker import errors
from vmctl.backends.docker.native import Failure, encoded
from vmctl.backends.docker.transport import Connection, Reply
from vmctl.errors import BackendUnavailable
from vmctl.model.ids import native_name

if TYPE_CHECKING:
    from docker import APIClient

_DEFAULT_SOCKET = "/var/run/docker.sock"
_ANSWER_TIMEOUT = 120.0
_PIPELINE = 32
_OLDEST_API = "1.41"  # of Docker 20.10, the oldest that is supported

T = TypeVar("T")


def container_path(instance_id: str, action: str = "json") -> str:
    """The API's address of an instance's container."""
    return f"/containers/{native_name(instance_id)}/{action}"


def with_query(path: str, **query: str | int) -> str:
    """``path?key=value&...``"""
    return f"{path}?{urlencode(query, quote_via=quote)}"


class Client:
    """One per backend object. Every JSON call has a connection of its own (0.1 ms), so threads may share it."""

    def __init__(self) -> None:
        self._version = ""
        self._sdk: APIClient | None = None

    @property
    def socket_path(self) -> str:
        """The daemon's socket on this host. Raises BackendUnavailable if DOCKER_HOST names another machine."""
        host = os.environ.get("DOCKER_HOST") or f"unix://{_DEFAULT_SOCKET}"
        scheme, _, path = host.partition("://")
        if scheme != "unix":
            raise BackendUnavailable(
                f"DOCKER_HOST is {host}: vmctl keeps the account of this host, so it needs this host's daemon",
                hint="unset DOCKER_HOST, or set it to unix:///path/to/docker.sock",
            )
        return path

    def call(self, result: type[T], method: str, path: str, body: object = None) -> T:
        """One JSON question and its answer. Raises what :func:`errors.failure` and ``unavailable`` say."""
        return _decoded(self.send(method, path, body), result)

    def send(self, method: str, path: str, body: object = None, *, timeout: float = _ANSWER_TIMEOUT) -> bytes:
        """The same with the answer unread, for calls that have none or whose answer does not matter."""
        data = b"" if body is None else encoded(body)
        with self.reached():
            target = self._target(path)
            with self._connect(timeout) as connection:
                connection.send(method, target, data)
                return _checked(connection.receive())

    def get_many(self, result: type[T], paths: list[str]) -> list[T | None]:
        """GET all of ``paths`` over one connection, pipelined; None for each that is not found."""
        found: list[T | None] = []
        if not paths:
            return found
        with self.reached():
            targets = [self._target(path) for path in paths]
            with self._connect(_ANSWER_TIMEOUT) as connection:
                for start in range(0, len(targets), _PIPELINE):
                    batch = targets[start : start + _PIPELINE]
                    connection.send_all("GET", batch)
                    replies = (connection.receive() for _ in batch)
                    found += [_decoded_or_none(reply, result) for reply in replies]
        return found

    def stream(self, method: str, path: str, body: object = None, *, upgrade: bool = False) -> Reply:
        """A request whose answer is read as it comes; the caller closes ``reply.connection``."""
        data = b"" if body is None else encoded(body)
        with self.reached():
            target = self._target(path)
            connection = self._connect(_ANSWER_TIMEOUT)
            try:
                connection.send(method, target, data, upgrade=upgrade)
                reply = connection.receive()
                if reply.status >= 400:
                    _checked(reply)
                connection.socket.settimeout(None)
            except BaseException:
                connection.close()
                raise
        return reply

    def rest(self, result: type[T], reply: Reply) -> T:
        """The answer of a :meth:`stream` that turned out to be one JSON document."""
        with self.reached():
            return _decoded(reply.body(), result)

    def sdk(self) -> APIClient:
        """The SDK's low-level client. Use it inside :meth:`sdk_errors`."""
        if self._sdk is None:
            from docker import APIClient

            self._sdk = APIClient(base_url=f"unix://{self.socket_path}", version="auto", timeout=int(_ANSWER_TIMEOUT))
        return self._sdk

    @contextmanager
    def sdk_errors(self) -> Iterator[APIClient]:
        """``with client.sdk_errors() as sdk``: the SDK, with its exceptions translated."""
        with errors.sdk_errors(self.socket_path):
            yield self.sdk()

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Inside, failures of the socket become BackendUnavailable or PermissionDenied."""
        try:
            yield
        except OSError as error:
            raise errors.unavailable(self.socket_path, error) from error

    def close(self) -> None:
        if self._sdk is not None:
            self._sdk.close()
            self._sdk = None

    def _connect(self, timeout: float | None) -> Connection:
        return Connection(self.socket_path, timeout)

    def _target(self, path: str) -> str:
        """``path`` under the daemon's own API version, which it tells once (a bare path is deprecated)."""
        if not self._version:
            with self._connect(_ANSWER_TIMEOUT) as connection:
                connection.send("GET", "/_ping")
                reply = connection.receive()
                _checked(reply)
                self._version = reply.headers.get("api-version", _OLDEST_API)
        return f"/v{self._version}{path}"


def _decoded(answer: bytes, result: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=result)
    except msgspec.DecodeError as error:
        hint = "vmctl needs Docker 20.10 or newer"
        raise BackendUnavailable(f"Docker's answer cannot be understood: {error}", hint=hint) from error


def _decoded_or_none(reply: Reply, result: type[T]) -> T | None:
    if reply.status == 404:
        reply.body()
        return None
    return _decoded(_checked(reply), result)


def _checked(reply: Reply) -> bytes:
    body = reply.body()
    if reply.status < 400:
        return body
    try:
        message = msgspec.json.decode(body, type=Failure).message
    except msgspec.DecodeError:
        message = body.decode(errors="replace")
    raise errors.failure(reply.status, message)
