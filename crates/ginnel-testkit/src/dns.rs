//! A name server (RFC 1035) whose answers a test makes, and a file that leads a process's resolver to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use aws_lc_rs::rand;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The port that every resolver uses. An address of its own in `127.0.0.0/8` keeps two servers apart.
const PORT: u16 = 53;

/// Attempts to find an address that nobody uses.
const ADDRESSES_TRIED: usize = 16;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What is said to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Those of these addresses that the question is about, to be forgotten at once.
    Addresses(Vec<IpAddr>),
    /// The same under an id that nobody asked with.
    OtherId(Vec<IpAddr>),
    /// The same from a port that nobody asked.
    OtherPort(Vec<IpAddr>),
    /// That the answer is too long for a datagram. Who asks again by TCP is never answered.
    Truncated,
    /// More bytes than any answer has, and none of them makes sense.
    Garbage,
    /// The same as [`Self::Addresses`], once [`Dns::release`] was called.
    Held(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
}

/// A name server on loopback.
pub struct Dns {
    address: IpAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    released: watch::Sender<bool>,
    dir: TempDir,
    _serving: JoinSet<()>,
}

impl Dns {
    /// Starts one. `reply` is given a name in small letters without the dot at its end, and how many questions for IPv4 addresses of it came before.
    ///
    /// # Errors
    /// If no address has its port 53 free, which takes root.
    pub async fn start(reply: impl Fn(&str, usize) -> Reply + Send + 'static) -> Result<Self> {
        let (udp, tcp) = bind().await?;
        let address = udp.local_addr()?.ip();
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let (released, hold) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(answer_all(udp, reply, Arc::clone(&asked), hold));
        serving.spawn(hang(tcp));
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("resolv.conf"), format!("nameserver {address}\n"))?;
        Ok(Self { address, asked, released, dir, _serving: serving })
    }

    /// How to start a process that asks this server: [`crate::WorldBuilder::started_by`].
    pub fn starter(&self) -> Vec<String> {
        let own: PathBuf = self.dir.path().join("resolv.conf");
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        ["unshare", "--mount", "sh", "-c", mount, &own.display().to_string()].map(str::to_owned).to_vec()
    }

    /// Where it is asked.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How often it was asked for IPv4 addresses of a name.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(0)
    }

    /// Lets go of the answers that were held.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

async fn bind() -> Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..ADDRESSES_TRIED {
        let mut octets = [0; 2];
        rand::fill(&mut octets).ok().context("random numbers")?;
        // Not 127.0: others live there.
        let address = SocketAddr::from((Ipv4Addr::new(127, 53, octets[0], octets[1].clamp(1, 254)), PORT));
        match UdpSocket::bind(address).await {
            Ok(udp) => match TcpListener::bind(address).await {
                Ok(tcp) => return Ok((udp, tcp)),
                Err(error) => last = Some(error),
            },
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).context("port 53 on loopback"),
        None => bail!("no address was tried"),
    }
}

async fn hang(tcp: TcpListener) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = tcp.accept().await {
        held.push(stream);
    }
}

async fn answer_all(
    udp: UdpSocket,
    reply: impl Fn(&str, usize) -> Reply + Send + 'static,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    hold: watch::Receiver<bool>,
) {
    let udp = Arc::new(udp);
    let mut buffer = [0; 512];
    let mut answers = JoinSet::new();
    while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
        let Some(question) = Question::read(&buffer[..length]) else { continue };
        let before = {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let count = asked.entry(question.name.clone()).or_default();
            let before = *count;
            if question.kind == TYPE_A {
                *count += 1;
            }
            before
        };
        let reply = reply(&question.name, before);
        let (udp, mut hold) = (Arc::clone(&udp), hold.clone());
        answers.spawn(async move {
            if matches!(reply, Reply::Held(_)) && hold.wait_for(|released| *released).await.is_err() {
                return;
            }
            let other =
                if matches!(reply, Reply::OtherPort(_)) { UdpSocket::bind((from.ip(), 0)).await.ok() } else { None };
            // Whoever has gone needs no answer.
            let _ = other.as_ref().unwrap_or(&udp).send_to(&question.answer(&reply), from).await;
        });
        while answers.try_join_next().is_some() {}
    }
}

struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// The question as it was asked.
    bytes: Vec<u8>,
}

impl Question {
    fn read(message: &[u8]) -> Option<Self> {
        let id = [*message.first()?, *message.get(1)?];
        let (mut at, mut labels) = (HEADER, Vec::new());
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
        let bytes = message.get(HEADER..at + 4)?.to_vec();
        Some(Self { id, name: labels.join("."), kind, bytes })
    }

    fn answer(&self, reply: &Reply) -> Vec<u8> {
        const ANSWER: u16 = 0x8180;
        const CUT: u16 = 0x0200;
        const NO_SUCH_NAME: u16 = 0x0003;
        let (addresses, flags) = match reply {
            Reply::Addresses(addresses)
            | Reply::OtherId(addresses)
            | Reply::OtherPort(addresses)
            | Reply::Held(addresses) => (addresses.as_slice(), ANSWER),
            Reply::Truncated => (&[][..], ANSWER | CUT),
            Reply::NoSuchName => (&[][..], ANSWER | NO_SUCH_NAME),
            Reply::Garbage => return [&self.id[..], &[0xff; 60_000]].concat(),
        };
        let records: Vec<Vec<u8>> = addresses.iter().filter_map(|address| record(*address, self.kind)).collect();
        let id = if matches!(reply, Reply::OtherId(_)) { self.id.map(|byte| !byte) } else { self.id };
        let count = u16::try_from(records.len()).unwrap_or(u16::MAX).to_be_bytes();
        let head = [&id[..], &flags.to_be_bytes(), &[0, 1], &count, &[0; 4], &self.bytes].concat();
        [head, records.concat()].concat()
    }
}

/// A record of the name that was asked for, good for no time at all.
fn record(address: IpAddr, kind: u16) -> Option<Vec<u8>> {
    let data = match (address, kind) {
        (IpAddr::V4(address), TYPE_A) => address.octets().to_vec(),
        (IpAddr::V6(address), TYPE_AAAA) => address.octets().to_vec(),
        _ => return None,
    };
    let length = u16::try_from(data.len()).ok()?.to_be_bytes();
    Some([&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1], &[0; 4], &length, &data].concat())
}
