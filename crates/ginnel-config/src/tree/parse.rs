//! From YAML events to the tree.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{DEPTH_MAX, Entry, FILE_BYTES_MAX, Map, NODES_MAX, Node, Scalar, Style, Value};
use crate::finding::{Collector, Place, push_key, quoted};

pub(super) fn parse(text: &str, findings: &mut Collector) -> Option<Node> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("is larger than {} MiB", FILE_BYTES_MAX >> 20);
        findings.report(&Place::Whole, "", message, None);
        return None;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        strict_indentation: true,
        // One level more than is accepted here, so that the bound is reported in our words.
        flow_nesting_limit: DEPTH_MAX + 1,
        block_nesting_limit: DEPTH_MAX + 1,
    };
    let mut builder = Builder { findings, open: Vec::new(), root: None, documents: 0, nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if builder.take(event, span).is_err() {
                    return None;
                }
            }
            Err(error) => {
                builder.findings.report(&place(*error.marker()), "", format!("is not YAML: {}", error.info()), None);
                return None;
            }
        }
    }
    let empty = Node { place: Place::START, value: Value::Map(Map::default()) };
    match builder.root {
        // A file of comments only is a document whose value is nothing.
        Some(Node { value: Value::Scalar(scalar), .. }) if scalar.is_null() => Some(empty),
        Some(root) => Some(root),
        None => Some(empty),
    }
}

fn place(marker: Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place::File { line: number(marker.line()).max(1), column: number(marker.col()).saturating_add(1) }
}

/// Reading cannot go on; the reason was reported.
struct Stop;

/// A list or section whose end was not seen yet.
enum Open {
    List { place: Place, items: Vec<Node> },
    Map { place: Place, map: Map, seen: Seen, key: Option<Key> },
}

/// A key that waits for its value.
enum Key {
    Text(String, Place),
    /// Was reported; its value is read and dropped.
    Refused,
}

struct Builder<'a> {
    findings: &'a mut Collector,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let at = place(span.start);
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.report(&at, "a file holds one document; a second one begins here");
                    return Err(Stop);
                }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.count(&at)?;
                self.report(&at, "aliases are not supported: write the value out");
                self.attach(Node { place: at, value: Value::Refused });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(&at)?;
                let plain = self.is_plain_data(&at, anchor, tag.as_ref());
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                let scalar = Value::Scalar(Scalar { text: text.into_owned(), style });
                self.attach(Node { place: at, value: if plain { scalar } else { Value::Refused } });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(&at, anchor, tag.as_ref())?;
                self.open.push(Open::List { place: at, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.begin(&at, anchor, tag.as_ref())?;
                self.open.push(Open::Map { place: at, map: Map::default(), seen: Seen::default(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            // The parser's options ask for no other event; one that it adds later may be a value, and none is skipped.
            Event::Anchor(..) | _ => {
                self.report(&at, "holds something else than plain data");
                return Err(Stop);
            }
        }
        Ok(())
    }

    fn begin(&mut self, at: &Place, anchor: usize, tag: Option<&Cow<'_, Tag>>) -> Result<(), Stop> {
        self.count(at)?;
        self.is_plain_data(at, anchor, tag);
        if self.open.len() >= DEPTH_MAX {
            self.findings.report(at, "", format!("is nested more than {DEPTH_MAX} levels deep"), None);
            return Err(Stop);
        }
        Ok(())
    }

    fn end(&mut self) {
        match self.open.pop() {
            Some(Open::List { place, items }) => self.attach(Node { place, value: Value::List(items) }),
            Some(Open::Map { place, map, .. }) => self.attach(Node { place, value: Value::Map(map) }),
            None => {}
        }
    }

    fn count(&mut self, at: &Place) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.findings.report(at, "", format!("the file has more than {NODES_MAX} keys and values"), None);
            return Err(Stop);
        }
        Ok(())
    }

    fn is_plain_data(&mut self, at: &Place, anchor: usize, tag: Option<&Cow<'_, Tag>>) -> bool {
        if anchor != 0 {
            self.report(at, "anchors are not supported: write the value out where it is needed");
        }
        if tag.is_some() {
            self.report(at, "tags are not supported: write the value without one");
        }
        tag.is_none()
    }

    /// Puts a finished value where it belongs: the root, a list, or a section, as key or value.
    fn attach(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { map, seen, key, .. }) => match key.take() {
                Some(Key::Refused) => {}
                Some(Key::Text(text, place)) => map.entries.push(Entry { key: text, place, node }),
                None => {
                    let at = node.place.clone();
                    let refusal = match as_key(node, map, seen) {
                        Ok(text) => {
                            *key = Some(Key::Text(text, at));
                            return;
                        }
                        Err(refusal) => refusal,
                    };
                    *key = Some(Key::Refused);
                    if let Some(message) = refusal {
                        self.report(&at, &message);
                    }
                }
            },
        }
    }

    fn report(&mut self, at: &Place, message: &str) {
        let path = self.path();
        self.findings.report(at, path, message, None);
    }

    /// The path of what is read next.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match open {
                Open::List { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Open::Map { key: Some(Key::Text(text, _)), .. } => push_key(&mut path, text),
                Open::Map { key: Some(Key::Refused) | None, .. } => {}
            }
        }
        path
    }
}

/// The text of a key, or what is wrong with it; nothing more to say if that was already reported.
fn as_key(node: Node, map: &Map, seen: &mut Seen) -> Result<String, Option<String>> {
    let text = match node.value {
        Value::Scalar(scalar) if !scalar.is_null() => scalar.text,
        Value::Refused => return Err(None),
        Value::Scalar(_) | Value::List(_) | Value::Map(_) => return Err(Some("a key is one word".to_owned())),
    };
    if text == "<<" {
        return Err(Some("merge keys are not supported: write the settings out".to_owned()));
    }
    if let Some(first) = seen.find(&text, map) {
        return Err(Some(format!("{} is already given at {}", quoted(&text), first.place)));
    }
    Ok(text)
}

/// The keys of a section, once there are so many that they are better not compared one by one.
#[derive(Default)]
struct Seen {
    /// Places among the entries, of the first `indexed` of them.
    by_key: HashMap<String, usize>,
    indexed: usize,
}

impl Seen {
    /// Keys that are compared one by one. Sections have fewer; what has more is a mistake, or an attempt to make reading slow.
    const FEW_MAX: usize = 32;

    /// The entry of a section that has this key.
    fn find<'m>(&mut self, key: &str, map: &'m Map) -> Option<&'m Entry> {
        let entries = map.entries();
        if entries.len() <= Self::FEW_MAX {
            return map.entry(key);
        }
        for (place, entry) in entries.iter().enumerate().skip(self.indexed) {
            self.by_key.insert(entry.key.clone(), place);
        }
        self.indexed = entries.len();
        entries.get(*self.by_key.get(key)?)
    }
}
