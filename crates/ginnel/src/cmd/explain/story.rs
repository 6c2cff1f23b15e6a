//! What was found of a request, put in the order of its way, and what follows from it.

use std::fmt::Write;

use ginnel_core::audit::{Text, Timestamp};
use ginnel_core::cause::Cause;
use ginnel_core::id::RequestId;
use ginnel_core::status::Request;
use ginnel_ops::admin::client::Door;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::table::{moment, name_of};

/// Lines that are told; a request has a dozen, unless a log is full of something else.
const FOUND_MAX: usize = 1000;

/// Where on the way something was seen, in the order of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Place {
    Client,
    Server,
    Agent,
    /// A log that does not say whose it is.
    Unknown,
}

impl Place {
    fn of_role(role: &str) -> Self {
        match role {
            "client" => Self::Client,
            "server" => Self::Server,
            "agent" => Self::Agent,
            _ => Self::Unknown,
        }
    }

    /// The process that wrote a line, by its role or by the part of the program that wrote it.
    pub(super) fn of_module(fields: &Map<String, Value>) -> Self {
        let texts = ["role", "module", "target"].into_iter().filter_map(|name| fields.get(name)?.as_str());
        texts
            .map(|text| {
                Self::of_role(text.strip_prefix("ginnel_").unwrap_or(text).split(':').next().unwrap_or_default())
            })
            .find(|place| *place != Self::Unknown)
            .unwrap_or(Self::Unknown)
    }

    pub(super) fn of_text(line: &str) -> Self {
        let named = [("ginnel_client", Self::Client), ("ginnel_server", Self::Server), ("ginnel_agent", Self::Agent)];
        named.into_iter().find(|(name, _)| line.contains(name)).map_or(Self::Unknown, |(_, place)| place)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Unknown => "somewhere on the way",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) source: String,
    pub(super) time: Option<Timestamp>,
    pub(super) text: String,
    #[serde(skip)]
    pub(super) client: Option<String>,
    #[serde(skip)]
    pub(super) target: Option<String>,
    /// Event, hop and cause, if this says how it went.
    #[serde(skip)]
    pub(super) verdict: Option<(String, String, String)>,
}

/// What is known of one request.
pub(super) struct Story {
    id: RequestId,
    found: Vec<Found>,
    left_out: usize,
    /// The state in which a process has it.
    states: Vec<(Place, String)>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Conclusion {
    /// `refused`, `ended`, or where it stands.
    event: String,
    hop: Option<String>,
    cause: Option<String>,
}

impl Story {
    pub(super) fn new(id: RequestId) -> Self {
        Self { id, found: Vec::new(), left_out: 0, states: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn find(&mut self, found: Found) {
        if self.found.len() < FOUND_MAX {
            self.found.push(found);
        } else {
            self.left_out += 1;
        }
    }

    /// Adds what a process remembers.
    pub(super) fn remember(&mut self, door: &Door, request: Request) {
        let place = Place::of_role(&request.role);
        let note = |time, text: String| Found {
            place,
            source: door.to_string(),
            time,
            text,
            client: request.client.clone().filter(|_| place != Place::Client),
            target: Some(request.target.clone()),
            verdict: None,
        };
        let mut came = "came".to_owned();
        let facts =
            [("by", &request.front), ("rule", &request.rule), ("agent", &request.agent), ("address", &request.address)];
        for (name, value) in facts {
            if let Some(value) = value {
                came.push_str(&format!(" {name}={value}"));
            }
        }
        self.find(note(Some(request.since), came));
        for attempt in &request.attempts {
            self.find(note(None, format!("an attempt failed: {attempt}")));
        }
        let mut last = format!("{} up={} down={}", request.state, request.bytes_up, request.bytes_down);
        let verdict = request.hop.clone().zip(request.cause.clone());
        if let Some((hop, cause)) = &verdict {
            last.push_str(&format!(" hop={hop} cause={cause}"));
        }
        let verdict = verdict.map(|(hop, cause)| (request.state.clone(), hop, cause));
        self.find(Found { verdict, ..note(request.until, last) });
        self.states.push((place, request.state.clone()));
    }

    /// The application heard the client's word; without it the server's last word is the best. A reset tells the next process its cause and
    /// not its hop, so among those that name the same cause, one that names itself knows best.
    fn conclusion(&self) -> Option<Conclusion> {
        let told = |found: &&Found| found.verdict.is_some();
        let by_client = self.found.iter().filter(told).filter(|found| found.place == Place::Client);
        let by_others = self.found.iter().filter(told).filter(|found| found.place != Place::Client);
        let last = by_client.max_by_key(|found| found.time).or_else(|| by_others.max_by_key(|found| found.time));
        if let Some((event, hop, cause)) = last.and_then(|found| found.verdict.clone()) {
            let names_itself = |found: &&Found| {
                let verdict = found.verdict.as_ref();
                verdict.is_some_and(|(_, hop, other)| *other == cause && *hop == found.place.title())
            };
            let origin = self.found.iter().find(names_itself).and_then(|found| found.verdict.clone());
            let hop = origin.map_or(hop, |(_, origin, _)| origin);
            return Some(Conclusion { event, hop: Some(hop), cause: Some(cause) });
        }
        let (_, state) = self.states.first()?;
        Some(Conclusion { event: state.clone(), hop: None, cause: None })
    }

    fn in_order(&self) -> Vec<&Found> {
        let mut found: Vec<_> = self.found.iter().collect();
        found.sort_by_key(|found| found.place);
        found
    }

    pub(super) fn json(&self) -> Result<String, serde_json::Error> {
        let conclusion = self.conclusion();
        let cause = conclusion.as_ref().and_then(|conclusion| conclusion.cause.as_deref()?.parse::<Cause>().ok());
        let value = json!({
            "requestId": self.id.to_string(),
            "found": self.in_order(),
            "leftOut": self.left_out,
            "conclusion": conclusion,
            "meaning": cause.map(Cause::sentence),
            "whoCanMendIt": cause.map(|cause| cause.mender().as_str()),
            "whatToDo": cause.map(Cause::advice),
        });
        serde_json::to_string_pretty(&value).map(|json| format!("{json}\n"))
    }

    /// The story for people; `looked` says where nothing was found.
    pub(super) fn text(&self, looked: &[String]) -> String {
        let mut text = format!("request {}", self.id);
        let known = |of: fn(&Found) -> Option<&String>| self.found.iter().find_map(of);
        let client = known(|found| found.client.as_ref()).map(|client| Text::new(name_of(client)));
        let target = known(|found| found.target.as_ref()).map(Text::new);
        // Writing to a String cannot fail, here and below.
        let _ = match (client, target) {
            (Some(client), Some(target)) => writeln!(text, ": {client} -> {target}"),
            (None, Some(target)) => writeln!(text, ": {target}"),
            (_, None) => writeln!(text),
        };
        let mut place = None;
        for found in self.in_order() {
            if place != Some(found.place) {
                place = Some(found.place);
                let _ = writeln!(text, "\n{}", found.place.title());
            }
            let time = found.time.map_or_else(|| " ".repeat(20), moment);
            let _ = writeln!(text, "  {time}  {}  ({})", Text::new(&found.text), Text::new(&found.source));
        }
        if self.left_out > 0 {
            let _ = writeln!(text, "  and {} more lines", self.left_out);
        }
        if let Some(conclusion) = self.conclusion() {
            conclude(&mut text, &conclusion);
        } else if self.is_empty() {
            text.push_str("\nNothing is known of it where I looked.\n");
        }
        if !looked.is_empty() {
            text.push('\n');
        }
        for line in looked {
            let _ = writeln!(text, "looked at {}", Text::new(line));
        }
        text
    }
}

fn conclude(text: &mut String, conclusion: &Conclusion) {
    let Conclusion { event, hop, cause } = conclusion;
    let (Some(hop), Some(word)) = (hop, cause) else {
        let _ = writeln!(text, "\nIt is {} now.", Text::new(event));
        return;
    };
    let _ = writeln!(text, "\n{} by the {}: {}", Text::new(event), Text::new(hop), Text::new(word));
    if let Ok(cause) = word.parse::<Cause>() {
        let _ = writeln!(text, "  meaning       {}", cause.sentence());
        let _ = writeln!(text, "  who mends it  {}", cause.mender());
        let _ = writeln!(text, "  what to do    {}", cause.advice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(place: Place, second: u32, verdict: Option<(&str, &str, &str)>) -> Found {
        Found {
            place,
            source: "log".to_owned(),
            time: format!("2026-11-24T12:00:{second:02}Z").parse().ok(),
            text: "line\u{1b}".to_owned(),
            client: Some("spiffe://acme.example/client/frontend".to_owned()),
            target: Some("git.acme:443".to_owned()),
            verdict: verdict.map(|(event, hop, cause)| (event.to_owned(), hop.to_owned(), cause.to_owned())),
        }
    }

    #[test]
    fn the_clients_word_decides_and_before_it_the_last_record() {
        let mut story = Story::new("0123456789abcdef0123456789abcdef".parse().unwrap());
        story.find(found(Place::Agent, 1, None));
        story.find(found(Place::Server, 2, Some(("refused", "agent", "connectionRefused"))));
        story.find(found(Place::Server, 5, Some(("ended", "target", "finished"))));
        let text = story.text(&[]);
        assert!(text.contains("ended by the target: finished") && !text.contains('\u{1b}'), "{text}");
        let at = |title: &str| text.find(title).unwrap_or_else(|| panic!("{title} in {text}"));
        assert!(at("\nserver\n") < at("\nagent\n"));
        story.find(found(Place::Client, 1, Some(("refused", "server", "notAllowed"))));
        let text = story.text(&[]);
        assert!(text.contains("refused by the server: notAllowed") && text.contains("ginnel policy test"), "{text}");
        assert!(text.starts_with("request 0123456789abcdef0123456789abcdef: frontend -> git.acme:443\n"), "{text}");
    }

    #[test]
    fn says_where_it_looked_in_vain() {
        let story = Story::new("0123456789abcdef0123456789abcdef".parse().unwrap());
        let text = story.text(&["127.0.0.1:50051: cannot connect".to_owned()]);
        assert!(text.contains("Nothing is known") && text.contains("looked at 127.0.0.1:50051"), "{text}");
    }
}
