//! Descriptions as a commented example.
//!
//! Explanations begin with `# `, settings that are switched off with `#` and the setting itself, so that removing that
//! one character from any of them gives a valid file again. Choices other than the one that is shown begin with `##`: they replace it.

use serde_json::Value as Json;

use crate::shape::{Example, Field, Kind, Presence};
use crate::{schema, tree};

/// Where explanations are wrapped, indentation included.
const WIDTH: usize = 100;

/// The example of a whole file under a heading.
pub fn document(heading: &str, kind: &Kind) -> String {
    let mut page = Page { text: String::new() };
    page.comment(0, heading);
    if let Kind::Section(fields) = kind {
        for field in fields {
            page.text.push('\n');
            page.field(0, field, None, true);
        }
    }
    page.text
}

struct Page {
    text: String,
}

impl Page {
    /// Writes one setting. `given` is its value in the example of the list around it; otherwise its own example counts.
    fn field(&mut self, indent: usize, field: &Field, given: Option<&Json>, explain: bool) {
        if field.presence == Presence::Choice && matches!(field.example, Some(Example::Off(_))) {
            let mut other = Self { text: String::new() };
            other.setting(indent, field, given, explain);
            self.text.push_str(&with_two_marks(&other.text));
        } else {
            self.setting(indent, field, given, explain);
        }
    }

    fn setting(&mut self, indent: usize, field: &Field, given: Option<&Json>, explain: bool) {
        let (off, value) = match (given, &field.example, field.presence) {
            (Some(value), _, _) | (None, Some(Example::On(value)), _) => (false, value.clone()),
            (None, Some(Example::Off(value)), _) => (true, value.clone()),
            (None, None, Presence::Default(text)) => (true, schema::default_value(text, &field.kind)),
            (None, None, Presence::Required | Presence::Optional | Presence::Choice) => (false, Json::Null),
        };
        if explain {
            self.comment(indent, field.doc);
        }
        match &field.kind {
            Kind::Scalar(_) => self.line(indent, off, &format!("{}: {}", field.name, scalar(&value))),
            Kind::SectionOr { .. } if !value.is_object() => {
                self.line(indent, off, &format!("{}: {}", field.name, scalar(&value)));
            }
            Kind::List { item, .. } => {
                self.line(indent, off, &format!("{}:", field.name));
                let values: Vec<_> = value.as_array().into_iter().flatten().collect();
                // What is written short explains nothing; the first that is not does.
                let explained = values.iter().position(|value| value.is_object()).unwrap_or(0);
                for (index, value) in values.into_iter().enumerate() {
                    self.item(indent + 2, off, item, value, explain && index == explained);
                }
            }
            Kind::Section(fields) | Kind::SectionOr { fields, .. } => {
                let mut section = Self { text: String::new() };
                section.line(indent, is_off(field), &format!("{}:", field.name));
                for field in fields {
                    section.field(indent + 2, field, value.get(field.name), explain);
                }
                // What is in a section that is only shown is only shown as well; the marks of a choice come later.
                let is_shown_only = off && field.presence != Presence::Choice;
                self.text.push_str(&if is_shown_only { switched_off(&section.text) } else { section.text });
            }
        }
    }

    fn item(&mut self, indent: usize, off: bool, kind: &Kind, value: &Json, explain: bool) {
        match kind {
            Kind::Scalar(_) => self.line(indent, off, &format!("- {}", scalar(value))),
            // No setting is a list of lists.
            Kind::List { .. } => {}
            Kind::SectionOr { .. } if !value.is_object() => self.line(indent, off, &format!("- {}", scalar(value))),
            Kind::Section(fields) | Kind::SectionOr { fields, .. } => {
                let mut item = Self { text: String::new() };
                for field in fields.iter().filter(|field| explain || value.get(field.name).is_some()) {
                    item.field(indent + 2, field, value.get(field.name), explain);
                }
                let item = with_dash(&item.text, indent);
                self.text.push_str(&if off { switched_off(&item) } else { item });
            }
        }
    }

    fn line(&mut self, indent: usize, off: bool, text: &str) {
        let off = if off { "#" } else { "" };
        self.text.push_str(&format!("{:indent$}{off}{text}\n", ""));
    }

    fn comment(&mut self, indent: usize, doc: &str) {
        let width = WIDTH.saturating_sub(indent + 2);
        for paragraph in doc.split('\n') {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                if !line.is_empty() && line.len() + 1 + word.len() > width {
                    self.line(indent, false, &format!("# {line}"));
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            self.line(indent, false, format!("# {line}").trim_end());
        }
    }
}

/// Whether a section shows nothing that is switched on, so that its own line has to be off as well.
fn is_off(field: &Field) -> bool {
    match (&field.kind, &field.example) {
        (_, Some(Example::On(_))) => false,
        (_, Some(Example::Off(_))) => true,
        (Kind::Section(fields), None) => fields.iter().all(is_off),
        (Kind::Scalar(_) | Kind::List { .. } | Kind::SectionOr { .. }, None) => {
            matches!(field.presence, Presence::Default(_))
        }
    }
}

/// Turns the first setting of an item into the one behind the dash; explanations before it move to the dash's column.
fn with_dash(text: &str, indent: usize) -> String {
    let mut dashed = false;
    let mut out = String::new();
    for line in text.lines() {
        let bare = line.trim_start();
        if dashed {
            out.push_str(line);
        } else if bare.starts_with('#') {
            out.push_str(&format!("{:indent$}{bare}", ""));
        } else {
            out.push_str(&format!("{:indent$}- {bare}", ""));
            dashed = true;
        }
        out.push('\n');
    }
    out
}

/// Marks every setting of a choice that is not the one shown.
fn with_two_marks(text: &str) -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        let indent = &line[..line.len() - bare.len()];
        match bare.strip_prefix('#') {
            // An explanation, or a choice inside that is not the one shown either.
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '#']) => format!("{line}\n"),
            Some(setting) => format!("{indent}##{setting}\n"),
            None => format!("{indent}##{bare}\n"),
        }
    };
    text.lines().map(line).collect()
}

/// Puts a `#` before every setting that has none.
fn switched_off(text: &str) -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        let indent = &line[..line.len() - bare.len()];
        let off = if bare.starts_with('#') { "" } else { "#" };
        format!("{indent}{off}{bare}\n")
    };
    text.lines().map(line).collect()
}

/// A scalar as YAML, in quotes where it would mean something else without.
fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let plain = tree::Scalar { text: text.clone(), style: tree::Style::Plain };
            let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'_' | b'-' | b':' | b'@');
            let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
            let is_plain = plain.is_text() && begins_well && text.bytes().all(safe) && !text.ends_with(':');
            if is_plain { text.clone() } else { value.to_string() }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) | Json::Object(_) => value.to_string(),
    }
}
