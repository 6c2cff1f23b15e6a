//! A comparison for people.

use std::fmt;

use super::{Comparison, Disagreement, Kind, Summary};
use crate::audit::Text;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents: Vec<_> = self.agents.iter().map(|agent| name_of(agent)).collect();
        let agents = if agents.is_empty() { "none".to_owned() } else { agents.join(", ") };
        writeln!(f, "agents: {}", Text::new(agents))?;
        for (who, summary) in [("vendor", &self.vendor), ("customer", &self.customer)] {
            log(f, who, summary)?;
        }
        if let Some(ahead_ms) = self.clock_ahead_ms {
            let (seconds, way) = (seconds(ahead_ms), if ahead_ms < 0 { "before" } else { "after" });
            writeln!(f, "the customer's records come {seconds} {way} the vendor's, by the median")?;
        }
        writeln!(f, "\n{} in both logs", counted(self.agree, "session agrees", "sessions agree"))?;
        let excused = [
            (self.excused.beyond_customer, "in the vendor's log only, beyond the ends of the customer's"),
            (self.excused.beyond_vendor, "in the customer's log only, beyond the ends of the vendor's"),
            (self.excused.unheard, "refused by the server alone; the agent need not have heard of it"),
            (self.excused.cut_off, "without an end on one side, whose process was cut off"),
        ];
        for (count, what) in excused.into_iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{}, {what}", counted(count, "session", "sessions"))?;
        }
        if self.vendor.sessions == 0 && self.customer.sessions == 0 {
            return writeln!(f, "\nthere was no session to compare");
        }
        if self.agrees() {
            return writeln!(f, "\nthe logs agree; times may lie {} s apart", self.apart_seconds);
        }
        for disagreement in &self.disagreements {
            write!(f, "\n{disagreement}")?;
        }
        let listed = u64::try_from(self.disagreements.len()).unwrap_or(u64::MAX);
        if self.disagree > listed {
            writeln!(f, "\nand {} more", self.disagree - listed)?;
        }
        let (verb, apart) = (counted(self.disagree, "session", "sessions"), self.apart_seconds);
        writeln!(f, "\nTHE LOGS DISAGREE about {verb}; times may lie {apart} s apart")
    }
}

fn log(f: &mut fmt::Formatter<'_>, who: &str, summary: &Summary) -> fmt::Result {
    let Summary { records, sessions, first, last, missing } = summary;
    write!(f, "{who}: {}, {}", counted(*records, "record", "records"), counted(*sessions, "session", "sessions"))?;
    if let (Some(first), Some(last)) = (first, last) {
        write!(f, ", from {first} to {last}")?;
    }
    if *missing > 0 {
        write!(f, "; {} missing, as it says itself", counted(*missing, "record is", "records are"))?;
    }
    writeln!(f)
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, request_id, agent_instance, time, client, agent, target, end, differences } = self;
        let way = [client.as_deref().map(name_of), agent.as_deref().map(name_of), target.as_deref()];
        let way: Vec<_> = way.into_iter().flatten().map(|name| Text::new(name).as_str().to_owned()).collect();
        writeln!(f, "{request_id}  {time}  {}", way.join(" → "))?;
        let what = match kind {
            Kind::Differs => None,
            Kind::OnlyVendor => Some("only the vendor's log has it".to_owned()),
            Kind::OnlyCustomer => Some("only the customer's log has it".to_owned()),
            Kind::NoLog => Some(format!("no log was given of the agent's process {agent_instance}")),
        };
        if let Some(what) = what {
            let end = end.as_ref().map(|end| format!(": {}", Text::new(end))).unwrap_or_default();
            writeln!(f, "  {what}{end}")?;
        }
        for difference in differences {
            let (vendor, customer) = (Text::new(&difference.vendor), Text::new(&difference.customer));
            writeln!(f, "  {:<12} vendor {vendor} | customer {customer}", difference.what)?;
        }
        Ok(())
    }
}

/// Milliseconds as seconds with three places, without their sign.
fn seconds(ms: i64) -> String {
    let ms = ms.unsigned_abs();
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn name_of(principal: &str) -> &str {
    principal.rsplit('/').next().unwrap_or(principal)
}
