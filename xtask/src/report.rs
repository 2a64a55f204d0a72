//! The verdict of a run: named checks, as a table for people and as JSON for scripts.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One named check of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// What was checked; stable, for scripts.
    pub name: String,
    /// Whether it held.
    pub pass: bool,
    /// What was measured, if the check measures.
    pub figure: Option<f64>,
    /// Unit of `figure`.
    pub unit: Option<String>,
    /// What was seen.
    pub detail: String,
}

/// A check that does not apply here: neither passed nor failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotApplicable {
    /// Name of the check.
    pub name: String,
    /// Why it could not be had.
    pub reason: String,
}

/// All checks of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The checks that ran, in their order.
    pub checks: Vec<Check>,
    /// Those that did not apply.
    pub not_applicable: Vec<NotApplicable>,
}

impl Report {
    /// Record a check without a figure.
    pub fn check(
        &mut self,
        name: impl Into<String>,
        pass: bool,
        detail: impl Into<String>,
    ) -> bool {
        self.record(name, pass, None, detail)
    }

    /// Record a check with what it measured.
    pub fn measured(
        &mut self,
        name: impl Into<String>,
        pass: bool,
        (figure, unit): (f64, &str),
        detail: impl Into<String>,
    ) -> bool {
        self.record(name, pass, Some((figure, unit.to_owned())), detail)
    }

    fn record(
        &mut self,
        name: impl Into<String>,
        pass: bool,
        figure: Option<(f64, String)>,
        detail: impl Into<String>,
    ) -> bool {
        let (figure, unit) = figure.unzip();
        self.checks.push(Check {
            name: name.into(),
            pass,
            figure,
            unit,
            detail: detail.into(),
        });
        pass
    }

    /// Record a check from a step that may itself have failed.
    pub fn outcome(&mut self, name: &str, outcome: anyhow::Result<String>) -> bool {
        match outcome {
            Ok(detail) => self.check(name, true, detail),
            Err(error) => self.check(name, false, format!("{error:#}")),
        }
    }

    /// Record that a check does not apply.
    pub fn not_applicable(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.not_applicable.push(NotApplicable {
            name: name.into(),
            reason: reason.into(),
        });
    }

    /// Whether every check held. A run without a check has not shown anything.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.pass)
    }

    /// The checks that did not hold.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.pass)
    }

    /// Write the report as JSON.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("encoding the report")?;
        write_creating(path, text.as_bytes())
    }

    /// Write the report as JUnit XML, one test case per check.
    pub fn write_junit(&self, name: &str, path: &Path) -> anyhow::Result<()> {
        use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
        let mut suite = TestSuite::new(name);
        for check in &self.checks {
            let status = if check.pass {
                TestCaseStatus::success()
            } else {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(check.detail.clone());
                status
            };
            suite.add_test_case(TestCase::new(check.name.clone(), status));
        }
        for skipped in &self.not_applicable {
            let mut status = TestCaseStatus::skipped();
            status.set_message(skipped.reason.clone());
            suite.add_test_case(TestCase::new(skipped.name.clone(), status));
        }
        let mut junit = Junit::new(name);
        junit.add_test_suite(suite);
        write_creating(
            path,
            junit.to_string().context("encoding JUnit")?.as_bytes(),
        )
    }
}

fn write_creating(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating the directory {}", parent.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_has_not_passed() {
        assert!(!Report::default().passed());
    }

    #[test]
    fn one_failure_fails_the_report_and_a_skip_does_not_pass_it() {
        let mut report = Report::default();
        report.not_applicable("tap", "no user namespaces");
        assert!(!report.passed());
        report.check("a", true, "");
        assert!(report.passed());
        report.outcome("b", Err(anyhow::anyhow!("broken")));
        assert!(!report.passed());
        assert_eq!(report.failures().count(), 1);
    }

    #[test]
    fn json_and_junit_name_every_check() {
        let mut report = Report::default();
        report.measured("speed", true, (2.5, "MiB/s"), "fast");
        report.check("shape", false, "bent");
        report.not_applicable("tap", "no user namespaces");
        let dir = tempfile::tempdir().unwrap();
        let (json, junit) = (dir.path().join("deep/r.json"), dir.path().join("r.xml"));
        report.write_json(&json).unwrap();
        report.write_junit("run", &junit).unwrap();
        let value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(value["checks"][0]["unit"], "MiB/s");
        assert_eq!(value["checks"][1]["pass"], false);
        assert_eq!(value["not_applicable"][0]["reason"], "no user namespaces");
        let xml = std::fs::read_to_string(junit).unwrap();
        for word in ["speed", "shape", "bent", "tap"] {
            assert!(xml.contains(word), "{word} in {xml}");
        }
    }
}
