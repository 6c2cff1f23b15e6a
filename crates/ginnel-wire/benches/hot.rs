//! The hot paths without I/O: the stream machine, the frame codec, a policy decision.
//!
//! `cargo bench -p ginnel-wire` shows how long each takes. `cargo xtask callgrind` runs each for two numbers of repetitions under valgrind and
//! takes the difference, so that what starting a process costs does not count; for that the program is called with a name and a number.
//! A harness of its own, because both have to run the same code and nothing beside it.

#![allow(missing_docs, clippy::print_stdout, reason = "a program that developers run")]
#![cfg_attr(test, allow(dead_code, reason = "the test build of a bench without a harness"))]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ginnel_core::audit::Timestamp;
use ginnel_core::budget::Budget;
use ginnel_core::limits::{DATA_MAX, FRAME_MAX};
use ginnel_core::policy::{Ask, Policy, Rule, Source};
use ginnel_core::principal::Name;
use ginnel_core::stream::{Frame, Read, Stream};
use ginnel_core::target::Target;
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::grpc::Decoder;
use ginnel_wire::piece::Piece;
use ginnel_wire::v1;

/// A path is repeated until this has passed, and the best of [`TRIES`] such times is shown.
const TIME: Duration = Duration::from_millis(200);

/// How often: the best of them has the least of what else the machine did.
const TRIES: usize = 5;

/// Rules of a large policy, each with [`TARGETS`] targets.
const RULES: usize = 100;

/// Targets of a rule.
const TARGETS: usize = 10;

/// Repeats a path so many times.
type Repeat = Box<dyn FnMut(u64)>;

/// Makes one ready; nothing if what it is given does not parse.
type Prepare = fn() -> Option<Repeat>;

/// The paths by name; the last word says what one repetition is.
const PATHS: [(&str, Prepare); 6] = [
    ("stream/64-KiB", stream::<DATA_MAX>),
    ("stream/100-bytes", stream::<100>),
    ("frame/encode-64-KiB", encode),
    ("frame/decode-64-KiB", decode),
    ("policy/allowed", allowed),
    ("policy/refused", refused),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => {
            for (name, _) in PATHS {
                println!("{name}");
            }
            Some(())
        }
        ["repeat", name, count] => repeat(name, count),
        _ => time(),
    };
    if done.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn repeat(name: &str, count: &str) -> Option<()> {
    let (_, path) = PATHS.into_iter().find(|(path, _)| *path == name)?;
    path()?(count.parse().ok()?);
    Some(())
}

fn time() -> Option<()> {
    for (name, path) in PATHS {
        let mut path = path()?;
        // As many repetitions as fill the time, found by doubling; this also warms it up.
        let mut count = 1;
        while elapsed(&mut path, count) < TIME && count < 1 << 40 {
            count *= 2;
        }
        let best = (0..TRIES).map(|_| elapsed(&mut path, count)).min()?;
        println!("{name:24} {:10.1} ns", best.as_secs_f64() * 1e9 / count as f64);
    }
    Some(())
}

fn elapsed(path: &mut Repeat, count: u64) -> Duration {
    let started = Instant::now();
    path(count);
    started.elapsed()
}

/// One write at one end of a session that arrives at the other and is read there, with the credit that goes back.
fn stream<const SIZE: usize>() -> Option<Repeat> {
    let bytes = vec![7; SIZE];
    let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(Budget::default()));
    Some(Box::new(move |count| {
        for _ in 0..count {
            assert_eq!(near.write(black_box(&bytes)), SIZE, "the credit is returned each time");
            pass(&mut near, &mut far);
            while let Read::Bytes(read) = far.read(SIZE) {
                black_box(read);
            }
            pass(&mut far, &mut near);
        }
    }))
}

fn pass(from: &mut Stream, to: &mut Stream) {
    while let Some(frame) = from.poll_frame(DATA_MAX) {
        assert_eq!(to.handle_frame(frame), Ok(()), "both ends are ours");
    }
}

fn data() -> SessionFrame {
    SessionFrame::Stream(Frame::Data { offset: 1 << 30, bytes: Bytes::from(vec![7; DATA_MAX]) })
}

/// A full frame as a piece to write.
fn encode() -> Option<Repeat> {
    let frame = data();
    Some(Box::new(move |count| {
        for _ in 0..count {
            let mut piece = Piece::default();
            piece.push(black_box(&frame).clone());
            black_box(&piece);
        }
    }))
}

/// A full frame as it arrives: in one HTTP/2 frame.
fn decode() -> Option<Repeat> {
    let mut buffer = BytesMut::new();
    data().encode(&mut buffer);
    let pieces = [buffer.freeze()];
    let mut decoder = Decoder::new(FRAME_MAX);
    Some(Box::new(move |count| {
        for _ in 0..count {
            let mut whole = 0;
            for piece in &pieces {
                decoder.put(black_box(piece).clone());
                while let Ok(Some(frame)) = decoder.next_message::<v1::Frame>() {
                    assert!(black_box(SessionFrame::try_from(frame)).is_ok(), "the frame is ours");
                    whole += 1;
                }
            }
            assert_eq!(whole, 1, "the frame is whole with its last piece");
        }
    }))
}

/// The last target of the last rule of a large policy.
fn allowed() -> Option<Repeat> {
    decide(RULES - 1, true)
}

/// A target that no rule names.
fn refused() -> Option<Repeat> {
    decide(RULES, false)
}

fn decide(rule: usize, expected: bool) -> Option<Repeat> {
    let policy = policy()?;
    let (client, agent): (Name, Name) = ("frontend".parse().ok()?, "acme".parse().ok()?);
    let target: Target = host(rule, TARGETS - 1).parse().ok()?;
    Some(Box::new(move |count| {
        let source = Source::Address(Ipv4Addr::LOCALHOST.into());
        let ask = Ask { client: &client, target: &target, source, now: Timestamp::default() };
        for _ in 0..count {
            let decision = policy.decide(black_box(&ask), black_box(&agent));
            assert_eq!(black_box(decision).is_ok(), expected, "the policy is known");
        }
    }))
}

fn policy() -> Option<Policy> {
    let rule = |number| {
        let targets = (0..TARGETS).map(|target| host(number, target).parse().ok()).collect::<Option<Vec<_>>>()?;
        let (clients, agents) = (["frontend".parse().ok()?].into(), ["acme".parse().ok()?].into());
        Some(Rule { name: format!("rule-{number}"), clients, agents, targets, expires: None, sources: None })
    };
    Some(Policy::new((0..RULES).map(rule).collect::<Option<Vec<_>>>()?, Timestamp::default()))
}

fn host(rule: usize, target: usize) -> String {
    format!("host-{target}.site-{rule}.acme.internal:443")
}
