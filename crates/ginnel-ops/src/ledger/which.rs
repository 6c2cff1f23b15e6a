//! Which requests an operator means.

use ginnel_core::status::Request;

use crate::admin::Which;

impl Which {
    /// Whether this request is meant.
    pub fn means(&self, request: &Request) -> bool {
        let Self { request: id, client, agent, target, rule, all } = self;
        let holds = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(test);
        let some = *all || id.is_some() || [client, agent, target, rule].iter().any(|part| part.is_some());
        some && id.is_none_or(|id| id.to_string() == request.request_id)
            && holds(client, &|who| is_who(request.client.as_deref(), who))
            && holds(agent, &|who| {
                is_who(request.agent.as_deref(), who) || request.agent_instance.as_deref() == Some(who)
            })
            && holds(target, &|target| is_target(&request.target, target))
            && holds(rule, &|rule| request.rule.as_deref() == Some(rule))
    }
}

fn is_who(principal: Option<&str>, who: &str) -> bool {
    principal.is_some_and(|principal| principal == who || principal.rsplit('/').next() == Some(who))
}

fn is_target(target: &str, wanted: &str) -> bool {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    target.eq_ignore_ascii_case(wanted) || host.eq_ignore_ascii_case(wanted)
}
