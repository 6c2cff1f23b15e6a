//! Every bound of the tunnel's core with its reason. Bounds of one crate's own affairs (a parser's depth, a file's size) stand beside
//! their use; what two parts share stands here. What an operator can move is in [`Limits`] as well, and its constant is what holds without a
//! setting; `docs/security/limits.md` is made from this file.

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

/// Most agent processes on a roster, each of which costs a client some fifty bytes; their targets are kept once for each agent. The server
/// checks before it sends, and a client takes no more from one that does not.
pub const ROSTER_PROCESSES_MAX: usize = 100_000;

/// Targets and agents in all routes of a client together. Every session is held against each of them, and every reload each session: so many
/// take some tenths of a millisecond.
pub const ROUTE_PATTERNS_MAX: usize = 10_000;

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
/// Setting: `limits.connections`.
pub const CONNECTIONS_MAX: usize = 8192;

/// How long the accept loop rests after an accept failed for want of descriptors or memory, instead of spinning.
pub const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Sessions at once on one connection: the HTTP/2 stream limit that the server announces.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 10_000;

/// Sessions at once in one agent process, if it may have as many descriptors: as many as the server gives one agent, of which no client has more than
/// half.
pub const SESSIONS_PER_AGENT_MAX: usize = 20_000;

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

/// Instances of one principal on the server at once. Setting: `limits.instancesPerPrincipal`.
pub const INSTANCES_PER_PRINCIPAL_MAX: usize = 256;

/// Grace between the notAfter of the last certificate of a lease and the end of its sessions, for clocks that differ.
pub const LEASE_GRACE: Duration = Duration::from_secs(1);

/// Connections at once that have shown no certificate: silent ones, handshakes under way, enrolments. A place costs a descriptor and a few
/// kilobytes for at most [`HANDSHAKE_DEADLINE`] and [`ENROL_DEADLINE`], so that this is room for a hundred newcomers a second at their slowest.
/// Only whoever proved to be an identity of the configuration keeps one for [`ISSUE_WAIT`], or whose enrolment is passed on, of which a server
/// bounds the number. Setting: `limits.pending`.
pub const PENDING_MAX: usize = 1024;

/// The same from one source: an IPv4 /24 or an IPv6 /56, which is about what one site is given. Setting: `limits.pendingPerSource`.
pub const PENDING_PER_SOURCE_MAX: usize = 256;

/// Connections at once with one principal's certificates: all its instances, each with the old connection and the new one of a renewal, and
/// as many again for lanes beside the first. Setting: `limits.connectionsPerPrincipal`.
pub const CONNECTIONS_PER_PRINCIPAL_MAX: usize = 4 * INSTANCES_PER_PRINCIPAL_MAX;

/// A server takes a lane beside the first of a process only while less than this part of the connections is in use, of all of them and of
/// the principal's own: what is left belongs to processes that have none yet.
pub const LANES_SHARE_DIVISOR: u64 = 2;

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

/// Sessions at once on one server, those included that are being opened: some 5 KiB each while they rest, 200 MiB in all. Each counts for its client and for its
/// agent. No principal gets more than it leaves to the others. Setting: `limits.sessions`.
pub const SESSIONS_MAX: u64 = 40_000;

/// The same with one principal. Through one agent no client gets more than it leaves to the others: 10,000, if the others have none.
/// Setting: `limits.sessionsPerPrincipal`.
pub const SESSIONS_PER_PRINCIPAL_MAX: u64 = 20_000;

/// Calls of one principal at once that have not said yet which session they want: a client that opens sessions says so in the same packet. Each is a
/// task for as long as it may take to say it.
pub const UNDECIDED_PER_PRINCIPAL_MAX: u64 = 1024;

/// The same of all principals together.
pub const UNDECIDED_MAX: u64 = 8 * UNDECIDED_PER_PRINCIPAL_MAX;

/// Sessions that one client may ask for in a second, over the time: a core of the server opens some 4,000. Setting: `limits.opensPerSecond`.
pub const OPENS_PER_SECOND: u32 = 3_000;

/// How many seconds' worth of sessions may be asked for at once after a pause: applications that come back after a restart come together.
pub const OPENS_BURST_SECONDS: u32 = 4;

/// How many times [`OPENS_PER_SECOND`] a principal may call before calls go unheard: each that is heard leaves a record of its refusal.
pub const UNHEARD_FACTOR: u32 = 4;

/// The same before the connection is closed on which the next call comes: no program asks so often that gets nothing for it.
pub const ENOUGH_FACTOR: u32 = 8;

/// Sessions of one connection in which its peer breaks the protocol before the connection is closed. A fault in another version shows in a few sessions
/// first; who goes on after that means it.
pub const VIOLATIONS_MAX: u32 = 4;

/// Calls of a stranger on one connection that it takes back before they are answered. Who enrols makes one call and waits.
pub const STRANGER_RESETS_MAX: u64 = 16;

/// Failed enrolments from one source in a second, over the time; a site whose clocks or keys are wrong makes some. Those that succeed are not
/// counted: a whole site may renew at once. Setting: `limits.failedEnrolmentsPerSecond`.
pub const FAILED_ENROLMENTS_PER_SECOND: u32 = 50;

/// How many seconds' worth of them may come at once after a pause.
pub const FAILED_ENROLMENTS_BURST_SECONDS: u32 = 10;

/// Principals or sources whose rate is remembered at once; some 100 bytes each. Who has nothing used up is forgotten first.
pub const RATE_KEYS_MAX: usize = 4096;

/// Bytes of sessions that may wait in one server for somebody who does not take them: 2,700 sessions that are full to the brim. A server that may use
/// less than four times as much memory has a quarter of that. Setting: `limits.waitingMib`.
pub const WAITING_BYTES_MAX: u64 = 1024 * MIB;

/// The least of it, whatever the memory: sixteen sessions of each end of a path that is long and full.
pub const WAITING_BYTES_MIN: u64 = 32 * MIB;

/// Bytes that may wait in one direction of a session without being counted: a message that is on its way through.
pub const UNCOUNTED_MAX: usize = 4096;

/// Descriptors that a process keeps for itself and gives to no connection: log, audit, denials, keys and authorities, names, the runtime's own, and
/// both admin listeners with every place taken.
pub const DESCRIPTORS_RESERVED: u64 = 128;

/// Denials in force at once in one process. Each is some 200 bytes in memory and in its file, which is written anew with every one; whoever has
/// more to deny takes identities out of the configuration.
pub const DENIALS_MAX: usize = 4096;

/// Bytes of one MiB.
pub const MIB: u64 = 1024 * 1024;

/// The bounds of a server that its operator can move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// See [`CONNECTIONS_PER_PRINCIPAL_MAX`].
    pub connections_per_principal: usize,
    /// See [`PENDING_MAX`].
    pub pending: usize,
    /// See [`PENDING_PER_SOURCE_MAX`].
    pub pending_per_source: usize,
    /// See [`INSTANCES_PER_PRINCIPAL_MAX`].
    pub instances_per_principal: usize,
    /// See [`SESSIONS_MAX`].
    pub sessions: u64,
    /// See [`SESSIONS_PER_PRINCIPAL_MAX`].
    pub sessions_per_principal: u64,
    /// See [`OPENS_PER_SECOND`].
    pub opens_per_second: u32,
    /// See [`FAILED_ENROLMENTS_PER_SECOND`].
    pub failed_enrolments_per_second: u32,
    /// See [`WAITING_BYTES_MAX`]; without it, what the memory allows.
    pub waiting_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            connections_per_principal: CONNECTIONS_PER_PRINCIPAL_MAX,
            pending: PENDING_MAX,
            pending_per_source: PENDING_PER_SOURCE_MAX,
            instances_per_principal: INSTANCES_PER_PRINCIPAL_MAX,
            sessions: SESSIONS_MAX,
            sessions_per_principal: SESSIONS_PER_PRINCIPAL_MAX,
            opens_per_second: OPENS_PER_SECOND,
            failed_enrolments_per_second: FAILED_ENROLMENTS_PER_SECOND,
            waiting_bytes: None,
        }
    }
}

impl Limits {
    /// The same with no more connections than a process can have that may have so many descriptors, [`DESCRIPTORS_RESERVED`] of them for itself: a
    /// quarter of the rest for those without a certificate.
    #[must_use]
    pub fn within_descriptors(self, descriptors: u64) -> Self {
        let rest = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX).max(8);
        let pending = self.pending.min(rest / 4);
        let connections = self.connections.min(rest - pending);
        let pending_per_source = self.pending_per_source.min(pending.div_ceil(2));
        let connections_per_principal = self.connections_per_principal.min(connections);
        Self { connections, connections_per_principal, pending, pending_per_source, ..self }
    }

    /// How many bytes may wait in a process that may use so much memory, as far as that is known.
    pub fn waiting_bytes(&self, memory: Option<u64>) -> u64 {
        let by_memory =
            memory.map_or(WAITING_BYTES_MAX, |memory| (memory / 4).clamp(WAITING_BYTES_MIN, WAITING_BYTES_MAX));
        self.waiting_bytes.unwrap_or(by_memory)
    }
}

const _: () = assert!(SESSIONS_PER_PRINCIPAL_MAX <= SESSIONS_MAX / 2, "one principal alone gets all that it may have");
const _: () = assert!(UNHEARD_FACTOR < ENOUGH_FACTOR);
const _: () = assert!(CREDIT_IN_ALL <= WAITING_BYTES_MAX / 4);
const _: () = assert!(DATA_SHARED_MAX <= DATA_MAX);
const _: () = assert!(CREDIT_INITIAL <= CREDIT_MAX);
const _: () = assert!(CREDIT_MAX < STREAM_WINDOW as u64, "credits decide, HTTP/2 windows do not");
const _: () = assert!(CREDIT_PER_CONNECTION < CONNECTION_WINDOW as u64);
const _: () = assert!(STREAM_WINDOW < CONNECTION_WINDOW);
const _: () = assert!(RESOLVE_DEADLINE.as_secs() + DIAL_DEADLINE.as_secs() < OPEN_DEADLINE.as_secs());
const _: () = assert!(HANDSHAKES_MAX <= PENDING_MAX);
const _: () = assert!(CONNECTIONS_PER_PRINCIPAL_MAX < CONNECTIONS_MAX);
const _: () =
    assert!((2 * INSTANCES_PER_PRINCIPAL_MAX) as u64 <= CONNECTIONS_PER_PRINCIPAL_MAX as u64 / LANES_SHARE_DIVISOR);
const _: () = assert!(SILENCE_MAX.as_secs() < UNACKNOWLEDGED_MAX.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_connections_than_descriptors() {
        for descriptors in [0, 64, 130, 256, 1024, 4096, 9_344, 65_536, u64::MAX] {
            let limits = Limits::default().within_descriptors(descriptors);
            let connections = u64::try_from(limits.pending + limits.connections).unwrap();
            assert!(
                connections <= descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(8),
                "{descriptors}: {limits:?}"
            );
            assert!(limits.pending_per_source >= 1 && limits.pending_per_source <= limits.pending, "{limits:?}");
            assert!(limits.connections_per_principal >= 1, "{limits:?}");
        }
        assert_eq!(Limits::default().within_descriptors(65_536), Limits::default());
        let few = Limits::default().within_descriptors(256);
        assert_eq!((few.pending, few.pending_per_source, few.connections), (32, 16, 96));
    }

    #[test]
    fn what_may_wait_follows_the_memory_unless_it_is_set() {
        let (unset, set) = (Limits::default(), Limits { waiting_bytes: Some(7 * MIB), ..Limits::default() });
        for (memory_mib, mib) in [(Some(512), 128), (Some(1), 32), (Some(1 << 20), 1024), (None, 1024)] {
            let memory = memory_mib.map(|mib| mib * MIB);
            assert_eq!((unset.waiting_bytes(memory), set.waiting_bytes(memory)), (mib * MIB, 7 * MIB));
        }
    }
}
