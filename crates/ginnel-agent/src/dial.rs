//! From a target to a TCP connection: the owner's allow-list on the name, one lookup, the list again on every address, and a dial to an
//! address that passed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_core::allow::AllowList;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{DIAL_DEADLINE, RESOLVE_DEADLINE};
use ginnel_core::target::{Host, Target};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// A connected target.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    /// The address that was dialled, which is the one that answered.
    pub(crate) address: SocketAddr,
}

/// Connects to a target if the allow-list permits it.
pub(crate) async fn dial(target: &Target, allow: &AllowList) -> Result<Connected, Refusal> {
    let refuse = |cause| Refusal::new(Hop::Agent, cause);
    allow.permits_target(target).map_err(refuse)?;
    let resolved = resolve(target).await.map_err(refuse)?;
    // An agent of this version listens nowhere, so that no listener of its own has to be kept out.
    let addresses = allow.dialable(target, &resolved, &[]).map_err(refuse)?;
    connect(&addresses).await
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Cause> {
    let port = target.port.get();
    match &target.host {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => match timeout(RESOLVE_DEADLINE, lookup_host((name.as_str(), port))).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(_)) | Err(_) => Err(Cause::NameNotResolved),
        },
    }
}

/// Tries the addresses in turn; each gets an equal share of the time that is left.
async fn connect(addresses: &[SocketAddr]) -> Result<Connected, Refusal> {
    let deadline = Instant::now() + DIAL_DEADLINE;
    let mut failure = Refusal::new(Hop::Agent, Cause::NameNotResolved);
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        failure = match attempt(address, share).await {
            Ok(stream) => return Ok(Connected { stream, address }),
            Err(failure) => failure,
        };
    }
    Err(failure)
}

async fn attempt(address: SocketAddr, within: Duration) -> Result<TcpStream, Refusal> {
    let stream = match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            return Err(Refusal::new(Hop::Target, Cause::ConnectionRefused));
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "could not connect to an address of the target");
            return Err(Refusal::new(Hop::Agent, Cause::TargetUnreachable));
        }
        Err(_) => return Err(Refusal::new(Hop::Target, Cause::TimedOut)),
    };
    // Somebody between agent and target who answers for another address is not what the list permits.
    match stream.peer_addr() {
        Ok(peer) if peer == address => Ok(stream),
        Ok(_) | Err(_) => Err(Refusal::new(Hop::Agent, Cause::AddressForbidden)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn allow(patterns: &[String]) -> AllowList {
        AllowList::new(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    #[tokio::test]
    async fn dials_only_what_the_list_names_and_says_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let localhost = format!("localhost:{}", open.port());
        let cases = [
            (vec![open.to_string()], open.to_string(), Ok(open)),
            (vec![localhost.clone(), open.to_string()], localhost.clone(), Ok(open)),
            (vec![localhost.clone()], localhost, Err((Hop::Agent, Cause::AddressForbidden))),
            (vec![], open.to_string(), Err((Hop::Agent, Cause::NotOnAllowList))),
            (vec![closed.to_string()], closed.to_string(), Err((Hop::Target, Cause::ConnectionRefused))),
            (
                vec!["no-such-host.invalid:1".to_owned()],
                "no-such-host.invalid:1".to_owned(),
                Err((Hop::Agent, Cause::NameNotResolved)),
            ),
        ];
        for (patterns, target, expected) in cases {
            let outcome = dial(&target.parse().unwrap(), &allow(&patterns)).await;
            let outcome = outcome.map(|connected| connected.address).map_err(|refusal| (refusal.hop, refusal.cause));
            assert_eq!(outcome, expected, "{target} with {patterns:?}");
        }
    }
}
