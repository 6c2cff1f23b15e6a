//! Changing a root: every step, in every order, interrupted anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use ginnel_identity::tls::is_signed_by;
use rustls_pki_types::CertificateDer;

use super::*;
use crate::embedded::files::interrupt_after;
use crate::embedded::rotation::{Leaving, Standing, State, Step, StepError, Use, standing, take};

const STEPS: [Step; 4] = [Step::Prepare, Step::Activate, Step::Retire, Step::Rollback];

/// More writes than any step has.
const WRITES_MAX: u32 = 40;

impl World {
    fn step(&self, role: Role, step: Step, now: u64) -> Result<Standing, StepError> {
        take(&self.directory, role, step, false, at(now))
    }

    fn steps(&self, role: Role, steps: &[Step], now: u64) {
        for step in steps {
            self.step(role, *step, now).unwrap_or_else(|error| panic!("{step:?}: {error}"));
        }
    }

    fn public(&self, role: Role) -> Vec<CertificateDer<'static>> {
        Roots::read(&self.path(&format!("{role}-root.pem"))).expect("roots").certificates().to_vec()
    }

    fn keys(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(&self.directory).expect("entries").map(|entry| entry.expect("an entry"));
        let names = files.map(|file| file.file_name().into_string().expect("a name"));
        let keys = names.filter(|name| name.contains(".key.pem"));
        keys.map(|name| (name.clone(), fs::read(self.path(&name)).expect("a key"))).collect()
    }
}

fn uses(standing: &Standing) -> Vec<(u32, Use)> {
    standing.roots.iter().map(|root| (root.number, root.used)).collect()
}

#[test]
fn a_root_is_changed_in_three_steps() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let old = world.public(Role::Agent);
    let others = [world.public(Role::Server), world.public(Role::Client)];
    assert_eq!(uses(&standing(&world.directory, Role::Agent).expect("read")), [(1, Use::Active)]);

    let prepared = world.step(Role::Agent, Step::Prepare, NOW + 10).expect("prepared");
    assert_eq!((prepared.state, uses(&prepared)), (State::Prepared, vec![(1, Use::Active), (2, Use::Next)]));
    assert_eq!(issuer.read_again(at(NOW + 10)).expect("read").len(), 1);
    let both = world.public(Role::Agent);
    assert_eq!((both.len(), &both[..1]), (2, &old[..]));
    assert_eq!(identity(&issuer, Role::Agent, at(NOW + 10)).chain().len(), 1, "the old root signs");

    world.step(Role::Agent, Step::Activate, NOW + 20).expect("activated");
    issuer.read_again(at(NOW + 20)).expect("read");
    assert_eq!(identity(&issuer, Role::Agent, at(NOW + 20)).chain().len(), 2, "with what leads to the old root");
    assert_eq!(world.public(Role::Agent), [both[1].clone(), both[0].clone()]);
    assert_eq!(identity(&issuer, Role::Client, at(NOW + 20)).chain().len(), 1, "of each role by itself");

    let early = world.step(Role::Agent, Step::Retire, NOW + 20 + DAY.as_secs());
    assert!(matches!(early, Err(StepError::TooEarly { number: 1, .. })), "{early:?}");
    let retired = world.step(Role::Agent, Step::Retire, NOW + 30 + DAY.as_secs()).expect("retired");
    assert_eq!((retired.state, uses(&retired)), (State::Settled, vec![(2, Use::Active), (1, Use::Retired)]));
    issuer.read_again(at(NOW + 30)).expect("read");
    assert_eq!(identity(&issuer, Role::Agent, at(NOW + 30)).chain().len(), 1);
    assert_eq!(world.public(Role::Agent), both[1..]);
    assert_eq!([world.public(Role::Server), world.public(Role::Client)], others);

    let again = world.step(Role::Agent, Step::Prepare, NOW + 40 + DAY.as_secs()).expect("prepared");
    assert_eq!(uses(&again), [(2, Use::Active), (3, Use::Next)]);
    assert!(!world.path("agent-ca.key.pem").exists(), "no step leads back to the first root");
    assert_eq!(world.mode("agent-ca-3.key.pem"), 0o600);
}

#[test]
fn steps_out_of_order_change_nothing_and_say_what_follows() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let refused = |step: Step, words: &str| {
        let before =
            (world.keys(), world.public(Role::Client), standing(&world.directory, Role::Client).expect("read"));
        let error = world.step(Role::Client, step, NOW).expect_err(words);
        assert!(matches!(error, StepError::OutOfOrder { .. }) && error.to_string().contains(words), "{error}");
        let after = (world.keys(), world.public(Role::Client), standing(&world.directory, Role::Client).expect("read"));
        assert_eq!(before, after);
    };
    refused(Step::Activate, "begins with prepare");
    refused(Step::Retire, "begins with prepare");
    refused(Step::Rollback, "nothing to go back to");
    world.steps(Role::Client, &[Step::Prepare], NOW);
    refused(Step::Prepare, "activate, or rollback");
    refused(Step::Retire, "activate, or rollback");
    world.steps(Role::Client, &[Step::Activate], NOW);
    refused(Step::Prepare, "retire, or rollback");
    refused(Step::Activate, "retire, or rollback");
}

#[test]
fn a_root_stays_trusted_until_its_last_certificate_has_expired() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    world.steps(Role::Agent, &[Step::Prepare, Step::Activate], NOW + 10);
    let unseen = world.step(Role::Agent, Step::Retire, NOW + 10 * DAY.as_secs());
    assert!(matches!(unseen, Err(StepError::NotTakenUp { number: 1, .. })), "a server may still sign: {unseen:?}");
    issuer.read_again(at(NOW + 500)).expect("read");
    let Some(Leaving::From(until)) = standing(&world.directory, Role::Agent).expect("read").leaving else {
        panic!("it is not told when")
    };
    assert!(until >= at(NOW + 500) + DAY);
    // Back, and the next root may have signed: the same holds for it.
    world.steps(Role::Agent, &[Step::Rollback], NOW + 600);
    assert!(matches!(world.step(Role::Agent, Step::Rollback, NOW + 600), Err(StepError::NotTakenUp { number: 2, .. })));
    issuer.read_again(at(NOW + 700)).expect("read");
    let early = world.step(Role::Agent, Step::Rollback, NOW + 800);
    assert!(matches!(early, Err(StepError::TooEarly { number: 2, .. })), "{early:?}");
    let forced = take(&world.directory, Role::Agent, Step::Rollback, true, at(NOW + 800)).expect("forced");
    assert_eq!(uses(&forced), [(1, Use::Active)]);
    // A change that was never activated can be taken back at once.
    world.steps(Role::Agent, &[Step::Prepare, Step::Rollback], NOW + 900);
    issuer.read_again(at(NOW + 900)).expect("read");
    assert_eq!(world.public(Role::Agent).len(), 1);
}

#[test]
fn a_longer_lifetime_of_before_still_counts() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let domain = "acme.example".parse().expect("a domain");
    let short = EmbeddedIssuer::open(&world.directory, &domain, Duration::from_secs(3), at(NOW)).expect("opened");
    world.steps(Role::Agent, &[Step::Prepare, Step::Activate], NOW + 10);
    short.read_again(at(NOW + 10)).expect("read");
    let early = world.step(Role::Agent, Step::Retire, NOW + 60);
    assert!(matches!(early, Err(StepError::TooEarly { .. })), "{early:?}");
}

#[test]
fn the_wait_begins_only_when_the_new_root_signs() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    world.steps(Role::Server, &[Step::Prepare, Step::Activate], NOW);
    let leaving = || standing(&world.directory, Role::Server).expect("read").leaving;
    let chain = || identity(&issuer, Role::Server, at(NOW)).chain().len();
    // The role that is looked at last cannot be used, so that all roles go on as before.
    let [key, other] = ["client-ca.key.pem", "agent-ca.key.pem"].map(|name| fs::read(world.path(name)).expect("read"));
    fs::write(world.path("client-ca.key.pem"), other).expect("written");
    assert!(matches!(issuer.read_again(at(NOW)), Err(OpenError::Mismatch { .. })));
    assert_eq!((leaving(), chain()), (Some(Leaving::NotTakenUp), 1));
    fs::write(world.path("client-ca.key.pem"), key).expect("written");
    // The new root signs, and the disk does not take that down.
    interrupt_after(Some(0));
    let said = issuer.read_again(at(NOW)).expect("read");
    interrupt_after(None);
    assert!(said.len() == 2 && said[1].contains("cannot be written down"), "{said:?}");
    assert_eq!((leaving(), chain()), (Some(Leaving::NotTakenUp), 2));
    assert_eq!(issuer.read_again(at(NOW + 9)).expect("read"), Vec::<String>::new());
    assert_eq!(leaving(), Some(Leaving::From(at(NOW + 11) + DAY)));
}

#[test]
fn a_clock_that_is_behind_shortens_no_wait() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    world.steps(Role::Agent, &[Step::Prepare, Step::Activate], NOW + 5000);
    issuer.read_again(at(NOW + 10)).expect("read");
    let leaving = standing(&world.directory, Role::Agent).expect("read").leaving;
    assert_eq!(leaving, Some(Leaving::From(at(NOW + 5002) + DAY)));
}

#[test]
fn a_lifetime_that_nobody_has_written_down_is_taken_for_the_longest() {
    let world = World::new();
    world.open(NOW).expect("opened");
    for role in ROLES {
        fs::remove_file(world.path(&format!("{role}-ca.json"))).expect("removed");
    }
    let domain = "acme.example".parse().expect("a domain");
    let short = EmbeddedIssuer::open(&world.directory, &domain, Duration::from_secs(3), at(NOW)).expect("opened");
    // By the server for one role, by the step for the other.
    fs::remove_file(world.path("client-ca.json")).expect("removed");
    for role in [Role::Agent, Role::Client] {
        world.steps(role, &[Step::Prepare, Step::Activate], NOW);
        short.read_again(at(NOW)).expect("read");
        let leaving = standing(&world.directory, role).expect("read").leaving;
        assert_eq!(leaving, Some(Leaving::From(at(NOW + 2) + 7 * DAY)), "{role}");
    }
}

/// What a peer may pin, and what it must be able to verify.
#[derive(Default)]
struct Peers {
    /// All roots that somebody may have been given alone.
    pinned: BTreeSet<Vec<u8>>,
    /// Chains that may be shown, with the end of their validity.
    shown: Vec<(Vec<CertificateDer<'static>>, u64)>,
}

impl Peers {
    /// Whoever pins a root that is trusted verifies whatever may be shown, and so does the server.
    fn check(&mut self, world: &World, now: u64) {
        let public = world.public(Role::Server);
        self.shown.retain(|(_, end)| *end > now);
        let all = Roots::from_der(public.clone()).expect("roots");
        for (chain, _) in &self.shown {
            assert!(is_signed_by(chain, &all), "the server knows what it has issued");
        }
        // Who is not reached by a reload pins one of them alone, and is asked to verify what is issued from then on.
        let alone: Vec<_> = public.iter().map(|root| Roots::from_der(vec![root.clone()]).expect("a root")).collect();
        if alone.len() == 1 || !is_only_prepared(world) {
            self.pinned.extend(public.iter().map(|root| root.to_vec()));
        }
        let Some((chain, _)) = self.shown.last() else { return };
        for pinned in alone.iter().filter(|pinned| self.pinned.contains(&pinned.certificates()[0].to_vec())) {
            assert!(is_signed_by(chain, pinned), "a root that is trusted verifies");
        }
    }
}

/// Whether there is a root that has never signed: nobody has it alone, because it is published with the one in use.
fn is_only_prepared(world: &World) -> bool {
    standing(&world.directory, Role::Server).expect("read").leaving == Some(Leaving::Free)
}

/// A small generator, so that a failure can be played again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn no_sequence_of_steps_makes_a_certificate_unverifiable() {
    let lifetime = Duration::from_secs(100);
    let domain = "acme.example".parse().expect("a domain");
    for seed in 0..4 {
        let world = World::new();
        let mut dice = Dice(seed);
        let mut now = NOW;
        let issuer = EmbeddedIssuer::open(&world.directory, &domain, lifetime, at(now)).expect("opened");
        let (mut peers, mut taken, mut is_current) = (Peers::default(), 0, true);
        for _ in 0..150 {
            now += dice.roll(80);
            if dice.roll(2) == 0 {
                let step = STEPS[usize::try_from(dice.roll(4)).expect("small")];
                // Killed somewhere in it, now and then.
                let killed = (dice.roll(3) == 0).then(|| u32::try_from(dice.roll(30)).expect("small"));
                is_current = false;
                interrupt_after(killed);
                taken += u32::from(world.step(Role::Server, step, now).is_ok());
                interrupt_after(None);
            }
            if dice.roll(2) == 0 {
                is_current = true;
                issuer.read_again(at(now)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
            let key = KeyPair::generate().expect("a key");
            let issued = issuer.sign(&request(Role::Server, &key), at(now)).expect("issued");
            peers.shown.push((issued.chain, now + lifetime.as_secs()));
            // A server that has not read the directory yet signs as before: its peers have not heard of the change either.
            if is_current {
                peers.check(&world, now);
            }
        }
        assert!(taken > 3, "seed {seed}: {taken} steps");
    }
}

#[test]
fn an_interrupted_step_is_taken_or_not_and_no_key_is_lost() {
    type Case = (&'static [Step], Step);
    let cases: [Case; 7] = [
        (&[], Step::Prepare),
        (&[Step::Prepare], Step::Activate),
        (&[Step::Prepare], Step::Rollback),
        (&[Step::Prepare, Step::Activate], Step::Retire),
        (&[Step::Prepare, Step::Activate], Step::Rollback),
        (&[Step::Prepare, Step::Activate, Step::Retire], Step::Rollback),
        (&[Step::Prepare, Step::Activate, Step::Retire], Step::Prepare),
    ];
    for (before, step) in cases {
        let mut finished = false;
        let mut outcomes = BTreeSet::new();
        for writes in 0..WRITES_MAX {
            let world = World::new();
            world.open(NOW).expect("opened");
            for earlier in before {
                take(&world.directory, Role::Agent, *earlier, true, at(NOW)).expect("taken");
            }
            world.open(NOW).expect("opened");
            let (was, keys) = (standing(&world.directory, Role::Agent).expect("read"), world.keys());
            interrupt_after(Some(writes));
            let taken = take(&world.directory, Role::Agent, step, true, at(NOW));
            interrupt_after(None);
            let is = standing(&world.directory, Role::Agent).expect("read");
            world.open(NOW).unwrap_or_else(|error| panic!("{before:?} {step:?} after {writes}: {error}"));
            let settled = standing(&world.directory, Role::Agent).expect("read");
            assert_eq!(uses(&is), uses(&settled), "opening goes neither on nor back");
            outcomes.insert(uses(&is) != uses(&was));
            let left = world.keys();
            for root in &settled.roots {
                let name = if root.number == 1 {
                    "agent-ca.key.pem".to_owned()
                } else {
                    format!("agent-ca-{}.key.pem", root.number)
                };
                let key =
                    left.get(&name).unwrap_or_else(|| panic!("{before:?} {step:?} after {writes}: {name} is lost"));
                assert!(keys.get(&name).is_none_or(|before| before == key), "{name} is another");
            }
            let expected = left.iter().filter(|(name, _)| name.starts_with("agent")).count();
            assert_eq!(expected, settled.roots.len(), "no key is left over: {:?}", left.keys());
            let trusted = settled.roots.iter().filter(|root| root.used != Use::Retired).count();
            assert_eq!(world.public(Role::Agent).len(), trusted);
            if taken.is_ok() {
                finished = true;
                break;
            }
        }
        assert!(finished && outcomes.len() == 2, "{before:?} {step:?}: {outcomes:?}");
    }
}

#[test]
fn an_interrupted_first_start_is_finished_wherever_it_was() {
    let mut writes = 0;
    loop {
        let world = World::new();
        interrupt_after(Some(writes));
        let opened = world.open(NOW);
        interrupt_after(None);
        let again = world.open(NOW + 5).unwrap_or_else(|error| panic!("after {writes}: {error}"));
        for role in ROLES {
            assert_eq!(world.public(role), again.roots(role).certificates());
        }
        if opened.is_ok() {
            break;
        }
        writes += 1;
    }
    assert!(writes > 20, "{writes}");
}

#[test]
fn a_directory_of_before_there_were_records_goes_on() {
    let world = World::new();
    let before = world.open(NOW).expect("opened");
    for role in ROLES {
        fs::remove_file(world.path(&format!("{role}-ca.json"))).expect("removed");
    }
    assert_eq!(uses(&standing(&world.directory, Role::Agent).expect("read")), [(1, Use::Active)]);
    world.steps(Role::Agent, &[Step::Prepare], NOW);
    let after = world.open(NOW).expect("opened");
    assert_eq!(after.roots(Role::Agent).certificates()[..1], *before.roots(Role::Agent).certificates());
}

#[test]
fn what_is_written_down_is_not_guessed_at() {
    let world = World::new();
    world.open(NOW).expect("opened");
    world.steps(Role::Agent, &[Step::Prepare], NOW);
    let record = fs::read(world.path("agent-ca.json")).expect("read");
    for bad in ["", "{}", "[]", "{\"newest\": 2, \"lifetimeS\": 5, \"phase\": \"settled\"}"] {
        fs::write(world.path("agent-ca.json"), bad).expect("written");
        assert!(matches!(world.open(NOW), Err(OpenError::Record { .. })), "{bad:?}");
        assert!(matches!(world.step(Role::Agent, Step::Activate, NOW), Err(StepError::Open(OpenError::Record { .. }))));
    }
    fs::remove_file(world.path("agent-ca.json")).expect("removed");
    assert!(matches!(world.open(NOW), Err(OpenError::Mismatch { .. })), "two roots, and nobody knows which signs");
    fs::write(world.path("agent-ca.json"), record).expect("written");
    fs::remove_file(world.path("agent-ca-2.key.pem")).expect("removed");
    assert!(matches!(world.open(NOW), Err(OpenError::KeyMissing { .. })));
    let empty = World::new();
    fs::create_dir_all(&empty.directory).expect("made");
    fs::set_permissions(&empty.directory, fs::Permissions::from_mode(0o700)).expect("set");
    assert!(matches!(empty.step(Role::Agent, Step::Prepare, NOW), Err(StepError::NoAuthority { .. })));
}

#[test]
fn handshakes_of_all_roles_succeed_at_every_step() {
    let world = World::new();
    let now = clock();
    let issuer = world.open(now).expect("opened");
    let old = ROLES.map(|role| issuer.roots(role));
    let old_leaves = ROLES.map(|role| identity(&issuer, role, at(now)));
    for step in [Step::Prepare, Step::Activate, Step::Rollback, Step::Activate] {
        for role in ROLES {
            world.steps(role, &[step], now);
        }
        issuer.read_again(at(now)).expect("read");
        let new = ROLES.map(|role| issuer.roots(role));
        let leaves = ROLES.map(|role| identity(&issuer, role, at(now)));
        for trusted in [&old, &new] {
            // With certificates of the moment whoever pins the old roots alone, and with all of them whoever has heard of the new ones.
            let shown = if std::ptr::eq(trusted, &raw const new) { vec![&leaves, &old_leaves] } else { vec![&leaves] };
            for [server, agent, client] in shown {
                for peer in [agent, client] {
                    assert_eq!(outer_by(trusted, server, peer, "203.0.113.7"), Ok(()), "{step:?}");
                }
                assert_eq!(inner_by(trusted, agent, client), Ok(()), "{step:?}");
            }
        }
    }
}

#[test]
fn a_retired_root_is_not_believed() {
    let world = World::new();
    let now = clock();
    let issuer = world.open(now).expect("opened");
    let [server, agent, _] = ROLES.map(|role| identity(&issuer, role, at(now)));
    for step in [Step::Prepare, Step::Activate, Step::Retire] {
        take(&world.directory, Role::Agent, step, true, at(now)).expect("taken");
        issuer.read_again(at(now)).expect("read");
    }
    let trusted = ROLES.map(|role| issuer.roots(role));
    assert!(outer_by(&trusted, &server, &agent, "203.0.113.7").is_err());
    assert_eq!(outer_by(&trusted, &server, &identity(&issuer, Role::Agent, at(now)), "203.0.113.7"), Ok(()));
    take(&world.directory, Role::Agent, Step::Rollback, false, at(now)).expect("rolled back");
    issuer.read_again(at(now)).expect("read");
    let trusted = ROLES.map(|role| issuer.roots(role));
    assert_eq!(outer_by(&trusted, &server, &agent, "203.0.113.7"), Ok(()), "let in again");
}

/// OpenSSL's own opinion of a chain.
fn openssl(directory: &Path, roots: &[CertificateDer<'_>], chain: &[CertificateDer<'_>]) -> (bool, String) {
    let file = |name: &str, certificates: &[CertificateDer<'_>]| {
        let path = directory.join(name);
        let pem: String =
            certificates.iter().map(|der| ginnel_identity::pem::encode("CERTIFICATE", der).to_string()).collect();
        fs::write(&path, pem).expect("written");
        path
    };
    let (leaf, more) = chain.split_first().expect("a leaf");
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile"]).arg(file("roots.pem", roots));
    if !more.is_empty() {
        command.arg("-untrusted").arg(file("more.pem", more));
    }
    let output = command.arg(file("leaf.pem", std::slice::from_ref(leaf))).output().expect("openssl");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn openssl_verifies_the_chain_by_either_root() {
    let world = World::new();
    let now = clock();
    let issuer = world.open(now).expect("opened");
    for role in ROLES {
        world.steps(role, &[Step::Prepare, Step::Activate], now);
        issuer.read_again(at(now)).expect("read");
        let chain = identity(&issuer, role, at(now)).chain().to_vec();
        let both = world.public(role);
        let directory = world.directory.as_path();
        for (roots, name) in [(&both[..1], "new"), (&both[1..], "old"), (&both[..], "both")] {
            let (verified, said) = openssl(directory, roots, &chain);
            assert!(verified, "{role} by {name}: {said}");
        }
        assert!(
            !openssl(directory, &both[1..], &chain[..1]).0,
            "without the cross-certificate the old root does not lead to it"
        );
    }
}

#[test]
fn a_root_for_leaves_alone_is_not_asked_to_vouch() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let key = directory::read_key(&world.path("agent-ca.key.pem")).expect("a key");
    let mut params = authority_params(Role::Agent, &key, &"acme.example".parse().expect("a domain"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = date(NOW - 300).expect("a date");
    params.not_after = date(NOW + 300 * DAY.as_secs()).expect("a date");
    let root = params.self_signed(&key).expect("signed");
    fs::write(world.path("agent-root.pem"), ginnel_identity::pem::encode("CERTIFICATE", root.der()).as_bytes())
        .expect("written");
    fs::remove_file(world.path("agent-ca.json")).expect("removed");
    let before = world.keys();
    let error = world.step(Role::Agent, Step::Prepare, NOW).expect_err("refused");
    assert!(matches!(error, StepError::LeavesOnly { number: 1, .. }), "{error}");
    assert_eq!(world.keys(), before);
    let issuer = world.open(NOW).expect("it goes on as it is");
    assert_eq!(identity(&issuer, Role::Agent, at(NOW)).chain().len(), 1);
}

#[test]
fn every_step_changes_the_files_that_a_server_looks_at() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let look = || issuer.files().iter().map(|file| fs::read(file).expect("read")).collect::<Vec<_>>();
    let mut seen = look();
    for step in [Step::Prepare, Step::Activate, Step::Rollback, Step::Activate, Step::Retire, Step::Rollback] {
        take(&world.directory, Role::Client, step, true, at(NOW)).expect("taken");
        assert_ne!(look(), seen, "{step:?}");
        seen = look();
        issuer.read_again(at(NOW)).expect("read");
        assert_eq!(look(), seen, "taking it up changes none of them");
    }
}
