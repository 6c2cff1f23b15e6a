//! From events to lines: every line has the fields of the spans around it.

use std::hash::{Hash, Hasher};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use ginnel_core::audit::Timestamp;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::fields::{Fields, Value};
use super::line::Line;
use super::quiet::{LeftOut, Quiet};
use super::{LogFormat, SUPPRESSED};

/// Writes a line for each event, unless the same was said too often.
pub(super) struct Lines<W> {
    format: LogFormat,
    colours: bool,
    writer: W,
    quiet: Mutex<Quiet<Callsite>>,
}

/// Takes events from tracing to [`Lines`].
pub(super) struct LinesLayer<W>(pub(super) Arc<Lines<W>>);

/// What can be said at the end, whatever the lines are written to.
pub(super) trait LastWords: Send + Sync {
    /// Says how many lines were left out and not said yet.
    fn say(&self);
}

#[derive(Clone, Copy, Debug)]
struct Callsite(&'static Metadata<'static>);

impl PartialEq for Callsite {
    fn eq(&self, other: &Self) -> bool {
        self.0.callsite() == other.0.callsite()
    }
}

impl Eq for Callsite {}

impl Hash for Callsite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.callsite().hash(state);
    }
}

impl<W> Lines<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    pub(super) fn new(format: LogFormat, colours: bool, writer: W) -> Self {
        Self { format, colours, writer, quiet: Mutex::default() }
    }

    /// Writes the line, or counts it; and what is due of earlier counts before it.
    fn write(&self, metadata: &'static Metadata<'static>, fields: &Fields, now: Instant) {
        let (admitted, left_out) = {
            let mut quiet = self.quiet();
            let left_out = quiet.due(Some(now));
            (quiet.admit(Callsite(metadata), *metadata.level(), &fields.message, now), left_out)
        };
        self.write_left_out(left_out);
        if admitted {
            self.write_line(metadata, fields);
        } else {
            SUPPRESSED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_left_out(&self, left_out: Vec<LeftOut<Callsite>>) {
        for LeftOut { place, message, lines } in left_out {
            let mut fields = Fields::default();
            fields.message = format!("left out {lines} lines like this: {message}");
            fields.set("left_out", Value::Unsigned(lines));
            self.write_line(place.0, &fields);
        }
    }

    fn write_line(&self, metadata: &'static Metadata<'static>, fields: &Fields) {
        let line = Line { time: Timestamp::from(SystemTime::now()), metadata, fields };
        if let Ok(text) = line.text(self.format, self.colours) {
            // There is nobody to tell that standard error is closed.
            let _ = self.writer.make_writer_for(metadata).write_all(text.as_bytes());
        }
    }

    fn quiet(&self) -> MutexGuard<'_, Quiet<Callsite>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> LastWords for Lines<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fn say(&self) {
        let left_out = self.quiet().due(None);
        self.write_left_out(left_out);
    }
}

impl<S, W> Layer<S> for LinesLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // From the innermost span outwards.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(around) = span.extensions().get::<Fields>() {
                fields.add_missing(around);
            }
        }
        self.0.write(event.metadata(), &fields, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, error_span, info, info_span, warn};

    use crate::telemetry::tests::logged;
    use crate::telemetry::{DEFAULT_FILTER, LogFormat, suppressed_total};

    #[test]
    fn every_line_has_the_fields_of_the_spans_around_it() {
        let talk = || {
            let session = info_span!("session", request = "7f", client = "c", agent = tracing::field::Empty).entered();
            session.record("agent", "a");
            info_span!("inner", bytes = 5).in_scope(|| info!(client = "nearer", cause = "reset", "ended"));
            drop(session);
            info!("idle");
        };
        let lines = logged(LogFormat::Json, DEFAULT_FILTER, talk);
        let mut lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let mut ended = lines.next().expect("a line");
        let time = ended["timestamp"].take();
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
        let expected = serde_json::json!({
            "timestamp": null, "level": "INFO", "message": "ended", "client": "nearer", "cause": "reset", "bytes": 5, "request": "7f",
            "agent": "a", "module": module_path!(),
        });
        assert_eq!(ended, expected);
        assert!(lines.next().is_some_and(|idle| idle.get("request").is_none()));
        let lines = logged(LogFormat::Human, DEFAULT_FILTER, talk);
        let ended = format!(" INFO {}: ended client=nearer cause=reset bytes=5 request=7f agent=a\n", module_path!());
        assert!(lines.contains(&ended), "{lines}");
    }

    #[test]
    fn a_name_is_written_once_in_each_json_line() {
        let line = logged(LogFormat::Json, DEFAULT_FILTER, || {
            info_span!("outer", request = "1", level = "x").in_scope(|| info!(request = "1", "refused"));
        });
        assert_eq!(line.matches("\"request\"").count(), 1, "{line}");
        assert_eq!((line.matches("\"level\"").count(), line.matches("\"level_\"").count()), (1, 1), "{line}");
    }

    #[test]
    fn a_quiet_filter_keeps_the_fields() {
        for filter in ["warn", "off,ginnel_ops=warn", "error,ginnel_ops=debug"] {
            let line = logged(LogFormat::Human, filter, || {
                info_span!("session", request = "7f").in_scope(|| {
                    error_span!("nearer", side = "client").in_scope(|| warn!("a side broke the protocol"));
                });
            });
            assert!(line.ends_with("protocol side=client request=7f\n"), "{filter}: {line}");
        }
    }

    #[test]
    fn repetition_is_counted_and_said_at_the_end() {
        let before = suppressed_total();
        let lines = logged(LogFormat::Human, "debug", || {
            for number in 0..500 {
                warn!(number, "the same again");
                debug!("asked for");
            }
        });
        let said = lines.matches(": the same again number=").count();
        let left_out = 500 - said;
        assert!(said >= 20 && left_out > 0, "{said}");
        let last = lines.lines().last().expect("a line");
        assert!(last.contains(&format!("left out {left_out} lines like this: the same again")), "{last}");
        assert!(last.ends_with(&format!(" left_out={left_out}")), "{last}");
        assert_eq!(lines.matches("asked for").count(), 500);
        assert!(suppressed_total() - before >= left_out as u64);
    }
}
