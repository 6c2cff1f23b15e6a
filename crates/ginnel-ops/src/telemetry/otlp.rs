//! Spans for a collector, by OTLP over HTTP: batched, bounded, and dropped rather than waited for.
//!
//! Invariant: what carries sessions never waits for a collector. A span goes into a bounded queue or is dropped; a thread of its own
//! sends them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::TraceId;
use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData};
use opentelemetry_sdk::{Resource, trace};
use tracing::{Subscriber, info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use self::post::Post;
use super::collector::Collector;
use super::spans::is_ours;

mod post;

/// Ended spans that wait for the next batch: some seconds of a busy server, a few megabytes.
const QUEUE_MAX: usize = 4096;

/// Spans in one request; the specification's default.
const BATCH_MAX: usize = 512;

/// How long a span waits for company; the specification's default.
const BATCH_DELAY: Duration = Duration::from_secs(5);

/// One batch with its repetitions. The collector is beside this process: what takes longer is lost, and the queue goes on.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// What the exit waits for the last batches.
pub(super) const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// The field that names a request.
const REQUEST: &str = "request";

/// What the process is called unless this variable of the specification says otherwise.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// The way of spans to the collector.
pub(super) struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Starts the thread that sends what the process `service` has to say.
    ///
    /// # Errors
    /// [`ExporterBuildError`] if the environment variables of the specification cannot be read, or the system gives nothing to wait with.
    pub(super) fn start(collector: &Collector, service: &'static str) -> Result<Self, ExporterBuildError> {
        let post =
            Post::new(EXPORT_DEADLINE).map_err(|error| ExporterBuildError::InternalFailure(error.to_string()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(post)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.traces_url())
            .with_timeout(EXPORT_DEADLINE)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let exporter = Joined { exporter, failing: AtomicBool::new(false) };
        let mut resource = Resource::builder();
        if std::env::var_os(SERVICE_NAME).is_none() {
            resource = resource.with_service_name(service);
        }
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.with_attribute(version).build())
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .build();
        Ok(Self { provider })
    }

    /// Takes our spans, with the events in them that are no more talkative than the log's default.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ginnel"))
            // Nothing else here reads OpenTelemetry's own context.
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_ours))
    }

    /// Sends what is left, and ends.
    ///
    /// # Errors
    /// An error if that took longer than `deadline`, or failed.
    pub(super) fn finish(&self, deadline: Duration) -> OTelSdkResult {
        self.provider.shutdown_with_timeout(deadline)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

/// Gives the spans of one request one trace, whichever process they come from: the request's id is the trace's.
#[derive(Debug)]
struct Joined {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl trace::SpanExporter for Joined {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(join);
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let failed = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !failed => {
                warn!(spans, %error, "the collector does not take spans; they are dropped until it does")
            }
            Ok(()) if failed => info!("the collector takes spans again"),
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn join(span: &mut SpanData) {
    let named = span.attributes.iter().find(|attribute| attribute.key.as_str() == REQUEST);
    let id = named.and_then(|attribute| TraceId::from_hex(&attribute.value.as_str()).ok());
    if let Some(id) = id.filter(|id| *id != TraceId::INVALID) {
        let old = &span.span_context;
        span.span_context =
            SpanContext::new(id, old.span_id(), old.trace_flags(), old.is_remote(), old.trace_state().clone());
    }
}

#[cfg(test)]
mod tests;
