//! `cargo xtask`: everything that is done to this project, as one typed program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{bench, demo, inside, interop, scenarios, test, vm};

/// Run, test and measure Tandem.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a card, a mediator, a PF driver and three VF drivers; real traffic; a verdict
    Demo(demo::DemoOptions),
    /// Run every test: what CI runs
    Test(test::TestOptions),
    /// Run the scenarios over processes: kills, the closed mailbox, a PF driver that comes back
    Scenarios(scenarios::ScenarioOptions),
    /// Measure what things cost, each next to a raw peer of the same run
    Bench(bench::BenchOptions),
    /// Stock QEMU with stock kernels
    Vm(vm::VmCommand),
    /// Which PF drivers work with which VF drivers, on our card and on QEMU's igb, as a table
    Interop(interop::InteropOptions),
    /// What scenarios run inside a network namespace
    #[command(subcommand, hide = true)]
    Inside(inside::Inside),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Scenarios(options) => scenarios::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Vm(command) => vm::run(command),
        Command::Interop(options) => interop::run(&options),
        Command::Inside(what) => inside::run(&what),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
