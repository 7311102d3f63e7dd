"""HTTP over a unix socket, against a server that says exactly what the test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmctl.backends.docker.adapter import open_backend
from vmctl.backends.docker.transport import Connection, ConnectionLost
from vmctl.errors import BackendUnavailable
from vmctl.model.observed import Health

Serve = Callable[[bytes], Connection]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes a connection whose peer answers anything with these bytes, then closes."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    made: list[Connection] = []

    def answer(data: bytes) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(data)

    def connect(data: bytes) -> Connection:
        threading.Thread(target=answer, args=(data,), daemon=True).start()
        connection = Connection(path, 5.0)
        made.append(connection)
        connection.send("GET", "/")
        return connection

    yield connect
    for connection in made:
        connection.close()
    listener.close()


def test_length_and_chunks_pipelined(serve: Serve) -> None:
    connection = serve(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3;x=y\r\nond\r\n0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\n"
        b"HTTP/1.0 200 OK\r\n\r\nto the end"
    )
    replies = [(reply.status, reply.body()) for reply in (connection.receive() for _ in range(4))]
    assert replies == [(200, b"first"), (404, b"second"), (204, b""), (200, b"to the end")]


def test_output_that_comes_with_the_header_is_not_lost(serve: Serve) -> None:
    connection = serve(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly output")
    assert connection.receive().status == 101
    assert connection.take_buffered() == b"early output"
    assert connection.ready(5)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"X" * 100_000],
)  # fmt: skip
def test_an_answer_cut_short_is_a_lost_connection(serve: Serve, answer: bytes) -> None:
    connection = serve(answer)
    with pytest.raises((ConnectionLost, ConnectionResetError)):
        connection.receive().body()


def test_a_silent_daemon_times_out(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Connection(path, 0.1) as connection:
            connection.send("GET", "/")
            with pytest.raises(TimeoutError):
                connection.receive()


@pytest.mark.parametrize("answer", ["not JSON", '{"an": "object"}', '[{"Id": 5}]'])
def test_nonsense_from_the_daemon_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """What listens on the socket may be anything; no exception of a parser leaves the backend."""
    path = str(tmp_path / "s")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    head = f"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: {len(answer)}\r\n\r\n"

    def serve(listener: socket.socket) -> None:
        for _ in range(5):  # a ping and the listing; a ping, the version, and perhaps more
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(head.encode() + answer.encode())

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        with pytest.raises(BackendUnavailable):
            open_backend(tmp_path).instances()
        assert open_backend(tmp_path).probe().health is Health.UNHEALTHY
