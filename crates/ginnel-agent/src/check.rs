//! What `ginnel check agent` asks: could this target be dialled from here?

use std::net::SocketAddr;

use ginnel_core::allow::AllowList;
use ginnel_core::cause::Refusal;
use ginnel_core::target::Target;

use crate::dial::dial;

/// Decides and dials as for a session, and closes the connection; gives the address that answered.
///
/// # Errors
/// The refusal that a session would get.
pub async fn target(target: &Target, allow: &AllowList) -> Result<SocketAddr, Refusal> {
    dial(target, allow).await.map(|connected| connected.address)
}
