"""The client of the session protocol against a scripted peer, honest and hostile."""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vmctl.backends.base import Attachment, Stdio
from vmctl.backends.wire import client, tarcopy
from vmctl.backends.wire.client import Session, connect
from vmctl.backends.wire.frames import (
    MAX_PAYLOAD,
    WINDOW_SIZE,
    FrameParser,
    FrameType,
    decode_pairs,
    encode,
    encode_pairs,
)
from vmctl.backends.wire.pump import WireAttachment
from vmctl.errors import AttachFailed, BackendUnavailable, CannotInvoke, NotFound, ProgramNotFound, TimedOut, WrongState
from vmctl.model.process import Process
from vmctl.model.state import Exit

READY = encode(FrameType.READY, encode_pairs([("version", "1"), ("state", "running"), ("pid", "7")]))


class Peer:
    """One end of a socket pair, with frame helpers; everything it does is under a time-out."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(5)
        self._frames: Iterator[tuple[int, bytes]] = self._read()

    def _read(self) -> Iterator[tuple[int, bytes]]:
        parser = FrameParser()
        while data := self.sock.recv(65536):
            yield from parser.feed(data)

    def take(self, kind: FrameType) -> bytes:
        for found, payload in self._frames:
            if found == kind:
                return payload
        raise AssertionError(f"no {kind.name} came")

    def send(self, kind: FrameType, payload: bytes = b"") -> None:
        self.sock.sendall(encode(kind, payload))

    def handshake(self) -> None:
        self.send(FrameType.SYNC, self.take(FrameType.SYNC))
        self.sock.sendall(READY)


def session_with(script: Callable[[Peer], None]) -> tuple[Session, threading.Thread]:
    ours, theirs = socket.socketpair()
    session = Session(ours)

    def run() -> None:
        with theirs:
            peer = Peer(theirs)
            peer.handshake()
            script(peer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    session.synchronise(time.monotonic() + 5)
    return session, thread


def run_pump(session: Session, stdin: bytes | None = None) -> tuple[Exit | None, bytes, bytes]:
    """Pump with pipes as streams; exit, stdout, stderr."""
    chunks: dict[str, list[bytes]] = {"out": [], "err": []}
    in_fd = None
    if stdin is not None:
        in_fd = os.memfd_create("stdin")
        os.write(in_fd, stdin)
        os.lseek(in_fd, 0, os.SEEK_SET)
    with tarcopy._collect(chunks["out"].append) as out, tarcopy._collect(chunks["err"].append) as err:
        end = WireAttachment(session).pump(Stdio(in_fd, out, err))
    if in_fd is not None:
        os.close(in_fd)
    session.close()
    return end, b"".join(chunks["out"]), b"".join(chunks["err"])


def test_handshake_reads_ready() -> None:
    session, _ = session_with(lambda peer: None)
    assert (session.ready.state, session.ready.pid, session.ready.version) == ("running", 7, "1")


def test_handshake_skips_what_an_earlier_client_left() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"\x08\x00\x00\xff\xfftail of a frame")

    def run() -> None:
        Peer(theirs).handshake()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    session = Session(ours)
    session.synchronise(time.monotonic() + 5)
    assert session.ready.pid == 7
    thread.join()


def test_a_frame_left_half_written_is_completed_by_padding() -> None:
    ours, theirs = socket.socketpair()
    parser = FrameParser()
    left = encode(FrameType.STDIN, bytes(MAX_PAYLOAD))[:9]
    assert list(parser.feed(left)) == []
    answered = []

    def run() -> None:
        while data := theirs.recv(65536):
            for kind, payload in parser.feed(data):
                if kind == FrameType.SYNC:
                    answered.append(payload)
                    theirs.sendall(encode(FrameType.SYNC, payload) + READY)

    threading.Thread(target=run, daemon=True).start()
    session = Session(ours)
    session.synchronise(time.monotonic() + 5)
    assert session.ready.state == "running"
    assert len(answered) == 1


def test_silent_peer_times_out() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TimedOut):
        Session(ours).synchronise(time.monotonic() + 0.1, fresh=True)


def test_output_arrives_apart_then_exit() -> None:
    def script(peer: Peer) -> None:
        pairs = decode_pairs(peer.take(FrameType.EXEC))
        assert [value for key, value in pairs if key == "argv"] == ["sh", "-c", "x"]
        assert ("env", "A=b=c") in pairs
        peer.send(FrameType.STARTED, encode_pairs([("pid", "9")]))
        peer.send(FrameType.STDOUT, b"out")
        peer.send(FrameType.STDERR, b"err")
        peer.send(FrameType(FrameType.STDOUT), b"")
        peer.sock.sendall(b"\xee\x00\x00\x00\x02??")  # unknown type: ignored
        peer.send(FrameType.EXIT, encode_pairs([("code", "42")]))

    session, _ = session_with(script)
    session.exec(Process(argv=("sh", "-c", "x"), env={"A": "b=c"}))
    end, out, err = run_pump(session)
    assert end is not None
    assert (end.code, end.signal, out, err) == (42, None, b"out", b"err")


def test_stdin_waits_for_credit_and_ends() -> None:
    data = os.urandom(WINDOW_SIZE * 3 + 17)
    received = bytearray()

    def script(peer: Peer) -> None:
        for kind, payload in peer._frames:
            if kind == FrameType.STDIN:
                received.extend(payload)
                peer.send(FrameType.WINDOW, struct.pack(">I", len(payload)))
            elif kind == FrameType.STDIN_EOF:
                break
        peer.send(FrameType.EXIT, encode_pairs([("code", "0")]))

    session, _ = session_with(script)
    end, _, _ = run_pump(session, data)
    assert end is not None
    assert received == data


def test_no_more_than_the_window_is_sent_without_acknowledgement() -> None:
    got = []

    def script(peer: Peer) -> None:
        total = 0
        peer.sock.settimeout(0.3)
        try:
            while True:
                total += len(peer.take(FrameType.STDIN))
        except TimeoutError:
            got.append(total)
        peer.send(FrameType.EXIT, encode_pairs([("code", "0")]))

    session, _ = session_with(script)
    run_pump(session, bytes(WINDOW_SIZE * 2))
    assert got == [WINDOW_SIZE]


def test_output_beyond_its_credit_is_refused() -> None:
    def script(peer: Peer) -> None:
        peer.take(FrameType.EXEC)
        with suppress(BrokenPipeError):  # the client hangs up
            for _ in range(8):
                peer.send(FrameType.STDOUT, bytes(64 << 10))

    session, _ = session_with(script)
    session.exec(Process(argv=("yes",)))
    read_end, write_end = os.pipe()  # nobody reads: nothing is acknowledged
    with pytest.raises(AttachFailed, match="broke the protocol"):
        WireAttachment(session).pump(Stdio(None, write_end, write_end))
    os.close(read_end)
    os.close(write_end)
    session.close()


@pytest.mark.parametrize("garbage", [b"\x08\xff\xff\xff\xff", b"\x01" * 64])
def test_absurd_lengths_end_the_session(garbage: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.take(FrameType.EXEC)
        peer.sock.sendall(garbage)

    session, _ = session_with(script)
    session.exec(Process(argv=("true",)))
    with pytest.raises(AttachFailed, match="broke the protocol"):
        run_pump(session)


def test_cut_session_is_no_exit_but_keeps_its_output() -> None:
    session, _ = session_with(lambda peer: peer.send(FrameType.STDOUT, b"last words"))
    assert run_pump(session) == (None, b"last words", b"")


def test_closed_stdout_ends_the_session() -> None:
    """As in ``vmctl run IMG -- yes | head -1``: nobody reads, so nobody is served."""
    session, _ = session_with(lambda peer: peer.send(FrameType.STDOUT, b"y\n"))
    read_end, write_end = os.pipe()
    os.close(read_end)
    assert WireAttachment(session).pump(Stdio(None, write_end, 2)) is None
    os.close(write_end)
    session.close()


def test_closed_stderr_is_drained() -> None:
    def script(peer: Peer) -> None:
        acknowledged = 0
        for _ in range(16):
            peer.send(FrameType.STDERR, bytes(64 << 10))
            while acknowledged < 64 << 10:
                acknowledged += struct.unpack(">I", peer.take(FrameType.WINDOW))[0]
            acknowledged -= 64 << 10
        peer.send(FrameType.EXIT, encode_pairs([("code", "0")]))

    session, _ = session_with(script)
    read_end, write_end = os.pipe()
    os.close(read_end)
    end = WireAttachment(session).pump(Stdio(None, 1, write_end))
    os.close(write_end)
    session.close()
    assert end is not None
    assert end.code == 0


def test_signals_are_forwarded_but_not_sigchld() -> None:
    seen = []

    def script(peer: Peer) -> None:
        seen.append(peer.take(FrameType.SIGNAL))
        peer.send(FrameType.EXIT, encode_pairs([("code", "143"), ("signal", "15")]))

    session, _ = session_with(script)
    read_end, write_end = os.pipe()
    os.write(write_end, bytes([signal.SIGCHLD, signal.SIGWINCH, signal.SIGTERM]))
    null = os.open(os.devnull, os.O_RDWR)
    end = WireAttachment(session).pump(Stdio(None, null, null, signals=read_end))
    for fd in (read_end, write_end, null):
        os.close(fd)
    assert seen == [bytes([signal.SIGTERM])]
    assert end is not None
    assert (end.code, end.signal) == (143, 15)


@pytest.mark.parametrize(
    ("code", "error"),
    [("not-found", ProgramNotFound), ("cannot-invoke", CannotInvoke), ("no-process", WrongState), ("?", AttachFailed)],
)
def test_errors_are_typed_and_printable(code: str, error: type[Exception]) -> None:
    def script(peer: Peer) -> None:
        peer.take(FrameType.EXEC)
        peer.send(FrameType.ERROR, encode_pairs([("code", code), ("message", "no\x1b[31m such")]))

    session, _ = session_with(script)
    session.exec(Process(argv=("nope",)))
    with pytest.raises(error) as caught:
        run_pump(session)
    assert "\x1b" not in str(caught.value)


def test_boot_keeps_early_output() -> None:
    def script(peer: Peer) -> None:
        peer.take(FrameType.BOOT)
        started = encode(FrameType.STARTED, encode_pairs([("pid", "2")]))
        end = encode(FrameType.EXIT, encode_pairs([("code", "3")]))
        peer.sock.sendall(encode(FrameType.STDOUT, b"a") + started + encode(FrameType.STDOUT, b"b") + end)

    session, _ = session_with(script)
    session.boot([("argv", "x")])
    end, out, _ = run_pump(session)
    assert end is not None
    assert (end.code, out) == (3, b"ab")


def test_settle_means_acted_upon() -> None:
    def script(peer: Peer) -> None:
        assert peer.take(FrameType.SIGNAL) == b"\x0f"
        peer.send(FrameType.PONG, peer.take(FrameType.PING))

    session, thread = session_with(script)
    session.signal(15)
    thread.join(5)
    assert not thread.is_alive()


def test_connect_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable):
        connect(tmp_path / "absent", 1)


def test_connect_through_a_path_too_long_for_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    short = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short))
        listener.listen()
        (folder / "s").symlink_to(short)

        def serve() -> None:
            with listener.accept()[0] as sock:
                Peer(sock).handshake()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        session = connect(folder / "s", 5)
        assert session.ready.pid == 7
        session.close()
        thread.join(5)


def test_a_peer_may_not_claim_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.2)

    def script(peer: Peer) -> None:
        peer.take(FrameType.PING)
        peer.send(FrameType.PONG, b"forged")

    session, _ = session_with(script)
    with pytest.raises((TimedOut, AttachFailed)):
        session.ping()


def test_a_flood_does_not_pile_up_while_an_answer_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.5)
    flood = (encode(FrameType.STDOUT) + encode(FrameType.EXIT, b"code\x000\0") + encode(FrameType.PONG, b"no")) * 1000

    def script(peer: Peer) -> None:
        with suppress(OSError):
            while True:
                peer.sock.sendall(flood)

    session, _ = session_with(script)
    kept = []
    original = session.receive
    monkeypatch.setattr(session, "receive", lambda: kept.append(len(session._kept)) or original())
    with pytest.raises(TimedOut):
        session.ping()
    session.close()
    assert max(kept) <= 1


def test_a_peer_that_reads_nothing_is_not_read_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        session = Session(ours)
        assert session.poll_events == select.POLLIN
        session.queue(FrameType.PING, bytes(MAX_PAYLOAD))
        assert session.poll_events == select.POLLIN | select.POLLOUT
        for _ in range(2):
            session.queue(FrameType.PING, bytes(MAX_PAYLOAD))
        assert session.poll_events == select.POLLOUT
        session.close()


class LocalTar:
    """An attachment that runs the process right here."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def pump(self, stdio: Stdio) -> Exit | None:
        import subprocess

        stdin = subprocess.DEVNULL if stdio.stdin is None else stdio.stdin
        done = subprocess.run(self.process.argv, stdin=stdin, stdout=stdio.stdout, stderr=stdio.stderr, check=False)
        return Exit(code=done.returncode)

    def close(self) -> None:
        return None


def run_here(process: Process) -> Attachment:
    return LocalTar(process)


def names_in(archive: io.BytesIO) -> list[str]:
    with tarfile.open(fileobj=archive) as tar:
        return tar.getnames()


def test_copy_out_and_in(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    target.mkdir()
    (source / "-file").write_bytes(os.urandom(300_000))
    archive = io.BytesIO()
    tarcopy.copy_out(run_here, str(source), archive)
    archive.seek(0)
    assert names_in(archive) == ["src", "src/-file"]
    archive.seek(0)
    tarcopy.copy_in(run_here, str(target), archive)
    assert (target / "src" / "-file").read_bytes() == (source / "-file").read_bytes()
    single = io.BytesIO()
    tarcopy.copy_out(run_here, f"{source}/-file", single)
    single.seek(0)
    assert [Path(name).name for name in names_in(single)] == ["-file"]


def test_copy_of_what_is_absent(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        tarcopy.copy_out(run_here, str(tmp_path / "absent"), io.BytesIO())
    archive = io.BytesIO()
    tarcopy.copy_out(run_here, __file__, archive)
    archive.seek(0)
    with pytest.raises(NotFound):
        tarcopy.copy_in(run_here, str(tmp_path / "absent"), archive)


def test_copy_out_into_a_full_disk_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        tarcopy.copy_out(run_here, str(tmp_path / "f"), full)
