//! What `ginnel check agent` asks: could this target be dialled from here?

use std::net::SocketAddr;

use ginnel_core::allow::AllowList;
use ginnel_core::cause::Refusal;
use ginnel_core::principal::Principal;
use ginnel_core::target::Target;

use crate::dial::dial;

/// Decides and dials as for a session of this client, or of anybody, and closes the connection; gives the address that answered.
///
/// # Errors
/// The refusal that a session would get.
pub async fn target(client: Option<&Principal>, target: &Target, allow: &AllowList) -> Result<SocketAddr, Refusal> {
    dial(client, target, allow, &[]).await.map(|connected| connected.address)
}
