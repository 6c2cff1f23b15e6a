//! What resuming saves. Measured by hand: `cargo test --workspace --lib -- --ignored --nocapture cost_of`, with `--release` for true figures.

use rustls::server::danger::ClientCertVerifier as _;

use super::*;

/// Handshakes of one kind in a row, and rows of each kind.
const ROW: u64 = 100;
const ROWS: u64 = 5;

/// CPU time of this thread, in microseconds.
fn cpu() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    schedstat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).expect("a number") / 1000
}

fn row(spent: &mut u64, mut once: impl FnMut()) {
    let began = cpu();
    (0..ROW).for_each(|_| once());
    *spent += cpu() - began;
}

#[test]
#[ignore = "a measurement"]
fn cost_of_full_and_resumed_handshakes() {
    let at = Moment::first();
    let (warm, cold) = (Ends::new(), Ends::new());
    for _ in 0..20 {
        warm.ride(at).expect("verified");
    }
    cold.responder.close();
    let (agent, client) = (cold.world.identity(Role::Agent), cold.world.identity(Role::Client));
    let (agent, showing) = (cold.world.inner_server(&agent), cold.world.inner_client(&client));
    let trust_domain = client.leaf().principal.trust_domain.clone();
    let verifier = verify::InnerClients::new(cold.world.client.roots().into(), trust_domain);
    let clock = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let (mut full, mut resumed, mut bare, mut verified, mut parsed) = (0, 0, 0, 0, 0);
    for _ in 0..ROWS {
        row(&mut full, || assert_eq!(cold.ride(at), Ok(Handshake::Full)));
        row(&mut resumed, || assert_eq!(warm.ride(at), Ok(Handshake::Resumed)));
        row(&mut bare, || assert!(handshake(&showing, &agent, inner_server_name(), NOW).is_ok()));
        row(&mut verified, || assert!(verifier.verify_client_cert(&client.chain()[0], &[], clock).is_ok()));
        row(&mut parsed, || assert!(Leaf::parse(&client.chain()[0]).is_ok()));
    }
    let micros = |spent: u64| spent / (ROW * ROWS);
    println!(
        "CPU of both ends, microseconds: full {}, resumed {} ({:.2} of it); full without the stores {}; one certificate verified {}, read {}",
        micros(full),
        micros(resumed),
        resumed as f64 / full as f64,
        micros(bare),
        micros(verified),
        micros(parsed),
    );
}
