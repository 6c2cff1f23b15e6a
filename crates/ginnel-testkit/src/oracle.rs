//! The differential oracle: the same random script over direct TCP and over whatever should behave like it.
//!
//! A [`Script`] says what an application and a target do. [`play`] lets both do it on a connection that a [`Route`] opens, and [`judge()`]
//! holds what each has [`Seen`] against the rules of TCP. [`compare`] does that for two routes, so that the rules themselves are tested
//! against the kernel: a script that direct TCP plays otherwise is a fault of the rules, not of the tunnel.
//!
//! Where TCP itself leaves the outcome to timing, the rules allow what it allows, and nothing else; [`Expected`] says where.

mod end;
mod judge;
mod route;
mod script;

use std::time::Duration;

use anyhow::{Result, bail};

pub use end::{Leave, Seen};
pub use judge::{Expected, expected, judge};
pub use route::{Direct, Forgetful, Opened, Proxied, Route};
pub use script::{Act, Script, Step, Who};

use crate::stream::Ending;
use crate::wait::within;

/// How long one script may take. Its pauses come to less than a second; whoever still waits then waits for ever.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(30);

/// Scripts that are tried to find a smaller one that fails as well.
const SMALLER_MAX: usize = 300;

/// How often a smaller script is played before it counts as harmless: what fails may depend on timing.
const REPEATS: usize = 3;

/// Both ends after a script: the application's and the target's.
pub type Both = [Seen; 2];

/// What a script gave on the route in question.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Directions that had only one right outcome.
    pub certain: usize,
    /// Directions in which TCP itself allows two.
    pub open: usize,
    /// Directions whose reader left before it saw an end.
    pub unseen: usize,
    /// Directions that ended in a FIN.
    pub fins: usize,
    /// Directions that ended in a RST.
    pub resets: usize,
}

impl Tally {
    /// Adds what another script gave.
    pub fn add(&mut self, other: &Self) {
        self.certain += other.certain;
        self.open += other.open;
        self.unseen += other.unseen;
        self.fins += other.fins;
        self.resets += other.resets;
    }

    fn of(both: &Both) -> Self {
        let mut tally = Self::default();
        for (from, to) in [(&both[0], &both[1]), (&both[1], &both[0])] {
            match (to.ending, expected(from, to)) {
                (None, _) => tally.unseen += 1,
                (Some(_), Expected::Either) => tally.open += 1,
                (Some(_), Expected::End | Expected::Reset) => tally.certain += 1,
            }
            match to.ending {
                None => {}
                Some(Ending::Eof) => tally.fins += 1,
                Some(Ending::Reset | Ending::Other(_)) => tally.resets += 1,
            }
        }
        tally
    }
}

/// Plays `script` once on a fresh connection of `route`.
///
/// # Errors
/// If no connection can be opened, or the script does not come to its end: somebody waits for what TCP would have brought.
pub async fn play(script: &Script, route: &mut impl Route) -> Result<Both> {
    let opened = route.open().await?;
    let both = async {
        let app = end::play(opened.app, Who::App, script);
        let target = end::play(opened.target, Who::Target, script);
        tokio::join!(app, target)
    };
    let (app, target) = within("a script to end", SCRIPT_DEADLINE, both).await?;
    Ok([app?, target?])
}

/// Plays `script` over `direct` and over `other`, and holds both to the rules.
///
/// # Errors
/// What differs from TCP, with what both ends saw on both routes.
pub async fn compare(script: &Script, direct: &mut impl Route, other: &mut impl Route) -> Result<Tally> {
    let right = play(script, direct).await?;
    if let Err(fault) = judge(&right) {
        bail!("direct TCP itself breaks the rules: {fault}\nscript:\n{script}\ndirect:  {right:?}");
    }
    let both = match play(script, other).await {
        Ok(both) => both,
        Err(error) => bail!("{error:#}\nscript:\n{script}\ndirect:  {right:?}"),
    };
    match judge(&both) {
        Ok(()) => Ok(Tally::of(&both)),
        Err(fault) => bail!("{fault}\nscript:\n{script}\ndirect:  {right:?}\nin question: {both:?}"),
    }
}

/// The smallest script found that fails as `script` does, with how it fails. A script whose failure never comes back stays as it is.
pub async fn shrink(script: &Script, direct: &mut impl Route, other: &mut impl Route) -> (Script, Option<String>) {
    let (mut smallest, mut failure) = (script.clone(), None);
    let mut tries = 0;
    'smaller: while tries < SMALLER_MAX {
        for candidate in smallest.smaller() {
            tries += 1;
            for _ in 0..REPEATS {
                if let Err(error) = compare(&candidate, direct, other).await {
                    (smallest, failure) = (candidate, Some(format!("{error:#}")));
                    continue 'smaller;
                }
            }
        }
        break;
    }
    (smallest, failure)
}
