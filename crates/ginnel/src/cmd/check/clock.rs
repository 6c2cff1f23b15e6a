//! Whether this machine's clock can be right.

use std::time::{Duration, SystemTime};

use ginnel_core::audit::Timestamp;
use ginnel_net::probe::Presented;

use super::report::Report;
use crate::cmd::table::{moment, span};

/// A proxy's date differs by less than this where both clocks are kept; enrolment tokens tolerate about as much.
const DIFFERENCE_MAX: Duration = Duration::from_secs(60);

/// Compares the clock with the validity of the server's certificate, and with the proxy's date. True unless it cannot be right.
pub(super) fn check(
    presented: Option<&Presented>,
    proxy_date: Option<SystemTime>,
    now: SystemTime,
    report: &mut Report,
) -> bool {
    let here = format!("this machine says {}", moment(Timestamp::from(now)));
    let witness = proxy_date.map(|date| difference(now, date)).unwrap_or_default();
    // The certificate of somebody else says nothing of the server's clock.
    let leaf = presented.filter(|presented| presented.is_trusted).and_then(|presented| presented.chain.first());
    let Some(leaf) = leaf else {
        return judge_by_date(proxy_date, now, &here, report);
    };
    let (begins, ends) = (moment(leaf.not_before.into()), moment(leaf.not_after.into()));
    let verdict = if let Ok(early) = leaf.not_before.duration_since(now).map(span) {
        Some((
            format!("the server's certificate is not yet valid: it begins at {begins}, in {early}"),
            "behind",
            "ahead",
        ))
    } else if let Ok(late) = now.duration_since(leaf.not_after).map(span) {
        Some((format!("the server's certificate has expired: it ended at {ends}, {late} ago"), "ahead", "behind"))
    } else {
        None
    };
    let Some((finding, own, servers)) = verdict else {
        if proxy_date.is_some_and(|date| apart(now, date) > DIFFERENCE_MAX) {
            return judge_by_date(proxy_date, now, &here, report);
        }
        report.pass("clock", format!("{here}; the server's certificate is valid from {begins} to {ends}{witness}"));
        return true;
    };
    let advice = match proxy_date.map(|date| apart(now, date) > DIFFERENCE_MAX) {
        Some(true) => format!("this machine's clock is {own}: set it (timedatectl), and keep it with NTP"),
        Some(false) => format!(
            "the proxy agrees with this machine, so that the server's clock is probably {servers}: tell its owner"
        ),
        None => format!(
            "either this machine's clock is {own}, which is likelier, or the server's is {servers}: compare both with a time server"
        ),
    };
    report.fail("clock", format!("{here}; {finding}{witness}"), advice);
    false
}

fn judge_by_date(proxy_date: Option<SystemTime>, now: SystemTime, here: &str, report: &mut Report) -> bool {
    match proxy_date {
        Some(date) if apart(now, date) > DIFFERENCE_MAX => {
            let own = if now > date { "ahead" } else { "behind" };
            let advice = format!("this machine's clock seems to be {own}: compare it with a time server");
            report.fail("clock", format!("{here}{}", difference(now, date)), advice);
        }
        Some(date) => report.pass("clock", format!("{here}{}", difference(now, date))),
        None => report.skip("clock", format!("{here}, and nobody who is trusted showed another time")),
    }
    // A wrong date at the proxy stops nothing.
    true
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

fn difference(now: SystemTime, date: SystemTime) -> String {
    format!("; the proxy's date is {} away from it", span(apart(now, date)))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use ginnel_identity::tls::Facts;

    use super::*;

    fn at(hour: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hour * 3600)
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_said_to_be_ahead_or_behind_and_by_how_much() {
        let leaf = Facts {
            subject: String::new(),
            issuer: String::new(),
            names: Vec::new(),
            not_before: at(100),
            not_after: at(124),
            sha256: String::new(),
        };
        let presented = Presented { chain: vec![leaf], is_trusted: true, is_named: true };
        let cases = [
            (110, None, true, "PASS"),
            (110, Some(110), true, "PASS"),
            (90, None, false, "not yet valid: it begins at 1970-01-05T04:00:00Z, in 10 h 0 min"),
            (90, None, false, "either this machine's clock is behind"),
            (90, Some(110), false, "this machine's clock is behind"),
            (90, Some(90), false, "server's clock is probably ahead"),
            (130, None, false, "6 h 0 min ago"),
            (110, Some(112), true, "seems to be behind"),
        ];
        for (now, date, expected, words) in cases {
            let mut report = Report::default();
            assert_eq!(check(Some(&presented), date.map(at), at(now), &mut report), expected, "{now}");
            assert!(report.text().contains(words), "{}", report.text());
        }
    }
}
