//! What `ginnel check client` asks: which agents may this client use?

use std::time::Duration;

use ginnel_core::id::InstanceId;
use ginnel_core::limits::ROSTER_MESSAGE_MAX;
use ginnel_core::roster::Roster;
use ginnel_identity::random::SystemRandom;
use ginnel_net::connect::Connection;
use ginnel_wire::frame::WireError;
use ginnel_wire::hello::{Hello, PROTOCOL_VERSIONS, is_spoken};
use ginnel_wire::v1::RosterRequest;
use ginnel_wire::v1::client_link_client::ClientLinkClient;
use tokio::time::timeout;

/// The first roster comes at once; this leaves room for a slow line.
const ROSTER_WAIT: Duration = Duration::from_secs(10);

/// Why there is no roster.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The server ended the stream before it sent one (peer).
    #[error("the server closed the roster before it sent one")]
    Closed,
    /// The server sent something else (peer).
    #[error("the server sent a malformed roster")]
    Malformed(#[from] WireError),
    /// The server did not say who it is (peer).
    #[error("the server did not say who it is")]
    Nameless,
    /// The server refused (peer, configuration of the server).
    #[error("the server refused the roster (gRPC status {}: {})", i32::from(.0.code()), .0.message())]
    Refused(#[from] tonic::Status),
    /// Nothing came in time (peer, environment).
    #[error("the server sent no roster within {} s", ROSTER_WAIT.as_secs())]
    TimedOut,
    /// The server speaks another version of the protocol (peer).
    #[error("the server speaks version {0} of the protocol, and this software {PROTOCOL_VERSIONS:?}")]
    Version(u32),
}

/// The first roster on a connection that was made with a client's certificate.
///
/// # Errors
/// [`RosterError`].
pub async fn roster(connection: &Connection) -> Result<Roster, RosterError> {
    let asking = async {
        let origin = connection.origin();
        let mut client =
            ClientLinkClient::with_origin(connection.clone(), origin).max_decoding_message_size(ROSTER_MESSAGE_MAX);
        let hello = Hello::new(InstanceId::random(&mut SystemRandom), 0);
        let mut heard = client.roster(RosterRequest { hello: Some(hello.into()) }).await?.into_inner();
        let message = heard.message().await?.ok_or(RosterError::Closed)?;
        let version = message.welcome.as_ref().ok_or(RosterError::Nameless)?.protocol_version;
        if !is_spoken(version) {
            return Err(RosterError::Version(version));
        }
        Ok(crate::link::roster(message)?)
    };
    timeout(ROSTER_WAIT, asking).await.map_err(|_| RosterError::TimedOut)?
}
