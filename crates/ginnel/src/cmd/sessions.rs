//! `ginnel sessions`: what is carried now, and ending it.

use ginnel_core::status::{EndedSessions, Request};
use ginnel_ops::admin::client::{Door, escaped};
use http::StatusCode;

use super::ask::{order, read, refused};
use super::table::{NONE, Table, bytes, moment, name_of};
use super::{Failure, Outcome, print};
use crate::args::operate::{Chosen, End, List, Sessions};

pub(super) async fn run(sessions: Sessions) -> Result<Outcome, Failure> {
    match sessions {
        Sessions::List(args) => list(args).await,
        Sessions::End(args) => end(args).await,
    }
}

async fn list(args: List) -> Result<Outcome, Failure> {
    let sessions: Vec<Request> = read(&args.ask.door(), "/sessions").await?;
    let chosen: Vec<_> = sessions.into_iter().filter(|session| args.chosen.is(session)).collect();
    if args.json {
        let json = serde_json::to_string_pretty(&chosen).map_err(Failure::failed)?;
        print(&format!("{json}\n"))?;
    } else {
        print(&render(&chosen))?;
    }
    Ok(Outcome::Yes)
}

/// The table of sessions.
pub(crate) fn render(sessions: &[Request]) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let mut table = Table::new(&["REQUEST", "SINCE", "WHO", "TARGET", "AGENT", "RULE", "STATE", "UP", "DOWN"]);
    for session in sessions {
        table.row([
            &session.request_id,
            &moment(session.since),
            name_of(session.client.as_deref().unwrap_or(NONE)),
            &session.target,
            name_of(session.agent.as_deref().unwrap_or(NONE)),
            session.rule.as_deref().unwrap_or(NONE),
            &session.state,
            &bytes(session.bytes_up),
            &bytes(session.bytes_down),
        ]);
    }
    table.text()
}

async fn end(args: End) -> Result<Outcome, Failure> {
    let Chosen { client, agent, target, rule } = &args.chosen;
    let request = args.request.map(|request| request.to_string());
    let named = [("request", &request), ("client", client), ("agent", agent), ("target", target), ("rule", rule)];
    let named = named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_deref()?))));
    let query: Vec<_> = named.chain(args.all.then(|| "all=true".to_owned())).collect();
    let door = Door::Socket(args.socket);
    let reply = order(&door, &format!("/sessions/end?{}", query.join("&"))).await?;
    if reply.status != StatusCode::OK {
        return Err(refused(&door, reply.status, &reply.text));
    }
    let EndedSessions { ended } = serde_json::from_str(&reply.text).map_err(Failure::failed)?;
    print(&match ended {
        0 => "no session fits\n".to_owned(),
        1 => "1 session was told to end\n".to_owned(),
        more => format!("{more} sessions were told to end\n"),
    })?;
    Ok(if ended > 0 { Outcome::Yes } else { Outcome::No })
}

impl Chosen {
    fn is(&self, session: &Request) -> bool {
        let holds = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(test);
        let is_who = |principal: &Option<String>, who: &str| {
            principal.as_deref().is_some_and(|principal| principal == who || name_of(principal) == who)
        };
        holds(&self.client, &|who| is_who(&session.client, who))
            && holds(&self.agent, &|who| is_who(&session.agent, who) || session.agent_instance.as_deref() == Some(who))
            && holds(&self.target, &|target| {
                let host = session.target.rsplit_once(':').map_or(session.target.as_str(), |(host, _)| host);
                session.target.eq_ignore_ascii_case(target) || host.eq_ignore_ascii_case(target)
            })
            && holds(&self.rule, &|rule| session.rule.as_deref() == Some(rule))
    }
}
