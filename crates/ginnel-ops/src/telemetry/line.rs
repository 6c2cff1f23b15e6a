//! How one line looks, for people and for machines.

use std::fmt::{self, Write as _};

use ginnel_core::audit::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::{Level, Metadata};

use super::LogFormat;
use super::fields::{Fields, Value};

/// What a JSON line says of itself; a field of the same name gets an underscore.
const OWN_NAMES: [&str; 4] = ["timestamp", "level", "message", "module"];

const DIM: &str = "\u{1b}[2m";
const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// One line of the log.
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    pub(super) metadata: &'static Metadata<'static>,
    pub(super) fields: &'a Fields,
}

impl Line<'_> {
    /// Writes the line down, with its end.
    pub(super) fn text(&self, format: LogFormat, colours: bool) -> Result<String, fmt::Error> {
        let mut text = match format {
            LogFormat::Human => self.human(colours)?,
            LogFormat::Json => serde_json::to_string(self).map_err(|_| fmt::Error)?,
        };
        text.push('\n');
        Ok(text)
    }

    fn human(&self, colours: bool) -> Result<String, fmt::Error> {
        let paint = |code: &'static str| if colours { code } else { "" };
        let (dim, bold, plain) = (paint(DIM), paint(BOLD), paint(PLAIN));
        let level = *self.metadata.level();
        let mut text = String::new();
        write!(text, "{dim}{}{plain} {}{level:>5}{plain} ", self.time, paint(colour(level)))?;
        write!(text, "{dim}{}:{plain} ", self.metadata.target())?;
        text.extend(self.fields.message.chars().flat_map(harmless));
        for (name, value) in self.fields.iter() {
            write!(text, " {bold}{name}{plain}{dim}={plain}")?;
            match value {
                Value::Bool(value) => write!(text, "{value}")?,
                Value::Float(value) => write!(text, "{value}")?,
                Value::Signed(value) => write!(text, "{value}")?,
                Value::Text(value) if is_one_word(value) => text.push_str(value),
                // `Debug` escapes whatever moves a cursor, ends a line or turns the direction of writing.
                Value::Text(value) => write!(text, "{value:?}")?,
                Value::Unsigned(value) => write!(text, "{value}")?,
            }
        }
        Ok(text)
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &format_args!("{}", self.time))?;
        map.serialize_entry("level", self.metadata.level().as_str())?;
        map.serialize_entry("message", &self.fields.message)?;
        for (name, value) in self.fields.iter() {
            if OWN_NAMES.contains(&name) {
                map.serialize_key(&format_args!("{name}_"))?;
            } else {
                map.serialize_key(name)?;
            }
            match value {
                Value::Bool(value) => map.serialize_value(value)?,
                Value::Float(value) => map.serialize_value(value)?,
                Value::Signed(value) => map.serialize_value(value)?,
                Value::Text(value) => map.serialize_value(value)?,
                Value::Unsigned(value) => map.serialize_value(value)?,
            }
        }
        map.serialize_entry("module", self.metadata.target())?;
        map.end()
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\')
}

/// Characters as they are if they only take up space, else escaped.
fn harmless(c: char) -> impl Iterator<Item = char> {
    let plain = (c == ' ' || c.is_ascii_graphic()).then_some(c);
    plain.into_iter().chain(plain.is_none().then(|| c.escape_debug()).into_iter().flatten())
}
