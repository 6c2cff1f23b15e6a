//! A relay that joins whatever the client opens with one agent, many sessions at a time, and tampers where the test has planned it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use ginnel_core::id::SessionId;
use ginnel_identity::random::SystemRandom;
use ginnel_wire::frame::Open;
use ginnel_wire::hello::Dial;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Bridge, CLIENT, Call, Direction, Fault, Relay};

/// What is to be done to one session.
pub type Plan = (Direction, usize, Fault);

/// By target: the plan, and who waits for the first session.
type Awaited = BTreeMap<String, (Option<Plan>, Option<oneshot::Sender<Bridge>>)>;

/// A relay at work. Dropping it drops what it carries.
pub struct Switchboard {
    awaited: Arc<Mutex<Awaited>>,
    task: JoinHandle<Result<()>>,
}

impl Switchboard {
    /// The session that is opened next to `target`, once it is: with a plan for it, which may concern its first record, and holds for those that
    /// follow it until there is another or it is forgotten. Without a plan sessions are carried as they are.
    pub fn next(&self, target: impl ToString, plan: Option<Plan>) -> oneshot::Receiver<Bridge> {
        let (sender, receiver) = oneshot::channel();
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.insert(target.to_string(), (plan, Some(sender)));
        receiver
    }

    /// Has no plan for this target any more.
    pub fn forget(&self, target: impl ToString) {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&target.to_string());
    }

    /// Ends the work and says why it had ended before, if it had.
    ///
    /// # Errors
    /// Client or agent did not play their parts.
    pub async fn finish(mut self) -> Result<()> {
        if self.task.is_finished() {
            (&mut self.task).await?.context("the relay has stopped working")?;
        }
        Ok(())
    }
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Joins every session from here on with the agent of `link`.
    pub fn join(mut self, mut link: Call) -> Switchboard {
        let awaited: Arc<Mutex<Awaited>> = Arc::default();
        let known = Arc::clone(&awaited);
        let task = tokio::spawn(async move {
            let mut others: Vec<Bridge> = Vec::new();
            loop {
                let Some((client, open)) = self.any_opening().await? else { continue };
                let Open { request, target, inner_tls, .. } = open;
                let session = SessionId::random(&mut SystemRandom);
                let client_uri = CLIENT.parse()?;
                let early = Bytes::new();
                let dial = Dial { session, request, target: target.parse()?, client: client_uri, inner_tls, early };
                let agent = self.dial(&mut link, &dial).await?;
                let (plan, waiting) = match known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&target) {
                    Some((plan, waiting)) => (plan.clone(), waiting.take()),
                    None => (None, None),
                };
                let bridge = Bridge::start_with(client, agent, plan);
                others.retain(|bridge| !bridge.is_over());
                match waiting {
                    // Whoever has stopped waiting needs no session.
                    Some(waiting) => drop(waiting.send(bridge)),
                    None => others.push(bridge),
                }
            }
        });
        Switchboard { awaited, task }
    }
}
