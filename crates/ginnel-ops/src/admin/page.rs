//! The status page: one document, drawn here, that loads nothing and runs nothing.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Text, Timestamp};
use ginnel_core::status::{Certificate, Counted, Failure, Peer, Request, Status};

use super::metrics::name_of;
use super::plot::{self, bytes, whole};
use super::samples::Sample;

/// Sessions that the page lists; `/sessions` has all of them.
const SESSIONS_SHOWN: usize = 100;

const STYLE: &str = include_str!("page.css");

/// Draws the page. `samples` are the totals of the last minutes, oldest first.
pub(super) fn render(status: &Status, sessions: &[Request], samples: &[Sample]) -> String {
    let mut page = String::with_capacity(32 * 1024);
    // Writing to a String cannot fail, here and below.
    let _ = write!(page, "{}", Page { status, sessions, samples });
    page
}

struct Page<'a> {
    status: &'a Status,
    sessions: &'a [Request],
    samples: &'a [Sample],
}

/// A text from outside: fit for people, and inert in HTML.
struct Safe<T>(T);

impl<T: fmt::Display> fmt::Display for Safe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in Text::new(&self.0).as_str().chars() {
            match part {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let role = Safe(&status.role);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"refresh\" content=\"5\">\n<link rel=\"icon\" href=\"data:,\">\n\
             <title>{} · ginnel {role}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            if status.ready { "ready" } else { "NOT READY" },
        )?;
        self.head(f)?;
        self.numbers(f)?;
        self.throughput(f)?;
        if matches!(status.role.as_str(), "server" | "client") {
            peers(f, "Agents", "No agent is connected.", &status.agents, status)?;
        }
        if status.role == "server" {
            peers(f, "Clients", "No client is connected.", &status.clients, status)?;
        }
        self.sessions(f)?;
        causes(f, &status.causes)?;
        refusals(f, &status.refusals)?;
        write!(
            f,
            "<footer><p>As of {}. This page is read-only and draws itself anew every 5 seconds. For programs: \
             <a href=\"/status\">/status</a>, <a href=\"/sessions\">/sessions</a>, <a href=\"/metrics\">/metrics</a>.</p></footer>\n\
             </body>\n</html>\n",
            moment(status.time)
        )
    }
}

impl Page<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let who = status.principal.as_deref().unwrap_or("no certificate yet");
        writeln!(f, "<header><h1>ginnel {}</h1><p>{}</p></header>", Safe(&status.role), Safe(who))?;
        match (status.ready, status.draining) {
            (true, false) => writeln!(f, "<p class=\"verdict good\">Ready: a session could be carried now</p>")?,
            (_, is_draining) => {
                let word = if is_draining { "Draining: no new sessions" } else { "Not ready" };
                writeln!(f, "<div class=\"verdict bad\">{word}<ul>")?;
                for reason in &status.not_ready {
                    writeln!(f, "<li>{}</li>", Safe(reason))?;
                }
                writeln!(f, "</ul></div>")?;
            }
        }
        let server = status.server.as_ref().and_then(|server| server.failure.as_ref());
        let renewal = status.certificate.as_ref().and_then(|certificate| certificate.renewal_failure.as_ref());
        failure(
            f,
            "The configuration could not be reloaded; the last good one is in force",
            status.config.failure.as_ref(),
        )?;
        failure(f, "The last attempt to reach the server failed", server)?;
        failure(f, "The certificate could not be renewed; it stays in use", renewal)?;
        let sink = status.audit.as_ref().and_then(|audit| audit.sink.as_ref());
        let sink = sink.and_then(|sink| sink.failure.as_ref());
        failure(f, "The audit sink does not take records; they wait on the disk", sink)
    }

    fn numbers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let totals = &status.sessions;
        writeln!(f, "<dl>")?;
        fact(f, "Sessions now", totals.live)?;
        fact(f, "Opened since start", totals.opened)?;
        fact(f, "Refused since start", totals.refused)?;
        fact(f, "Towards targets", bytes(whole(totals.bytes_up)))?;
        fact(f, "Towards applications", bytes(whole(totals.bytes_down)))?;
        fact(f, "Up for", span(elapsed(status.started, status.time)))?;
        fact(f, "Version", &status.version)?;
        fact(f, "Process", &status.instance)?;
        match &status.certificate {
            Some(certificate) => fact(f, "Own certificate", life(certificate))?,
            None => fact(f, "Own certificate", "none yet")?,
        }
        if let Some(server) = &status.server {
            let state = if server.connected { "connected" } else { "not connected" };
            fact(f, "Server", format!("{} at {}, {state}", server.name, server.address))?;
        }
        let config = &status.config;
        let entries = |one, many| format!("{} {}", config.entries, if config.entries == 1 { one } else { many });
        match status.role.as_str() {
            "server" => fact(f, "Policy", format!("{}, version {}", entries("rule", "rules"), config.version))?,
            "agent" => {
                fact(f, "Allow-list", format!("{}, version {}", entries("entry", "entries"), config.version))?;
                if let Some(observation) = &status.observation {
                    let refusals = observation.would_refuse.iter().map(|observed| observed.count).sum::<u64>();
                    let version = &observation.version;
                    fact(f, "Under observation", format!("version {version}, would have refused {refusals}"))?;
                }
            }
            "enrolment" => {
                let identities = entries("identity", "identities");
                fact(f, "May enrol", format!("{identities}, version {}", config.version))?;
            }
            "client" if status.routes.is_none() => {
                fact(f, "Routes", "none; every agent that the server offers may serve")?
            }
            "client" => fact(f, "Routes", format!("{}, version {}", entries("route", "routes"), config.version))?,
            _ => {}
        }
        if let Some(audit) = &status.audit {
            let state = if audit.healthy { "written" } else { "CANNOT BE WRITTEN" };
            fact(f, "Audit log", format!("{state}, {} waiting", audit.waiting))?;
            if let Some(sink) = &audit.sink {
                let lost = if sink.lost > 0 { format!(", {} LOST", sink.lost) } else { String::new() };
                fact(f, "Audit sink", format!("{} behind{lost}", sink.behind_records))?;
            }
        }
        writeln!(f, "</dl>")
    }

    fn throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>Throughput</h2>")?;
        match plot::draw(self.samples) {
            Some(drawing) => writeln!(
                f,
                "<figure>{drawing}<figcaption><b class=\"down\">Towards applications</b> and <b class=\"up\">towards targets</b>, \
                 bytes per second</figcaption></figure>"
            ),
            None => writeln!(f, "<p class=\"none\">The plot begins with the second look, in a few seconds.</p>"),
        }
    }

    fn sessions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>Sessions</h2>")?;
        let mut table = Table::begin(
            f,
            "Sessions that are carried now",
            SESSIONS_HEAD,
            self.sessions.is_empty(),
            "Nothing is carried now.",
        )?;
        for session in self.sessions.iter().take(SESSIONS_SHOWN) {
            let SessionCells { who, agent } = SessionCells::of(session);
            table.row(
                f,
                &[
                    &RequestLink(&session.request_id),
                    &Safe(who),
                    &Safe(&session.target),
                    &Safe(agent),
                    &Safe(&session.state),
                    &span(elapsed(session.since, self.status.time)),
                    &bytes(whole(session.bytes_up)),
                    &bytes(whole(session.bytes_down)),
                ],
            )?;
        }
        table.end(f)?;
        if self.sessions.len() > SESSIONS_SHOWN {
            let more = self.sessions.len() - SESSIONS_SHOWN;
            writeln!(f, "<p class=\"none\">And {more} more: <a href=\"/sessions\">/sessions</a> has all of them.</p>")?;
        }
        Ok(())
    }
}

const SESSIONS_HEAD: &[&str] = &["Request", "Who", "Target", "Agent", "State", "For", "Up", "Down"];

struct SessionCells<'a> {
    who: &'a str,
    agent: &'a str,
}

impl<'a> SessionCells<'a> {
    fn of(request: &'a Request) -> Self {
        Self {
            who: request.client.as_deref().map_or("–", name_of),
            agent: request.agent.as_deref().map_or("–", name_of),
        }
    }
}

fn peers(f: &mut fmt::Formatter<'_>, title: &str, none: &str, peers: &[Peer], status: &Status) -> fmt::Result {
    writeln!(f, "<h2>{title}</h2>")?;
    let head = ["Name", "Process", "From", "Version", "Since", "Certificate", "Sessions", "State"];
    let mut table = Table::begin(f, title, &head, peers.is_empty(), none)?;
    for peer in peers {
        let certificate = peer.certificate.as_ref().map_or_else(|| "–".to_owned(), life);
        let since = peer.since.map_or_else(|| "–".to_owned(), |since| span(elapsed(since, status.time)));
        table.row(
            f,
            &[
                &Safe(name_of(&peer.principal)),
                &Id(&peer.instance),
                &Safe(peer.peer.as_deref().unwrap_or("–")),
                &Safe(peer.version.as_deref().unwrap_or("–")),
                &Safe(since),
                &Safe(certificate),
                &Safe(peer.sessions.map_or_else(|| "–".to_owned(), |sessions| sessions.to_string())),
                &Safe(if peer.draining { "draining" } else { "live" }),
            ],
        )?;
    }
    table.end(f)
}

fn causes(f: &mut fmt::Formatter<'_>, causes: &[Counted]) -> fmt::Result {
    writeln!(f, "<h2>Refusals by cause</h2>")?;
    let mut refused: Vec<_> = causes.iter().filter(|counted| counted.event == "refused").collect();
    refused.sort_by_key(|counted| std::cmp::Reverse(counted.count));
    let none = "Nothing was refused since the start.";
    let mut table =
        Table::begin(f, "Refusals since the start, by cause", &["Cause", "By", "Count"], refused.is_empty(), none)?;
    for counted in refused {
        table.row(f, &[&Safe(&counted.cause), &Safe(&counted.hop), &counted.count])?;
    }
    table.end(f)
}

fn refusals(f: &mut fmt::Formatter<'_>, refusals: &[Request]) -> fmt::Result {
    if refusals.is_empty() {
        return Ok(());
    }
    writeln!(f, "<h2>Last refusals</h2>")?;
    let head = ["Time", "Request", "Who", "Target", "By", "Cause"];
    let mut table = Table::begin(f, "Last refusals, newest first", &head, false, "")?;
    for request in refusals {
        let SessionCells { who, .. } = SessionCells::of(request);
        table.row(
            f,
            &[
                &moment(request.until.unwrap_or(request.since)),
                &RequestLink(&request.request_id),
                &Safe(who),
                &Safe(&request.target),
                &Safe(request.hop.as_deref().unwrap_or("–")),
                &Safe(request.cause.as_deref().unwrap_or("–")),
            ],
        )?;
    }
    table.end(f)
}

fn failure(f: &mut fmt::Formatter<'_>, what: &str, failure: Option<&Failure>) -> fmt::Result {
    let Some(Failure { time, error }) = failure else { return Ok(()) };
    write!(f, "<div class=\"failure\"><strong>{what}</strong> ({})<pre>", moment(*time))?;
    for line in error.lines() {
        writeln!(f, "{}", Safe(line))?;
    }
    writeln!(f, "</pre></div>")
}

fn fact(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "<div><dt>{name}</dt><dd>{}</dd></div>", Safe(value))
}

/// A table that becomes one card a row on a phone. Without rows it is a sentence.
struct Table<'a> {
    head: &'a [&'a str],
    is_empty: bool,
}

impl<'a> Table<'a> {
    fn begin(
        f: &mut fmt::Formatter<'_>,
        caption: &str,
        head: &'a [&'a str],
        is_empty: bool,
        none: &str,
    ) -> Result<Self, fmt::Error> {
        if is_empty {
            writeln!(f, "<p class=\"none\">{none}</p>")?;
        } else {
            write!(f, "<div class=\"scroll\"><table><caption>{caption}</caption><thead><tr>")?;
            for name in head {
                write!(f, "<th scope=\"col\"{}>{name}</th>", class(name))?;
            }
            writeln!(f, "</tr></thead><tbody>")?;
        }
        Ok(Self { head, is_empty })
    }

    /// One row. Cells are written as they are: whatever comes from outside is [`Safe`] already.
    fn row(&mut self, f: &mut fmt::Formatter<'_>, cells: &[&dyn fmt::Display]) -> fmt::Result {
        write!(f, "<tr>")?;
        for (name, cell) in self.head.iter().zip(cells) {
            write!(f, "<td data-name=\"{name}\"{}>{cell}</td>", class(name))?;
        }
        writeln!(f, "</tr>")
    }

    fn end(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty { Ok(()) } else { writeln!(f, "</tbody></table></div>") }
    }
}

fn class(name: &str) -> &'static str {
    if matches!(name, "Up" | "Down" | "Count" | "Sessions" | "For") { " class=\"number\"" } else { "" }
}

/// A request id that leads to what is known of it. Only digits get into the address.
struct RequestLink<'a>(&'a str);

impl fmt::Display for RequestLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            write!(
                f,
                "<a class=\"id\" href=\"/requests/{0}\" title=\"{0}\">{1}…</a>",
                self.0,
                &self.0[..self.0.len().min(8)]
            )
        } else {
            write!(f, "{}", Safe(self.0))
        }
    }
}

/// The beginning of a long id, all of it for whoever points at it.
struct Id<'a>(&'a str);

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start: String = self.0.chars().take(8).collect();
        write!(f, "<span class=\"id\" title=\"{}\">{}…</span>", Safe(self.0), Safe(start))
    }
}

fn life(certificate: &Certificate) -> String {
    match certificate.remaining_seconds {
        0 => "expired".to_owned(),
        seconds => format!("{} left", span(Duration::from_secs(seconds))),
    }
}

/// To the second: that is as much as people compare.
fn moment(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((whole, _)) => format!("{} UTC", whole.replace('T', " ")),
        None => text,
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    SystemTime::from(now).duration_since(since.into()).unwrap_or_default()
}

/// The two largest units.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests;
