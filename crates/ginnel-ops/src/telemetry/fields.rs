//! What an event or a span says: names with values, in the order of first mention.

use std::fmt;

use tracing::field::{Field, Visit};

/// How many bytes of one value are written. Names and addresses are a quarter of this; only a peer that is up to no good says more.
const VALUE_MAX: usize = 1024;

/// What stands where a value was cut.
const CUT: &str = "…";

/// The field that tracing keeps an event's words in.
const MESSAGE: &str = "message";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Float(f64),
    Signed(i64),
    Text(String),
    Unsigned(u64),
}

/// The words of an event, and its fields or those of a span. A callsite has a fixed number of fields, so this is bounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields {
    /// The words, which a span has none of.
    pub(super) message: String,
    named: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Every name with its value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.named.iter().map(|(name, value)| (*name, value))
    }

    /// Takes over what `outer` says and this does not: the nearer word wins.
    pub(super) fn add_missing(&mut self, outer: &Self) {
        for (name, value) in &outer.named {
            if !self.named.iter().any(|(known, _)| known == name) {
                self.named.push((name, value.clone()));
            }
        }
    }

    /// Says that `name` is `value`, whatever it was before.
    pub(super) fn set(&mut self, name: &'static str, value: Value) {
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.named.push((name, value)),
        }
    }

    fn text(&mut self, field: &Field, text: String) {
        let text = shortened(text);
        if field.name() == MESSAGE { self.message = text } else { self.set(field.name(), Value::Text(text)) }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Bool(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Signed(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Unsigned(value));
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > VALUE_MAX {
        text.truncate(text.floor_char_boundary(VALUE_MAX));
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_word_wins() {
        let mut near = Fields::default();
        near.set("request", Value::Text("near".to_owned()));
        let mut far = Fields::default();
        far.set("request", Value::Text("far".to_owned()));
        far.set("client", Value::Text("c".to_owned()));
        near.add_missing(&far);
        let expected = [("request", Value::Text("near".to_owned())), ("client", Value::Text("c".to_owned()))];
        assert!(near.iter().eq(expected.iter().map(|(name, value)| (*name, value))), "{near:?}");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let text = shortened("ä".repeat(VALUE_MAX));
        assert_eq!(text, format!("{}{CUT}", "ä".repeat(VALUE_MAX / 2)));
        let odd = shortened(format!("x{}", "ä".repeat(VALUE_MAX)));
        assert_eq!(odd, format!("x{}{CUT}", "ä".repeat((VALUE_MAX - 1) / 2)));
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
