//! One direction of a link: what becomes of a packet, and the two threads that see to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use tun_rs::{SyncDevice, VIRTIO_NET_HDR_LEN};

use super::{Counts, Shape};

/// Packets under way in one direction. A line of 1 Gbit/s and 100 ms holds 13,000 full ones, and as many may wait for it; beyond come
/// streams of the smallest packets only, which are dropped like others for which there is no room.
const PACKETS_MAX: usize = 64 * 1024;

/// Most bytes of one packet, or of one bundle.
const PACKET_MAX: usize = 64 * 1024;

const MILLION: u64 = 1_000_000;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives at this moment.
    Arrives(Instant),
    /// It is lost on the way.
    Lost,
    /// There was no room for it in the queue.
    Dropped,
}

/// A line in one direction, which is told when a packet comes and says when it arrives.
pub(super) struct Line {
    delay: Duration,
    /// The longest that a packet may wait for the line, which says how long the queue is.
    wait_max: Duration,
    bytes_per_second: u64,
    loss_ppm: u64,
    chance: u64,
    /// When the line has taken everything that came before.
    free: Option<Instant>,
}

impl Line {
    pub(super) fn new(shape: &Shape, seed: u64) -> Self {
        Self {
            delay: shape.round_trip / 2,
            wait_max: shape.round_trip,
            bytes_per_second: shape.bytes_per_second,
            loss_ppm: shape.loss_ppm.into(),
            chance: seed,
            free: None,
        }
    }

    /// Decides about a packet of so many bytes that comes at this moment.
    pub(super) fn pass(&mut self, now: Instant, bytes: u64) -> Fate {
        let free = self.free.map_or(now, |free| free.max(now));
        if free - now > self.wait_max {
            return Fate::Dropped;
        }
        let taken = free + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_second);
        self.free = Some(taken);
        if self.draw() % MILLION < self.loss_ppm { Fate::Lost } else { Fate::Arrives(taken + self.delay) }
    }

    /// SplitMix64: the same losses for the same seed, on every machine.
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.chance;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

type UnderWay = (Instant, Box<[u8]>);

/// Starts the threads of one direction. They end when a device is gone.
pub(super) fn start(
    line: Line,
    bundles: bool,
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    counts: Arc<Counts>,
) -> Result<[JoinHandle<()>; 2]> {
    let (sender, receiver) = sync_channel(PACKETS_MAX);
    let taking = Builder::new().name("link in".to_owned()).spawn({
        let counts = Arc::clone(&counts);
        move || take(&from, line, bundles, &sender, &counts)
    })?;
    let giving = Builder::new().name("link out".to_owned()).spawn(move || give(&to, &receiver, &counts))?;
    Ok([taking, giving])
}

fn take(from: &SyncDevice, mut line: Line, bundles: bool, sender: &SyncSender<UnderWay>, counts: &Counts) {
    let count = |which: &AtomicU64| which.fetch_add(1, Ordering::Relaxed);
    let mut buffer = vec![0; PACKET_MAX + VIRTIO_NET_HDR_LEN];
    // A read is not interrupted: this thread handles no signals. It fails once the device is gone.
    while let Ok(read) = from.recv(&mut buffer) {
        let packet = &buffer[..read];
        let bytes = if bundles { bytes_of_bundle(packet) } else { read as u64 };
        match line.pass(Instant::now(), bytes) {
            Fate::Arrives(at) => match sender.try_send((at, packet.into())) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    count(&counts.dropped);
                }
                Err(TrySendError::Disconnected(_)) => return,
            },
            Fate::Lost => {
                count(&counts.lost);
            }
            Fate::Dropped => {
                count(&counts.dropped);
            }
        }
    }
}

fn give(to: &SyncDevice, receiver: &Receiver<UnderWay>, counts: &Counts) {
    // They come in the order in which they arrive: the line takes one after the other.
    while let Ok((at, packet)) = receiver.recv() {
        // The kernel wakes a sleeping thread within some ten microseconds.
        sleep(at.saturating_duration_since(Instant::now()));
        // A packet that the device does not take is one more that did not arrive; a device that is gone ends the other thread, and so this.
        if to.send(&packet).is_ok() {
            counts.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bytes on the line of a bundle of segments, each of which has headers of its own there. What the kernel puts before the packet says how
/// they are cut: length of the headers at byte 2, size of a segment's content at byte 4, zero if it is a single packet.
fn bytes_of_bundle(bundle: &[u8]) -> u64 {
    let number = |at: usize| match bundle.get(at..at + 2) {
        Some(&[low, high]) => u64::from(u16::from_ne_bytes([low, high])),
        _ => 0,
    };
    let bytes = bundle.len().saturating_sub(VIRTIO_NET_HDR_LEN) as u64;
    let (headers, content) = (number(2), number(4));
    let segments = if content == 0 { 1 } else { bytes.saturating_sub(headers).div_ceil(content) };
    bytes + headers * segments.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        round_trip: Duration::from_millis(100),
        bytes_per_second: 1_000_000,
        loss_ppm: 0,
        seed: 1,
        congestion: "reno",
    };

    #[test]
    fn packets_take_their_time_on_the_line_one_after_the_other() {
        let mut line = Line::new(&SHAPE, 1);
        let now = Instant::now();
        assert_eq!(line.pass(now, 1000), Fate::Arrives(now + Duration::from_millis(51)));
        assert_eq!(line.pass(now, 1000), Fate::Arrives(now + Duration::from_millis(52)));
        let later = now + Duration::from_millis(10);
        assert_eq!(line.pass(later, 1000), Fate::Arrives(later + Duration::from_millis(51)));
    }

    #[test]
    fn what_would_wait_for_longer_than_a_round_trip_is_dropped() {
        let mut line = Line::new(&SHAPE, 1);
        let now = Instant::now();
        let arrived = (0..1000).filter(|_| line.pass(now, 1000) != Fate::Dropped).count();
        // 100 ms of line, and the packet that was begun before they were over.
        assert_eq!(arrived, 101);
        assert!(matches!(line.pass(now + Duration::from_millis(2), 1000), Fate::Arrives(_)));
    }

    #[test]
    fn losses_have_their_share_and_come_from_the_seed() {
        let lost = |seed| -> Vec<bool> {
            let mut line = Line::new(&Shape { loss_ppm: 10_000, bytes_per_second: Shape::GIGABIT, ..SHAPE }, seed);
            let now = Instant::now();
            (0..100_000_u64).map(|n| line.pass(now + Duration::from_micros(n), 100) == Fate::Lost).collect()
        };
        let share = lost(1).into_iter().filter(|lost| *lost).count();
        assert!((900..1100).contains(&share), "{share} of 100,000 at 1 %");
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
    }

    #[test]
    fn bundle_counts_as_the_packets_that_it_stands_for() {
        let bundle = |headers: u16, content: u16, bytes: usize| {
            let mut bundle = vec![0; VIRTIO_NET_HDR_LEN + bytes];
            bundle[2..4].copy_from_slice(&headers.to_ne_bytes());
            bundle[4..6].copy_from_slice(&content.to_ne_bytes());
            bytes_of_bundle(&bundle)
        };
        assert_eq!(bundle(0, 0, 40), 40);
        assert_eq!(bundle(52, 1448, 52 + 1448), 1500);
        assert_eq!(bundle(52, 1448, 52 + 1448 + 1), 1500 + 53);
        assert_eq!(bundle(52, 1448, 52 + 10 * 1448), 10 * 1500);
        assert_eq!(bytes_of_bundle(&[]), 0);
    }
}
