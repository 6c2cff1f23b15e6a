//! Declarations of what a file may hold.
//!
//! A setting is declared once, and the declaration does everything: it reads the value, it describes itself for the JSON
//! Schema, the commented example and the overrides. A section is declared by a function that asks a [`Fields`] for one
//! setting after the other:
//!
//! ```
//! use ginnel_config::shape::{self, Fields};
//!
//! struct Upstream { name: String, retries: bool }
//!
//! fn upstream(fields: &mut Fields<'_, '_>) -> Option<Upstream> {
//!     let name = fields.field("name", "Name of the server.").example("a.example").required(shape::line());
//!     let retries = fields.field("retries", "Whether to try again.").default("true", shape::flag());
//!     Some(Upstream { name: name?, retries: retries? })
//! }
//! ```
//!
//! Every field is asked for before the first `?`, so that one bad value does not hide the next. `None` means that the
//! reason was reported, or that the function is only being asked to describe itself.

use std::fmt::Write as _;
use std::path::Path;

use crate::finding::{Collector, Place, push_key};
use crate::tree::{Node, Value};

mod fields;
mod scalar;

pub use fields::{FieldBuilder, Fields, Object, ObjectOr, object, object_or, section};
pub use scalar::{
    DurationShape, FileShape, Flag, Number, SizeShape, Text, Word, duration, duration_text, file, flag, line, number,
    parsed, size, text_with, word,
};

/// How values of one type are read and described.
pub trait Shape {
    /// What is read.
    type Value;

    /// The description of every value of this shape.
    fn kind(&self) -> Kind;

    /// Reads a value, or reports why not. `place` is where people look for it: the key, or the item of a list.
    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<Self::Value>;

    /// What a required setting that is absent means. Only sections give it another meaning than an error: theirs is to
    /// report each required setting in them.
    fn absent(&self, place: &Place, context: &mut Context<'_>) -> Option<Self::Value> {
        context.report(place, "is required", None);
        None
    }
}

/// The description of a shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One value; the JSON Schema that it satisfies.
    Scalar(serde_json::Value),
    /// A list of at least `items_min` values.
    List {
        /// The description of each item.
        item: Box<Self>,
        /// The fewest items that there may be.
        items_min: usize,
        /// A word that may stand in place of the list.
        word: Option<&'static str>,
    },
    /// A section.
    Section(Vec<Field>),
    /// A section, or one value that stands for the shortest such section.
    SectionOr {
        /// The settings of the section.
        fields: Vec<Field>,
        /// The JSON Schema of the value.
        short: serde_json::Value,
    },
}

/// The description of one setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// One or more sentences for people.
    pub doc: &'static str,
    /// Whether and how it may be left out.
    pub presence: Presence,
    /// The value in the example.
    pub example: Option<Example>,
    /// The description of its value.
    pub kind: Kind,
}

impl Field {
    /// Whether a file without it is wrong: required, or a section that holds something required.
    pub fn is_required(&self) -> bool {
        match (&self.kind, self.presence) {
            (Kind::Section(fields), Presence::Required) => {
                fields.iter().any(|field| field.is_required() || field.presence == Presence::Choice)
            }
            (Kind::Scalar(_) | Kind::List { .. } | Kind::Section(_) | Kind::SectionOr { .. }, presence) => {
                presence == Presence::Required
            }
        }
    }
}

/// Whether and how a setting may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may not.
    Required,
    /// Its absence means something of its own.
    Optional,
    /// Its absence means this value, spelled as in the file.
    Default(&'static str),
    /// Exactly one of the settings of its section that have this presence is there.
    Choice,
}

/// The value of a setting in the example.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Written out.
    On(serde_json::Value),
    /// Written as a comment, to be switched on by removing `#`.
    Off(serde_json::Value),
}

/// What is being read, and for whom.
#[derive(Debug)]
pub struct Context<'a> {
    findings: &'a mut Collector,
    base_dir: &'a Path,
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Key(&'static str),
    Item(usize),
}

impl<'a> Context<'a> {
    /// A context at the root of a file whose relative paths start at `base_dir`.
    pub fn new(findings: &'a mut Collector, base_dir: &'a Path) -> Self {
        Self { findings, base_dir, path: Vec::new() }
    }

    /// The directory at which relative paths in the file start.
    pub fn base_dir(&self) -> &Path {
        self.base_dir
    }

    /// Where findings go that belong to another place than the value being read.
    pub fn findings(&mut self) -> &mut Collector {
        self.findings
    }

    /// Reports what is wrong with the value being read.
    pub fn report(&mut self, place: &Place, message: impl Into<String>, hint: impl Into<Option<String>>) {
        let path = self.path();
        self.findings.report(place, path, message, hint);
    }

    /// Reports a value of the wrong kind.
    pub fn report_kind(&mut self, node: &Node, expected: &str) {
        match &node.value {
            Value::Refused => {}
            Value::Scalar(scalar) if scalar.is_null() => {
                let hint = format!("give it {expected}, or remove it");
                self.report(&node.place, "has no value", hint);
            }
            value @ (Value::Scalar(_) | Value::List(_) | Value::Map(_)) => {
                self.report(&node.place, format!("expected {expected}, found {}", value.kind()), None);
            }
        }
    }

    /// The setting being read, as in `identities[1].email`.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => push_key(&mut path, key),
                // Writing to a text does not fail.
                Step::Item(index) => drop(write!(path, "[{index}]")),
            }
        }
        path
    }
}

/// A value that remembers where it stood, for checks that compare settings with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stood.
    pub place: Place,
    /// The setting.
    pub path: String,
}

impl<T> Located<T> {
    /// Reports what is wrong with this value.
    pub fn report(&self, findings: &mut Collector, message: impl Into<String>, hint: impl Into<Option<String>>) {
        findings.report(&self.place, self.path.as_str(), message, hint);
    }
}

/// The shape of [`located`].
#[derive(Clone, Copy, Debug)]
pub struct LocatedShape<S>(S);

/// The same shape, with values that remember where they stood.
pub fn located<S: Shape>(shape: S) -> LocatedShape<S> {
    LocatedShape(shape)
}

impl<S: Shape> Shape for LocatedShape<S> {
    type Value = Located<S::Value>;

    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<Self::Value> {
        let value = self.0.decode(node, place, context)?;
        Some(Located { value, place: node.place.clone(), path: context.path() })
    }

    fn absent(&self, place: &Place, context: &mut Context<'_>) -> Option<Self::Value> {
        let value = self.0.absent(place, context)?;
        Some(Located { value, place: place.clone(), path: context.path() })
    }
}

/// The shape of [`list`].
#[derive(Clone, Copy, Debug)]
pub struct List<S> {
    item: S,
    items_min: usize,
}

/// A list. Items that cannot be read are reported and left out of the value.
pub fn list<S: Shape>(item: S) -> List<S> {
    List { item, items_min: 0 }
}

/// A list of at least one item, otherwise like [`list`].
pub fn list_of_some<S: Shape>(item: S) -> List<S> {
    List { item, items_min: 1 }
}

impl<S: Shape> Shape for List<S> {
    type Value = Vec<S::Value>;

    fn kind(&self) -> Kind {
        Kind::List { item: Box::new(self.item.kind()), items_min: self.items_min, word: None }
    }

    fn decode(&self, node: &Node, _place: &Place, context: &mut Context<'_>) -> Option<Self::Value> {
        let Value::List(items) = &node.value else {
            context.report_kind(node, "a list");
            return None;
        };
        if items.len() < self.items_min {
            context.report(&node.place, "needs at least one item", None);
        }
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            context.path.push(Step::Item(index));
            values.extend(self.item.decode(item, &item.place, context));
            context.path.pop();
        }
        Some(values)
    }
}

/// The shape of [`word_or_list`].
#[derive(Clone, Copy, Debug)]
pub struct WordOrList<S> {
    word: &'static str,
    list: List<S>,
}

/// A list of at least one item, or a word in place of it: `None`.
pub fn word_or_list<S: Shape>(word: &'static str, item: S) -> WordOrList<S> {
    WordOrList { word, list: list_of_some(item) }
}

impl<S: Shape> Shape for WordOrList<S> {
    type Value = Option<Vec<S::Value>>;

    fn kind(&self) -> Kind {
        let List { item, items_min } = &self.list;
        Kind::List { item: Box::new(item.kind()), items_min: *items_min, word: Some(self.word) }
    }

    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<Self::Value> {
        match &node.value {
            Value::Scalar(scalar) if scalar.text == self.word => Some(None),
            Value::Scalar(scalar) if !scalar.is_null() => {
                let message = format!("expected a list or the word {}, found {}", self.word, scalar.kind());
                context.report(&node.place, message, None);
                None
            }
            Value::Scalar(_) | Value::List(_) | Value::Map(_) | Value::Refused => {
                self.list.decode(node, place, context).map(Some)
            }
        }
    }
}
