"""A TLS connection to a server, and HTTP/2 frames on it that no well-behaved program would send."""

import json
import socket
import ssl
import struct
import sys
import threading
import time

from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Where to attack, and with which certificate; written by the test.
WORLD = json.loads(sys.argv[1])
HOST, PORT = WORLD["address"].rsplit(":", 1)


def tcp(timeout=10):
    stream = socket.create_connection((HOST, int(PORT)), timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def context(certificate, alpn=("h2",)):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(WORLD["root"])
    if alpn:
        tls.set_alpn_protocols(list(alpn))
    if certificate:
        tls.load_cert_chain(WORLD["chain"], WORLD["key"])
    return tls


def tls(certificate, alpn=("h2",), timeout=10):
    return context(certificate, alpn).wrap_socket(tcp(timeout), server_hostname=WORLD["name"])


def raw(kind, flags, stream, payload=b"", length=None):
    """A frame of any kind, also with a length that it does not have."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20


def call(path=None, **changes):
    """The headers of a call; a change to None takes one away."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":authority": WORLD["name"],
        ":path": path or WORLD["path"],
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    return [(name, value) for name, value in fields.items() if value is not None]


def block(fields):
    # What is never indexed leaves both ends' tables as they are, whatever becomes of the frame.
    return Encoder().encode([(name, value, True) for name, value in fields], huffman=False)


class Connection:
    """Frames there and back. What comes is read all the time, so that the server is never held up.

    Python lets two threads into one TLS session at the same time, which then gives ends that nobody sent. So the session has a lock here, and neither
    thread holds it while it waits for the network.
    """

    def __init__(self, certificate=True, preface=True):
        self.stream = tcp()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(certificate).wrap_bio(self.incoming, self.outgoing, server_hostname=WORLD["name"])
        self._shake_hands()
        self.frames, self.closed, self.lock = [], False, threading.Condition()
        self.session, self.sending = threading.Lock(), threading.Lock()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if preface:
            self.send(PREFACE + SettingsFrame(0).serialize())
            self.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" in frame.flags)
            self.send(raw(SETTINGS, ACK, 0))

    def _shake_hands(self):
        while True:
            try:
                self.tls.do_handshake()
                return self.stream.sendall(self.outgoing.read())
            except ssl.SSLWantReadError:
                self.stream.sendall(self.outgoing.read())
            more = self.stream.recv(1 << 16)
            if not more:
                raise ConnectionError("closed in the handshake")
            self.incoming.write(more)

    def _plain(self, sealed):
        """What these bytes say, and whether more may come."""
        plain = bytearray()
        with self.session:
            if sealed:
                self.incoming.write(sealed)
            else:
                self.incoming.write_eof()
            try:
                while more := self.tls.read(1 << 16):
                    plain += more
                return plain, False
            except ssl.SSLWantReadError:
                return plain, bool(sealed)

    def _read(self):
        buffer, open_still = b"", True
        try:
            while open_still:
                try:
                    sealed = self.stream.recv(1 << 16)
                except TimeoutError:
                    # Silence is no end.
                    continue
                plain, open_still = self._plain(sealed)
                buffer = self._parse(buffer + plain)
        except OSError:
            pass
        with self.lock:
            self.closed = True
            self.lock.notify_all()

    def _parse(self, buffer):
        """Takes whole frames off the front, and gives the rest."""
        while len(buffer) >= 9:
            try:
                frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
            except Exception:
                frame, length = None, int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + length:
                break
            if frame is not None:
                frame.parse_body(memoryview(buffer[9 : 9 + length]))
                with self.lock:
                    self.frames.append(frame)
                    self.lock.notify_all()
            buffer = buffer[9 + length :]
        return buffer

    def send(self, data):
        """Whether it could be sent: who has had enough closes."""
        try:
            with self.sending:
                with self.session:
                    if data:
                        self.tls.write(data)
                    sealed = self.outgoing.read()
                self.stream.sendall(sealed)
            return True
        except OSError:
            return False

    def until(self, wanted, wait=10):
        """The first frame that is wanted; None once the connection is closed or the wait is over."""
        deadline, seen = time.monotonic() + wait, 0
        with self.lock:
            while True:
                for frame in self.frames[seen:]:
                    if wanted(frame):
                        return frame
                seen = len(self.frames)
                left = deadline - time.monotonic()
                if self.closed or left <= 0:
                    return None
                self.lock.wait(left)

    def goaway(self):
        codes = [frame.error_code for frame in list(self.frames) if isinstance(frame, GoAwayFrame)]
        return next((code for code in codes if code), codes[0] if codes else None)

    def reset(self, stream):
        frames = [frame for frame in list(self.frames) if isinstance(frame, RstStreamFrame)]
        return next((frame.error_code for frame in frames if frame.stream_id == stream), None)

    def alive(self, wait=10):
        """Whether a ping is answered."""
        token = struct.pack(">d", time.monotonic())
        self.send(raw(PING, 0, 0, token))
        return self.until(lambda frame: getattr(frame, "opaque_data", None) == token, wait) is not None

    def ended(self, wait=10):
        deadline = time.monotonic() + wait
        with self.lock:
            while not self.closed and time.monotonic() < deadline:
                self.lock.wait(deadline - time.monotonic())
            return self.closed

    def close(self):
        try:
            self.stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        # The number of a descriptor is given away again at once: nobody may be left who reads from it.
        self.reader.join()
        self.stream.close()
