//! What the other scenarios rely on: tools in the guest, jobs side by side,
//! files, raw frames, a guest that starts anew, one that is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::report::Report;
use crate::vm::scenario::Stage;
use crate::vm::{Vm, VmConfig};

const LONG: Duration = Duration::from_secs(60);
/// How long frames may take from one end of a pair to the other.
const QUICK: Duration = Duration::from_secs(2);

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let config = VmConfig::new("guest").tools().module("veth").reboots();
    let mut vm = stage.start(config)?;
    let seconds = vm.boot_time().as_secs_f64();
    let accel = vm.accel().name();
    report.measured("vm/guest/boot with tools", true, (seconds, "s"), accel);
    for (program, version) in [
        ("ip", "-V"),
        ("tc", "-V"),
        ("bridge", "-V"),
        ("ss", "-V"),
        ("ethtool", "--version"),
        ("iperf3", "--version"),
        ("tcpdump", "--version"),
        ("uname", "-r"),
    ] {
        let said = vm.agent().run(&[program, version], LONG);
        let first = said.map(|text| text.lines().next().unwrap_or_default().to_owned());
        report.outcome(&format!("vm/guest/tool {program}"), first);
    }
    report.outcome("vm/guest/jobs side by side", jobs(&vm));
    report.outcome("vm/guest/files", files(&vm));
    report.outcome("vm/guest/frames", frames(&vm));
    let before = vm.guest_cpu_ms()?;
    report.check(
        "vm/guest/processor time",
        before > 0,
        format!("{before} ms"),
    );
    let again = vm.reboot()?.as_secs_f64();
    let uptime = vm.agent().hello().uptime_ms as f64 / 1000.0;
    let fresh = vm.agent().read_file("/kept").is_err() && uptime < again + 1.0;
    report.measured(
        "vm/guest/reboot",
        fresh,
        (again, "s"),
        format!("up for {uptime:.1} s"),
    );
    let used = vm.host_cpu_ms()?;
    report.check(
        "vm/guest/host's processor time",
        used > 0,
        format!("{used} ms"),
    );
    let agent = vm.agent().clone();
    let logs = vm.kill();
    let gone = agent.run(&["true"], LONG).is_err();
    report.check(
        "vm/guest/killed",
        gone && logs.is_dir(),
        "the agent is gone, the logs stay",
    );
    Ok(())
}

/// A job that runs, and one that waits for it, do not keep a third waiting.
fn jobs(vm: &Vm) -> Result<String> {
    let agent = vm.agent();
    let job = agent.spawn(&[
        "sh",
        "-c",
        "echo ready; read word; echo got $word; sleep 1000",
    ])?;
    agent.expect(job, "ready", 0, LONG)?;
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| agent.wait(job, LONG));
        let start = Instant::now();
        agent.input(job, "hello\n")?;
        agent.expect(job, "got hello", 0, LONG)?;
        let error = agent.exec(&["sleep", "1000"], Duration::from_millis(200));
        ensure!(error.is_err(), "a program outlived its time");
        let took = start.elapsed();
        ensure!(!waiter.is_finished(), "a wait ended before its job");
        agent.kill(job)?;
        let ended = waiter.join().ok().context("a wait panicked")??;
        ensure!(
            ended.code == 128 + 9,
            "a killed job ended with {}",
            ended.code
        );
        Ok(format!("{took:?} beside a job that is waited for"))
    })
}

fn files(vm: &Vm) -> Result<String> {
    let agent = vm.agent();
    let content: Vec<u8> = (0..9_000_000u32).map(|at| (at % 251) as u8).collect();
    agent.write_file("/kept", &content, 0o600)?;
    let sum = agent.run(&["wc", "-c", "/kept"], LONG)?;
    ensure!(sum.starts_with("9000000"), "wc says {sum}");
    agent.write_file("/kept", b"short", 0o600)?;
    ensure!(
        agent.read_file("/kept")? == b"short",
        "another content came back"
    );
    agent.write_file("/proc/sys/net/ipv4/ip_forward", b"1", 0o644)?;
    let forward = agent.read_text("/proc/sys/net/ipv4/ip_forward")?;
    ensure!(forward == "1\n", "ip_forward reads {forward:?}");
    Ok("9 MB in pieces, and a file of /proc".into())
}

/// Raw frames over a pair of virtual interfaces, one of them with a tag that
/// the kernel takes off and the capture puts back.
fn frames(vm: &Vm) -> Result<String> {
    let agent = vm.agent();
    agent.load_module("veth", "")?;
    for line in [
        "ip link add left type veth peer name right",
        "ip link set left up",
        "ip link set right up",
        "ip link add link right name right.7 type vlan id 7",
    ] {
        agent.run(&line.split(' ').collect::<Vec<_>>(), LONG)?;
    }
    agent.wait_link("left", Some(true), LONG)?;
    let frame = |tag: &[u8], mark: u8| {
        let addresses = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        [&addresses, tag, &[0x88, 0xb5], &[mark; 60]].concat()
    };
    let sent = [frame(&[], 1), frame(&[0x81, 0, 0xe0, 7], 2)];
    let capture = agent.begin_capture("right", 64)?;
    agent.send_frames("left", &sent)?;
    let seen = capture.end(QUICK)?;
    let found = sent.iter().filter(|frame| seen.contains(frame)).count();
    ensure!(
        found == sent.len(),
        "{found} of {} frames among {}",
        sent.len(),
        seen.len()
    );
    Ok(format!(
        "{found} frames as they were sent, one of them with a tag"
    ))
}
