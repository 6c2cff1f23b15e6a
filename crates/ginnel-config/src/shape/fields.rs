//! Sections: the two passes over a declaration, reading and describing.

use std::fmt;

use serde_json::Value as Json;

use super::{Context, Example, Field, Kind, Presence, Shape, Step, Text};
use crate::finding::{Collector, Place, quoted, suggestion};
use crate::tree::{Map, Node, Scalar, Style, Value};

/// The section being declared: asked for one setting after the other.
#[derive(Debug)]
pub struct Fields<'a, 'c> {
    pass: Pass<'a, 'c>,
}

#[derive(Debug)]
enum Pass<'a, 'c> {
    Describe(Vec<Field>),
    Read { map: Option<&'a Map>, place: &'a Place, known: Vec<&'static str>, context: &'a mut Context<'c> },
}

impl<'a, 'c> Fields<'a, 'c> {
    /// Declares the next setting; what it holds is said by the last call on the builder.
    pub fn field(&mut self, name: &'static str, doc: &'static str) -> FieldBuilder<'_, 'a, 'c> {
        FieldBuilder { fields: self, name, doc, example: None }
    }

    /// Whether the file has this setting, right or wrong.
    pub fn has(&self, name: &str) -> bool {
        match &self.pass {
            Pass::Describe(_) => false,
            Pass::Read { map, .. } => map.is_some_and(|map| map.entry(name).is_some()),
        }
    }

    /// Reports a section that has not exactly one of these settings, which were declared as choices.
    pub fn exactly_one(&mut self, names: &[&str]) {
        let given: Vec<_> = names.iter().copied().filter(|name| self.has(name)).collect();
        match given.as_slice() {
            [] => self.report(format!("one of {} is required", names.join(", ")), None),
            [_] => {}
            more => self.report(format!("has {}, of which only one can be", more.join(" and ")), None),
        }
    }

    /// Reports what is wrong with the section as a whole; ignored when it is only described.
    pub fn report(&mut self, message: impl Into<String>, hint: impl Into<Option<String>>) {
        match &mut self.pass {
            Pass::Describe(_) => {}
            Pass::Read { place, context, .. } => context.report(place, message, hint),
        }
    }

    /// Runs a check that compares settings with each other; skipped when the section is only described.
    pub fn check(&mut self, check: impl FnOnce(&mut Collector)) {
        match &mut self.pass {
            Pass::Describe(_) => {}
            Pass::Read { context, .. } => check(context.findings()),
        }
    }
}

/// One setting being declared.
#[derive(Debug)]
pub struct FieldBuilder<'f, 'a, 'c> {
    fields: &'f mut Fields<'a, 'c>,
    name: &'static str,
    doc: &'static str,
    example: Option<Example>,
}

impl FieldBuilder<'_, '_, '_> {
    /// The value that the example shows.
    pub fn example(mut self, value: impl Into<Json>) -> Self {
        self.example = Some(Example::On(value.into()));
        self
    }

    /// The value that the example shows in a comment.
    pub fn example_off(mut self, value: impl Into<Json>) -> Self {
        self.example = Some(Example::Off(value.into()));
        self
    }

    /// A setting that must be there. For a section: what is required in it must be there.
    pub fn required<S: Shape>(self, shape: S) -> Option<S::Value> {
        self.take(&shape, Presence::Required)
    }

    /// A setting that may be absent. None when it is, and also when it cannot be read: then there is a finding, and
    /// nothing that was built from the file is used.
    pub fn optional<S: Shape>(self, shape: S) -> Option<S::Value> {
        self.take(&shape, Presence::Optional)
    }

    /// A setting whose absence means `text`, spelled as in the file.
    pub fn default<S: Shape>(self, text: &'static str, shape: S) -> Option<S::Value> {
        self.take(&shape, Presence::Default(text))
    }

    /// One of several settings of the section of which exactly one must be there; [`Fields::exactly_one`] says so to people. The
    /// example shows one of them, the others need [`Self::example_off`].
    pub fn choice<S: Shape>(self, shape: S) -> Option<S::Value> {
        self.take(&shape, Presence::Choice)
    }

    fn take<S: Shape>(self, shape: &S, presence: Presence) -> Option<S::Value> {
        let Self { fields, name, doc, example } = self;
        match &mut fields.pass {
            Pass::Describe(list) => {
                list.push(Field { name, doc, presence, example, kind: shape.kind() });
                None
            }
            Pass::Read { map, place, known, context } => {
                known.push(name);
                context.path.push(Step::Key(name));
                let value = match (map.and_then(|map| map.entry(name)), presence) {
                    (Some(entry), _) => shape.decode(&entry.node, &entry.place, context),
                    (None, Presence::Required) => shape.absent(place, context),
                    (None, Presence::Optional | Presence::Choice) => None,
                    (None, Presence::Default(text)) => {
                        let scalar = Scalar { text: text.to_owned(), style: Style::Given };
                        let node = Node { place: Place::Whole, value: Value::Scalar(scalar) };
                        shape.decode(&node, place, context)
                    }
                };
                context.path.pop();
                value
            }
        }
    }
}

/// The shape of [`object`].
pub struct Object<T>(fn(&mut Fields<'_, '_>) -> Option<T>);

impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Object<T> {}

impl<T> fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Object(..)")
    }
}

/// A section, declared by a function.
pub fn object<T>(declaration: fn(&mut Fields<'_, '_>) -> Option<T>) -> Object<T> {
    Object(declaration)
}

impl<T> Object<T> {
    fn read(&self, map: Option<&Map>, place: &Place, context: &mut Context<'_>) -> Option<T> {
        let mut fields = Fields { pass: Pass::Read { map, place, known: Vec::new(), context } };
        let value = (self.0)(&mut fields);
        match fields.pass {
            Pass::Describe(_) => {}
            Pass::Read { map, known, context, .. } => {
                for entry in map.into_iter().flat_map(Map::entries) {
                    if !known.contains(&entry.key.as_str()) {
                        report_unknown(&entry.key, &entry.place, &known, context);
                    }
                }
            }
        }
        value
    }
}

fn report_unknown(key: &str, place: &Place, known: &[&'static str], context: &mut Context<'_>) {
    if context.findings().is_full() {
        context.report(place, String::new(), None);
        return;
    }
    let hint = match suggestion(key, known.iter().copied()) {
        Some(close) => format!("did you mean {close}?"),
        None => format!("the settings here are {}", known.join(", ")),
    };
    context.report(place, format!("unknown setting {}", quoted(key)), hint);
}

impl<T> Shape for Object<T> {
    type Value = T;

    fn kind(&self) -> Kind {
        let mut fields = Fields { pass: Pass::Describe(Vec::new()) };
        (self.0)(&mut fields);
        match fields.pass {
            Pass::Describe(list) => Kind::Section(list),
            Pass::Read { .. } => Kind::Section(Vec::new()),
        }
    }

    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<T> {
        match &node.value {
            Value::Map(map) => self.read(Some(map), place, context),
            Value::Scalar(_) | Value::List(_) | Value::Refused => {
                context.report_kind(node, "a section");
                None
            }
        }
    }

    fn absent(&self, place: &Place, context: &mut Context<'_>) -> Option<T> {
        self.read(None, place, context)
    }
}

/// The shape of [`object_or`].
#[derive(Clone, Debug)]
pub struct ObjectOr<S, T> {
    object: Object<T>,
    short: Text<S>,
    whole: fn(S) -> T,
}

/// A section, or a text in its place that says all that most of them do; `whole` makes the section's value of it.
pub fn object_or<S, T>(
    short: Text<S>,
    whole: fn(S) -> T,
    declaration: fn(&mut Fields<'_, '_>) -> Option<T>,
) -> ObjectOr<S, T> {
    ObjectOr { object: object(declaration), short, whole }
}

impl<S, T> Shape for ObjectOr<S, T> {
    type Value = T;

    fn kind(&self) -> Kind {
        match (self.object.kind(), self.short.kind()) {
            (Kind::Section(fields), Kind::Scalar(short)) => Kind::SectionOr { fields, short },
            // No section describes itself as anything else, and no text.
            (kind, _) => kind,
        }
    }

    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<T> {
        match &node.value {
            Value::Map(_) => self.object.decode(node, place, context),
            Value::List(_) => {
                context.report_kind(node, "text or a section");
                None
            }
            Value::Scalar(_) | Value::Refused => self.short.decode(node, place, context).map(self.whole),
        }
    }
}

/// Describes a declaration without reading anything.
pub fn section<T>(declaration: fn(&mut Fields<'_, '_>) -> Option<T>) -> Kind {
    object(declaration).kind()
}
