//! How long a certificate carries what depends on it.
//!
//! A lease belongs to one process of one principal and lasts until the latest notAfter among its open connections; its
//! sessions last as long as it does. So a renewal on a new connection keeps the sessions of the old one alive, and a process that
//! stopped renewing loses them. Deadlines are on the monotonic clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ginnel_core::denial::Shown;
use ginnel_core::id::InstanceId;
use ginnel_core::limits::LEASE_GRACE;
use ginnel_core::principal::Principal;
use ginnel_core::quota::Usage;
use ginnel_identity::certificate::Leaf;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

type Key = (Principal, InstanceId);

/// Every lease of the server.
#[derive(Debug)]
pub(crate) struct Leases {
    leases: Mutex<BTreeMap<Key, Arc<Lease>>>,
    /// Most processes of one principal.
    each: usize,
    /// How many were too many.
    refused: AtomicU64,
}

/// The lease of one process.
#[derive(Debug)]
pub(crate) struct Lease {
    connections: Mutex<Connections>,
    changed: Notify,
    ended: CancellationToken,
    refused: CancellationToken,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    deadlines: BTreeMap<u64, Instant>,
    held: BTreeMap<u64, Held>,
}

/// The certificate of one connection, and how that is closed.
#[derive(Debug)]
struct Held {
    certificate: Arc<Shown>,
    closed: CancellationToken,
}

/// One connection's part in a lease; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    lease: Arc<Lease>,
    number: u64,
}

/// A principal has more processes than it may have.
#[derive(Debug)]
pub(crate) struct TooManyInstances;

impl Leases {
    /// No lease yet; a principal may have so many processes.
    pub(crate) fn new(each: usize) -> Self {
        Self { leases: Mutex::default(), each, refused: AtomicU64::new(0) }
    }

    /// How many processes there are, and how many were too many; there is no bound for all together but that on their connections.
    pub(crate) fn usage(&self) -> Usage {
        let taken = u64::try_from(lock(&self.leases).len()).unwrap_or(u64::MAX);
        Usage { taken, most: 0, refused: self.refused.load(Ordering::Relaxed) }
    }

    /// Adds a connection with this certificate to the lease of its process.
    pub(crate) fn join(
        self: &Arc<Self>,
        leaf: &Leaf,
        certificate: &Arc<Shown>,
        instance: InstanceId,
        closed: &CancellationToken,
    ) -> Result<Share, TooManyInstances> {
        let key = (leaf.principal.clone(), instance);
        let lifetime = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        let deadline = Instant::now() + lifetime;
        let held = Held { certificate: Arc::clone(certificate), closed: closed.clone() };
        let mut leases = lock(&self.leases);
        if let Some(lease) = leases.get(&key) {
            return Ok(lease.share(deadline, held));
        }
        let same_principal = leases.keys().filter(|(principal, _)| *principal == leaf.principal).count();
        if same_principal >= self.each {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(TooManyInstances);
        }
        let lease = Arc::new(Lease {
            connections: Mutex::default(),
            changed: Notify::new(),
            ended: CancellationToken::new(),
            refused: CancellationToken::new(),
        });
        let share = lease.share(deadline, held);
        leases.insert(key.clone(), Arc::clone(&lease));
        // Ends with the lease: every connection's deadline is finite, and dropping its share takes it out.
        tokio::spawn(Arc::clone(self).watch(key, lease));
        Ok(share)
    }

    /// Cuts off every process that has no certificate but such as `is_gone` says so of: its sessions end as not admitted. Gives what closes its
    /// connections. A process that has enrolled anew meanwhile keeps what it has.
    pub(crate) fn cut(&self, is_gone: impl Fn(&Shown) -> bool) -> Vec<CancellationToken> {
        let mut closing = Vec::new();
        // One that is cut is left to its own end: whoever comes with another certificate of the process begins a new one.
        lock(&self.leases).retain(|_, lease| {
            let connections = lock(&lease.connections);
            let mut held = connections.held.values().peekable();
            let is_cut = held.peek().is_some() && held.all(|held| is_gone(&held.certificate));
            if is_cut {
                lease.refused.cancel();
                closing.extend(connections.held.values().map(|held| held.closed.clone()));
            }
            !is_cut
        });
        closing
    }

    /// The certificates of everybody who is connected.
    pub(crate) fn certificates(&self) -> Vec<Arc<Shown>> {
        let leases = lock(&self.leases);
        let of = |lease: &Arc<Lease>| -> Vec<_> {
            lock(&lease.connections).held.values().map(|held| Arc::clone(&held.certificate)).collect()
        };
        leases.values().flat_map(of).collect()
    }

    async fn watch(self: Arc<Self>, key: Key, lease: Arc<Lease>) {
        loop {
            let changed = lease.changed.notified();
            let latest = lock(&lease.connections).deadlines.values().max().copied();
            let over = match latest {
                None => true,
                Some(latest) => tokio::select! {
                    () = changed => false,
                    () = sleep_until(latest + LEASE_GRACE) => true,
                },
            };
            if over && self.end(&key, &lease) {
                return;
            }
        }
    }

    /// Ends the lease unless a connection joined meanwhile: joining happens under the same lock.
    fn end(&self, key: &Key, lease: &Lease) -> bool {
        let mut leases = lock(&self.leases);
        let latest = lock(&lease.connections).deadlines.values().max().copied();
        if latest.is_some_and(|latest| latest + LEASE_GRACE > Instant::now()) {
            return false;
        }
        if leases.get(key).is_some_and(|held| std::ptr::eq(&**held, lease)) {
            leases.remove(key);
        }
        // Without connections there is nothing left to end, and sessions that were cut are not told of an expiry.
        if latest.is_some() {
            lease.ended.cancel();
        }
        true
    }
}

impl Lease {
    fn share(self: &Arc<Self>, deadline: Instant, held: Held) -> Share {
        let mut connections = lock(&self.connections);
        let number = connections.next;
        connections.next += 1;
        connections.deadlines.insert(number, deadline);
        connections.held.insert(number, held);
        drop(connections);
        self.changed.notify_one();
        Share { lease: Arc::clone(self), number }
    }
}

impl Share {
    /// Cancelled when the lease ends, other than by its last connection going away first.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.lease.ended
    }

    /// Cancelled when the key is gone that enrolled the process.
    pub(crate) fn refused(&self) -> &CancellationToken {
        &self.lease.refused
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut connections = lock(&self.lease.connections);
        connections.deadlines.remove(&self.number);
        connections.held.remove(&self.number);
        drop(connections);
        self.lease.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps without half-done states: a panic elsewhere cannot have left one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ginnel_core::limits::INSTANCES_PER_PRINCIPAL_MAX;

    use super::*;

    fn leases() -> Arc<Leases> {
        Arc::new(Leases::new(INSTANCES_PER_PRINCIPAL_MAX))
    }

    fn leaf(lifetime: Duration) -> Leaf {
        Leaf {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: "agent@acme.example".to_owned(),
            not_before: SystemTime::now(),
            not_after: SystemTime::now() + lifetime,
            serial: "01".to_owned(),
            sha256: [0; 32],
            spki_sha256: [0; 32],
            evidence: None,
        }
    }

    fn join(
        leases: &Arc<Leases>,
        leaf: &Leaf,
        instance: InstanceId,
        closed: &CancellationToken,
    ) -> Result<Share, TooManyInstances> {
        leases.join(leaf, &Arc::new(leaf.shown()), instance, closed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_on_a_new_connection_carries_the_old_ones_sessions() {
        let leases = leases();
        let instance = InstanceId::from_bytes(&[1; 16]).unwrap();
        let old = join(&leases, &leaf(Duration::from_secs(10)), instance, &CancellationToken::new()).unwrap();
        let new = join(&leases, &leaf(Duration::from_secs(60)), instance, &CancellationToken::new()).unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!old.ended().is_cancelled());
        drop(new);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(old.ended().is_cancelled(), "only the expired certificate is left");
    }

    #[tokio::test(start_paused = true)]
    async fn ends_at_the_last_expiry_and_begins_anew() {
        let leases = leases();
        let instance = InstanceId::from_bytes(&[1; 16]).unwrap();
        let share = join(&leases, &leaf(Duration::from_secs(10)), instance, &CancellationToken::new()).unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(!share.ended().is_cancelled());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(share.ended().is_cancelled());
        let next = join(&leases, &leaf(Duration::from_secs(10)), instance, &CancellationToken::new()).unwrap();
        assert!(!next.ended().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_the_processes_of_one_principal() {
        let leases = leases();
        let id = |n: usize| InstanceId::from_bytes(&(n as u128).to_be_bytes()).unwrap();
        let join = |n| join(&leases, &leaf(Duration::from_secs(10)), id(n), &CancellationToken::new());
        let shares: Vec<_> = (0..INSTANCES_PER_PRINCIPAL_MAX).map(|n| join(n).unwrap()).collect();
        assert!(join(INSTANCES_PER_PRINCIPAL_MAX).is_err());
        assert_eq!(leases.usage().refused, 1);
        let ended = shares[0].ended().clone();
        drop(shares);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!ended.is_cancelled(), "nothing has expired");
        assert!(join(INSTANCES_PER_PRINCIPAL_MAX).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_off_a_process_whose_every_certificate_is_gone_and_no_other() {
        let leases = leases();
        let id = |n: u128| InstanceId::from_bytes(&n.to_be_bytes()).unwrap();
        let with = |serial: &str| Leaf { serial: serial.to_owned(), ..leaf(Duration::from_secs(10)) };
        let tokens: Vec<_> = (0..4).map(|_| CancellationToken::new()).collect();
        let gone = join(&leases, &with("01"), id(1), &tokens[0]).unwrap();
        let bystander = join(&leases, &with("02"), id(2), &tokens[1]).unwrap();
        let renewed = join(&leases, &with("01"), id(3), &tokens[2]).unwrap();
        let _anew = join(&leases, &with("02"), id(3), &tokens[3]).unwrap();
        let closing = leases.cut(|shown| shown.email == "agent@acme.example" && shown.serial == "01");
        closing.iter().for_each(CancellationToken::cancel);
        let cut: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(cut, [true, false, false, false]);
        let refused = [&gone, &bystander, &renewed].map(|share| share.refused().is_cancelled());
        assert_eq!(refused, [true, false, false]);

        // Whoever comes back with another certificate is not what was cut, also after that has come to its end.
        let back = join(&leases, &with("03"), id(1), &CancellationToken::new()).unwrap();
        drop(gone);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let more = join(&leases, &with("03"), id(1), &CancellationToken::new()).unwrap();
        assert!(!back.refused().is_cancelled() && !more.refused().is_cancelled());
        drop(back);
        assert!(!more.ended().is_cancelled(), "both are of one lease");
    }
}
