//! Opening a session: what the front ends ask for, whoever does it.

use std::future::Future;
use std::net::SocketAddr;

use ginnel_core::cause::Refusal;
use ginnel_core::id::RequestId;
use ginnel_core::target::Target;
pub use ginnel_net::tunnel::Tunnel;
use ginnel_ops::ledger::{Ledger, Tracked};

/// Opens sessions.
pub trait Opener: Clone + Send + Sync + 'static {
    /// An open session.
    type Tunnel: Tunnel;

    /// The book in which requests are put down.
    fn ledger(&self) -> &Ledger;

    /// Opens a session to `target` for the application at `from`.
    ///
    /// It is done only after the target was connected and the agent has proved who it is, because the application is told of success right
    /// then. How it went stands in `tracked`; how it ended is the caller's to say. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The [`Refusal`] that the application is told.
    fn open(
        &self,
        request: RequestId,
        target: Target,
        from: SocketAddr,
        tracked: &Tracked,
    ) -> impl Future<Output = Result<Self::Tunnel, Refusal>> + Send;
}
