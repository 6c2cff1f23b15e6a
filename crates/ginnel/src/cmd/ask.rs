//! Asking a running process.

use ginnel_ops::admin::client::{Door, Reply, ask};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::Failure;

/// What a process answers to a question that only reads.
pub(super) async fn read<T: DeserializeOwned>(door: &Door, path: &str) -> Result<T, Failure> {
    let text = read_text(door, path).await?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::failed(format!("{door} gave an answer that this version of ginnel does not understand: {error}"))
    })
}

/// The same, as it was answered.
pub(super) async fn read_text(door: &Door, path: &str) -> Result<String, Failure> {
    match ask(door, Method::GET, path).await.map_err(Failure::failed)? {
        Reply { status: StatusCode::OK, text } => Ok(text),
        Reply { status, text } => Err(refused(door, status, &text)),
    }
}

/// What a process answers to an order.
pub(super) async fn order(door: &Door, path: &str) -> Result<Reply, Failure> {
    ask(door, Method::POST, path).await.map_err(Failure::failed)
}

pub(super) fn refused(door: &Door, status: StatusCode, text: &str) -> Failure {
    let first = ginnel_core::audit::Text::new(text.lines().next().unwrap_or_default());
    let message = format!("{door} says no ({}): {first}", status.as_u16());
    if status == StatusCode::BAD_REQUEST { Failure::input(message) } else { Failure::failed(message) }
}
