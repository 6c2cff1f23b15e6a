"""The cases of h2spec, by the sections of RFC 9113 and RFC 7541, each on a connection of its own.

What the server does about a case is one of: `connection` (GOAWAY, or the connection is closed), `stream` (RST_STREAM), `answer` (an HTTP answer on the
stream), `goes on` (a ping is answered). A case names what is allowed, with the codes that are.
"""

import json
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from hyperframe.frame import HeadersFrame

from peer import *

NO, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = range(12)

CASES = []


def case(section, does, certificates=(True, False)):
    def add(function):
        CASES.extend((f"{section} {function.__name__}{'' if c else ', without a certificate'}", function, does, c) for c in certificates)
        return function

    return add


# Where the RFCs have a code of their own for an error of the connection, the library may say PROTOCOL_ERROR: closed is closed.
def connection(*codes):
    return {"connection": (*codes, PROTOCOL)}


def stream(*codes):
    return {"stream": codes, "connection": (*codes, PROTOCOL)}


IGNORED = {"goes on": ()}
# RFC 9113 has done away with priorities: whoever does not look at them is right as well.
PRIORITY_ERROR = {**stream(PROTOCOL), **IGNORED}


def opened(c, stream=1, fields=None, flags=0):
    """Headers of a call whose body does not end, unless the flags say so."""
    c.send(raw(HEADERS, END_HEADERS | flags, stream, block(fields or call())))


def ended(c, stream=1):
    opened(c, stream, flags=END_STREAM)


# --- RFC 9113, 3.4 and 4: the preface and the shape of frames


@case("3.4", {"connection": ()})
def a_preface_that_is_none(c):
    c.send(b"INVALID CONNECTION PREFACE\r\n\r\n")


@case("3.4", {"connection": ()})
def a_preface_that_breaks_off(c):
    c.send(PREFACE[:10])
    c.stream.shutdown(socket.SHUT_WR)


# The library does not wait for them, and holds to the defaults.
@case("3.4", {**connection(PROTOCOL), **IGNORED})
def no_settings_after_the_preface(c):
    c.send(PREFACE + raw(PING, 0, 0, b"12345678") + raw(HEADERS, END_HEADERS, 1, block(call())))


a_preface_that_is_none.bare = a_preface_that_breaks_off.bare = no_settings_after_the_preface.bare = True


@case("4.1", IGNORED)
def a_frame_of_an_unknown_kind(c):
    c.send(raw(0xFE, 0xFF, 0, b"12345678") + raw(0x77, 0, 1, b""))


@case("4.1", IGNORED)
def flags_that_are_not_defined(c):
    c.send(raw(PING, 0x16, 0, b"12345678"))


@case("4.1", IGNORED)
def the_reserved_bit(c):
    c.send(raw(PING, 0, 0x8000_0000, b"12345678"))


@case("4.2", stream(SIZE))
def data_beyond_the_size_that_the_server_takes(c):
    opened(c)
    c.send(raw(DATA, 0, 1, b"x" * 200_000))


@case("4.2", connection(SIZE))
def headers_beyond_the_size_that_the_server_takes(c):
    c.send(raw(HEADERS, END_HEADERS, 1, block(call()) + b"\x82" * 200_000))


@case("4.2", connection(SIZE))
def settings_beyond_the_size_that_the_server_takes(c):
    c.send(raw(SETTINGS, 0, 0, b"\x00\x05\x00\x00\x40\x00" * 40_000))


@case("4.2", connection(SIZE))
def a_length_of_sixteen_mebibytes(c):
    c.send(raw(DATA, 0, 1, b"", length=0xFF_FFFF))


@case("4.3", connection(PROTOCOL))
def a_priority_frame_inside_a_header_block(c):
    c.send(raw(HEADERS, 0, 1, block(call())) + raw(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)))


@case("4.3", connection(PROTOCOL))
def headers_of_another_stream_inside_a_header_block(c):
    c.send(raw(HEADERS, 0, 1, block(call())) + raw(HEADERS, END_HEADERS, 3, block(call())))


@case("4.3", connection(PROTOCOL))
def a_continuation_of_another_stream(c):
    c.send(raw(HEADERS, 0, 1, block(call())) + raw(CONTINUATION, END_HEADERS, 3, b""))


# --- 5: streams


@case("5.1", connection(PROTOCOL))
def data_on_an_idle_stream(c):
    c.send(raw(DATA, END_STREAM, 1, b"test"))


@case("5.1", connection(PROTOCOL))
def a_reset_of_an_idle_stream(c):
    c.send(raw(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))


@case("5.1", connection(PROTOCOL))
def a_window_for_an_idle_stream(c):
    c.send(raw(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))


@case("5.1", connection(PROTOCOL))
def a_continuation_of_an_idle_stream(c):
    c.send(raw(CONTINUATION, END_HEADERS, 1, block(call())))


# The server may have ended the stream by itself by then, and passes over what comes on it.
ON_A_CLOSED_STREAM = {**stream(CLOSED, PROTOCOL), **IGNORED}


@case("5.1", ON_A_CLOSED_STREAM)
def data_after_the_end(c):
    ended(c)
    c.send(raw(DATA, END_STREAM, 1, b"test"))


@case("5.1", ON_A_CLOSED_STREAM)
def headers_after_the_end(c):
    ended(c)
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, block(call())))


@case("5.1", connection(PROTOCOL, CLOSED))
def a_continuation_after_the_end(c):
    ended(c)
    c.send(raw(CONTINUATION, END_HEADERS, 1, block(call())))


@case("5.1", ON_A_CLOSED_STREAM)
def data_after_a_reset(c):
    opened(c)
    c.send(raw(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)) + raw(DATA, END_STREAM, 1, b"test"))


@case("5.1", ON_A_CLOSED_STREAM)
def headers_after_a_reset(c):
    opened(c)
    c.send(raw(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)) + raw(HEADERS, END_HEADERS, 1, block(call())))


@case("5.1.1", connection(PROTOCOL))
def a_stream_with_an_even_number(c):
    opened(c, 2)


@case("5.1.1", connection(PROTOCOL, CLOSED))
def a_stream_with_a_lower_number(c):
    opened(c, 5)
    opened(c, 3)


@case("5.1.2", stream(REFUSED, PROTOCOL), certificates=(False,))
def more_streams_than_a_stranger_may_have(c):
    opened(c, 1)
    opened(c, 3)
    c.watched = 3


@case("5.3.1", PRIORITY_ERROR)
def headers_that_depend_on_themselves(c):
    c.send(raw(HEADERS, END_HEADERS | WITH_PRIORITY, 1, struct.pack(">IB", 1, 16) + block(call())))


@case("5.3.1", PRIORITY_ERROR)
def a_priority_that_depends_on_itself(c):
    opened(c)
    c.send(raw(PRIORITY, 0, 1, struct.pack(">IB", 1, 16)))


@case("5.5", connection(PROTOCOL))
def an_unknown_frame_inside_a_header_block(c):
    c.send(raw(HEADERS, 0, 1, block(call())) + raw(0xFE, 0, 1, b"x") + raw(CONTINUATION, END_HEADERS, 1, b""))


# --- 6: the kinds of frames


@case("6.1", connection(PROTOCOL))
def data_on_stream_zero(c):
    c.send(raw(DATA, 0, 0, b"test"))


@case("6.1", connection(PROTOCOL))
def data_with_more_padding_than_there_is(c):
    opened(c)
    c.send(raw(DATA, PADDED, 1, b"\x06test"))


@case("6.2", connection(PROTOCOL))
def headers_on_stream_zero(c):
    opened(c, 0)


@case("6.2", connection(PROTOCOL))
def headers_with_more_padding_than_there_is(c):
    c.send(raw(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + block(call())[:40]))


@case("6.2", connection(PROTOCOL, SIZE))
def headers_too_short_for_their_priority(c):
    c.send(raw(HEADERS, WITH_PRIORITY | END_HEADERS, 1, b"\0\0"))


@case("6.3", connection(PROTOCOL))
def a_priority_on_stream_zero(c):
    c.send(raw(PRIORITY, 0, 0, struct.pack(">IB", 1, 16)))


@case("6.3", stream(SIZE))
def a_priority_of_four_bytes(c):
    opened(c)
    c.send(raw(PRIORITY, 0, 1, b"\0\0\0\0"))


@case("6.4", connection(PROTOCOL))
def a_reset_on_stream_zero(c):
    c.send(raw(RST_STREAM, 0, 0, struct.pack(">I", CANCEL)))


@case("6.4", connection(SIZE))
def a_reset_of_three_bytes(c):
    opened(c)
    c.send(raw(RST_STREAM, 0, 1, b"\0\0\0"))


@case("6.5", connection(SIZE))
def an_acknowledgement_with_settings(c):
    c.send(raw(SETTINGS, ACK, 0, b"\0"))


@case("6.5", connection(PROTOCOL))
def an_acknowledgement_of_nothing(c):
    c.send(raw(SETTINGS, ACK, 0))


@case("6.5", connection(PROTOCOL))
def settings_on_a_stream(c):
    c.send(raw(SETTINGS, 0, 1, struct.pack(">HI", 3, 100)))


@case("6.5", connection(SIZE))
def settings_of_three_bytes(c):
    c.send(raw(SETTINGS, 0, 0, b"\0\x03\0"))


@case("6.5.2", connection(PROTOCOL))
def a_push_setting_of_two(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)))


@case("6.5.2", connection(FLOW))
def an_initial_window_beyond_the_largest(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x8000_0000)))


@case("6.5.2", connection(PROTOCOL))
def a_frame_size_below_the_smallest(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 5, 16_383)))


@case("6.5.2", connection(PROTOCOL))
def a_frame_size_beyond_the_largest(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 5, 1 << 24)))


@case("6.5.2", IGNORED)
def a_setting_that_nobody_knows(c):
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 0xFF, 1)))


@case("6.6", connection(PROTOCOL))
def a_push_promise(c):
    opened(c)
    c.send(raw(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block(call())))


@case("6.7", IGNORED)
def an_answer_to_a_ping_that_nobody_sent(c):
    c.send(raw(PING, ACK, 0, b"whatever"))


@case("6.7", connection(PROTOCOL))
def a_ping_on_a_stream(c):
    c.send(raw(PING, 0, 1, b"12345678"))


@case("6.7", connection(SIZE))
def a_ping_of_six_bytes(c):
    c.send(raw(PING, 0, 0, b"123456"))


@case("6.8", connection(PROTOCOL))
def a_goaway_on_a_stream(c):
    c.send(raw(GOAWAY, 0, 1, struct.pack(">II", 0, NO)))


@case("6.8", connection(SIZE, PROTOCOL))
def a_goaway_of_three_bytes(c):
    c.send(raw(GOAWAY, 0, 0, b"\0\0\0"))


@case("6.9", connection(PROTOCOL))
def a_window_of_nothing(c):
    c.send(raw(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"))


@case("6.9", stream(PROTOCOL))
def a_window_of_nothing_for_a_stream(c):
    opened(c)
    c.send(raw(WINDOW_UPDATE, 0, 1, b"\0\0\0\0"))


@case("6.9", connection(SIZE))
def a_window_of_three_bytes(c):
    c.send(raw(WINDOW_UPDATE, 0, 0, b"\0\0\1"))


@case("6.9.1", connection(FLOW))
def a_window_that_overflows(c):
    c.send(raw(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFF_FFFF)) * 2)


@case("6.9.1", stream(FLOW))
def a_window_that_overflows_for_a_stream(c):
    opened(c)
    c.send(raw(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFF_FFFF)) * 2)


@case("6.9.2", connection(FLOW))
def an_initial_window_that_makes_one_overflow(c):
    opened(c)
    c.send(raw(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7000_0000)))
    c.send(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFF_FFFF)))


@case("6.10", connection(PROTOCOL))
def a_continuation_on_stream_zero(c):
    c.send(raw(HEADERS, 0, 1, block(call())) + raw(CONTINUATION, END_HEADERS, 0, b""))


@case("6.10", connection(PROTOCOL))
def a_continuation_after_the_last_headers(c):
    opened(c)
    c.send(raw(CONTINUATION, END_HEADERS, 1, block(call())))


@case("6.10", connection(PROTOCOL))
def a_continuation_after_data(c):
    opened(c)
    c.send(raw(DATA, 0, 1, b"") + raw(CONTINUATION, END_HEADERS, 1, b""))


# --- 8: messages

REFUSED_MESSAGE = {**stream(PROTOCOL), "answer": ()}


def message(section, name, fields, does=stream(PROTOCOL), flags=0):
    def send(c):
        opened(c, fields=fields, flags=flags)

    send.__name__ = name
    case(section, does)(send)


message("8.2.1", "a_name_in_upper_case", call() + [("X-TEST", "ok")])
message("8.2.1", "a_value_with_a_line_end", call() + [("x-test", "a\r\nb")])
message("8.2.1", "a_name_with_a_space", call() + [("x test", "ok")])
message("8.2.2", "a_connection_header", call() + [("connection", "keep-alive")])
message("8.2.2", "a_keep_alive_header", call() + [("keep-alive", "1")])
message("8.2.2", "an_upgrade_header", call() + [("upgrade", "h2c")])
message("8.2.2", "te_other_than_trailers", call(te="trailers, deflate"))
message("8.3", "a_pseudo_header_that_nobody_knows", [(":test", "ok")] + call())
message("8.3", "the_pseudo_header_of_an_answer", [(":status", "200")] + call())
message("8.3", "a_pseudo_header_behind_others", call()[1:] + [call()[0]])
message("8.3", "a_pseudo_header_twice", call()[:1] + call())
message("8.3.1", "no_method", call(**{":method": None}))
message("8.3.1", "no_scheme", call(**{":scheme": None}))
message("8.3.1", "no_path", call(**{":path": None}))
message("8.3.1", "an_empty_path", [(name, "" if name == ":path" else value) for name, value in call()], REFUSED_MESSAGE)
message("8.1.1", "more_content_than_its_length", call(content_length="1"), {**stream(PROTOCOL), **IGNORED, "answer": ()})
message("8.1.1", "a_length_and_no_content", call(content_length="10"), stream(PROTOCOL), END_STREAM)
message("8.1.1", "two_lengths", call() + [("content-length", "1"), ("content-length", "2")])
message("8.5", "a_connect_call", [(":method", "CONNECT"), (":authority", "host:1")], REFUSED_MESSAGE)
message("6.5.2", "a_header_list_beyond_what_is_taken", call() + [(f"x-{n}", "y" * 100) for n in range(150)], {**stream(PROTOCOL, REFUSED, CALM), "answer": ()})


# The library passes over what is in trailers, and nobody here reads them.
@case("8.1", {**stream(PROTOCOL), **IGNORED})
def a_pseudo_header_in_trailers(c):
    opened(c)
    c.send(raw(HEADERS, END_HEADERS | END_STREAM, 1, block([(":method", "POST")])))


@case("8.1", stream(PROTOCOL))
def trailers_that_are_not_the_end(c):
    opened(c)
    c.send(raw(HEADERS, END_HEADERS, 1, block([("x-test", "ok")])))


# --- RFC 7541: header compression


def compression(name, payload):
    def send(c):
        c.send(raw(HEADERS, END_HEADERS, 1, payload))

    send.__name__ = name
    case("hpack", connection(COMPRESSION))(send)


def literal(name, value):
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


compression("an_index_of_zero", block(call()) + b"\x80")
compression("an_index_beyond_the_table", block(call()) + b"\xff\x00")
compression("an_index_that_never_ends", block(call()) + b"\xff" + b"\xff" * 12)
compression("a_table_larger_than_offered", b"\x3f" + b"\xff\xff\xff\xff\x07" + block(call()))
compression("a_table_that_changes_behind_a_field", block(call()) + b"\x20")
compression("a_string_longer_than_the_block", block(call()) + b"\x10\x7f\x20abc")
compression("a_name_without_a_value", block(call()) + b"\x10\x01a")
# RFC 7541, 5.2: padding of more than seven bits, padding of zeros, and the code for the end.
compression("padding_of_eight_bits", block(call()) + b"\x10\x01a" + b"\x82\x1f\xff")
compression("padding_of_zeros", block(call()) + b"\x10\x01a" + b"\x81\x18")
compression("the_code_for_the_end", block(call()) + b"\x10\x01a" + b"\x84\xff\xff\xff\xff")


def play(one):
    name, send, allowed, certificate = one
    c = Connection(certificate, preface=not getattr(send, "bare", False))
    try:
        send(c)
        return judge(name, c, allowed)
    finally:
        c.close()


def judge(name, c, allowed):
    if "goes on" in allowed and c.alive():
        return None
    # Whatever becomes of it, most of it is heard before the answer to a ping that comes after it; a connection that is closed answers none.
    c.alive(5)
    deadline = time.monotonic() + 3
    while not is_allowed(seen(c), allowed):
        if time.monotonic() > deadline:
            return f"{name}: saw {seen(c) or 'nothing'}, allowed is {allowed}"
        time.sleep(0.02)
    return None


def seen(c):
    watched = getattr(c, "watched", 1)
    seen = []
    if c.goaway() is not None or c.ended(0):
        seen.append(("connection", c.goaway()))
    if c.reset(watched) is not None:
        seen.append(("stream", c.reset(watched)))
    if any(isinstance(frame, HeadersFrame) and frame.stream_id == watched for frame in list(c.frames)):
        seen.append(("answer", None))
    return seen


def is_allowed(seen, allowed):
    for what, code in seen:
        codes = allowed.get(what)
        # A connection that is closed without a word has ended as well.
        if codes is not None and (not codes or code in codes or (what == "connection" and code is None)):
            return True
    return False


wrong = []
# A call that its caller may make waits for what comes next; one that it may not make is over at once, and its stream with it.
for certificate, path in [(True, WORLD["path"]), (False, "/ginnel.v1.Enrolment/Enrol")]:
    WORLD["path"] = path
    with ThreadPoolExecutor(8) as pool:
        wrong += filter(None, pool.map(play, [one for one in CASES if one[3] == certificate]))
print(json.dumps({"cases": len(CASES), "wrong": wrong}))
