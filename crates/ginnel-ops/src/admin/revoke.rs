//! Denying something over the admin socket, and showing what is denied.

use ginnel_core::denial::Kind;
use http::StatusCode;
use tracing::{debug, info, warn};

use super::answer::{Answer, json, once, pairs, text};
use super::{NotRevoked, Revocation, Shared};

const NOT_HERE: &str = "Nothing can be denied at a client: ask its server, or the agents.\n";

/// Every denial.
pub(super) fn list(shared: &Shared) -> Answer {
    match shared.observed.denials() {
        Some(denials) => json(&denials),
        None => text(StatusCode::NOT_FOUND, NOT_HERE),
    }
}

/// Denies, or undoes it. Who asks is the process at the other end of the socket, which the system names.
pub(super) async fn answer(shared: &Shared, (pid, uid): (Option<i32>, u32), query: &str) -> Answer {
    let by = pid.map_or_else(|| format!("uid {uid}"), |pid| format!("uid {uid}, pid {pid}"));
    let order = match revocation(query, by) {
        Ok(order) => order,
        Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    debug!(?order, "a revocation was asked for");
    let undo = order.undo;
    match shared.observed.revoke(order).await {
        Ok(revoked) => {
            let (connections, sessions) = (revoked.connections, revoked.sessions);
            info!(pid, uid, kind = revoked.kind, undo, connections, sessions, "revocation in force");
            json(&revoked)
        }
        Err(NotRevoked::NotHere) => text(StatusCode::NOT_FOUND, NOT_HERE),
        Err(NotRevoked::Question(why)) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Err(NotRevoked::Failed(why)) => {
            warn!(pid, uid, undo, why, "a revocation that was asked for is not in force");
            text(StatusCode::CONFLICT, format!("{why}\n"))
        }
    }
}

/// Reads what is to be denied.
pub(super) fn revocation(query: &str, by: String) -> Result<Revocation, String> {
    let (mut named, mut reason, mut undo) = (None, None, false);
    for (key, value) in pairs(query)? {
        if let Some(kind) = Kind::ALL.iter().find(|kind| kind.as_str() == key) {
            once(&mut named, "for what is denied", (*kind, value))?;
            continue;
        }
        match key.as_str() {
            "reason" => once(&mut reason, &key, value)?,
            "undo" if value == "true" => undo = true,
            _ => {
                return Err(
                    "A revocation has one of who, key, serial, rule, target and all, and perhaps a reason or undo=true."
                        .to_owned(),
                );
            }
        }
    }
    let (kind, text) = named.ok_or("Say what is to be denied: who, key, serial, rule, target or all.")?;
    Ok(Revocation { kind, text, undo, reason, by })
}
