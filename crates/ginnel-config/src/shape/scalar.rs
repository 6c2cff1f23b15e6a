//! Shapes of single values.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Context, Kind, Shape};
use crate::finding::{Place, quoted, suggestion};
use crate::tree::{Node, Scalar, Style, Value};

/// Longest text of [`line()`]; nothing that is configured here is a document.
const LINE_BYTES_MAX: usize = 1024;

/// Longest path that Linux takes.
const PATH_BYTES_MAX: usize = 4096;

/// The shape of [`parsed`] and [`text_with`].
#[derive(Clone, Debug)]
pub struct Text<T> {
    parse: fn(&str) -> Result<T, String>,
    schema: Json,
    is_quoted: bool,
}

impl<T> Text<T> {
    /// The same shape, with findings that do not repeat the text, because it may hold what is secret.
    pub fn unquoted(self) -> Self {
        Self { is_quoted: false, ..self }
    }
}

/// A text that the type itself can read.
pub fn parsed<T>() -> Text<T>
where
    T: FromStr,
    T::Err: Display,
{
    text_with(|text| text.parse().map_err(|error: T::Err| error.to_string()))
}

/// A text that `parse` reads; its error says what is wrong in a sentence without full stop.
pub fn text_with<T>(parse: fn(&str) -> Result<T, String>) -> Text<T> {
    Text { parse, schema: json!({"type": "string"}), is_quoted: true }
}

/// One line of text, not empty.
pub fn line() -> Text<String> {
    text_with(|text| match text {
        "" => Err("a text is not empty".to_owned()),
        _ if text.len() > LINE_BYTES_MAX => Err(format!("a text has at most {LINE_BYTES_MAX} bytes")),
        _ if text.chars().any(char::is_control) => Err("a text has no control characters".to_owned()),
        _ => Ok(text.to_owned()),
    })
}

impl<T> Shape for Text<T> {
    type Value = T;

    fn kind(&self) -> Kind {
        Kind::Scalar(self.schema.clone())
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<T> {
        let scalar = text_scalar(node, context)?;
        let told = |error| if self.is_quoted { format!("{}: {error}", quoted(&scalar.text)) } else { error };
        (self.parse)(&scalar.text).map_err(|error| context.report(&node.place, told(error), None)).ok()
    }
}

fn text_scalar<'n>(node: &'n Node, context: &mut Context<'_>) -> Option<&'n Scalar> {
    match &node.value {
        Value::Scalar(scalar) if scalar.is_text() => Some(scalar),
        Value::Scalar(scalar) if !scalar.is_null() => {
            let message = format!("expected text, found {}", scalar.kind());
            context.report(&node.place, message, format!("put it in quotes: {}", quoted(&scalar.text)));
            None
        }
        Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => {
            context.report_kind(node, "text");
            None
        }
    }
}

/// The shape of [`flag`].
#[derive(Clone, Copy, Debug)]
pub struct Flag;

/// `true` or `false`, in no other spelling.
pub fn flag() -> Flag {
    Flag
}

impl Shape for Flag {
    type Value = bool;

    fn kind(&self) -> Kind {
        Kind::Scalar(json!({"type": "boolean"}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<bool> {
        match &node.value {
            Value::Scalar(scalar) if scalar.style != Style::Quoted && scalar.text == "true" => Some(true),
            Value::Scalar(scalar) if scalar.style != Style::Quoted && scalar.text == "false" => Some(false),
            Value::Scalar(scalar) if !scalar.is_null() => {
                let message = format!("{} is not true or false", quoted(&scalar.text));
                context.report(&node.place, message, "write true or false, without quotes".to_owned());
                None
            }
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => {
                context.report_kind(node, "true or false");
                None
            }
        }
    }
}

/// The shape of [`number`].
#[derive(Clone, Debug)]
pub struct Number(RangeInclusive<usize>);

/// A whole number within bounds that both count.
pub fn number(bounds: RangeInclusive<usize>) -> Number {
    Number(bounds)
}

impl Shape for Number {
    type Value = usize;

    fn kind(&self) -> Kind {
        Kind::Scalar(json!({"type": "integer", "minimum": self.0.start(), "maximum": self.0.end()}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<usize> {
        match &node.value {
            Value::Scalar(scalar) if !scalar.is_null() => {
                let is_plain = scalar.style != Style::Quoted && scalar.text.bytes().all(|b| b.is_ascii_digit());
                let number = if is_plain { scalar.text.parse().ok() } else { None };
                let number = number.filter(|number| self.0.contains(number));
                if number.is_none() {
                    let (least, most) = (self.0.start(), self.0.end());
                    let message = format!("{} is not a whole number from {least} to {most}", quoted(&scalar.text));
                    let hint = (scalar.style == Style::Quoted).then(|| "write it without quotes".to_owned());
                    context.report(&node.place, message, hint);
                }
                number
            }
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => {
                context.report_kind(node, "a number");
                None
            }
        }
    }
}

/// The shape of [`word`].
#[derive(Clone, Debug)]
pub struct Word<T: 'static>(&'static [(&'static str, T)]);

/// One of a closed set of words.
pub fn word<T: Clone>(words: &'static [(&'static str, T)]) -> Word<T> {
    Word(words)
}

impl<T: Clone> Shape for Word<T> {
    type Value = T;

    fn kind(&self) -> Kind {
        let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
        Kind::Scalar(json!({"type": "string", "enum": words}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<T> {
        let scalar = text_scalar(node, context)?;
        let found = self.0.iter().find(|(word, _)| *word == scalar.text).map(|(_, value)| value.clone());
        if found.is_none() {
            let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
            let hint = suggestion(&scalar.text, words.iter().copied()).map(|close| format!("did you mean {close}?"));
            let message = format!("{} is none of {}", quoted(&scalar.text), words.join(", "));
            context.report(&node.place, message, hint);
        }
        found
    }
}

/// The shape of [`file()`].
#[derive(Clone, Copy, Debug)]
pub struct FileShape;

/// The path of a file or directory, which need not exist.
///
/// A relative path in a file starts at the directory of that file, so that the configuration means the same wherever the
/// program is started; one in a variable or flag starts at the working directory, as it does for every other program.
pub fn file() -> FileShape {
    FileShape
}

impl Shape for FileShape {
    type Value = PathBuf;

    fn kind(&self) -> Kind {
        Kind::Scalar(json!({"type": "string", "minLength": 1}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<PathBuf> {
        let text = text_scalar(node, context)?.text.as_str();
        let (message, hint) = match text {
            "" => ("a path is not empty", None),
            // The message must not repeat what may be a private key.
            _ if text.trim_start().starts_with(['{', '-']) => {
                ("names a file; what the file holds does not belong here", None)
            }
            _ if text.len() > PATH_BYTES_MAX => ("is too long for a path", None),
            _ if text.chars().any(char::is_control) => ("a path has no control characters", None),
            _ if text == "~" || text.starts_with("~/") => {
                ("~ does not stand for a home directory here", Some("write the whole path".to_owned()))
            }
            _ => {
                return Some(match &node.place {
                    Place::Override(_) => PathBuf::from(text),
                    Place::File { .. } | Place::Whole => context.base_dir().join(text),
                });
            }
        };
        context.report(&node.place, message, hint);
        None
    }
}

/// The shape of [`duration`].
#[derive(Clone, Copy, Debug)]
pub struct DurationShape {
    shortest: Duration,
    longest: Duration,
}

/// A duration in one unit, as in `90s`, `10m`, `24h` or `7d`, within bounds that both count.
pub fn duration(shortest: Duration, longest: Duration) -> DurationShape {
    DurationShape { shortest, longest }
}

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

fn parse_duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// A duration as it is written in a file, in whole seconds or the largest unit that fits.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let fitting = UNITS.into_iter().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    let (unit, size) = fitting.unwrap_or(('s', 1));
    format!("{}{unit}", seconds / size)
}

impl Shape for DurationShape {
    type Value = Duration;

    fn kind(&self) -> Kind {
        Kind::Scalar(json!({"type": "string", "pattern": "^[0-9]+[smhd]$"}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<Duration> {
        let scalar = match &node.value {
            // A bare number is the likeliest mistake, and quotes would not help.
            Value::Scalar(scalar) if scalar.kind() == "a number" => scalar,
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => text_scalar(node, context)?,
        };
        let Some(duration) = parse_duration(&scalar.text) else {
            let hint = "a duration is a number and one of s, m, h, d, as in 24h".to_owned();
            context.report(&node.place, format!("{} is not a duration", quoted(&scalar.text)), hint);
            return None;
        };
        if duration < self.shortest || duration > self.longest {
            let (shortest, longest) = (duration_text(self.shortest), duration_text(self.longest));
            let message = format!("{} is not between {shortest} and {longest}", quoted(&scalar.text));
            context.report(&node.place, message, None);
            return None;
        }
        Some(duration)
    }
}

/// The shape of [`size`].
#[derive(Clone, Copy, Debug)]
pub struct SizeShape {
    least: u64,
    most: u64,
}

/// A number of bytes in one unit, as in `64MiB` or `10GiB`, within bounds that both count.
pub fn size(least: u64, most: u64) -> SizeShape {
    SizeShape { least, most }
}

const SIZE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn parse_size(text: &str) -> Option<u64> {
    let (digits, size) = SIZE_UNITS.into_iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(size)
}

/// A size as it is written in a file, in the largest unit that fits.
fn size_text(bytes: u64) -> String {
    let fitting = SIZE_UNITS.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size));
    let (unit, size) = fitting.unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

impl Shape for SizeShape {
    type Value = u64;

    fn kind(&self) -> Kind {
        Kind::Scalar(json!({"type": "string", "pattern": "^[0-9]+[KMGT]iB$"}))
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<u64> {
        let scalar = match &node.value {
            // A bare number is the likeliest mistake, and quotes would not help.
            Value::Scalar(scalar) if scalar.kind() == "a number" => scalar,
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => text_scalar(node, context)?,
        };
        let Some(bytes) = parse_size(&scalar.text) else {
            let hint = "a size is a number and one of KiB, MiB, GiB, TiB, as in 64MiB".to_owned();
            context.report(&node.place, format!("{} is not a size", quoted(&scalar.text)), hint);
            return None;
        };
        if bytes < self.least || bytes > self.most {
            let (least, most) = (size_text(self.least), size_text(self.most));
            let message = format!("{} is not between {least} and {most}", quoted(&scalar.text));
            context.report(&node.place, message, None);
            return None;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_and_writes_them_back() {
        for (text, seconds) in [("2s", 2), ("90s", 90), ("10m", 600), ("24h", 86_400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "24",
            "24 h",
            "-1s",
            "+1s",
            "1.5h",
            "1h30m",
            "24H",
            "5ms",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for (seconds, text) in [(2, "2s"), (90, "90s"), (600, "10m"), (86_400, "1d"), (90_000, "25h"), (0, "0s")] {
            assert_eq!(duration_text(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn reads_sizes_and_writes_them_back() {
        for (text, bytes) in [("1KiB", 1 << 10), ("64MiB", 64 << 20), ("10GiB", 10 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(size_text(bytes), text);
        }
        for text in [
            "",
            "MiB",
            "64",
            "64 MiB",
            "64MB",
            "64mib",
            "-1MiB",
            "1.5GiB",
            "99999999999999999999KiB",
            "18446744073709551615TiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
