"""What can be wrong with TLS: hellos, records and messages. Handshakes are OpenSSL's, or tlslite-ng's where its keys are needed afterwards."""

import json
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from peer import *

# Before the system's own modules only here: what comes with it are other versions of some of them.
sys.path.insert(0, WORLD["modules"])
from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType, KeyUpdateMessageType
from tlslite.errors import TLSError
from tlslite.messages import Message  # noqa: E402

CASES = []


def case(function):
    CASES.append(function)
    return function


def closes(stream, within, what):
    """Reads to the end, which has to come in time; says what is wrong, if anything."""
    started = time.monotonic()
    stream.settimeout(within)
    try:
        while stream.recv(1 << 16):
            pass
    except TimeoutError:
        return f"{what}: open after {within} s"
    except OSError:
        pass
    took = time.monotonic() - started
    return None if took <= within else f"{what}: closed after {took:.1f} s"


def refuses(data, what, within=3):
    """Sends bytes on a fresh connection, which has to be closed without anything but an alert."""
    stream = tcp()
    stream.sendall(data)
    stream.settimeout(within)
    answer = b""
    try:
        while more := stream.recv(1 << 16):
            answer += more
    except TimeoutError:
        return f"{what}: open after {within} s"
    except OSError:
        pass
    is_alert = not answer or answer[0] == 21 or (answer[0] == 22 and b"\x15\x03\x03" in answer)
    return None if is_alert else f"{what}: answered {answer[:40]!r}"


class Handshake:
    """OpenSSL's side of a handshake, byte by byte in the caller's hands."""

    def __init__(self, name, alpn=("h2",), check=True):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context(False, alpn)
        tls.check_hostname = check
        self.tls = tls.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def hello(self):
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def finish(self, stream):
        while True:
            try:
                self.tls.do_handshake()
                stream.sendall(self.outgoing.read())
                return self.tls
            except ssl.SSLWantReadError:
                stream.sendall(self.outgoing.read())
                more = stream.recv(1 << 16)
                if not more:
                    raise OSError("closed")
                self.incoming.write(more)


def with_names(hello, names):
    """The hello with these names in its extension for them."""
    # Record (5), handshake (4), version (2), random (32), session id, suites, compressions, extensions.
    body = hello[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    rest, extensions = body[at + 2 : end], b""
    while rest:
        kind, length = struct.unpack(">HH", rest[:4])
        if kind != 0:
            extensions += rest[: 4 + length]
        rest = rest[4 + length :]
    entries = b"".join(b"\0" + struct.pack(">H", len(name)) + name for name in names)
    listed = struct.pack(">H", len(entries)) + entries
    extensions = struct.pack(">HH", 0, len(listed)) + listed + extensions
    body = body[:at] + struct.pack(">H", len(extensions)) + extensions
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    records = [message[n : n + 16_384] for n in range(0, len(message), 16_384)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(record)) + record for record in records)


# --- D02: what is spoken


@case
def without_alpn():
    stream = tls(False, alpn=())
    return closes(stream, 3, "no ALPN")


@case
def http_1_1():
    try:
        stream = tls(False, alpn=("http/1.1",))
    except ssl.SSLError:
        return None
    stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    stream.settimeout(3)
    try:
        answer = stream.recv(1 << 16)
    except OSError:
        answer = b""
    return f"http/1.1 was answered: {answer[:40]!r}" if answer else None


@case
def in_the_clear():
    clear = [PREFACE + raw(SETTINGS, 0, 0), b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"]
    return next(filter(None, (refuses(text, f"{text[:10]!r} in the clear") for text in clear)), None)


# --- D03: names


@case
def names_that_are_not_the_servers():
    for name in [None, "other.example", "127.0.0.1"]:
        # The server has one certificate, whatever name it is asked for.
        stream, handshake = tcp(), Handshake(name, check=False)
        try:
            handshake.finish(stream)
        except OSError as error:
            return f"{name}: {error}"
        names = [value for _, value in handshake.tls.getpeercert()["subjectAltName"]]
        if WORLD["name"] not in names or name in names:
            return f"{name}: served as {names}"
    return None


@case
def a_name_that_must_fit_does_not():
    try:
        Handshake("other.example").finish(tcp())
    except ssl.CertificateError:
        return None
    return "the server passed for another name"


@case
def names_that_are_no_names():
    hello = Handshake(WORLD["name"]).hello()
    name = WORLD["name"].encode()
    cases = {
        "64 KiB": [b"a" * 65_000],
        "255 labels": [b"a." * 255 + b"a"],
        "two names": [name, b"other.example"],
        "the same twice": [name, name],
        "an empty one": [b""],
        "none": [],
        "with NUL": [name + b"\0.example"],
        "not ASCII": ["näme.example".encode()],
    }
    for what, names in cases.items():
        stream = tcp()
        stream.sendall(with_names(hello, names))
        stream.settimeout(3)
        try:
            answer = stream.recv(1 << 16)
        except OSError as error:
            answer = b"" if not isinstance(error, TimeoutError) else None
        # An alert, an end, or a handshake that goes on with the one certificate that there is.
        if answer is None or (answer and answer[0] not in (21, 22)):
            return f"{what}: {answer!r}"
        stream.close()
    return None


# --- D04: a hello that takes its time


def in_single_bytes(seconds):
    stream, handshake = tcp(), Handshake(WORLD["name"])
    hello = handshake.hello()
    started = time.monotonic()
    for n, byte in enumerate(hello):
        try:
            stream.sendall(bytes([byte]))
        except OSError:
            break
        pause = started + seconds * (n + 1) / len(hello) - time.monotonic()
        if pause > 0:
            time.sleep(pause)
    return stream, handshake


@case
def a_hello_in_single_bytes_over_four_seconds():
    stream, handshake = in_single_bytes(4)
    try:
        handshake.finish(stream)
    except OSError as error:
        return f"a slow hello within the deadline failed: {error}"
    return None


@case
def a_hello_in_single_bytes_over_six_seconds():
    stream, handshake = in_single_bytes(6)
    try:
        handshake.finish(stream)
    except OSError:
        return None
    return "a hello beyond the deadline was taken"


# --- D05: records


@case
def records_that_are_no_records():
    hello = Handshake(WORLD["name"]).hello()
    cases = {
        "a byte too long": b"\x16\x03\x01\x40\x01" + bytes(16_385),
        "65,535 bytes": b"\x16\x03\x01\xff\xff" + bytes(65_535),
        "an empty handshake fragment": b"\x16\x03\x01\x00\x00" * 10,
        "empty fragments before the hello": b"\x16\x03\x01\x00\x00" * 100_000 + hello,
        "application data before the handshake": b"\x17\x03\x03\x00\x04abcd",
        "an empty alert": b"\x15\x03\x03\x00\x00",
        "an alert of three bytes": b"\x15\x03\x03\x00\x03\x02\x28\x00",
        "a heartbeat": b"\x18\x03\x03\x00\x03\x01\x40\x00",
        "an unknown kind": b"\xff\x03\x03\x00\x01a",
        "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
        "SSL 3": b"\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + bytes(41),
        "a handshake message of 16 MiB": b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + (b"\x16\x03\x01\x40\x00" + bytes(16_384)) * 8,
    }
    wrong = [refuses(data, what) for what, data in cases.items()]
    return next(filter(None, wrong), None)


def keyed():
    """A connection whose keys are ours to use, after the handshake."""
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = (3, 4)
    connection = TLSConnection(tcp())
    connection.handshakeClientCert(serverName=WORLD["name"], alpn=[bytearray(b"h2")], settings=settings)
    return connection


def is_closed_by(send, what, count):
    """Whether the server closes while the same thing is sent again and again."""
    connection = keyed()
    connection.sock.settimeout(5)
    try:
        for _ in range(count):
            for _ in send(connection):
                pass
        while connection.sock.recv(1 << 16):
            pass
    except TimeoutError:
        return f"{what}: open after {count}"
    except (OSError, TLSError):
        pass
    return None


def is_closed_by_bytes(data, what):
    connection = keyed()
    try:
        connection.sock.sendall(data)
    except OSError:
        # It was closed before all of it had come.
        return None
    return closes(connection.sock, 3, what)


def record(kind, data):
    return lambda connection: connection._recordLayer.sendRecord(Message(kind, bytearray(data)))


@case
def key_updates_without_end():
    return is_closed_by(
        lambda connection: connection.send_keyupdate_request(KeyUpdateMessageType.update_requested), "key updates", 10_000
    )


@case
def empty_records_without_end():
    # There is nothing in them to read: whoever sends nothing else is silent, and a stranger's time is over after five seconds.
    connection, send = keyed(), record(ContentType.application_data, b"")
    connection.sock.settimeout(8)
    started = time.monotonic()
    try:
        while time.monotonic() < started + 8:
            for _ in range(200):
                for _ in send(connection):
                    pass
    except (OSError, TLSError):
        return None
    return "empty records: open after eight seconds"


@case
def a_record_beyond_the_longest_under_keys():
    return is_closed_by_bytes(b"\x17\x03\x03\x41\x01" + bytes(16_641), "a record beyond the longest")


@case
def a_record_that_nobody_has_encrypted():
    return is_closed_by_bytes(b"\x17\x03\x03\x00\x20" + bytes(32), "a record that nobody has encrypted")


# --- D06: messages at the wrong time


def handshake_message(kind, body):
    return record(ContentType.handshake, bytes([kind]) + struct.pack(">I", len(body))[1:] + body)


@case
def messages_after_the_handshake():
    cases = {
        "a certificate": handshake_message(11, b"\0\0\0\0"),
        "a request for a certificate": handshake_message(13, b"\x04abcd\0\0"),
        "a verification of a certificate": handshake_message(15, b"\x04\x03\0\0"),
        "a second finish": handshake_message(20, bytes(32)),
        "a hello": handshake_message(1, b"\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0"),
        "a request for a hello": handshake_message(0, b""),
        "a ticket": handshake_message(4, bytes(20)),
        "the end of early data": handshake_message(5, b""),
        "an unknown message": handshake_message(99, b""),
        "an empty handshake record": record(ContentType.handshake, b""),
        "a change of cipher": record(ContentType.change_cipher_spec, b"\x01"),
    }
    return next(filter(None, (is_closed_by(send, what, 1) for what, send in cases.items())), None)


@case
def changes_of_cipher_without_end():
    hello, changes = Handshake(WORLD["name"]).hello(), b"\x14\x03\x03\x00\x01\x01" * 100
    after = tcp()
    after.sendall(hello + changes)
    return closes(after, 3, "changes of cipher after the hello") or refuses(changes, "changes of cipher before the hello")


def play(function):
    try:
        return function()
    except Exception as error:
        return f"{function.__name__}: {error!r}"


with ThreadPoolExecutor(8) as pool:
    wrong = [verdict for verdict in pool.map(play, CASES) if verdict]
print(json.dumps({"cases": len(CASES), "wrong": wrong}))
