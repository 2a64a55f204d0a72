//! Named runs of VMs: each bounded in time, with its logs quoted where it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::accel::Accel;
use super::fetch::{FetchArgs, ensure_fetched};
use super::initramfs::build_static;
use super::layout::{Installation, VmDir};
use super::logs;
use super::machine::{Handle, Vm, VmConfig};
use super::packages::NotHere;
pub use super::scenarios::SCENARIOS;
use crate::report::Report;

/// How long a smoke scenario may take.
const SMOKE_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long any other may take.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// What a scenario is given.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Where QEMU and kernel lie.
    pub dir: &'a VmDir,
    /// QEMU and kernel.
    pub installation: &'a Installation,
    /// What `--accel` said.
    pub accel: Option<Accel>,
    /// Where the project's programs lie, for scenarios with a card.
    pub programs: &'a Path,
    guests: Mutex<Vec<Handle>>,
    over: AtomicBool,
}

impl<'a> Stage<'a> {
    /// A stage on which nothing runs yet.
    pub fn new(dir: &'a VmDir, installation: &'a Installation, programs: &'a Path) -> Self {
        Self {
            dir,
            installation,
            accel: None,
            programs,
            guests: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Starts a VM.
    pub fn start(&self, config: VmConfig) -> Result<Vm> {
        let config = VmConfig {
            accel: config.accel.or(self.accel),
            // The scenario may fail after the VM has ended well.
            keep_logs: true,
            ..config
        };
        Vm::start_observed(self.dir, self.installation, &config, |handle| {
            self.observe(handle)
        })
    }

    fn observe(&self, guest: Handle) -> Result<()> {
        let mut guests = self.guests.lock().expect("no holder panics");
        guests.push(guest);
        if self.over.load(Ordering::SeqCst) {
            bail!("the time of this scenario is over");
        }
        Ok(())
    }

    /// A command that runs a tool of the guest, `iperf3` for one, on this
    /// machine.
    pub fn host_tool(&self, name: &str) -> Result<Command> {
        self.installation.host_tool(self.dir, name)
    }

    /// Kills every VM of this stage, and lets no other start.
    fn end(&self) {
        let guests = self.guests.lock().expect("no holder panics");
        self.over.store(true, Ordering::SeqCst);
        for guest in guests.iter() {
            guest.kill();
        }
    }

    /// The logs that VMs have left.
    fn logs(&self) -> Vec<PathBuf> {
        let guests = self.guests.lock().expect("no holder panics");
        let mut folders: Vec<_> = guests.iter().map(|guest| guest.logs.clone()).collect();
        folders.retain(|folder| folder.is_dir());
        folders
    }
}

/// Our programs that run in guests, too.
const GUEST_PROGRAMS: [&str; 3] = ["pf-driver", "vf-driver", "mediator"];

/// A named run.
#[derive(Debug)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Whether every run of the tests has it, or only the full one.
    pub smoke: bool,
    /// Runs it; an error is a scenario that could not be carried through.
    pub run: fn(&Stage<'_>, &mut Report) -> Result<()>,
}

impl Scenario {
    /// How long it may take; then its VMs are killed.
    pub fn limit(&self) -> Duration {
        if self.smoke { SMOKE_LIMIT } else { LIMIT }
    }
}

/// The scenario called `name`.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let known = || {
        SCENARIOS
            .iter()
            .map(|s| s.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario is called {name:?}; there are: {}", known()))
}

/// Runs `scenario` within its time. What kept it from its end is a check that
/// failed, or one that does not apply if the reason is [`NotHere`].
pub fn run(scenario: &Scenario, stage: &Stage<'_>) -> Report {
    run_within(scenario, stage, scenario.limit())
}

fn run_within(scenario: &Scenario, stage: &Stage<'_>, limit: Duration) -> Report {
    let mut report = Report::default();
    let began = Instant::now();
    let (done, ended) = mpsc::channel::<()>();
    let outcome = thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                stage.end();
            }
        });
        let outcome = (scenario.run)(stage, &mut report);
        drop(done);
        outcome
    });
    let late = stage.over.load(Ordering::SeqCst);
    if late {
        report.check(
            format!("vm/{}/time", scenario.name),
            false,
            format!("not done after {} s: its VMs were killed", limit.as_secs()),
        );
    }
    if let Err(error) = outcome {
        let name = format!("vm/{}", scenario.name);
        match error.downcast_ref::<NotHere>() {
            Some(_) if !late => report.not_applicable(name, format!("{error:#}")),
            _ => {
                report.check(name, false, format!("{error:#}"));
            }
        }
    }
    let folders = stage.logs();
    match report.checks.iter_mut().rfind(|check| !check.pass) {
        Some(failed) => {
            for folder in folders {
                let evidence = logs::evidence(&folder);
                // An error of a VM that did not start has quoted them.
                if !failed.detail.contains(&evidence) {
                    failed.detail.push_str(&format!("\n{evidence}"));
                }
            }
        }
        None => {
            for folder in folders {
                // Left behind it is only in the way.
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
    let (failed, seconds) = (report.failures().count(), began.elapsed().as_secs());
    println!(
        "vm {}: {} checks, {failed} failed, {} do not apply ({seconds} s)",
        scenario.name,
        report.checks.len(),
        report.not_applicable.len()
    );
    report
}

/// Fetches what is missing and runs the smoke scenarios, or all, with the
/// project's programs of the folder `programs`.
pub fn run_all(programs: &Path, full: bool, filter: &str) -> Report {
    let mut report = Report::default();
    let fetched = VmDir::locate().and_then(|dir| {
        let installation = ensure_fetched(&dir, &FetchArgs::default())?;
        Ok((dir, installation))
    });
    match fetched {
        Ok((dir, installation)) => {
            let chosen: Vec<_> = SCENARIOS
                .iter()
                .filter(|scenario| full || scenario.smoke)
                .filter(|scenario| filter_matches(filter, scenario.name))
                .collect();
            // Not in the time of the scenario that happens to need them first.
            if filter.is_empty() {
                for program in GUEST_PROGRAMS {
                    if let Err(error) = build_static(program) {
                        report.check(format!("vm/static {program}"), false, format!("{error:#}"));
                    }
                }
            }
            let run =
                |scenario: &&Scenario| run(scenario, &Stage::new(&dir, &installation, programs));
            for part in side_by_side(&chosen, at_once(), run) {
                report.checks.extend(part.checks);
                report.not_applicable.extend(part.not_applicable);
            }
        }
        Err(error) if error.is::<NotHere>() => {
            report.not_applicable("vm", format!("{error:#}"));
        }
        Err(error) => {
            report.check(
                "vm/fetch",
                false,
                format!("{error:#}; --no-vm leaves VMs out"),
            );
        }
    }
    report
}

/// Whether any scenario is meant by `filter`.
pub fn any_matches(filter: &str) -> bool {
    SCENARIOS
        .iter()
        .any(|scenario| filter_matches(filter, scenario.name))
}

/// Whether `filter` is part of `vm/NAME`, or NAME's name of one of its checks.
fn filter_matches(filter: &str, name: &str) -> bool {
    let whole = format!("vm/{name}");
    whole.contains(filter) || filter.starts_with(&format!("{whole}/"))
}

/// A scenario keeps two processors busy: a guest, and a card or another guest.
fn at_once() -> usize {
    thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 4))
}

/// `work` of all `items`, at most `at_once` of them at a time; results in the
/// order of the items.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let result = work(item);
                    done.lock().expect("no holder panics").push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::machine::tests::{HELLO, MONITOR, fake};

    #[test]
    fn names_are_unique_and_unknown_ones_list_the_known() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[at + 1..]
                    .iter()
                    .all(|other| other.name != scenario.name)
            );
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        assert!(find("nothere").unwrap_err().to_string().contains("boot"));
    }

    #[test]
    fn a_filter_names_a_scenario_or_one_of_its_checks() {
        for filter in ["", "vm", "igbvf", "vm/igbvf", "vm/igbvf/ping"] {
            assert!(filter_matches(filter, "igbvf"), "{filter}");
        }
        for filter in ["vm/igb/ping", "demo", "vm/igbvfx"] {
            assert!(!filter_matches(filter, "igbvf"), "{filter}");
        }
    }

    #[test]
    fn results_keep_their_order_and_no_more_run_than_may() {
        let running = AtomicUsize::new(0);
        let items: Vec<usize> = (0..20).collect();
        let results = side_by_side(&items, 2, |item| {
            assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            item * 2
        });
        assert!(
            results
                .iter()
                .enumerate()
                .all(|(at, &result)| result == at * 2)
        );
        assert!(side_by_side(&[0usize; 0], 2, |item| *item).is_empty());
    }

    const fn scenario(run: fn(&Stage<'_>, &mut Report) -> Result<()>) -> Scenario {
        Scenario {
            name: "test",
            about: "",
            smoke: true,
            run,
        }
    }

    /// A VM of the stage that asks its guest for something and waits.
    fn ask(stage: &Stage<'_>, _: &mut Report) -> Result<()> {
        let config = VmConfig::new("test");
        let vm = Vm::launch_observed(
            stage.dir,
            stage.installation,
            &config,
            Accel::Tcg,
            &Default::default(),
            |handle| stage.observe(handle),
        )?;
        vm.agent().pci().map(drop)
    }

    #[test]
    fn a_guest_that_never_answers_is_killed_when_the_time_is_over_and_quoted() {
        let script = format!("{MONITOR}; {HELLO}; echo 'the last words' >&2; exec sleep 1000");
        let (_temp, dir, installation) = fake(&script);
        let stage = Stage::new(&dir, &installation, Path::new("/"));
        let report = run_within(&scenario(ask), &stage, Duration::from_secs(3));
        let names: Vec<_> = report.failures().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["vm/test/time", "vm/test"]);
        let detail = &report.checks[1].detail;
        assert!(
            detail.contains("gone") && detail.contains("the last words"),
            "{detail}"
        );
        assert!(stage.start(VmConfig::new("late")).is_err());
    }

    #[test]
    fn what_cannot_be_had_here_is_neither_passed_nor_failed() {
        let (_temp, dir, installation) = fake("exit 1");
        let stage = Stage::new(&dir, &installation, Path::new("/"));
        let run = |_: &Stage<'_>, _: &mut Report| {
            Err::<(), _>(NotHere("no apt-get".into())).context("put tools into the guest")
        };
        let report = run_within(&scenario(run), &stage, LIMIT);
        assert!(report.checks.is_empty());
        assert!(report.not_applicable[0].reason.contains("no apt-get"));
    }
}
