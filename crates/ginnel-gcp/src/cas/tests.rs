use std::collections::BTreeMap;
use std::time::Duration;

use ginnel_core::evidence::{Evidence, Proof};
use ginnel_identity::oid::EVIDENCE;
use ginnel_identity::{KeyPair, Leaf, hex};
use ginnel_testkit::google::cas::{self as fake, Cas, Fault};
use tokio::task::JoinSet;

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);

/// What a request may take in the tests, which have no caller that waits.
const WAIT: Duration = Duration::from_secs(5);

struct World {
    cas: Cas,
    pools: BTreeMap<String, String>,
    settings: Settings,
}

impl World {
    async fn new(pool: &fake::Pool) -> Self {
        let cas = Cas::start().await.unwrap();
        let pools = cas.add_pools(pool).unwrap();
        let of = |role: &str| Pool { name: pools[role].clone(), pinned: None };
        let settings = Settings {
            trust_domain: "acme.example".parse().unwrap(),
            lifetime: LIFETIME,
            server: of("server"),
            agent: of("agent"),
            client: of("client"),
            tier: match pool.tier {
                fake::Tier::Enterprise => Tier::Enterprise,
                fake::Tier::DevOps => Tier::DevOps,
            },
            endpoint: Some(cas.endpoint()),
        };
        Self { cas, pools, settings }
    }

    async fn open(&self) -> Result<CasIssuer, OpenError> {
        self.open_for(WAIT).await
    }

    async fn open_for(&self, issue_wait: Duration) -> Result<CasIssuer, OpenError> {
        crate::provider::install();
        let credentials = google_cloud_auth::credentials::user_account::Builder::new(self.cas.credentials());
        CasIssuer::open_with(self.settings.clone(), Some(credentials.build().unwrap()), issue_wait).await
    }
}

fn request(role: Role, name: &str) -> CertificateRequest {
    CertificateRequest {
        principal: format!("spiffe://acme.example/{role}/{name}").parse().unwrap(),
        email: format!("{name}@acme.example"),
        spki_der: KeyPair::generate().unwrap().spki_der().to_vec(),
        server_names: if role == Role::Server { vec!["tunnel.acme.example".to_owned()] } else { Vec::new() },
        evidence: Some(Evidence { proof: Proof::GoogleKey(name.to_owned()), verified_by: [7; 32] }),
        renews: None,
    }
}

async fn issue(issuer: &CasIssuer, request: &CertificateRequest) -> Result<Issued, IssueError> {
    issuer.issue(request, SystemTime::now()).await
}

#[tokio::test]
async fn every_role_gets_a_certificate_from_its_own_pool() {
    for (tier, is_subordinate) in [(fake::Tier::DevOps, false), (fake::Tier::Enterprise, true)] {
        let world = World::new(&fake::Pool { tier, is_subordinate, ..fake::Pool::default() }).await;
        let issuer = world.open().await.unwrap();
        for role in [Role::Server, Role::Agent, Role::Client] {
            let issued = issue(&issuer, &request(role, "one")).await.unwrap();
            let signed = world.cas.signed().pop().unwrap();
            assert_eq!((&signed.pool, &signed.serial), (&world.pools[&role.to_string()], &issued.serial));
            assert_eq!(issued.chain.len(), 1, "the CA is the root, and left out with what is above it");
            assert_eq!(issuer.roots(role).to_pem(), world.cas.root(&signed.pool).unwrap());
            assert_eq!(signed.id.starts_with(&format!("ginnel-{role}-")), tier == fake::Tier::Enterprise);
            let life = issued.not_after.duration_since(SystemTime::now()).unwrap();
            assert!(life <= LIFETIME && life > LIFETIME - Duration::from_secs(60), "{life:?}");
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let world = World::new(&fake::Pool { tier: fake::Tier::Enterprise, ..fake::Pool::default() }).await;
    let issuer = world.open().await.unwrap();
    world.cas.next([Fault::Unavailable, Fault::SignedWithoutAnswer]);
    let issued = issue(&issuer, &request(Role::Agent, "one")).await.unwrap();
    let signed = world.cas.signed();
    assert_eq!((signed.len(), world.cas.calls(&world.pools["agent"]).len()), (1, 3));
    assert_eq!(signed[0].serial, issued.serial);
    let id = &signed[0].request_id;
    assert!(id.len() == 36 && &id[14..15] == "4" && id.matches('-').count() == 4, "{id}");
}

#[tokio::test]
async fn what_the_service_refuses_is_not_asked_again() {
    type Change = fn(&mut fake::Pool);
    let cases: [(Change, &str); 3] = [
        (|pool| pool.lifetime_max = Duration::from_secs(60), "maximum lifetime"),
        (|pool| pool.uri_prefix = "spiffe://other.example/".to_owned(), "issuance policy"),
        (|pool| pool.is_permitted = false, "privateca.certificates.create"),
    ];
    for (change, expected) in cases {
        let world = World::new(&fake::Pool::default()).await;
        let issuer = world.open().await.unwrap();
        world.cas.change_pool(&world.pools["agent"], change);
        let error = issue(&issuer, &request(Role::Agent, "one")).await.unwrap_err();
        assert!(matches!(error, IssueError::Refused(_)), "{error:?}");
        assert!(Chain(&error).to_string().contains(expected), "{}", Chain(&error));
        assert_eq!((world.cas.calls(&world.pools["agent"]).len(), error.retry_after()), (1, None));
        assert!(issue(&issuer, &request(Role::Client, "two")).await.is_ok(), "another pool is not concerned");
    }
}

#[tokio::test]
async fn an_answer_that_says_something_else_goes_to_nobody() {
    let cases = [
        (Fault::OtherEvidence, "what it was given for"),
        (Fault::OtherKey, "another key"),
        (Fault::OtherLife, "for longer"),
        (Fault::OtherName, "another principal"),
        (Fault::OtherPurposes, "purposes"),
        (Fault::OtherRoot, "does not lead to a root"),
    ];
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open().await.unwrap();
    for (fault, expected) in cases {
        world.cas.next([fault]);
        let error = issue(&issuer, &request(Role::Client, "one")).await.unwrap_err();
        assert!(matches!(error, IssueError::Unusable(_)), "{fault:?}: {error:?}");
        assert!(Chain(&error).to_string().contains(expected), "{fault:?}: {}", Chain(&error));
    }
    assert_eq!(world.cas.signed().len(), cases.len(), "they were signed all the same");
}

#[tokio::test]
async fn a_certificate_says_what_it_was_given_for_or_goes_to_nobody() {
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open().await.unwrap();
    let with = |extensions: Option<Vec<Vec<u64>>>| {
        world.cas.change_pool(&world.pools["client"], |pool| pool.extensions = extensions);
    };
    let evidence = |issued: Issued| Leaf::parse(&issued.chain[0]).unwrap().evidence;
    let asked = request(Role::Client, "one");
    // A policy that says nothing of extensions, and one that names this one.
    for policy in [None, Some(vec![vec![1, 2, 3], EVIDENCE.to_vec()])] {
        with(policy);
        let issued = issue(&issuer, &request(Role::Client, "one")).await.unwrap();
        assert_eq!(evidence(issued), asked.evidence);
    }
    // A policy that does not: the service leaves it out without a word.
    with(Some(vec![vec![1, 2, 3]]));
    let error = issue(&issuer, &asked).await.unwrap_err();
    assert!(matches!(error, IssueError::Unusable(_)), "{error:?}");
    let expected = "let the issuing pool pass the extension 1.2.840.113556.1.8000.2554.32266.651.5605.18016.34628.16757336.2914895.3 through";
    assert!(Chain(&error).to_string().contains(expected), "{}", Chain(&error));
    let own = CertificateRequest { evidence: None, ..request(Role::Client, "own") };
    assert_eq!(evidence(issue(&issuer, &own).await.unwrap()), None, "what nobody enrolled for has nothing to say");
}

#[tokio::test]
async fn requests_keep_to_the_rate_of_the_tier_in_the_order_of_need() {
    let world = World::new(&fake::Pool { tier: fake::Tier::Enterprise, quota: 7, ..fake::Pool::default() }).await;
    let issuer = Arc::new(world.open().await.unwrap());
    let now = SystemTime::now();
    // The first one has the first turn; the others come while it is being served, the one with the most time first.
    issue(&issuer, &request(Role::Agent, "opener")).await.unwrap();
    let needs =
        [("hours", Some(50_000)), ("hour", Some(3600)), ("first", None), ("half-minute", Some(30)), ("now", Some(0))];
    let mut tasks = JoinSet::new();
    for (name, left) in needs.into_iter().chain((0..4).map(|_| ("days", Some(90_000)))) {
        let renews = left.map(|left| now + Duration::from_secs(left));
        let (request, issuer) = (CertificateRequest { renews, ..request(Role::Agent, name) }, Arc::clone(&issuer));
        tasks.spawn(async move { issue(&issuer, &request).await.map(drop) });
    }
    for result in tasks.join_all().await {
        result.unwrap();
    }
    let order: Vec<_> =
        world.cas.signed().into_iter().map(|signed| signed.email.replace("@acme.example", "")).collect();
    assert_eq!(order, ["opener", "now", "half-minute", "first", "hour", "hours", "days", "days", "days", "days"]);
    let calls = world.cas.calls(&world.pools["agent"]);
    assert_eq!(calls.len(), order.len(), "nothing was too much for the quota");
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_told_when_to_come_back() {
    let world = World::new(&fake::Pool { tier: fake::Tier::Enterprise, ..fake::Pool::default() }).await;
    let issuer = Arc::new(world.open().await.unwrap());
    let places = TURN_WAIT.as_secs() * 7;
    let mut tasks = JoinSet::new();
    for number in 0..places + 6 {
        let (request, issuer) = (request(Role::Agent, &format!("a{number}")), Arc::clone(&issuer));
        tasks.spawn(async move { issue(&issuer, &request).await });
    }
    let (mut served, mut refused) = (0, Vec::new());
    while refused.len() < 3 {
        match tasks.join_next().await.unwrap().unwrap() {
            Ok(_) => served += 1,
            Err(error) => refused.push(error),
        }
    }
    assert!(served < places, "the refused do not wait for the served");
    for error in refused {
        assert!(matches!(error, IssueError::Overloaded { .. }), "{error:?}");
        let after = error.retry_after().unwrap();
        assert!(after > Duration::from_secs(6) && after < Duration::from_secs(10), "{after:?}");
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    assert!(issue(&issuer, &request(Role::Agent, "later")).await.is_ok(), "places of those who left are free");
}

#[tokio::test]
async fn a_pool_that_had_too_much_is_left_in_peace_for_as_long_as_it_says() {
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open().await.unwrap();
    let silence = Duration::from_millis(900);
    world.cas.next([Fault::Exhausted(silence)]);
    issue(&issuer, &request(Role::Agent, "one")).await.unwrap();
    let calls = world.cas.calls(&world.pools["agent"]);
    assert!(calls.len() == 2 && calls[1] - calls[0] >= silence, "{calls:?}");
}

#[tokio::test]
async fn a_service_that_is_away_is_named_within_the_callers_time_and_works_when_it_is_back() {
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open_for(Duration::from_secs(1)).await.unwrap();
    world.cas.set_down(true);
    let error = issue(&issuer, &request(Role::Agent, "one")).await.unwrap_err();
    assert!(matches!(error, IssueError::Unavailable { .. }), "{error:?}");
    world.cas.set_down(false);
    world.cas.next([Fault::Delay(Duration::from_secs(3))]);
    let error = issue(&issuer, &request(Role::Agent, "slow")).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("in time"), "{}", Chain(&error));
    assert!(issue(&issuer, &request(Role::Agent, "two")).await.is_ok());
}

#[tokio::test]
async fn roots_keep_the_roles_apart() {
    let mut world = World::new(&fake::Pool::default()).await;
    let shared = fake::Pool { same_as: Some(world.pools["client"].clone()), ..fake::Pool::default() };
    world.cas.add_pool("projects/acme/locations/europe-west1/caPools/shared", shared).unwrap();
    let own = world.settings.agent.clone();
    world.settings.agent.name = "projects/acme/locations/europe-west1/caPools/shared".to_owned();
    assert!(matches!(world.open().await, Err(OpenError::Apart)));
    world.settings.agent.name = "projects/acme/locations/europe-west1/caPools/none".to_owned();
    let error = world.open().await.unwrap_err();
    assert!(error.to_string().contains("caPools/none"), "{error}");

    // What is pinned counts, whatever the pool says of itself.
    let other = Roots::from_pem(world.cas.root(&world.pools["client"]).unwrap().as_bytes()).unwrap();
    world.settings.agent = Pool { pinned: Some(other.clone()), ..own.clone() };
    assert!(matches!(world.open().await, Err(OpenError::Apart)));
    world.settings.client.pinned = Some(Roots::from_pem(world.cas.root(&own.name).unwrap().as_bytes()).unwrap());
    let issuer = world.open().await.unwrap();
    assert_eq!(issuer.roots(Role::Agent).certificates(), other.certificates());
    let error = issue(&issuer, &request(Role::Agent, "one")).await.unwrap_err();
    assert!(matches!(error, IssueError::Unusable(_)), "{error:?}");
}

#[tokio::test]
async fn the_roots_of_a_pool_are_taken_up_when_they_change_unless_they_mix_roles_up() {
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open().await.unwrap();
    let (before, agent) = (issuer.roots(Role::Agent), &world.pools["agent"]);
    world.cas.add_pool(agent, fake::Pool::default()).unwrap();
    issuer.inner.refresh_roots().await.unwrap();
    let after = issuer.roots(Role::Agent);
    assert_ne!(after.certificates(), before.certificates());
    assert!(issue(&issuer, &request(Role::Agent, "one")).await.is_ok());
    let shared = fake::Pool { same_as: Some(world.pools["client"].clone()), ..fake::Pool::default() };
    world.cas.add_pool(agent, shared).unwrap();
    assert!(matches!(issuer.inner.refresh_roots().await, Err(OpenError::Apart)));
    assert_eq!(issuer.roots(Role::Agent).certificates(), after.certificates());
}

#[tokio::test]
async fn what_no_issuer_signs_is_not_asked_for() {
    let world = World::new(&fake::Pool::default()).await;
    let issuer = world.open().await.unwrap();
    let good = request(Role::Agent, "one");
    let cases = [
        CertificateRequest { principal: "spiffe://other.example/agent/one".parse().unwrap(), ..good.clone() },
        CertificateRequest { email: "nobody".to_owned(), ..good.clone() },
        CertificateRequest { spki_der: hex(&good.spki_der).into_bytes(), ..good.clone() },
        CertificateRequest { server_names: vec!["x.example".to_owned()], ..good.clone() },
        CertificateRequest { server_names: Vec::new(), ..request(Role::Server, "one") },
    ];
    for case in cases {
        assert!(issue(&issuer, &case).await.is_err(), "{case:?}");
    }
    assert!(world.cas.signed().is_empty());
}
