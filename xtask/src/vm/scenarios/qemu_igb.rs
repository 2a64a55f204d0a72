//! Stock igb on QEMU's own 82576.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::vm::VmConfig;
use crate::vm::scenario::Stage;

/// Two guests with QEMU's own card, joined by a socket: a control that tells
/// a fault of this harness from one of our card.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let guest = |name: &str, local: &str, remote: &str, mac: &str| {
        let netdev = format!(
            "dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path(local),
            path(remote)
        );
        let device = format!("igb,netdev=n0,bus=rp1,mac={mac}");
        let config = VmConfig::new(name).root_port();
        stage.start(config.qemu_args(&["-netdev", &netdev, "-device", &device]))
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| guest("igb-a", "a", "b", "02:00:00:00:00:0a"));
        let second = guest("igb-b", "b", "a", "02:00:00:00:00:0b");
        let first = first
            .join()
            .unwrap_or_else(|_| bail!("starting a VM panicked"));
        (first, second)
    });
    let (first, second) = (first?, second?);
    let address = |last| Ipv4Addr::new(10, 76, 0, last);
    for (vm, last, mac) in [
        (&first, 1, "02:00:00:00:00:0a"),
        (&second, 2, "02:00:00:00:00:0b"),
    ] {
        let agent = vm.agent();
        agent.load_module("igb", "")?;
        let links = agent.links_of("igb")?;
        let link = links.first().context("igb made no interface")?;
        let name = link.name.clone();
        report.check(
            format!("vm/qemu-igb/mac/{last}"),
            link.mac == mac,
            link.mac.clone(),
        );
        agent.set_mtu(&name, 9000)?;
        agent.set_addr(&name, address(last), 24)?;
        agent.link_up(&name)?;
        agent.wait_link(&name, Some(true), Duration::from_secs(60))?;
    }
    let patience = Duration::from_secs(5);
    let pings = first.agent().ping(address(2), 5, patience, 8000)?;
    let detail = format!(
        "{} of {} answered, {:?} us",
        pings.received, pings.sent, pings.rtts_us
    );
    report.check("vm/qemu-igb/ping", pings.received == pings.sent, detail);
    second.agent().tcp_sink(5001)?;
    let bytes = 4 << 20;
    let timeout = Duration::from_secs(30);
    let tcp = first
        .agent()
        .tcp_send((address(2), 5001), bytes, timeout, 4 * timeout)?;
    let rate = tcp.received as f64 / 1048.576 / tcp.elapsed_ms.max(1) as f64;
    report.measured(
        "vm/qemu-igb/tcp",
        tcp.received == bytes,
        (rate, "MiB/s"),
        format!("{} of {bytes} bytes intact", tcp.received),
    );
    first.shutdown()?;
    second.shutdown()
}
