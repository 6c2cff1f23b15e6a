//! One end of a connection, which does what its part of a script says and notes what it sees.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::ioctl_fionread;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::script::{Act, Script, Who};
use crate::stream::{Ending, bytes};

/// Bytes of one read or write.
const PIECE: usize = 32 << 10;

/// Into so many pieces a slow reader divides what it reads.
const SLOW_PIECES: u64 = 6;

/// The pause of a slow reader after each piece, and of an end that waits for bytes that it does not read.
const SLOW_PAUSE: Duration = Duration::from_millis(1);

/// The bytes that an end writes repeat after so many: a prime, so that bytes at a wrong place are other bytes.
const PERIOD: usize = 65_537;

/// How an end left its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Not before it had read to the end and had written everything.
    Stayed,
    /// It closed it, with so many bytes unread.
    Closed {
        /// Bytes that had come and were not read.
        unread: u64,
    },
    /// It reset it.
    Reset,
}

/// What one end did and saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that its kernel took.
    pub written: u64,
    /// Bytes that it read.
    pub read: u64,
    /// Where a byte was read that the other end had not written there.
    pub garbled_at: Option<u64>,
    /// Whether it ended its own half before it left.
    pub finished: bool,
    /// How the other half ended, if it saw an end before it left.
    pub ending: Option<Ending>,
    /// How it left.
    pub leave: Leave,
}

/// Plays the part of `who`.
///
/// # Errors
/// If the system refuses what a program may always do.
pub(super) async fn play(socket: TcpStream, who: Who, script: &Script) -> Result<Seen> {
    let mut end = End::new(socket, who);
    for act in script.acts(who) {
        end.act(act).await?;
        if end.seen.leave != Leave::Stayed {
            return Ok(end.seen);
        }
    }
    if script.last == who {
        end.read(u64::MAX, PIECE, None).await?;
        end.finish_wanted = true;
    } else {
        end.finish_wanted = true;
        end.read(u64::MAX, PIECE, None).await?;
    }
    end.flush().await?;
    Ok(end.seen)
}

struct End {
    socket: TcpStream,
    own: Vec<u8>,
    others: Vec<u8>,
    /// Bytes that the script has written so far, also those that the kernel has not taken.
    wanted: u64,
    finish_wanted: bool,
    /// Whether nothing can be written any more.
    broken: bool,
    seen: Seen,
}

/// The bytes of one end from some offset on, as many as are at hand.
fn content(noise: &[u8], offset: u64) -> &[u8] {
    let place = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &noise[place..]
}

impl End {
    fn new(socket: TcpStream, who: Who) -> Self {
        let noise = |who: Who| {
            let mut noise = bytes(who as u64, PERIOD);
            noise.extend_from_within(..PIECE);
            noise
        };
        let seen = Seen { written: 0, read: 0, garbled_at: None, finished: false, ending: None, leave: Leave::Stayed };
        let (own, others) = (noise(who), noise(who.other()));
        Self { socket, own, others, wanted: 0, finish_wanted: false, broken: false, seen }
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Write(length) => {
                self.wanted += length;
                self.push();
            }
            Act::Read(length) => self.read(length, PIECE, None).await?,
            Act::ReadSlowly(length) => {
                let piece = usize::try_from(length.div_ceil(SLOW_PIECES))?.min(PIECE);
                self.read(length, piece, Some(SLOW_PAUSE)).await?;
            }
            Act::Await(length) => self.await_unread(length).await?,
            Act::Pause(ms) => self.pause(Duration::from_millis(ms)).await?,
            Act::HalfClose => {
                self.finish_wanted = true;
                self.push();
            }
            Act::Close => self.seen.leave = Leave::Closed { unread: self.unread()? },
            Act::Reset => {
                self.socket.set_zero_linger()?;
                self.seen.leave = Leave::Reset;
            }
        }
        Ok(())
    }

    fn unread(&self) -> Result<u64> {
        ioctl_fionread(&self.socket).context("asking how many bytes wait")
    }

    fn has_to_write(&self) -> bool {
        !self.broken && (self.seen.written < self.wanted || (self.finish_wanted && !self.seen.finished))
    }

    /// Writes as much as the kernel takes, and ends the half after the last byte.
    fn push(&mut self) {
        while self.has_to_write() && self.seen.written < self.wanted {
            let rest = usize::try_from(self.wanted - self.seen.written).unwrap_or(usize::MAX);
            let piece = content(&self.own, self.seen.written);
            match self.socket.try_write(&piece[..piece.len().min(rest).min(PIECE)]) {
                Ok(length) => self.seen.written += length as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.broken = true;
                    // The kernel reports a reset once, to whoever asks first. A broken pipe leaves the word to the reader.
                    if Ending::of(&error) == Ending::Reset {
                        self.seen.ending.get_or_insert(Ending::Reset);
                    }
                }
            }
        }
        if self.has_to_write() {
            match SockRef::from(&self.socket).shutdown(Shutdown::Write) {
                Ok(()) => self.seen.finished = true,
                Err(_) => self.broken = true,
            }
        }
    }

    /// Reads so many bytes, or to the end.
    async fn read(&mut self, length: u64, piece: usize, pause: Option<Duration>) -> Result<()> {
        let goal = self.seen.read.saturating_add(length);
        let mut buffer = vec![0; piece];
        self.push();
        while self.seen.ending.is_none() && self.seen.read < goal {
            let interest =
                if self.has_to_write() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.socket.ready(interest).await?;
            self.push();
            let rest = usize::try_from(goal - self.seen.read).unwrap_or(usize::MAX);
            let most = buffer.len().min(rest);
            if self.seen.ending.is_some() {
                break;
            }
            match self.socket.try_read(&mut buffer[..most]) {
                Ok(0) => self.seen.ending = Some(Ending::Eof),
                Ok(length) => {
                    if content(&self.others, self.seen.read)[..length] != buffer[..length] {
                        self.seen.garbled_at.get_or_insert(self.seen.read);
                    }
                    self.seen.read += length as u64;
                    if let Some(pause) = pause {
                        self.pause(pause).await?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.seen.ending = Some(Ending::of(&error)),
            }
        }
        Ok(())
    }

    /// Waits, and writes meanwhile what is still to go out.
    async fn pause(&mut self, pause: Duration) -> Result<()> {
        let mut over = std::pin::pin!(sleep(pause));
        loop {
            self.push();
            tokio::select! {
                () = &mut over => return Ok(()),
                writable = self.socket.writable(), if self.has_to_write() => writable?,
            }
        }
    }

    async fn await_unread(&mut self, length: u64) -> Result<()> {
        // Nobody announces how many bytes wait; that nothing more can come is announced.
        while self.seen.ending.is_none() && self.unread()? < length {
            let state = self.socket.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR);
            tokio::select! {
                biased;
                ready = state => {
                    let ready = ready?;
                    if ready.is_read_closed() || ready.is_error() {
                        return Ok(());
                    }
                }
                () = sleep(SLOW_PAUSE) => {}
            }
            self.pause(SLOW_PAUSE).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        loop {
            self.push();
            if !self.has_to_write() {
                return Ok(());
            }
            self.socket.writable().await?;
        }
    }
}
