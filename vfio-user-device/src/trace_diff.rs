//! `--trace-diff A B`.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use vfio_user_device::trace::diff::{DiffOptions, Noise, compare};
use vfio_user_device::trace::{ReadTrace, TraceKind, read_file};

use crate::cli::DiffArguments;

/// Compare two traces; whether they are the same.
pub(crate) fn run(a: &Path, b: &Path, arguments: &DiffArguments) -> anyhow::Result<bool> {
    let read = |path: &Path| read_file(path).with_context(|| path.display().to_string());
    let mut noise = if arguments.strict {
        Noise::none()
    } else {
        Noise::default()
    };
    for register in &arguments.ignore {
        noise.ignore(register)?;
    }
    let options = DiffOptions {
        functions: arguments.function.clone(),
        noise,
        context: arguments.context,
    };
    let (left, right) = (read(a)?, read(b)?);
    let comparison = compare(&left, &right, &options);
    let mut out = io::stdout().lock();
    if arguments.json {
        let mut report = comparison.to_json();
        report["a"] = a.display().to_string().into();
        report["b"] = b.display().to_string().into();
        writeln!(out, "{report:#}")?;
    } else {
        writeln!(out, "A: {}", describe(a, &left))?;
        writeln!(out, "B: {}", describe(b, &right))?;
        write!(out, "{comparison}")?;
        if arguments.all {
            for (n, difference) in comparison.differences.iter().enumerate() {
                writeln!(out, "{:>4} {}", n + 1, difference.summary())?;
            }
        }
    }
    out.flush()?;
    Ok(comparison.differences.is_empty())
}

fn describe(path: &Path, trace: &ReadTrace) -> String {
    let whose = match trace.kind {
        TraceKind::Card => "",
        TraceKind::QemuIgb => ", QEMU's igb",
    };
    format!("{} ({} lines{whose})", path.display(), trace.entries.len())
}
