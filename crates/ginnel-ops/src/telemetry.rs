//! The process's own log, on standard error: for people or for machines. It is not the audit log, and may lose lines.

use std::ffi::OsStr;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, filter};

use self::collector::Collector;
pub use self::collector::NotACollector;
use self::lines::{LastWords, Lines, LinesLayer};
use self::spans::WithSpans;

mod collector;
mod fields;
mod line;
mod lines;
#[cfg(feature = "otel")]
mod otlp;
mod quiet;
mod spans;

/// Lines that were left out because they repeated themselves.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// How many lines were left out since the start because they repeated themselves.
pub fn suppressed_total() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// What is logged unless something else is asked for.
pub const DEFAULT_FILTER: &str = "info";

/// The variable that names the collector of spans.
pub const COLLECTOR_VARIABLE: &str = "GINNEL_OTLP_ENDPOINT";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for each event, in colour on a terminal.
    #[default]
    Human,
    /// One JSON object on each line, with the fields of the event and of the spans around it beside `message`.
    Json,
}

/// A text that names no log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log format is one of human, json")]
pub struct UnknownFormat;

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The caller set it up before.
    #[error("logging is set up already")]
    Again(#[source] tracing::dispatcher::SetGlobalDefaultError),
    /// The environment names a collector in a way that cannot be followed.
    #[error("reading {COLLECTOR_VARIABLE}")]
    Collector(#[source] NotACollector),
    /// The way to the collector could not be set up: OpenTelemetry's own variables cannot be read, or the system is out of something.
    #[cfg(feature = "otel")]
    #[error("setting the export of spans up")]
    Export(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The filter, which comes from the command line or the environment, cannot be read.
    #[error("reading the log filter {filter:?}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: filter::ParseError,
    },
}

/// The log of this process. It works without being held; dropping it says what is left to say, within a bounded time.
#[must_use = "dropping it is the end of the log"]
pub struct Telemetry {
    lines: Arc<dyn LastWords>,
    #[cfg(feature = "otel")]
    export: Option<otlp::Export>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        #[cfg(feature = "otel")]
        if let Some(Err(error)) = self.export.as_ref().map(|export| export.finish(otlp::FLUSH_DEADLINE)) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
        self.lines.say();
    }
}

/// As [`init_as`], for a process that is called after the program.
///
/// # Errors
/// As [`init_as`].
pub fn init(format: LogFormat, filter: &str) -> Result<Telemetry, TelemetryError> {
    init_as("ginnel", format, filter)
}

/// Sends the log of the process that is called `service` to standard error, in `format`, as far as `filter` lets it through; and its spans
/// to the collector that [`COLLECTOR_VARIABLE`] names, if the program was built with the feature `otel`.
///
/// A filter is a level, or levels by module: `info`, `warn,ginnel_server=debug`. Colours appear on a terminal only, and not when
/// `NO_COLOR` is set to anything. What is returned is held until the process ends.
///
/// # Errors
/// [`TelemetryError`] if the filter or the collector's address cannot be read, or on a second call.
pub fn init_as(service: &'static str, format: LogFormat, filter: &str) -> Result<Telemetry, TelemetryError> {
    let collector = collector(std::env::var_os(COLLECTOR_VARIABLE).as_deref())?;
    let colours = colours(stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let (subscriber, lines) = set_up(format, filter, colours, stderr)?;
    let telemetry = install(subscriber, lines, collector.as_ref(), service)?;
    match collector {
        Some(_) if cfg!(not(feature = "otel")) => {
            tracing::warn!(
                "{COLLECTOR_VARIABLE} is set, but this program was built without the feature otel: it sends no spans"
            );
        }
        Some(collector) if !collector.is_local => {
            tracing::warn!("spans go to a collector that may be on another machine, unencrypted");
        }
        Some(_) | None => {}
    }
    Ok(telemetry)
}

#[cfg(feature = "otel")]
fn install<S>(
    subscriber: S,
    lines: Arc<dyn LastWords>,
    collector: Option<&Collector>,
    service: &'static str,
) -> Result<Telemetry, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let Some(collector) = collector else {
        tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Again)?;
        return Ok(Telemetry { lines, export: None });
    };
    let export = otlp::Export::start(collector, service).map_err(TelemetryError::Export)?;
    tracing::subscriber::set_global_default(subscriber.with(export.layer())).map_err(TelemetryError::Again)?;
    Ok(Telemetry { lines, export: Some(export) })
}

#[cfg(not(feature = "otel"))]
fn install<S>(
    subscriber: S,
    lines: Arc<dyn LastWords>,
    _collector: Option<&Collector>,
    _service: &'static str,
) -> Result<Telemetry, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Again)?;
    Ok(Telemetry { lines })
}

/// Reads the variable; set to nothing is not set.
fn collector(variable: Option<&OsStr>) -> Result<Option<Collector>, TelemetryError> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_str().ok_or(TelemetryError::Collector(NotACollector::Malformed))?;
    text.parse().map(Some).map_err(TelemetryError::Collector)
}

fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

fn set_up<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> Result<(impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<W>, Arc<Lines<W>>), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let lines = Arc::new(Lines::new(format, colours, writer));
    let layer = LinesLayer(Arc::clone(&lines)).with_filter(WithSpans(filter));
    Ok((Registry::default().with(layer), lines))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let lines = Written::default();
        let writer = lines.clone();
        let (subscriber, last_words) = set_up(format, filter, false, move || writer.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, log);
        last_words.say();
        let bytes = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn json_has_the_fields_beside_the_message() {
        let line = logged(LogFormat::Json, DEFAULT_FILTER, || {
            tracing::info!(listener = "proxy", address = %"127.0.0.1:3128", agents = 2, "listening");
            tracing::debug!("not asked for");
        });
        let value: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        let fields = ["level", "message", "listener", "address"].map(|field| value[field].as_str());
        assert_eq!(fields, [Some("INFO"), Some("listening"), Some("proxy"), Some("127.0.0.1:3128")]);
        assert_eq!(value["agents"], 2);
    }

    #[test]
    fn a_hostile_value_forges_no_line_and_moves_no_cursor() {
        let hostile = "a\nINFO forged\u{1b}[2J";
        for format in [LogFormat::Human, LogFormat::Json] {
            let line = logged(format, DEFAULT_FILTER, || tracing::info!(version = ?hostile, "link up"));
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(!line.contains('\u{1b}'), "{line:?}");
        }
    }

    #[test]
    fn the_filter_decides_by_module() {
        let filter = format!("warn,{}=debug", module_path!());
        let lines = logged(LogFormat::Human, &filter, || {
            tracing::debug!("mine");
            tracing::info!(target: "other", "not mine");
            tracing::warn!(target: "other", "bad");
        });
        assert!(lines.contains("mine") && lines.contains("bad") && !lines.contains("not mine"), "{lines}");
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert!(matches!(
            set_up(LogFormat::Human, "ginnel=loud", false, stderr).map(drop),
            Err(TelemetryError::Filter { .. })
        ));
        assert_eq!("xml".parse::<LogFormat>(), Err(UnknownFormat));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
    }

    #[test]
    fn colours_need_a_terminal_that_did_not_decline() {
        let cases = [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)];
        for (terminal, no_color, expected) in cases {
            assert_eq!(colours(terminal, no_color.map(OsStr::new)), expected, "{terminal} {no_color:?}");
        }
    }

    #[test]
    fn a_collector_is_used_if_one_is_named() {
        assert!(matches!(collector(None), Ok(None)));
        assert!(matches!(collector(Some(OsStr::new(""))), Ok(None)));
        assert!(matches!(collector(Some(OsStr::new("http://127.0.0.1:4318"))), Ok(Some(_))));
        let refused = collector(Some(OsStr::new("https://127.0.0.1:4318")));
        assert!(matches!(refused, Err(TelemetryError::Collector(NotACollector::Encrypted))), "{refused:?}");
    }
}
