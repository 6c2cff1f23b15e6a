//! Every bound of the tunnel's core with its reason. Bounds of one crate's own affairs (a parser's depth, a file's size) stand beside
//! their use; what two parts share stands here.

use std::time::Duration;

/// Bytes that a sender may have under way in one direction of a session before the first [`Credit`](crate::stream::Frame::Credit).
/// Both ends know it without saying it, so that the inner ClientHello rides with `Open`. 256 KiB fill 20 Mbit/s at 100 ms.
pub const CREDIT_INITIAL: u64 = 256 * 1024;

/// Most bytes that a receiver may have granted beyond what it consumed: 1 Gbit/s at 100 ms, with room for grants to come in time.
pub const CREDIT_MAX: u64 = 16 * 1024 * 1024;

/// Bytes that the sessions of one connection may have been granted in all beyond [`CREDIT_INITIAL`] each: four that fill the longest path,
/// or sixteen that fill one TCP connection each, whose buffers end at 4 MiB.
pub const CREDIT_PER_CONNECTION: u64 = 4 * CREDIT_MAX;

/// The same for all connections of one process. Memory is used only where bytes wait; this is the worst that stalled readers can do.
pub const CREDIT_IN_ALL: u64 = 4 * CREDIT_PER_CONNECTION;

/// A receiver grants again once this share of its window was consumed: seldom enough to cost nothing, early enough that a sender
/// at full speed never waits for a whole window.
pub const CREDIT_STEP_DIVISOR: u64 = 4;

/// Most bytes of one `Data` frame. With its headers (9 HTTP/2, 5 gRPC, at most 18 protobuf) it stays within four TLS records.
pub const DATA_MAX: usize = 65_536 - 32;

/// The same while several sessions of a connection have bytes that wait: a small message then stands behind half as much of each. The least that
/// is not copied together again where it is queued ([`COPY_BELOW`]); a quarter of [`DATA_MAX`], one TLS record, cost bulk sessions more CPU.
pub const DATA_SHARED_MAX: usize = COPY_BELOW;

/// Most bytes that are read at once for a session. In four records of inner TLS, 22 bytes longer each, they fill one frame.
pub const SESSION_READ_MAX: usize = DATA_MAX - 4 * 22;

/// Bytes that one task moves before it lets others have their turn: one frame, which takes some 50 µs. A bulk session that goes on for as long as
/// it can makes every small message on the same thread wait for milliseconds, in each process that it passes.
pub const TURN_MAX: usize = DATA_MAX;

/// Frames of a session that are taken in before others have their turn: small ones cost little each, but a peer may send them without end.
pub const TURN_FRAMES_MAX: usize = 64;

/// Most bytes of one frame on the wire, headers included; a longer length prefix is refused before anything is buffered.
pub const FRAME_MAX: usize = DATA_MAX + 1024;

/// Bytes that one end of a session takes from its application before they are framed: one frame's worth under way, one being filled.
pub const SEND_BUFFER_MAX: u64 = 2 * DATA_MAX as u64;

/// Chunks below this are copied together, so that a queue of small chunks cannot pin the large buffers they were cut from: a receive buffer holds up
/// to [`HTTP2_FRAME_MAX`], so that a queue never pins more than four times what it holds.
pub const COPY_BELOW: usize = 32 * 1024;

/// Most bytes of a message on a control stream other than a roster: a dial has some hundred.
pub const CONTROL_MESSAGE_MAX: usize = 64 * 1024;

/// Most bytes of a session that go with its dial: a ClientHello, which would otherwise wait for the agent's call and cost every session a round
/// trip. [`CONTROL_QUEUE_MAX`] dials with as many hold 4 MiB.
pub const EARLY_MAX: usize = 4096;

/// Most bytes of a roster: 100,000 targets of 80 characters, or as many agent processes. The server checks before it sends.
pub const ROSTER_MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of an enrolment request, which anybody may send: an 8 KiB token and a 4 KiB request with room to spare.
pub const ENROL_MESSAGE_MAX: usize = 16 * 1024;

/// A TLS handshake, from accept to finish. A withheld certificate must not hold a slot for longer.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Life of a connection without a client certificate: it carries one enrolment and nothing else.
pub const ENROL_DEADLINE: Duration = Duration::from_secs(5);

/// From an admitted enrolment to its certificate, where an issuer has a queue or is far away. Whoever asks waits for 15 s, connection included,
/// so that the answer comes while somebody hears it.
pub const ISSUE_WAIT: Duration = Duration::from_secs(13);

/// How much longer than [`ISSUE_WAIT`] a connection stays after its enrolment was admitted, for the record and the answer.
pub const ISSUE_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// TLS handshakes under way at once. Each costs about a millisecond of CPU; more of them would only wait inside the process. Twice what one
/// source may have pending, so that no source holds every slot by beginning handshakes that it does not finish.
pub const HANDSHAKES_MAX: usize = 2 * PENDING_PER_SOURCE_MAX;

/// From a finished TLS handshake with a certificate to the hello on it.
pub const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Connections with a certificate at once, all roles together. Those without one are counted apart, so that strangers cannot use these up.
/// A silent one costs a descriptor and some 100 KB. Beyond half of them only first connections are taken: see [`LANES_SHARE_DIVISOR`].
pub const CONNECTIONS_MAX: usize = 8192;

/// How long the accept loop rests after an accept failed for want of descriptors or memory, instead of spinning.
pub const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Sessions at once on one connection: the HTTP/2 stream limit that the server announces.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;

/// Sessions at once in one agent process.
pub const SESSIONS_PER_AGENT_MAX: usize = 10_000;

/// HTTP/2 window of one stream. Never what holds a session back: credits are smaller, and receivers always drain.
pub const STREAM_WINDOW: u32 = 32 * 1024 * 1024;

/// HTTP/2 window of one connection.
pub const CONNECTION_WINDOW: u32 = 128 * 1024 * 1024;

/// Most bytes of one HTTP/2 frame: a whole frame of a session with its prefix, so that none is cut and has to be put together again.
pub const HTTP2_FRAME_MAX: u32 = 2 * 64 * 1024;

/// Bytes of one stream that may wait in the HTTP/2 library: the piece that is on its way out, and the next.
pub const UNSENT_PER_STREAM_MAX: usize = 2 * FRAME_MAX;

/// Streams that one end has reset and still remembers, so that what the peer sent before it heard is passed over without a word. As many as can
/// be cancelled within the second that HTTP/2 keeps them, at what a core can open.
pub const RESET_STREAMS_MAX: usize = 4096;

/// How long they are remembered: bytes that were under way may take as long as a connection may be silent, and longer on a slow line.
pub const RESET_STREAMS_KEPT: Duration = Duration::from_secs(30);

/// Frames for streams that are forgotten all the same, over the life of a connection, before the HTTP/2 library gives the peer up.
pub const LATE_FRAMES_MAX: usize = 1_000_000;

/// What unread HTTP/2 frames of less than 256 bytes may cost a connection, at 256 less their length each, before the HTTP/2 library gives it
/// up. Receivers read at once, so that this only has to stand a process that gets no CPU for a while.
pub const SMALL_FRAMES_BUDGET: usize = 64 * 1024 * 1024;

/// Bytes of HTTP/2 headers that are accepted.
pub const HEADER_LIST_MAX: u32 = 8 * 1024;

/// How often a peer is asked for a sign of life.
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

/// Connections at once that have shown no certificate: silent ones, handshakes under way, enrolments. A place costs a descriptor and a few
/// kilobytes for at most [`HANDSHAKE_DEADLINE`] and [`ENROL_DEADLINE`], so that this is room for a hundred newcomers a second at their slowest.
/// Only whoever proved to be an identity of the configuration keeps one for [`ISSUE_WAIT`], or whose enrolment is passed on, of which a server
/// bounds the number.
pub const PENDING_MAX: usize = 1024;

/// The same from one source: an IPv4 /24 or an IPv6 /56, which is about what one site is given.
pub const PENDING_PER_SOURCE_MAX: usize = 256;

/// Connections at once with one principal's certificates: all its instances, each with the old connection and the new one of a renewal, and
/// as many again for lanes beside the first.
pub const CONNECTIONS_PER_PRINCIPAL_MAX: usize = 4 * INSTANCES_PER_PRINCIPAL_MAX;

/// A server takes a lane beside the first of a process only while less than this part of the connections is in use, of all of them and of
/// the principal's own: what is left belongs to processes that have none yet.
pub const LANES_SHARE_DIVISOR: usize = 2;

/// Lanes of one process, the first included. Under loss throughput goes with their number; 16 do for 16 sessions what TCP connections of
/// their own would do, and beyond that each of many sessions has its part of all of them.
pub const LANES_MAX: usize = 16;

/// Lanes that one process opens at the same time. A handshake costs about a millisecond of CPU on both sides; four at a time have 16 lanes up
/// after about a second at 100 ms.
pub const LANES_OPENING_MAX: usize = 4;

/// A lane that has had no session for so long is closed. Work that comes in waves, such as builds, finds its lanes again.
pub const LANE_IDLE: Duration = Duration::from_secs(600);

/// Connections beside the first that one process keeps in all, those included that are replaced and finish their sessions: four renewals'
/// worth of sessions without end. A process that has so many opens no more.
pub const LANES_KEPT_MAX: usize = 4 * LANES_MAX;

/// How often the log says that connections are turned away. What strangers can cause at will must not fill a disk.
pub const TURNED_AWAY_LOG_EVERY: Duration = Duration::from_secs(10);

/// How often a connection asks its socket whether input waits that nobody reads: at each of so many parts of [`SILENCE_MAX`]. A byte that
/// arrived unread counts from the next of these moments, so more parts find a dead peer earlier.
pub const SILENCE_PARTS: u32 = 9;

/// Bytes that may stand unsent in the kernel for one connection of the tunnel. Whatever is urgent (a ping, its answer) waits behind them: 6 s
/// at 20 kB/s, within [`SILENCE_MAX`]. They need not fill the line, because what is under way does not count.
pub const UNSENT_MAX: u32 = 128 * 1024;

/// How long the last bytes of a session whose halves have both ended may take to leave: 256 KiB at 5 kB/s, or the share of one session on a line
/// that many use.
pub const LAST_BYTES_WAIT: Duration = Duration::from_secs(60);

/// How long the kernel keeps bytes of a connection that the peer does not take. Silence decides long before while the connection is in use;
/// this frees what a closed one has left. Far above [`SILENCE_MAX`], because Linux also counts the time in which a living peer's window is shut.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Head start of one address over the next when a name has several (RFC 8305, section 8). With the deadlines above it also bounds how many
/// attempts are under way: 40.
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Lookups of target names under way at once in one agent process. The system's resolver cannot be stopped, and each lookup has a thread of the
/// 512 that the runtime has for blocking work, files included.
pub const LOOKUPS_MAX: usize = 64;

/// Denials in force at once in one process. Each is some 200 bytes in memory and in its file, which is written anew with every one; whoever has
/// more to deny takes identities out of the configuration.
pub const DENIALS_MAX: usize = 4096;

const _: () = assert!(DATA_SHARED_MAX <= DATA_MAX);
const _: () = assert!(CREDIT_INITIAL <= CREDIT_MAX);
const _: () = assert!(CREDIT_MAX < STREAM_WINDOW as u64, "credits decide, HTTP/2 windows do not");
const _: () = assert!(CREDIT_PER_CONNECTION < CONNECTION_WINDOW as u64);
const _: () = assert!(STREAM_WINDOW < CONNECTION_WINDOW);
const _: () = assert!(RESOLVE_DEADLINE.as_secs() + DIAL_DEADLINE.as_secs() < OPEN_DEADLINE.as_secs());
const _: () = assert!(HANDSHAKES_MAX <= PENDING_MAX);
const _: () = assert!(CONNECTIONS_PER_PRINCIPAL_MAX < CONNECTIONS_MAX);
const _: () = assert!(2 * INSTANCES_PER_PRINCIPAL_MAX <= CONNECTIONS_PER_PRINCIPAL_MAX / LANES_SHARE_DIVISOR);
const _: () = assert!(SILENCE_MAX.as_secs() < UNACKNOWLEDGED_MAX.as_secs());
