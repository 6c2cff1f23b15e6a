//! `ginnel check client`.

use ginnel_client::check::roster;
use ginnel_config::ClientConfig;
use ginnel_core::principal::{Name, Role};
use ginnel_core::report::Chain;
use ginnel_core::roster::{Entry, Roster};
use ginnel_core::route::Routes;
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
    let admitted = way.check(report).await;
    let is_on_route = routes(&config.routes, target, report);
    match admitted {
        None => report.skip_after("a certificate", &["policy"]),
        Some(_) if !is_on_route => report.skip_after("a route for the target", &["policy"]),
        Some(admitted) => match first_roster(&admitted).await {
            Ok(roster) => policy(&roster, &config.routes, target, report),
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

/// The client's own word: whether it leaves the target to anybody.
fn routes(routes: &Routes, target: Option<&Target>, report: &mut Report) -> bool {
    let Some(entries) = routes.entries() else {
        report.skip("routes", "there are none: every agent that the server offers may serve");
        return true;
    };
    let count = format!("routes: {}", entries.len());
    let Some(target) = target else {
        report.pass("routes", count);
        return true;
    };
    let agents = joined(routes.agents_for(target).into_iter().flatten());
    if agents.is_empty() {
        report.fail(
            "routes",
            format!("{count}; none of them names {target}"),
            "if it is to be reached, name it on one",
        );
        return false;
    }
    report.pass("routes", format!("{count}; {target} may be served by {agents}"));
    true
}

/// The server's word, as far as the client's own permits it.
fn policy(roster: &Roster, routes: &Routes, target: Option<&Target>, report: &mut Report) {
    let agents = roster.processes();
    if agents == 0 {
        report.fail("policy", "no live agent is there for this client", NO_AGENT);
        return;
    }
    let Some(target) = target else {
        report.pass("policy", format!("live agents for this client: {agents}"));
        return;
    };
    let offered: Vec<_> = roster.offered(target).collect();
    if offered.is_empty() {
        let evidence = format!("live agents for this client: {agents}, and none of them may be asked for {target}");
        report.fail("policy", evidence, NO_AGENT);
        return;
    }
    let may_serve = |entry: &&&Entry| routes.permits(target, &entry.agent).is_ok();
    let serving = joined(offered.iter().filter(may_serve).map(|entry| &entry.agent));
    if serving.is_empty() {
        let offered = joined(offered.iter().map(|entry| &entry.agent));
        let evidence = format!("the server offers {offered} for {target}, which no route of this client names for it");
        report.fail("policy", evidence, NOT_ON_ROUTE);
    } else {
        report.pass("policy", format!("live agents for this client: {agents}; {target} is served by {serving}"));
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    names.map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// That an agent is kept back looks like one that is not running.
const NOT_ON_ROUTE: &str = "see whether an agent that the routes name is running; if one is and the server does not offer it, \
    ask the server's owner why";

/// The roster holds what rules allow through agents that are connected; the client cannot tell which of the two is missing.
const NO_AGENT: &str = "ask the server's owner: either no rule allows it, or the agents of the rule are not connected \
    (ginnel policy test CLIENT TARGET says which)";
