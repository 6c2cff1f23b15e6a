//! A long path: two network namespaces, and between them a line with a delay, a rate, losses and a queue.
//!
//! The kernel's own emulator is not in every kernel, so that a packet goes here from a TUN device in one namespace through two threads of this
//! process to a TUN device in the other. It needs root, `unshare` and `ip`, and leaves nothing behind: the namespaces last as long as the
//! [`Link`] and what was started in them.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tun_rs::{DeviceBuilder, SyncDevice};

mod line;
mod namespace;

pub use namespace::Namespace;

use line::Line;

/// The device in each namespace. Nothing else is there, so that names and addresses are free.
const DEVICE: &str = "ginnel0";

/// Address of the near end, from the block that RFC 2544 keeps for measurements.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Address of the far end.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Packets that may wait in a device until our thread takes them. The queue of the line is ours; the device's must never be the one that drops.
const DEVICE_QUEUE: &str = "10000";

/// Set to run tests that need root without it: they say so and pass.
pub const SKIP_WITHOUT_ROOT: &str = "GINNEL_SKIP_ROOT_TESTS";

/// What a line is like, the same in both directions.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Both delays together.
    pub round_trip: Duration,
    /// Bytes that the line takes in a second, headers of IP and TCP among them. What waits for it is dropped beyond one round trip's worth.
    pub bytes_per_second: u64,
    /// Packets lost of a million, each one by chance. Without losses the kernel may hand over bundles of segments, which are counted as the
    /// packets that they stand for.
    pub loss_ppm: u32,
    /// What decides which packets are lost.
    pub seed: u64,
    /// Congestion control of both namespaces, by the kernel's name for it.
    pub congestion: &'static str,
}

impl Shape {
    /// 1 Gbit/s.
    pub const GIGABIT: u64 = 125_000_000;
}

/// What became of the packets of both directions; a bundle counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Arrived at the other end.
    pub arrived: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
}

#[derive(Default)]
struct Counts {
    arrived: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
}

/// A line between two namespaces. Dropping it takes the devices away; end what runs in the namespaces first.
pub struct Link {
    near: Namespace,
    far: Namespace,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Makes both namespaces and the line between them.
    ///
    /// # Errors
    /// If the user is not root, or the kernel, `unshare` or `ip` did not do as asked.
    pub fn start(shape: Shape) -> Result<Self> {
        ensure!(
            is_root(),
            "network namespaces need root: run this as root, or set {SKIP_WITHOUT_ROOT}=1 to go without"
        );
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        let bundles = shape.loss_ppm == 0;
        let near_device = Arc::new(device(&near, NEAR, FAR, bundles, &shape).context("the near end")?);
        let far_device = Arc::new(device(&far, FAR, NEAR, bundles, &shape).context("the far end")?);
        let counts = Arc::new(Counts::default());
        let ways = [(&near_device, &far_device, shape.seed), (&far_device, &near_device, !shape.seed)];
        let mut threads = Vec::new();
        for (from, to, seed) in ways {
            let line = Line::new(&shape, seed);
            threads.extend(line::start(line, bundles, Arc::clone(from), Arc::clone(to), Arc::clone(&counts))?);
        }
        Ok(Self { near, far, counts, threads })
    }

    /// The namespace at the near end.
    pub fn near(&self) -> &Namespace {
        &self.near
    }

    /// The namespace at the far end.
    pub fn far(&self) -> &Namespace {
        &self.far
    }

    /// The address of the near end.
    pub fn near_address(&self) -> IpAddr {
        NEAR.into()
    }

    /// The address of the far end.
    pub fn far_address(&self) -> IpAddr {
        FAR.into()
    }

    /// What became of the packets so far.
    pub fn passed(&self) -> Passed {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Passed {
            arrived: read(&self.counts.arrived),
            lost: read(&self.counts.lost),
            dropped: read(&self.counts.dropped),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A device that is gone ends the reads of our threads.
        for namespace in [&self.near, &self.far] {
            namespace.ip(&["link", "delete", DEVICE]).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A command with a clean environment, as [`crate::command::command`] makes it, in a namespace; see [`Namespace::path`].
pub fn command_inside(namespace: &Path, program: impl AsRef<OsStr>, home: &Path) -> tokio::process::Command {
    let mut command = crate::command::command("nsenter", home);
    let mut entrance = OsString::from("--net=");
    entrance.push(namespace);
    // It becomes the program, and so has its process id and takes its signals.
    command.arg(entrance).arg("--").arg(program);
    command
}

/// Whether a test that needs root is to be passed over: there is no root, and somebody said that this is all right. Without the latter, the
/// test goes on and fails with the reason.
pub fn skip_without_root(test: &str) -> bool {
    let skip = !is_root() && std::env::var_os(SKIP_WITHOUT_ROOT).is_some();
    if skip {
        use std::io::Write;
        writeln!(std::io::stderr(), "SKIPPED: {test} needs root, and {SKIP_WITHOUT_ROOT} is set").ok();
    }
    skip
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn device(namespace: &Namespace, own: Ipv4Addr, peer: Ipv4Addr, bundles: bool, shape: &Shape) -> Result<SyncDevice> {
    let build = || DeviceBuilder::new().name(DEVICE).offload(bundles).enable(false).build_sync();
    let device = namespace.run(build)?.context("making a TUN device")?;
    namespace.quiet()?;
    namespace.congestion(shape.congestion)?;
    namespace.ip(&["address", "add", &own.to_string(), "peer", &peer.to_string(), "dev", DEVICE])?;
    namespace.ip(&["link", "set", DEVICE, "mtu", "1500", "txqueuelen", DEVICE_QUEUE, "up"])?;
    namespace.ip(&["link", "set", "lo", "up"])?;
    Ok(device)
}

#[cfg(test)]
mod tests;
