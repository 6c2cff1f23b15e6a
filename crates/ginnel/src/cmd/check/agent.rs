//! `ginnel check agent`.

use std::collections::BTreeSet;

use ginnel_config::AgentConfig;
use ginnel_core::allow::AllowList;
use ginnel_core::principal::Role;
use ginnel_core::target::Target;

use super::report::Report;
use super::way::Way;
use super::{audit, denials};

pub(super) async fn check(config: AgentConfig, target: Option<&Target>, report: &mut Report) {
    let way = Way {
        role: Role::Agent,
        server: &config.server,
        server_roots: &config.trust.server,
        peer_roots: &config.trust.client,
        credential: &config.credential,
        audience: &config.enrolment_audience,
    };
    let _ = way.check(report).await;
    if let Some(file) = &config.denials_file {
        denials::check(file, report);
    }
    if let Some(files) = &config.audit {
        audit::check(&files.directory, report);
    }
    let allow = AllowList::new(config.allow);
    let entries = allow.entries().len();
    let Some(target) = target else {
        report.skip("policy", format!("no --target given; entries of allow: {entries}"));
        report.skip("target", "no --target given");
        return;
    };
    if allow.permits_target(None, target).is_err() {
        let evidence = format!("no entry of allow means {target}; it has {entries}");
        report.fail("policy", evidence, "if this agent shall dial it, add it to allow");
        report.skip_after("an entry in allow", &["target"]);
        return;
    }
    let whom = whom(&allow, target);
    report.pass(
        "policy",
        format!("allow permits {target}{whom}; the server's rules are checked by `ginnel policy test`"),
    );
    match ginnel_agent::check::target(None, target, &allow).await {
        Ok(address) => report.pass("target", format!("{target} answers at {address}")),
        Err(refusal) => {
            let evidence = format!("{target}: {} said {}: {}", refusal.hop, refusal.cause, refusal.cause.sentence());
            report.fail("target", evidence, refusal.cause.advice());
        }
    }
}

/// For which clients the list permits a target, if not for all of them.
fn whom(allow: &AllowList, target: &Target) -> String {
    let entries = || allow.entries().iter().filter(|entry| entry.target.matches(target));
    if entries().any(|entry| entry.clients.is_none()) {
        return String::new();
    }
    let clients: BTreeSet<_> = entries().flat_map(|entry| entry.clients.iter().flatten()).collect();
    let clients: Vec<_> = clients.into_iter().map(ToString::to_string).collect();
    format!(" to {} alone", clients.join(", "))
}
