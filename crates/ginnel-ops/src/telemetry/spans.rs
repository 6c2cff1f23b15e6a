//! The filter: what is logged, and which spans are kept for what they say of the lines in them.

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter};

/// How the modules of all crates of the project begin.
const OURS: &str = "ginnel";

/// Lets events through as the user's filter says; our spans down to this level are kept all the same, so that a warning names its request
/// also where only warnings are asked for.
const SPANS_DOWN_TO: Level = Level::INFO;

/// Whether a span or an event is ours, and not more talkative than [`SPANS_DOWN_TO`].
pub(super) fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OURS) && *metadata.level() <= SPANS_DOWN_TO
}

/// The user's filter, with our spans.
pub(super) struct WithSpans(pub(super) EnvFilter);

impl<S: Subscriber> Filter<S> for WithSpans {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        (metadata.is_span() && is_ours(metadata)) || Filter::<S>::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The user's filter may have a rule about the span, and hears of it in any case.
        let asked_for = Filter::<S>::callsite_enabled(&self.0, metadata);
        if metadata.is_span() && is_ours(metadata) { Interest::always() } else { asked_for }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0).map(|hint| hint.max(LevelFilter::from_level(SPANS_DOWN_TO)))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::<S>::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::<S>::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::<S>::on_close(&self.0, id, context);
    }
}
