//! Reading what `cargo test` prints: which test of which binary passed.

use crate::report::Report;

/// Collects libtest's lines into a report.
#[derive(Debug, Default)]
pub(super) struct Reader {
    binary: String,
    /// Whether any test binary reported a summary; without one nothing was tested.
    summaries: usize,
}

impl Reader {
    /// A reader of what one binary prints.
    pub(super) fn named(binary: &str) -> Self {
        Self {
            binary: binary.to_owned(),
            summaries: 0,
        }
    }

    /// Take one line of the merged output.
    pub(super) fn line(&mut self, line: &str, report: &mut Report) {
        let trimmed = line.trim();
        if let Some(rest) = trimmed.strip_prefix("Running ") {
            self.binary = binary_name(rest);
        } else if let Some(name) = trimmed.strip_prefix("Doc-tests ") {
            self.binary = format!("{name} (doc)");
        } else if trimmed.starts_with("test result: ") {
            self.summaries += 1;
        } else if let Some(rest) = trimmed.strip_prefix("test ") {
            let Some((name, outcome)) = rest.rsplit_once(" ... ") else {
                return;
            };
            let name = format!(
                "{}::{}",
                self.binary,
                name.trim_end_matches(" - should panic")
            );
            match outcome.split_whitespace().next() {
                Some("ok") => {
                    report.check(name, true, "");
                }
                Some("FAILED") => {
                    report.check(name, false, "see the test's own output");
                }
                Some(word) if word.starts_with("ignored") => {
                    report.not_applicable(name, outcome.to_owned());
                }
                _ => {}
            }
        }
    }

    /// How many test binaries ended with a summary.
    pub(super) fn summaries(&self) -> usize {
        self.summaries
    }
}

/// `unittests src/lib.rs (target/debug/deps/igb-0123)` is `igb`; `tests/x.rs (…/x-0123)` is `x`.
fn binary_name(rest: &str) -> String {
    let path = rest
        .rsplit_once('(')
        .map_or(rest, |(_, path)| path.trim_end_matches(')'));
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('-')
        .map_or(file, |(name, _)| name)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_results_with_the_name_of_their_binary() {
        let mut report = Report::default();
        let mut reader = Reader::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/igb_driver-6c2001b7c5947c0c)",
            "running 3 tests",
            "test ring::wraps ... ok",
            "test ring::lies ... FAILED",
            "test ring::panics - should panic ... ok",
            "test slow ... ignored, needs root",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured",
            "   Doc-tests igb",
            "test igb/src/lib.rs - decode (line 3) ... ok",
        ] {
            reader.line(line, &mut report);
        }
        let names: Vec<_> = report
            .checks
            .iter()
            .map(|c| (c.name.as_str(), c.pass))
            .collect();
        assert_eq!(
            names,
            [
                ("igb_driver::ring::wraps", true),
                ("igb_driver::ring::lies", false),
                ("igb_driver::ring::panics", true),
                ("igb (doc)::igb/src/lib.rs - decode (line 3)", true),
            ]
        );
        assert_eq!(report.not_applicable[0].reason, "ignored, needs root");
        assert_eq!(reader.summaries(), 1);
    }
}
