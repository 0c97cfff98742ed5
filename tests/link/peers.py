"""A member's side of the link by hand: its credentials, and streams on which a test sends and reads each frame."""

from __future__ import annotations

import queue
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from federations import policy_text
from lepton_client.home import Home as ClientHome
from lepton_client.home import save

from lepton_fl.files import write_secret
from lepton_fl.link import frames
from lepton_fl.link.frames import Assembler, Parts
from lepton_fl.v1.federation_pb2 import Chunk, ClientFrame, Heartbeat, Hello, Identity, ServerFrame
from lepton_fl.v1.message_pb2 import Content, Entry, Envelope, ValueSet

WAIT_S = 30.0  # for what comes at once on a machine with nothing else to do
MOST_BYTES = 1 << 30
METHOD = "/lepton_fl.v1.Federation/Connect"


@dataclass(frozen=True)
class Member:
    """What one institution connects with; PEM."""

    name: str
    node_id: int
    ca: bytes
    key: bytes
    certificate: bytes

    def channel(self, port: int) -> grpc.Channel:
        """A connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)

    def home(self, path: Path, *ports: int) -> ClientHome:
        """The folder that `lepton-client run` starts from."""
        path.mkdir(mode=0o700, exist_ok=True)
        made = ClientHome(path, self.name, tuple(f"127.0.0.1:{port}" for port in ports))
        save(made, self.ca, self.certificate)
        write_secret(made.key, self.key)
        (path / "policy.yaml").write_text(policy_text())
        return made


def reply_parts(value: int = 0, kind: str = "train") -> Parts:
    """A small honest reply."""
    metrics = [ValueSet(name="metrics", entries=[Entry(name="value", integer=value)])]
    envelope = Envelope(message_type=kind, group_id="1", content=Content(metrics=metrics))
    return Parts(envelope.SerializeToString(), ())


def reply_frames(parts: Parts, reply_to: str) -> list[ClientFrame]:
    """A reply as it goes out."""
    pieces = [ClientFrame(chunk=Chunk(data=data)) for data in frames.chunks(parts)]
    return [ClientFrame(begin=frames.begin(parts, "", reply_to)), *pieces]


def hello(protocol: int = frames.PROTOCOL, identity: Identity | None = None) -> ClientFrame:
    """The first frame; with an `identity`, of a member that can take part in secure aggregation."""
    return ClientFrame(hello=Hello(protocol=protocol, lepton_version="0", identity=identity))


HEARTBEAT = ClientFrame(heartbeat=Heartbeat())


def _bytes(frame: ClientFrame | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


def connect(channel: grpc.Channel, outgoing: Iterable[ClientFrame | bytes], timeout_s: float | None = None) -> Any:
    """A raw `Connect` call: what it is given goes out as it is."""
    call = channel.stream_stream(METHOD, request_serializer=_bytes, response_deserializer=ServerFrame.FromString)
    return call(iter(outgoing), timeout=timeout_s)


@dataclass(frozen=True)
class Ending:
    """How a stream ended."""

    code: grpc.StatusCode
    detail: str


class Peer:
    """A member's stream by hand, from `with` to its end; what the server sends is read once something asks for it."""

    def __init__(self, member: Member, port: int, *first: ClientFrame | bytes) -> None:
        self._outbox: queue.Queue[ClientFrame | bytes | None] = queue.Queue()
        self._inbox: queue.Queue[ServerFrame | Ending] = queue.Queue()
        self._reader: threading.Thread | None = None
        self._heartbeat_s: float | None = frames.HEARTBEAT_S
        self._channel = member.channel(port)
        for frame in first:
            self.send(frame)
        self._call = connect(self._channel, self._outgoing())

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the stream and close its connection."""
        self._outbox.put(None)
        self._call.cancel()
        self._channel.close()

    def send(self, *sent: ClientFrame | bytes) -> None:
        """In order, without waiting."""
        for frame in sent:
            self._outbox.put(frame)

    def fall_silent(self) -> None:
        """No more heartbeats."""
        self._heartbeat_s = None

    def receive(self, wait_s: float = WAIT_S) -> ServerFrame | Ending:
        """The next frame or the end; raises `queue.Empty` after so long."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="peer", daemon=True)
            self._reader.start()
        return self._inbox.get(timeout=wait_s)

    def until(self, kind: str) -> ServerFrame:
        """The next frame of this kind; heartbeats and others before it are passed over."""
        while True:
            got = self.receive()
            assert isinstance(got, ServerFrame), f"{got} instead of {kind}"
            if got.WhichOneof("frame") == kind:
                return got

    def ending(self) -> Ending:
        """How the server ended the stream, whatever it sent before."""
        while True:
            got = self.receive()
            if isinstance(got, Ending):
                return got

    def instruction(self) -> str:
        """The id of the next instruction, once all of it has come."""
        assembler = Assembler(self.until("begin").begin, MOST_BYTES)
        while assembler.add(self.until("chunk").chunk.data) is None:
            pass
        return assembler.announced.message_id

    def reply(self, reply_to: str, parts: Parts) -> None:
        """Send a whole reply."""
        self.send(*reply_frames(parts, reply_to))

    def _outgoing(self) -> Iterator[ClientFrame | bytes]:
        frame = self._outbox.get()  # who has not said anything yet sends no heartbeats either
        while frame is not None:
            yield frame
            frame = self._next()

    def _next(self) -> ClientFrame | bytes | None:
        try:
            return self._outbox.get(timeout=self._heartbeat_s)
        except queue.Empty:
            # Who fell silent while the next heartbeat was waited for says nothing from that moment.
            return HEARTBEAT if self._heartbeat_s is not None else self._outbox.get()

    def _read(self) -> None:
        try:
            for frame in self._call:
                self._inbox.put(frame)
            self._inbox.put(Ending(self._call.code(), str(self._call.details() or "")))
        except grpc.RpcError:
            self._inbox.put(Ending(self._call.code(), str(self._call.details() or "")))


def joined(member: Member, port: int, first: ClientFrame | None = None) -> Peer:
    """A member's stream after its hello, and after the server said where it saw the ledger last, and its greeting."""
    peer = Peer(member, port, first or hello())
    for _ in range(2):
        got = peer.receive()
        assert isinstance(got, ServerFrame), got
    return peer


def tls(port: int, member: Member | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
    """A TLS connection below gRPC, speaking HTTP/2 to those who ask; whoever has no member shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what the server does is looked at, not who it is
    context.set_alpn_protocols(["h2"])
    if newest < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = newest
    if member is not None:
        _load(context, member)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S))


def _load(context: ssl.SSLContext, member: Member) -> None:
    """The standard library takes credentials from files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        write_secret(path, member.key + member.certificate)
        context.load_cert_chain(path)
