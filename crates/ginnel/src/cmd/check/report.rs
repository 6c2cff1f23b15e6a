//! The steps of a check and how they are printed.

use std::fmt::Write;

use ginnel_core::audit::Text;
use serde::Serialize;

use crate::cmd::{Failure, Outcome};

/// Most words of evidence that are shown: a chain of certificates with all of their names has about a hundred.
const WORDS_MAX: usize = 200;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Verdict {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// Not tried.
    Skip,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    result: Verdict,
    evidence: String,
    advice: Option<String>,
}

/// What was found so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

impl Report {
    fn add(&mut self, step: &'static str, result: Verdict, evidence: &str, advice: Option<String>) {
        // Much of the evidence is what somebody unknown has sent. Word by word, because a text of several paths or certificates is longer
        // than a field of the audit log may be, and its end is worth as much as its beginning.
        let words = evidence.split(' ').take(WORDS_MAX).map(|word| Text::new(word).as_str().to_owned());
        let evidence = words.collect::<Vec<_>>().join(" ");
        self.steps.push(Step { step, result, evidence, advice });
    }

    /// The step went as it should.
    pub(crate) fn pass(&mut self, step: &'static str, evidence: impl AsRef<str>) {
        self.add(step, Verdict::Pass, evidence.as_ref(), None);
    }

    /// The step did not go as it should; `advice` says what to do.
    pub(crate) fn fail(&mut self, step: &'static str, evidence: impl AsRef<str>, advice: impl Into<String>) {
        self.add(step, Verdict::Fail, evidence.as_ref(), Some(advice.into()));
    }

    /// The step was not tried, for this reason.
    pub(crate) fn skip(&mut self, step: &'static str, reason: impl AsRef<str>) {
        self.add(step, Verdict::Skip, reason.as_ref(), None);
    }

    /// The steps were not tried, because this one failed before.
    pub(crate) fn skip_after(&mut self, failed: &str, steps: &[&'static str]) {
        for step in steps {
            self.skip(step, format!("needs {failed}"));
        }
    }

    /// The exit code: nothing failed.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.steps.iter().any(|step| step.result == Verdict::Fail) { Outcome::No } else { Outcome::Yes }
    }

    /// The steps as a JSON array.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(&self.steps).map(|json| format!("{json}\n")).map_err(Failure::failed)
    }

    /// One line a step, and one more for what to do.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for Step { step, result, evidence, advice } in &self.steps {
            let word = match result {
                Verdict::Pass => "PASS",
                Verdict::Fail => "FAIL",
                Verdict::Skip => "SKIP",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word}  {step:<11}  {evidence}");
            if let Some(advice) = advice {
                let _ = writeln!(text, "      {:<11}  to do: {advice}", "");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_whole_and_shows_what_cannot_be_seen() {
        let mut report = Report::default();
        let long = ["/etc/ginnel/some-file"; 40].join("; ");
        report.fail("files", format!("{long} \u{1b}[2J\nPASS  forged"), "mend it");
        let text = report.text();
        assert!(text.contains(&long) && text.contains("forged"), "{text}");
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text}");
        let mut endless = Report::default();
        endless.pass("tls", "x ".repeat(100_000));
        assert!(endless.text().len() < 1_000);
    }
}
