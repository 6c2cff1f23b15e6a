//! `ginnel issuer`: the roots of an embedded issuer, and changing them. It works on the directory alone, whether a server runs or not.

use std::path::Path;
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::principal::Role;
use ginnel_enrol::embedded::rotation::{self, Leaving, Standing, Step, StepError, standing};
use serde::Serialize;

use super::table::Table;
use super::{Failure, Outcome, print};
use crate::args::issuer::{self, Issuer};

/// Characters of a hash that tell one root from another.
const HASH_SHOWN: usize = 16;

pub(super) fn run(issuer: Issuer) -> Result<Outcome, Failure> {
    match issuer {
        Issuer::Status(args) => status(&args),
        Issuer::Prepare(args) => step(&args, Step::Prepare),
        Issuer::Activate(args) => step(&args, Step::Activate),
        Issuer::Retire(args) => step(&args, Step::Retire),
        Issuer::Rollback(args) => step(&args, Step::Rollback),
    }
}

fn status(args: &issuer::Status) -> Result<Outcome, Failure> {
    let roles = args.role.map_or(vec![Role::Server, Role::Agent, Role::Client], |role| vec![role]);
    let found: Result<Vec<_>, _> = roles.into_iter().map(|role| standing(&args.directory, role)).collect();
    show(&found.map_err(failure)?, &args.directory, args.json)
}

fn step(args: &issuer::Step, step: Step) -> Result<Outcome, Failure> {
    let after = rotation::take(&args.directory, args.role, step, args.danger_early, SystemTime::now());
    show(&[after.map_err(failure)?], &args.directory, args.json)
}

/// What can be mended by asking for something else is wrong input.
fn failure(error: StepError) -> Failure {
    match error {
        StepError::NoAuthority { .. } => Failure::input(error),
        StepError::Open(_)
        | StepError::OutOfOrder { .. }
        | StepError::LeavesOnly { .. }
        | StepError::TooEarly { .. }
        | StepError::NotTakenUp { .. }
        | StepError::TooMany { .. } => Failure::failed(error),
    }
}

fn show(standings: &[Standing], directory: &Path, json: bool) -> Result<Outcome, Failure> {
    if json {
        let shown: Vec<_> = standings.iter().map(Shown::of).collect();
        let text = serde_json::to_string_pretty(&shown).map_err(Failure::failed)?;
        print(&format!("{text}\n"))?;
    } else {
        let text: Vec<_> = standings.iter().map(render).collect();
        print(&text.join("\n"))?;
        if standings.iter().all(|standing| standing.leaving == Some(Leaving::NotTakenUp)) {
            let hint =
                format!("a running server with the issuer in {} takes it up within seconds", directory.display());
            crate::say(&format!("hint: {hint}\n"));
        }
    }
    Ok(Outcome::Yes)
}

/// What people read.
fn render(standing: &Standing) -> String {
    let mut text = format!("{}: {}\n", standing.role, standing.state.as_str());
    let mut table = Table::new(&["ROOT", "USE", "EXPIRES", "SHA-256"]);
    for root in &standing.roots {
        table.row([
            &root.number.to_string(),
            root.used.as_str(),
            &Timestamp::from(root.not_after).to_string(),
            &root.sha256[..HASH_SHOWN.min(root.sha256.len())],
        ]);
    }
    text.push_str(&table.text());
    match standing.leaving {
        None | Some(Leaving::Free) => {}
        Some(Leaving::NotTakenUp) => {
            text.push_str("  no server has taken up the last step yet: the root that signed before stays trusted\n");
        }
        Some(Leaving::From(until)) => {
            text.push_str(&format!(
                "  certificates of the root that does not sign are valid until {}\n",
                Timestamp::from(until)
            ));
        }
    }
    text.push_str("  what can follow:\n");
    for (step, what) in standing.next() {
        text.push_str(&format!("    {:<8}  {what}\n", step.as_str()));
    }
    text
}

/// What programs read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    role: String,
    state: &'static str,
    roots: Vec<ShownRoot>,
    /// Whether a server has to take up the last step before the root that does not sign may leave.
    not_taken_up: bool,
    /// Until when the root that does not sign has to stay trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<Timestamp>,
    next: Vec<ShownStep>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRoot {
    number: u32,
    r#use: &'static str,
    not_after: Timestamp,
    sha256: String,
}

#[derive(Serialize)]
struct ShownStep {
    step: &'static str,
    does: String,
}

impl Shown {
    fn of(standing: &Standing) -> Self {
        let roots = standing.roots.iter().map(|root| ShownRoot {
            number: root.number,
            r#use: root.used.as_str(),
            not_after: Timestamp::from(root.not_after),
            sha256: root.sha256.clone(),
        });
        let (not_taken_up, valid_until) = match standing.leaving {
            None | Some(Leaving::Free) => (false, None),
            Some(Leaving::NotTakenUp) => (true, None),
            Some(Leaving::From(until)) => (false, Some(Timestamp::from(until))),
        };
        let next = standing.next().into_iter().map(|(step, does)| ShownStep { step: step.as_str(), does });
        Self {
            role: standing.role.to_string(),
            state: standing.state.as_str(),
            roots: roots.collect(),
            not_taken_up,
            valid_until,
            next: next.collect(),
        }
    }
}
