//! `ginnel check client`.

use ginnel_client::check::roster;
use ginnel_config::ClientConfig;
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::roster::Roster;
use ginnel_core::target::Target;
use ginnel_identity::tls::outer_client;

use super::report::Report;
use super::way::{Admitted, Way};

pub(super) async fn check(config: ClientConfig, target: Option<&Target>, report: &mut Report) {
    let way = Way {
        role: Role::Client,
        server: &config.server,
        server_roots: &config.trust.server,
        peer_roots: &config.trust.agent,
        credential: &config.credential,
        audience: &config.enrolment_audience,
    };
    match way.check(report).await {
        None => report.skip_after("a certificate", &["policy"]),
        Some(admitted) => match first_roster(&admitted).await {
            Ok(roster) => policy(&roster, target, report),
            Err(error) => report.fail("policy", error, "try again; look into the server's log and audit log"),
        },
    }
    report.skip("target", "only an agent dials targets: run `ginnel check agent --target` there");
}

async fn first_roster(admitted: &Admitted) -> Result<Roster, String> {
    let tls = outer_client(&admitted.upstream.server_roots.now(), Some(&admitted.identity));
    let tls = tls.map_err(|error| Chain(&error).to_string())?;
    let connection = admitted.upstream.endpoint.connect(tls).await.map_err(|error| Chain(&error).to_string())?;
    roster(&connection).await.map_err(|error| Chain(&error).to_string())
}

fn policy(roster: &Roster, target: Option<&Target>, report: &mut Report) {
    let agents = roster.entries().len();
    if agents == 0 {
        report.fail("policy", "no live agent is there for this client", NO_AGENT);
        return;
    }
    let Some(target) = target else {
        report.pass("policy", format!("live agents for this client: {agents}"));
        return;
    };
    let serves = |entry: &&ginnel_core::roster::Entry| entry.targets.iter().any(|pattern| pattern.matches(target));
    let serving: Vec<_> = roster.entries().iter().filter(serves).map(|entry| entry.agent.to_string()).collect();
    if serving.is_empty() {
        let evidence = format!("live agents for this client: {agents}, and none of them may be asked for {target}");
        report.fail("policy", evidence, NO_AGENT);
    } else {
        report.pass(
            "policy",
            format!("live agents for this client: {agents}; {target} is served by {}", serving.join(", ")),
        );
    }
}

/// The roster holds what rules allow through agents that are connected; the client cannot tell which of the two is missing.
const NO_AGENT: &str = "ask the server's owner: either no rule allows it, or the agents of the rule are not connected \
    (ginnel policy test CLIENT TARGET says which)";
