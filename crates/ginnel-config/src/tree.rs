//! A configuration file as a tree in which every key and value knows its place.
//!
//! The tree is bounded in size and depth and holds plain data only: no anchors, aliases, tags, merge keys or second
//! documents, so that what a person reads in the file is what the program reads.

use crate::finding::{Collector, Place};

mod parse;

/// Largest file read: 100,000 rules of 500 bytes, and as many identities as they name. It is the operator's own; the bound is for what is no
/// configuration at all.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Deepest nesting of lists and sections; decoding is recursive, real files need six.
pub const DEPTH_MAX: usize = 64;
/// Most keys and values in one file, of which a rule has a dozen: bounds the memory that a file of [`FILE_BYTES_MAX`] bytes can cost.
pub const NODES_MAX: usize = 4_000_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One word, number or text.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A section: keys with values.
    Map(Map),
    /// Something that was already reported and must not be reported again.
    Refused,
}

impl Value {
    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(scalar) => scalar.kind(),
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
            Self::Refused => "something unreadable",
        }
    }
}

/// One word, number or text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text without quotes.
    pub text: String,
    /// How it was written.
    pub style: Style,
}

/// How a scalar was written, which decides what it can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: YAML may take it for a number, a boolean or nothing.
    Plain,
    /// In quotes or as a block: always text.
    Quoted,
    /// From a variable, a flag or a default: whatever the setting needs.
    Given,
}

impl Scalar {
    /// Whether nothing was written: no value at all, `~` or `null`.
    pub fn is_null(&self) -> bool {
        self.style == Style::Plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether YAML's core schema takes it for text.
    pub fn is_text(&self) -> bool {
        match self.style {
            Style::Quoted | Style::Given => true,
            Style::Plain => self.kind() == "text",
        }
    }

    /// What YAML's core schema takes it for.
    pub fn kind(&self) -> &'static str {
        if self.style == Style::Quoted {
            return "text";
        }
        if self.is_null() {
            return "nothing";
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => "a boolean",
            text if is_number(text) => "a number",
            _ => "text",
        }
    }
}

/// Numbers of YAML 1.2's core schema.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    // Rust's own parser agrees with the core schema on decimal numbers, apart from words such as `inf` and `nan`.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

/// A section: keys in the order of the file, none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    entries: Vec<Entry>,
}

/// One key of a section and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub node: Node,
}

impl Map {
    /// The entry with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// All entries in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Sets the scalar at a path, creating the sections on the way.
    ///
    /// Where the file has something else than a section on the way, nothing is set: decoding reports that place.
    pub(crate) fn set(&mut self, path: &[&str], text: &str, place: &Place) {
        let [key, rest @ ..] = path else { return };
        let index = self.entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            // What else is required in the new section is missing from the file, not from the override.
            let node = Node { place: Place::START, value: Value::Map(Self::default()) };
            self.entries.push(Entry { key: (*key).to_owned(), place: Place::START, node });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        if rest.is_empty() {
            let scalar = Scalar { text: text.to_owned(), style: Style::Given };
            entry.place = place.clone();
            entry.node = Node { place: place.clone(), value: Value::Scalar(scalar) };
        } else if let Value::Map(map) = &mut entry.node.value {
            map.set(rest, text, place);
        }
    }
}

/// Reads YAML into a tree. What is wrong with the text goes to `findings`; the tree then holds what could be read.
///
/// An empty file is an empty section. None means that nothing useful could be read.
pub fn parse(text: &str, findings: &mut Collector) -> Option<Node> {
    parse::parse(text, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_text_from_numbers_booleans_and_nothing() {
        let cases = [
            ("null", "nothing"),
            ("~", "nothing"),
            ("", "nothing"),
            ("true", "a boolean"),
            ("False", "a boolean"),
            ("yes", "text"),
            ("12", "a number"),
            ("-1.5e3", "a number"),
            (".5", "a number"),
            ("0x1F", "a number"),
            (".inf", "a number"),
            ("inf", "text"),
            ("nan", "text"),
            ("1.2.3.4", "text"),
            ("10:20", "text"),
            ("24h", "text"),
        ];
        for (text, kind) in cases {
            let scalar = |style| Scalar { text: text.to_owned(), style };
            assert_eq!(scalar(Style::Plain).kind(), kind, "{text}");
            assert_eq!(scalar(Style::Plain).is_text(), kind == "text", "{text}");
            assert!(scalar(Style::Quoted).is_text() && scalar(Style::Given).is_text(), "{text}");
        }
    }

    #[test]
    fn sets_values_over_and_beside_those_of_the_file() {
        let place = Place::Override("--set x".into());
        let mut findings = Collector::new("f");
        let Some(Node { value: Value::Map(mut map), .. }) = parse("server: {name: a}\nlist: [x]\n", &mut findings)
        else {
            panic!("no map");
        };

        map.set(&["server", "name"], "b", &place);
        map.set(&["issuer", "embedded", "directory"], "/ca", &place);
        map.set(&["list", "x"], "ignored", &place);

        let text = |map: &Map, key: &str| match map.entry(key).map(|entry| entry.node.value.clone()) {
            Some(Value::Scalar(scalar)) => scalar.text,
            other => panic!("{key}: {other:?}"),
        };
        let section = |map: &Map, key: &str| match map.entry(key).map(|entry| entry.node.value.clone()) {
            Some(Value::Map(map)) => map,
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(text(&section(&map, "server"), "name"), "b");
        assert_eq!(text(&section(&section(&map, "issuer"), "embedded"), "directory"), "/ca");
        assert_eq!(map.entry("list").map(|entry| entry.node.value.kind()), Some("a list"));
    }
}
