//! The rules: what TCP over a path that takes its time may show to a reader, given what both ends did.
//!
//! | the writer | the reader sees |
//! |---|---|
//! | stayed | every byte, then FIN |
//! | closed, and had read everything that the reader ever wrote | every byte, then FIN |
//! | reset without having ended its half | RST |
//! | closed over unread bytes without having ended its half | RST |
//! | closed, and bytes of the reader came later or never | either: the close says FIN, the late bytes are answered with RST |
//! | had ended its half before any of this | every byte, then FIN, if they fit into a window; otherwise either |
//!
//! After a FIN every byte must have come; after a RST any first part of them is right. A reader that left sees nothing more.

use super::Both;
use super::end::{Leave, Seen};
use crate::stream::Ending;

/// Bytes that fit into every receive window, read or not. What was written and ended before a reset came is then in the reader's kernel
/// already, and no reset takes it back.
const IN_WINDOW: u64 = 32 << 10;

/// What a reader must see: the table of this module, in three words.
///
/// TCP leaves to timing what becomes of a writer that closed before all of the reader's bytes had come (its FIN is followed by a RST for the
/// late ones), and what a RST throws away of more than a window that a FIN had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every byte and a FIN.
    End,
    /// A RST after any first part of the bytes.
    Reset,
    /// One of the two: TCP leaves it to timing.
    Either,
}

/// What `to` must see of `from`'s half, if it sees an end at all.
pub fn expected(from: &Seen, to: &Seen) -> Expected {
    let arrives_first = from.finished && from.written <= IN_WINDOW;
    match from.leave {
        Leave::Stayed => Expected::End,
        Leave::Closed { unread: 0 } if to.written == from.read => Expected::End,
        Leave::Closed { .. } | Leave::Reset if arrives_first => Expected::End,
        Leave::Closed { .. } | Leave::Reset if from.finished => Expected::Either,
        Leave::Closed { unread: 0 } => Expected::Either,
        Leave::Closed { .. } | Leave::Reset => Expected::Reset,
    }
}

/// Holds both directions to the rules.
///
/// # Errors
/// The first rule that was broken.
pub fn judge(both: &Both) -> Result<(), String> {
    let [app, target] = both;
    direction("application to target", app, target)?;
    direction("target to application", target, app)
}

fn direction(name: &str, from: &Seen, to: &Seen) -> Result<(), String> {
    if let Some(place) = to.garbled_at {
        return Err(format!("{name}: other bytes at {place} than were written"));
    }
    if to.read > from.written {
        return Err(format!("{name}: {} bytes were read, {} written", to.read, from.written));
    }
    let Some(ending) = to.ending else {
        return if to.leave == Leave::Stayed { Err(format!("{name}: no end was seen")) } else { Ok(()) };
    };
    let expected = expected(from, to);
    let right = match expected {
        Expected::End => ending == Ending::Eof,
        Expected::Reset => ending == Ending::Reset,
        Expected::Either => ending == Ending::Eof || ending == Ending::Reset,
    };
    if !right {
        return Err(format!("{name}: ended with {ending:?} where TCP has {expected:?}"));
    }
    if ending == Ending::Eof && to.read != from.written {
        return Err(format!("{name}: a clean end after {} of {} bytes", to.read, from.written));
    }
    Ok(())
}
