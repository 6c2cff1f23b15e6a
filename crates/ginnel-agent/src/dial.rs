//! From a target to a TCP connection: the owner's allow-list on the name, one lookup, the list again on every address, and a dial to an
//! address that passed.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use ginnel_core::allow::AllowList;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{DIAL_DEADLINE, LOOKUPS_MAX, RESOLVE_DEADLINE};
use ginnel_core::principal::Principal;
use ginnel_core::report::Chain;
use ginnel_core::target::{Host, Target};
use ginnel_net::tcp::first_to_answer;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

/// Turns at the system's resolver. One for the process, as are the threads that they stand for.
static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));

/// A connected target.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    /// The address that was dialled, which is the one that answered.
    pub(crate) address: SocketAddr,
}

/// Connects to a target if the allow-list permits it to this client, which has proved who it is, or to anybody. The agent's own listeners are dialled only if the list names them alone.
pub(crate) async fn dial(
    client: Option<&Principal>,
    target: &Target,
    allow: &AllowList,
    own_listeners: &[SocketAddr],
) -> Result<Connected, Refusal> {
    let refuse = |cause| Refusal::new(Hop::Agent, cause);
    allow.permits_target(client, target).map_err(refuse)?;
    let resolved = resolve(target).await.map_err(refuse)?;
    let addresses = allow.dialable(client, target, &resolved, own_listeners).map_err(refuse)?;
    connect(&addresses).await
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Cause> {
    let port = target.port.get();
    match &target.host {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => {
            let name = name.as_str().to_owned();
            let lookup = async move { Ok(lookup_host((name, port)).await?.collect()) };
            bounded(&LOOKUPS, lookup).await
        }
    }
}

/// Waits for a lookup, and for its turn, for [`RESOLVE_DEADLINE`] in all.
async fn bounded<T: Send + 'static>(
    lookups: &Arc<Semaphore>,
    lookup: impl Future<Output = io::Result<T>> + Send + 'static,
) -> Result<T, Cause> {
    let deadline = Instant::now() + RESOLVE_DEADLINE;
    let turn = timeout_at(deadline, Arc::clone(lookups).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(Cause::Overloaded) };
    // A task of its own, because nothing stops the system's resolver: the turn is over when the thread is free again, not when the caller has
    // lost patience.
    let lookup = tokio::spawn(async move {
        let _turn = turn;
        lookup.await
    });
    match timeout_at(deadline, lookup).await {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => Err(Cause::NameNotResolved),
    }
}

/// Connects to the first of the addresses that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<Connected, Refusal> {
    let first = first_to_answer(addresses, |address| attempt(address).in_current_span());
    match timeout(DIAL_DEADLINE, first).await {
        Ok(outcome) => outcome.map_err(|failure| failure.unwrap_or(Refusal::new(Hop::Agent, Cause::NameNotResolved))),
        Err(_) => Err(Refusal::new(Hop::Target, Cause::TimedOut)),
    }
}

async fn attempt(address: SocketAddr) -> Result<Connected, Refusal> {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => {
            // An agent that is killed before the session is carried must not look like an application that had nothing to say.
            let _ = stream.set_zero_linger();
            stream
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            return Err(Refusal::new(Hop::Target, Cause::ConnectionRefused));
        }
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "could not connect to an address of the target");
            return Err(Refusal::new(Hop::Agent, Cause::TargetUnreachable));
        }
    };
    // Somebody between agent and target who answers for another address is not what the list permits.
    match stream.peer_addr() {
        Ok(peer) if peer == address => Ok(Connected { stream, address }),
        Ok(_) | Err(_) => Err(Refusal::new(Hop::Agent, Cause::AddressForbidden)),
    }
}

#[cfg(test)]
mod tests {
    use ginnel_core::pattern::TargetPattern;
    use tokio::net::TcpListener;

    use super::*;

    fn allow(patterns: &[String]) -> AllowList {
        AllowList::new(patterns.iter().map(|pattern| pattern.parse::<TargetPattern>().unwrap()))
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
            let outcome = dial(None, &target.parse().unwrap(), &allow(&patterns), &[]).await;
            let outcome = outcome.map(|connected| connected.address).map_err(|refusal| (refusal.hop, refusal.cause));
            assert_eq!(outcome, expected, "{target} with {patterns:?}");
        }
    }

    #[tokio::test]
    async fn connection_that_is_lost_before_anything_is_carried_is_a_reset_to_the_target() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected =
            dial(None, &address.to_string().parse().unwrap(), &allow(&[address.to_string()]), &[]).await.unwrap();
        let (mut target, _) = listener.accept().await.unwrap();
        // The kernel does the same for a process that is killed.
        drop(connected);
        let read = tokio::io::AsyncReadExt::read(&mut target, &mut [0]).await;
        assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_hangs_keeps_its_turn_although_nobody_waits_for_it_any_more() {
        let lookups = Arc::new(Semaphore::new(1));
        let (answer, answered) = tokio::sync::oneshot::channel::<u8>();
        let hanging = async { answered.await.map_err(io::Error::other) };
        let cases = [
            (bounded(&lookups, hanging).await, Err(Cause::NameNotResolved)),
            (bounded(&lookups, async { Ok(2) }).await, Err(Cause::Overloaded)),
        ];
        for (outcome, expected) in cases {
            assert_eq!(outcome, expected);
        }
        answer.send(1).unwrap();
        assert_eq!(bounded(&lookups, async { Ok(3) }).await, Ok(3));
        assert_eq!(
            bounded::<u8>(&lookups, async { Err(ErrorKind::NotFound.into()) }).await,
            Err(Cause::NameNotResolved)
        );
    }
}
