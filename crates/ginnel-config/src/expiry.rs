//! Rules of a good file that have expired or are about to: somebody should know before sessions are refused.

use std::path::Path;

use ginnel_core::audit::Timestamp;
use ginnel_core::policy::{EXPIRES_SOON, Rule};

use crate::finding::{Collector, FINDINGS_MAX, Finding, Place};
use crate::load::read_text;
use crate::tree::{self, Node, Value};

/// A note for each, in the order of the file.
pub(crate) fn notes(rules: &[Rule], path: &Path, now: Timestamp) -> Vec<Finding> {
    let soon = now.saturating_add(EXPIRES_SOON);
    let noted = (0..).zip(rules).filter(|(_, rule)| rule.has_expired(soon));
    let noted: Vec<(usize, &Rule)> = noted.take(FINDINGS_MAX).collect();
    if noted.is_empty() {
        return Vec::new();
    }
    let places = Places::read(path);
    let note = |(index, rule): (usize, &Rule)| {
        let expires = rule.expires?;
        let message = if rule.has_expired(now) {
            format!("rule {} expired at {expires} and allows nothing", rule.name)
        } else {
            format!("rule {} expires at {expires}", rule.name)
        };
        let hint = "move the moment, or take the rule out".to_owned();
        Some(Finding {
            file: path.display().to_string().into(),
            place: places.of(index),
            path: format!("rules[{index}].expires"),
            message,
            hint: Some(hint),
        })
    };
    noted.into_iter().filter_map(note).collect()
}

/// Where the settings of rules stand in a file. The rules themselves do not know.
struct Places(Option<Node>);

impl Places {
    fn read(path: &Path) -> Self {
        let text = read_text(path).ok();
        Self(text.and_then(|text| tree::parse(&text, &mut Collector::new(""))))
    }

    fn of(&self, index: usize) -> Place {
        let place = || {
            let Value::Map(file) = &self.0.as_ref()?.value else { return None };
            let Value::List(rules) = &file.entry("rules")?.node.value else { return None };
            let Value::Map(rule) = &rules.get(index)?.value else { return None };
            Some(rule.entry("expires")?.node.place.clone())
        };
        place().unwrap_or(Place::Whole)
    }
}
