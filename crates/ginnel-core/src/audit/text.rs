//! Text of unknown origin, made fit for a log.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde::Serialize;

/// Most bytes of a [`Text`]. The longest honest values, an e-mail (254) and a DNS name (253), stay whole.
pub const TEXT_MAX: usize = 256;

/// Stands where a text was cut.
const CUT: &str = "…";

/// A text of at most [`TEXT_MAX`] bytes in which every character can be seen.
///
/// Control characters, line separators and the invisible characters that reorder or hide text are written as `\u{..}`, and a
/// backslash as `\\`, so that a peer can neither forge a line nor make a terminal show something else. What does not fit is cut, and
/// the cut is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// Makes anything that can be displayed fit for the log.
    pub fn new(value: impl fmt::Display) -> Self {
        let mut capped = Capped { text: String::new(), fits: 0 };
        if write!(capped, "{value}").is_err() {
            capped.text.truncate(capped.fits);
            capped.text.push_str(CUT);
        }
        Self(capped.text.into())
    }

    /// Writes bytes (a serial number, a hash) in lower-case hexadecimal digits.
    pub fn hex(bytes: &[u8]) -> Self {
        Self::new(Hex(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Stops writing at the bound, so that a huge value costs no more than a long one.
struct Capped {
    text: String,
    /// Length of the longest prefix that leaves room for [`CUT`] and splits no escape.
    fits: usize,
}

impl Capped {
    fn push(&mut self, escaped: &str) -> fmt::Result {
        if self.text.len() + escaped.len() > TEXT_MAX {
            return Err(fmt::Error);
        }
        self.text.push_str(escaped);
        if self.text.len() + CUT.len() <= TEXT_MAX {
            self.fits = self.text.len();
        }
        Ok(())
    }
}

impl Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\\' {
                self.push("\\\\")?;
            } else if is_invisible(c) {
                self.push(&c.escape_unicode().to_string())?;
            } else {
                self.push(c.encode_utf8(&mut [0; 4]))?;
            }
        }
        Ok(())
    }
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{feff}'                       // a bidi mark; the byte order mark
            | '\u{200b}'..='\u{200f}'                    // zero width, bidi marks
            | '\u{2028}'..='\u{202e}'                    // line and paragraph separators, bidi embeddings and overrides
            | '\u{2060}'..='\u{206f}'                    // invisible operators, bidi isolates
            | '\u{fff9}'..='\u{fffb}'                    // interlinear annotations
            | '\u{e0000}'..='\u{e007f}') // tags
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_would_be_invisible() {
        let cases = [
            ("gitlab.acme.internal:443", "gitlab.acme.internal:443"),
            ("bücher.example", "bücher.example"),
            ("a\nb\r\t", r"a\u{a}b\u{d}\u{9}"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("\u{9b}2J\u{7f}\0", r"\u{9b}2J\u{7f}\u{0}"),
            ("\u{202e}moc.live\u{2066}", r"\u{202e}moc.live\u{2066}"),
            ("a\u{200b}b\u{feff}\u{2028}", r"a\u{200b}b\u{feff}\u{2028}"),
            (r"\u{a}", r"\\u{a}"),
            ("", ""),
        ];
        for (given, shown) in cases {
            assert_eq!(Text::new(given).as_str(), shown, "{given:?}");
        }
    }

    #[test]
    fn cuts_at_a_whole_character_and_shows_the_cut() {
        assert_eq!(Text::new("x".repeat(TEXT_MAX)).as_str(), "x".repeat(TEXT_MAX));
        for piece in ["x", "é", "\n", "\u{202e}", "\\", "😀"] {
            for shift in 0..8 {
                let text = Text::new(format!("{}{}", "a".repeat(shift), piece.repeat(10_000)));
                assert!(text.as_str().len() <= TEXT_MAX, "{piece:?}");
                assert!(text.as_str().len() > TEXT_MAX - 16, "{piece:?} is cut too early");
                let body = text.as_str().strip_suffix(CUT).expect("the cut is shown");
                let whole = Text::new(piece);
                assert_eq!(body[shift..].replace(whole.as_str(), ""), "", "{piece:?} is split");
            }
        }
    }

    #[test]
    fn writes_hexadecimal_digits() {
        assert_eq!(Text::hex(&[0x00, 0x0f, 0xa0]).as_str(), "000fa0");
        assert!(Text::hex(&[0xff; 1000]).as_str().len() <= TEXT_MAX);
    }
}
