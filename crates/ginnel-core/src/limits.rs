//! Every bound of the tunnel's core with its reason. Bounds of one crate's own affairs (a parser's depth, a file's size) stand beside
//! their use; what two parts share stands here.

use std::time::Duration;

/// Bytes that a sender may have under way in one direction of a session before the first [`Credit`](crate::stream::Frame::Credit).
/// Both ends know it without saying it, so that the inner ClientHello rides with `Open`. 256 KiB fill 20 Mbit/s at 100 ms.
pub const CREDIT_INITIAL: u64 = 256 * 1024;

/// Most bytes that a receiver may have granted beyond what it consumed. It bounds what the server can be made to hold for one
/// direction of one session.
pub const CREDIT_MAX: u64 = 1024 * 1024;

/// A receiver grants again once this share of its window was consumed: seldom enough to cost nothing, early enough that a sender
/// at full speed never waits for a whole window.
pub const CREDIT_STEP_DIVISOR: u64 = 4;

/// Most bytes of one `Data` frame. With its headers (9 HTTP/2, 5 gRPC, at most 18 protobuf) it stays within four TLS records.
pub const DATA_MAX: usize = 65_536 - 32;

/// Most bytes of one frame on the wire, headers included; a longer length prefix is refused before anything is buffered.
pub const FRAME_MAX: usize = DATA_MAX + 1024;

/// Bytes that one end of a session takes from its application before they are framed: one frame's worth under way, one being filled.
pub const SEND_BUFFER_MAX: u64 = 2 * DATA_MAX as u64;

/// Chunks below this are copied together, so that a queue of small chunks cannot pin the large buffers they were cut from.
pub const COPY_BELOW: usize = 4096;

/// Most bytes of a message on a control stream other than a roster: a dial has some hundred.
pub const CONTROL_MESSAGE_MAX: usize = 64 * 1024;

/// Most bytes of a roster: 100,000 targets of 80 characters, or as many agent processes. The server checks before it sends.
pub const ROSTER_MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of an enrolment request, which anybody may send: an 8 KiB token and a 4 KiB request with room to spare.
pub const ENROL_MESSAGE_MAX: usize = 16 * 1024;

/// A TLS handshake, from accept to finish. A withheld certificate must not hold a slot for longer.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Life of a connection without a client certificate: it carries one enrolment and nothing else.
pub const ENROL_DEADLINE: Duration = Duration::from_secs(5);

/// TLS handshakes under way at once. Each costs about a millisecond of CPU; more of them would only wait inside the process.
pub const HANDSHAKES_MAX: usize = 256;

/// From a finished TLS handshake with a certificate to the hello on it.
pub const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Accepted connections at once, all roles together.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long the accept loop rests after an accept failed for want of descriptors or memory, instead of spinning.
pub const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Sessions at once on one connection: the HTTP/2 stream limit that the server announces.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;

/// Sessions at once in one agent process.
pub const SESSIONS_PER_AGENT_MAX: usize = 10_000;

/// HTTP/2 window of one stream. Never what holds a session back: credits are smaller, and receivers always drain.
pub const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// HTTP/2 window of one connection. It also sets how many unread small frames h2 tolerates before it gives up the
/// connection (about half of it divided by 256).
pub const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// Bytes of HTTP/2 headers that are accepted.
pub const HEADER_LIST_MAX: u32 = 8 * 1024;

/// Silence after which a peer is asked for a sign of life.
pub const PING_AFTER: Duration = Duration::from_secs(3);

/// Silence after which a connection is dead. Any received byte is life. Together with the check's own period it keeps a silent
/// agent on the roster for less than 10 s.
pub const SILENCE_MAX: Duration = Duration::from_secs(9);

/// A TCP connection to the server, DNS included, and its TLS handshake.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The agent's lookup of a target's name.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// The agent's TCP connection to a target, all of its addresses together.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// From `Dial` to `Opened` as the server sees it: lookup and dial and some way. An agent that says nothing is given up then.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(20);

/// From the agent's answer to the end of the inner handshake and its first message.
pub const INNER_DEADLINE: Duration = Duration::from_secs(10);

/// One request of an application, all attempts and agents together. Most programs give up after as long.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long a dial waits for a connection to the server that is about to come back.
pub const SERVER_WAIT: Duration = Duration::from_secs(5);

/// Agents that are tried for one request of an application.
pub const ATTEMPTS_MAX: usize = 4;

/// Control messages that wait for one agent. Each is one dial; an agent that lets more pile up is overloaded.
pub const CONTROL_QUEUE_MAX: usize = 1024;

/// Instances of one principal on the server at once.
pub const INSTANCES_PER_PRINCIPAL_MAX: usize = 256;

/// Grace between the notAfter of the last certificate of a lease and the end of its sessions, for clocks that differ.
pub const LEASE_GRACE: Duration = Duration::from_secs(1);

const _: () = assert!(CREDIT_INITIAL <= CREDIT_MAX);
const _: () = assert!(CREDIT_MAX < STREAM_WINDOW as u64, "credits decide, HTTP/2 windows do not");
const _: () = assert!(STREAM_WINDOW < CONNECTION_WINDOW);
const _: () = assert!(RESOLVE_DEADLINE.as_secs() + DIAL_DEADLINE.as_secs() < OPEN_DEADLINE.as_secs());
