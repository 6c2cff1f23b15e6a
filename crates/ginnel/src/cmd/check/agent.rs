//! `ginnel check agent`.

use ginnel_config::AgentConfig;
use ginnel_core::allow::AllowList;
use ginnel_core::principal::Role;
use ginnel_core::target::Target;

use super::denials;
use super::report::Report;
use super::way::Way;

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
    let allow = AllowList::new(config.allow);
    let patterns = allow.patterns().len();
    let Some(target) = target else {
        report.skip("policy", format!("no --target given; entries of allow: {patterns}"));
        report.skip("target", "no --target given");
        return;
    };
    if allow.permits_target(target).is_err() {
        let evidence = format!("no entry of allow means {target}; it has {patterns}");
        report.fail("policy", evidence, "if this agent shall dial it, add it to allow");
        report.skip_after("an entry in allow", &["target"]);
        return;
    }
    report.pass("policy", format!("allow permits {target}; the server's rules are checked by `ginnel policy test`"));
    match ginnel_agent::check::target(target, &allow).await {
        Ok(address) => report.pass("target", format!("{target} answers at {address}")),
        Err(refusal) => {
            let evidence = format!("{target}: {} said {}: {}", refusal.hop, refusal.cause, refusal.cause.sentence());
            report.fail("target", evidence, refusal.cause.advice());
        }
    }
}
