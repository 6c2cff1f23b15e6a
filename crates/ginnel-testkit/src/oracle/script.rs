//! What an application and a target do, drawn from a seed.

use std::fmt;

/// Steps that are drawn for one script, both ends together.
const STEPS_MAX: u64 = 16;

/// Most bytes that one end writes. It is more than all credits and the buffers of one direction, so that flow control is at work.
const WRITTEN_MAX: u64 = 3 << 20;

/// Most unread bytes that an end waits for: they must fit into a receive buffer that nobody has read from.
const AWAITED_MAX: u64 = 16 << 10;

/// Longest pause in milliseconds: many times what a loopback needs for a segment, and short enough for thousands of scripts.
const PAUSE_MAX_MS: u64 = 6;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Who connects.
    App,
    /// Who is connected to.
    Target,
}

impl Who {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::App => Self::Target,
            Self::Target => Self::App,
        }
    }
}

/// What one end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Hands so many bytes over. What the kernel does not take at once goes out beside the next steps.
    Write(u64),
    /// Reads so many bytes.
    Read(u64),
    /// Reads so many bytes in small pieces with pauses.
    ReadSlowly(u64),
    /// Waits until so many bytes have come that nobody has read.
    Await(u64),
    /// Does nothing for so many milliseconds, except for bytes that are still to go out.
    Pause(u64),
    /// Ends its own half after everything that was written.
    HalfClose,
    /// Closes the connection, and with it everything that the kernel has not taken or that was not read.
    Close,
    /// Resets the connection: `SO_LINGER` with zero seconds.
    Reset,
}

/// A step of one end. The steps of both are in one order, which is one in which they can happen; each end knows only its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who does it.
    pub who: Who,
    /// What.
    pub act: Act,
}

/// What both ends do. Whoever has neither closed nor reset at the end of its steps ends its half and reads to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The seed it was drawn from.
    pub seed: u64,
    /// The end that, after its steps, first reads to the end and then ends its own half; the other does both at once.
    pub last: Who,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Script {
    /// The script of `seed`; the same one on every machine.
    pub fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let last = random.who();
        let count = 1 + random.below(STEPS_MAX);
        let mut steps: Vec<Step> = (0..count).map(|_| Step { who: random.who(), act: random.act() }).collect();
        // Half of the scripts have an end that leaves in its own way.
        if random.below(2) == 0 {
            let act = if random.below(2) == 0 { Act::Reset } else { Act::Close };
            let place = random.below(steps.len() as u64 + 1);
            steps.insert(usize::try_from(place).unwrap_or_default(), Step { who: random.who(), act });
        }
        Self { seed, last, steps }.possible()
    }

    /// What `who` does.
    pub fn acts(&self, who: Who) -> impl Iterator<Item = Act> {
        self.steps.iter().filter(move |step| step.who == who).map(|step| step.act)
    }

    /// Scripts that are a little smaller, the boldest first.
    pub fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        let mut with = |steps: Vec<Step>| {
            let script = Self { seed: self.seed, last: self.last, steps }.possible();
            if script != *self {
                smaller.push(script);
            }
        };
        let half = self.steps.len() / 2;
        if half > 1 {
            with(self.steps[half..].to_vec());
            with(self.steps[..half].to_vec());
        }
        for index in 0..self.steps.len() {
            let mut steps = self.steps.clone();
            steps.remove(index);
            with(steps);
        }
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(act) = step.act.half() {
                let mut steps = self.steps.clone();
                steps[index].act = act;
                with(steps);
            }
        }
        smaller
    }

    /// The same with what cannot happen left out: steps of an end that has left, bytes after a half-close, and reading what nobody wrote,
    /// for which both ends could wait for ever. Nor does an end that has read wait for unread bytes: what is left of a segment keeps all of its memory,
    /// and the kernel may close the window before they fit.
    fn possible(mut self) -> Self {
        let mut ends = [Drawn::default(); 2];
        let drawn = std::mem::take(&mut self.steps);
        for Step { who, act } in drawn {
            let there = ends[who.other() as usize].written;
            let here = &mut ends[who as usize];
            if here.left {
                continue;
            }
            let waiting = there - here.read;
            let act = match act {
                Act::Write(_) | Act::HalfClose if here.finished => continue,
                Act::Write(length) => Act::Write(length.min(WRITTEN_MAX - here.written)),
                Act::Read(length) => Act::Read(length.min(waiting)),
                Act::ReadSlowly(length) => Act::ReadSlowly(length.min(waiting)),
                Act::Await(_) if here.read > 0 => continue,
                Act::Await(length) => Act::Await(length.min(waiting)),
                Act::Pause(_) | Act::HalfClose | Act::Close | Act::Reset => act,
            };
            match act {
                Act::Write(0) | Act::Read(0) | Act::ReadSlowly(0) | Act::Await(0) | Act::Pause(0) => continue,
                Act::Write(length) => here.written += length,
                Act::Read(length) | Act::ReadSlowly(length) => here.read += length,
                Act::Await(_) | Act::Pause(_) => {}
                Act::HalfClose => here.finished = true,
                Act::Close | Act::Reset => here.left = true,
            }
            self.steps.push(Step { who, act });
        }
        self
    }
}

#[derive(Clone, Copy, Default)]
struct Drawn {
    written: u64,
    read: u64,
    finished: bool,
    left: bool,
}

impl Act {
    fn half(self) -> Option<Self> {
        let half = |length: u64| (length > 1).then_some(length / 2);
        match self {
            Self::Write(length) => half(length).map(Self::Write),
            Self::Read(length) => half(length).map(Self::Read),
            Self::ReadSlowly(length) => half(length).map(Self::ReadSlowly),
            Self::Await(length) => half(length).map(Self::Await),
            Self::Pause(_) | Self::HalfClose | Self::Close | Self::Reset => None,
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  seed {}, {:?} ends last", self.seed, self.last)?;
        for Step { who, act } in &self.steps {
            writeln!(f, "  {who:?}: {act:?}")?;
        }
        Ok(())
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn who(&mut self) -> Who {
        if self.below(2) == 0 { Who::App } else { Who::Target }
    }

    /// From one byte to a few hundred thousand, small ones as often as large ones.
    fn length(&mut self) -> u64 {
        let bits = self.below(20);
        1 + self.below(1 << bits)
    }

    fn act(&mut self) -> Act {
        match self.below(20) {
            0..=5 => Act::Write(self.length()),
            // Now and then more than every buffer on the way.
            6 => Act::Write(self.length() * 8),
            7..=9 => Act::Read(self.length()),
            10 => Act::Read(WRITTEN_MAX),
            11 | 12 => Act::ReadSlowly(self.length()),
            13 | 14 => Act::Await(1 + self.below(AWAITED_MAX)),
            15..=17 => Act::Pause(1 + self.below(PAUSE_MAX_MS)),
            18 => Act::HalfClose,
            _ => {
                if self.below(2) == 0 {
                    Act::Close
                } else {
                    Act::Reset
                }
            }
        }
    }
}
