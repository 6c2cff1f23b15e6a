//! How an error and everything beneath it is written on one line.

use std::error::Error;
use std::fmt::{self, Display, Write};

/// Most errors of a chain that are written; a chain that long is going in circles.
const CHAIN_MAX: usize = 16;

/// Writes an error and its sources, joined by `: `. Control characters are escaped: parts of it may be a peer's words, and a log line
/// must stay one line.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaped(f), "{}", self.0)?;
        let mut source = self.0.source();
        for _ in 0..CHAIN_MAX {
            let Some(error) = source else { break };
            write!(Escaped(f), ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                write!(self.0, "{}", character.escape_default())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not enrol")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the server said {0}")]
    struct Inner(&'static str);

    #[test]
    fn writes_the_whole_chain_on_one_line() {
        let error = Outer(Inner("no\n2026-11-22 INFO link up\u{1b}[31m"));
        let text = Chain(&error).to_string();
        assert_eq!(text, "could not enrol: the server said no\\n2026-11-22 INFO link up\\u{1b}[31m");
    }
}
