//! What two records of one session must have in common.

use std::time::{Duration, SystemTime};

use super::log::{Attempt, End, Known};
use super::{Difference, Timestamp};
use crate::cause::{Cause, Hop};
use crate::limits::CREDIT_MAX;

/// How far each log goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) vendor: Known,
    pub(super) customer: Known,
}

/// Attempts of one request at one process, matched in their order; and those that only one side has.
pub(super) fn paired<'a>(
    mut vendor: Vec<&'a Attempt>,
    customer: Vec<&'a Attempt>,
) -> (Vec<(&'a Attempt, &'a Attempt)>, Vec<&'a Attempt>, Vec<&'a Attempt>) {
    let mut only_vendor = Vec::new();
    // What the agent need not have heard of is left out first, so that the others find their counterparts.
    while vendor.len() > customer.len()
        && let Some(at) = vendor.iter().position(|attempt| may_be_unheard(attempt))
    {
        only_vendor.push(vendor.remove(at));
    }
    let pairs = vendor.len().min(customer.len());
    only_vendor.extend(vendor.split_off(pairs));
    let (matched, only_customer) = customer.split_at(pairs);
    (vendor.into_iter().zip(matched.iter().copied()).collect(), only_vendor, only_customer.to_vec())
}

/// Whether an agent may never have heard of a session that the vendor's log has: the server refused it by itself, or lost the agent before it
/// answered. An answer of the agent's is another thing.
pub(super) fn may_be_unheard(attempt: &Attempt) -> bool {
    let Some(end) = attempt.end.as_ref().filter(|end| end.is_refusal && attempt.address.is_none()) else {
        return false;
    };
    !says_for_the_agent(end)
}

/// Whether an end is put down as the word of an agent, or of a target, that an agent cannot but have on record itself.
fn says_for_the_agent(end: &End) -> bool {
    let is_agents_word = match end.cause {
        Some(
            Cause::NotOnAllowList
            | Cause::AddressForbidden
            | Cause::NameNotResolved
            | Cause::ConnectionRefused
            | Cause::TargetUnreachable
            | Cause::PeerNotVerified
            | Cause::EndedByOperator,
        ) => true,
        // An agent that cannot write its log, is overloaded or on its way out may have nothing on record. The rest is the server's own finding.
        Some(
            Cause::AuditUnavailable
            | Cause::Overloaded
            | Cause::ShuttingDown
            | Cause::TimedOut
            | Cause::Internal
            | Cause::Unknown
            | Cause::Finished
            | Cause::Reset
            | Cause::Malformed
            | Cause::NotAllowed
            | Cause::NotOnRoute
            | Cause::NoLiveAgent
            | Cause::AgentLost
            | Cause::ServerUnreachable
            | Cause::ServerLost
            | Cause::ProtocolError
            | Cause::Aborted
            | Cause::CertificateExpired
            | Cause::EnrolmentRefused
            | Cause::NotAdmitted
            | Cause::RuleExpired
            | Cause::SourceRefused,
        )
        | None => false,
    };
    is_agents_word && end.hop.is_some_and(is_customers)
}

/// What differs between two records of one session, and whether one side's process ended before it could put the end down.
pub(super) fn differences(
    vendor: &Attempt,
    customer: &Attempt,
    ends: Ends,
    apart: Duration,
) -> (Vec<Difference>, bool) {
    let mut differences = Vec::new();
    let fields: [(&'static str, &Option<String>, &Option<String>); 5] = [
        ("client", &vendor.client, &customer.client),
        ("clientEmail", &vendor.client_email, &customer.client_email),
        ("agent", &vendor.agent, &customer.agent),
        ("target", &vendor.target, &customer.target),
        ("address", &vendor.address, &customer.address),
    ];
    for (what, vendor, customer) in fields {
        if let (Some(vendor), Some(customer)) = (vendor, customer)
            && vendor != customer
        {
            differences.push(Difference { what, vendor: vendor.clone(), customer: customer.clone() });
        }
    }
    if let (Some(address), None, Some(_), true) = (&vendor.address, &customer.address, &customer.end, customer.is_whole)
    {
        differences.push(difference("address", address, "nothing"));
    }
    if vendor.is_whole && customer.is_whole && are_apart(vendor.begin, customer.begin, apart) {
        differences.push(difference("begin", vendor.begin, customer.begin));
    }
    let cut_off = match (&vendor.end, &customer.end) {
        (Some(of_vendor), Some(of_customer)) => {
            outcome(of_vendor, of_customer, &mut differences);
            bytes(of_vendor, of_customer, &mut differences);
            if !lost_each_other(of_vendor, of_customer) && are_apart(of_vendor.time, of_customer.time, apart) {
                differences.push(difference("end", of_vendor.time, of_customer.time));
            }
            false
        }
        (Some(end), None) => {
            let missing = missing_end(end.time, ends.customer, apart);
            if missing == Missing::Unsaid {
                differences.push(difference("outcome", end, "nothing"));
            }
            missing == Missing::CutOff
        }
        (None, Some(end)) => {
            let missing = missing_end(end.time, ends.vendor, apart);
            if missing == Missing::Unsaid {
                differences.push(difference("outcome", "nothing", end));
            }
            missing == Missing::CutOff
        }
        (None, None) => false,
    };
    (differences, cut_off)
}

fn difference(what: &'static str, vendor: impl ToString, customer: impl ToString) -> Difference {
    Difference { what, vendor: vendor.to_string(), customer: customer.to_string() }
}

/// Why a log has no end for a session that has one in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// The log ends before it had to be there.
    Beyond,
    /// The process ended without another word, and the log goes on with its successor.
    CutOff,
    /// The process went on and said nothing.
    Unsaid,
}

fn missing_end(end: Timestamp, known: Known, apart: Duration) -> Missing {
    if known.log.is_none_or(|until| end > until) {
        return Missing::Beyond;
    }
    let went_on = known.process.is_some_and(|last| SystemTime::from(last) > SystemTime::from(end) + apart);
    if went_on { Missing::Unsaid } else { Missing::CutOff }
}

/// Whether the session came to the same end.
fn outcome(vendor: &End, customer: &End, differences: &mut Vec<Difference>) {
    let contradicts = match (vendor.is_refusal, customer.is_refusal) {
        (true, true) => {
            let is_customers_word = vendor.hop.is_some_and(is_customers);
            vendor.word != customer.word && is_customers_word && !lost_each_other(vendor, customer)
        }
        // An application may leave while the agent's word is on its way, but it says nothing before it has heard that word, takes no more than
        // the first credit, and no word of the agent's can have been another.
        (true, false) => customer.bytes.0 > 0 || customer.bytes.1 > CREDIT_MAX || says_for_the_agent(vendor),
        // An agent that said yes has nothing more to refuse.
        (false, true) => true,
        (false, false) => contradict(vendor, customer),
    };
    if contradicts {
        differences.push(difference("outcome", vendor, customer));
    }
}

/// Whether what the two say of an end cannot both be true.
///
/// Each knows what happened on its own side, and hears of the other side only what arrives. So each may name its own side, when both ended it in
/// the same moment; and each may have seen the clean end before something happened on the other's side. What neither may do is to say of the
/// other side what that side does not say itself.
fn contradict(vendor: &End, customer: &End) -> bool {
    if lost_each_other(vendor, customer) || (vendor.word == customer.word && vendor.hop == customer.hop) {
        return false;
    }
    let is_finished = |end: &End| end.cause == Some(Cause::Finished);
    let of_vendor = is_finished(vendor) || vendor.hop.is_some_and(|hop| !is_customers(hop));
    let of_customer = is_finished(customer) || customer.hop.is_some_and(is_customers);
    !(of_vendor && of_customer)
}

/// Whether one of them says that it lost the other: then it does not know what the other does.
fn lost_each_other(vendor: &End, customer: &End) -> bool {
    matches!(vendor.cause, Some(Cause::AgentLost | Cause::Aborted))
        || matches!(customer.cause, Some(Cause::ServerLost | Cause::Aborted))
}

/// Whether a hop is on the customer's side.
fn is_customers(hop: Hop) -> bool {
    match hop {
        Hop::Agent | Hop::Target => true,
        Hop::Application | Hop::Client | Hop::Server => false,
    }
}

/// Bytes have to be equal where both saw the clean end. Where the session was cut, some were under way, as many as one side can have granted.
fn bytes(vendor: &End, customer: &End, differences: &mut Vec<Difference>) {
    if vendor.is_refusal || customer.is_refusal {
        return;
    }
    let Some((up, down)) = customer.carried else { return };
    let are_finished = [vendor, customer].iter().all(|end| end.cause == Some(Cause::Finished));
    let under_way = if are_finished { 0 } else { CREDIT_MAX };
    // The server passes on before the agent has it, and the agent before the server does.
    let ways = [
        ("bytesUp", vendor.bytes.0, up, vendor.bytes.0, up),
        ("bytesDown", vendor.bytes.1, down, down, vendor.bytes.1),
    ];
    for (what, of_vendor, of_customer, first, then) in ways {
        if first.checked_sub(then).is_none_or(|between| between > under_way) {
            differences.push(difference(what, of_vendor, of_customer));
        }
    }
}

fn are_apart(one: Timestamp, other: Timestamp, apart: Duration) -> bool {
    let (one, other) = (SystemTime::from(one), SystemTime::from(other));
    let between = one.duration_since(other).or_else(|_| other.duration_since(one));
    between.is_ok_and(|between| between > apart)
}
