//! The name of a congestion control, as the kernel calls it.

use std::fmt;
use std::str::FromStr;

/// Longest name that Linux takes (`TCP_CA_NAME_MAX` less the zero at its end).
const NAME_BYTES_MAX: usize = 15;

/// A congestion control such as `cubic` or `bbr`. Which of them there are, and who may choose them, is the kernel's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CongestionControl(String);

impl CongestionControl {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no name of a congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a congestion control has a name of 1 to {NAME_BYTES_MAX} characters from a-z, 0-9, - and _, such as cubic or bbr"
)]
pub struct InvalidCongestionControl;

impl FromStr for CongestionControl {
    type Err = InvalidCongestionControl;

    fn from_str(text: &str) -> Result<Self, InvalidCongestionControl> {
        let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_good) {
            return Err(InvalidCongestionControl);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_one() {
        for name in ["cubic", "bbr", "reno", "htcp", "bbr2", "my-own_one"] {
            assert_eq!(name.parse::<CongestionControl>().map(|control| control.to_string()), Ok(name.to_owned()));
        }
        for text in ["", "Cubic", "cu bic", "cubic\0", "../bbr", "0123456789abcdef"] {
            assert_eq!(text.parse::<CongestionControl>(), Err(InvalidCongestionControl), "{text:?}");
        }
    }
}
