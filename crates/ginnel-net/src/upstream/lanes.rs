//! The lanes beside the first: opened as load asks, closed when they have been idle for long, replaced with the certificate.
//!
//! Nothing here disturbs the first lane or another one: a lane that does not come up is tried again later, one that is lost takes the
//! sessions that were on it, and one that is closed or replaced first finishes those that it has.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use ginnel_core::backoff::Backoff;
use ginnel_core::cause::Cause;
use ginnel_core::lanes::{self, Bounds, plan, wanted};
use ginnel_core::limits::LANES_KEPT_MAX;
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::outer_client;
use ginnel_identity::trust::CurrentRoots;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::lane::{Lane, Load, Work};
use super::{Failure, Link, STABLE_AFTER, UP_WAIT, Upstream};
use crate::connect::Endpoint;

/// How often the lanes are looked at when nothing happens: a lane is closed at most so much later than it could be.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The lanes beside the first.
pub(super) struct Lanes {
    /// How many at once, the first included.
    bounds: Bounds,
    load: Load,
    /// Those that are being opened or take sessions, by number.
    open: BTreeMap<u32, Lane>,
    /// Those that only finish sessions.
    finishing: Vec<Lane>,
    /// The certificate that they have.
    serial: String,
    tasks: JoinSet<(Lane, End)>,
    backoff: Backoff,
    /// None is opened before.
    not_before: Instant,
    /// The last attempt failed, which was said.
    is_short: bool,
}

/// What became of a lane.
enum End {
    /// It never came up.
    NeverUp(Failure),
    /// It was up for so long.
    After(Duration, Cause),
    /// It was given up before it was up, because nothing needs it.
    GivenUp,
}

/// What is needed to open a lane.
struct Means<L> {
    endpoint: Endpoint,
    server_roots: CurrentRoots,
    identity: Identity,
    link: L,
}

impl Lanes {
    pub(super) fn new(bounds: Bounds, load: Load) -> Self {
        Self {
            bounds,
            load,
            open: BTreeMap::new(),
            finishing: Vec::new(),
            serial: String::new(),
            tasks: JoinSet::new(),
            backoff: Backoff::RECONNECT,
            not_before: Instant::now(),
            is_short: false,
        }
    }

    /// Keeps as many lanes as load asks for, with this certificate, while the first lane has it as well. Dropping it leaves them as they are.
    pub(super) async fn tend<L: Link>(&mut self, upstream: &Upstream, identity: &Identity, link: &L) -> Infallible {
        self.use_certificate(&identity.leaf().serial);
        loop {
            let again = self.adjust(link.is_stopping(), || Means {
                endpoint: upstream.endpoint.clone(),
                server_roots: upstream.server_roots.clone(),
                identity: identity.clone(),
                link: link.clone(),
            });
            tokio::select! {
                () = self.load.changed() => {}
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok((lane, end)) => self.ended(&lane, end),
                    // A lane that panicked is over like any other.
                    Err(error) => tracing::error!(%error, "the work on a connection broke off"),
                },
                () = sleep_until(again) => {}
            }
        }
    }

    /// Lanes with another certificate finish their sessions: the server takes no lane whose certificate is not that of the first.
    fn use_certificate(&mut self, serial: &str) {
        if self.serial != serial {
            serial.clone_into(&mut self.serial);
            for (_, lane) in std::mem::take(&mut self.open) {
                self.finish(lane);
            }
        }
    }

    fn finish(&mut self, lane: Lane) {
        lane.retire();
        self.finishing.push(lane);
    }

    /// Does what is to be done now; gives the moment to look again if nothing happens until then.
    fn adjust<L: Link>(&mut self, is_stopping: bool, means: impl Fn() -> Means<L>) -> Instant {
        let now = Instant::now();
        self.open.retain(|_, lane| !lane.is_over());
        self.finishing.retain(|lane| !lane.is_over() || lane.sessions() > 0);
        let bounds = if self.load.takes_further() { self.bounds } else { Bounds::ONE };
        let sessions = self.load.sessions();
        let seen: Vec<_> = self.open.values().map(Lane::seen).collect();
        if 1 + seen.len() >= wanted(sessions, bounds) && !seen.contains(&lanes::Lane::Opening) {
            self.is_short = false;
        }
        let plan = plan(sessions, bounds, &seen);
        for number in plan.close {
            if let Some(lane) = self.open.remove(&number) {
                tracing::debug!(lane = number, "closing a connection that has had no session for long");
                self.finish(lane);
            }
        }
        let room = LANES_KEPT_MAX.saturating_sub(self.open.len() + self.finishing.len());
        let open = if is_stopping || now < self.not_before { 0 } else { plan.open.min(room) };
        for number in self.free_numbers().take(open).collect::<Vec<_>>() {
            let lane = Lane::new(number, &self.load);
            self.open.insert(number, lane.clone());
            self.tasks.spawn(means().work(lane));
        }
        let have = 1 + self.open.len();
        // Short of lanes, the next look is at a moment or at an event that is known, and more sessions change nothing.
        let is_enough = have >= wanted(sessions, bounds) && have < bounds.most;
        self.load.set_enough_for(if is_enough { have - 1 } else { usize::MAX });
        let look = now + LOOK_EVERY;
        if self.not_before > now { look.min(self.not_before) } else { look }
    }

    fn free_numbers(&self) -> impl Iterator<Item = u32> {
        (1_u32..).take(self.bounds.most.saturating_sub(1)).filter(|number| !self.open.contains_key(number))
    }

    fn ended(&mut self, lane: &Lane, end: End) {
        match end {
            End::GivenUp => {}
            End::After(held, cause) => {
                if held > STABLE_AFTER {
                    self.backoff.reset();
                }
                if !lane.is_retired() {
                    tracing::info!(lane = lane.number(), %cause, "a further connection to the server ended");
                    self.wait();
                }
            }
            End::NeverUp(error) => {
                // Said once: an agent that is refused a lane lives with those that it has.
                if std::mem::replace(&mut self.is_short, true) {
                    tracing::debug!(lane = lane.number(), error = %Chain(&*error), "no further connection to the server");
                } else {
                    let connections = self.load.lanes_up();
                    tracing::warn!(connections, error = %Chain(&*error), "no further connection to the server");
                }
                self.wait();
            }
        }
    }

    fn wait(&mut self) {
        self.not_before = self.not_before.max(Instant::now() + self.backoff.next(&mut SystemRandom));
    }
}

impl<L: Link> Means<L> {
    /// Opens a lane and works on it until it is of no more use.
    async fn work(self, lane: Lane) -> (Lane, End) {
        let Self { endpoint, server_roots, identity, link } = self;
        let work = Work::begin(&lane);
        let tls = match outer_client(&server_roots.now(), Some(&identity)) {
            Ok(tls) => tls,
            Err(error) => return (lane, End::NeverUp(error.into())),
        };
        let connection = tokio::select! {
            biased;
            () = lane.retired() => return (lane, End::GivenUp),
            connection = endpoint.connect(tls) => connection,
        };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => return (lane, End::NeverUp(error.into())),
        };
        let (up, is_up) = oneshot::channel();
        let mut running = pin!(link.run(connection, identity, lane.clone(), up));
        // From its hello on a lane may be given dials, and is no longer given up: a link that is retired answers them first.
        let came_up = async { timeout(UP_WAIT, is_up).await.is_ok_and(|up| up.is_ok()) };
        tokio::select! {
            biased;
            cause = &mut running => return (lane, End::NeverUp(format!("the server did not take it: {cause}").into())),
            came_up = came_up => if !came_up {
                return (lane, End::NeverUp("the server did not answer the first message in time".into()));
            },
        }
        work.up();
        let since = Instant::now();
        let cause = running.await;
        drop(work);
        (lane, End::After(since.elapsed(), cause))
    }
}
