//! A guest's comings and goings: its driver reloaded, the guest rebooted, its QEMU killed and another
//! one in its place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use igb::Register;
use serde_json::json;

use super::guest::{Guest, IPERF_PORT, LINK_LIMIT, QUICK};
use super::world::{LEFT, LEFT_MAC, NAMELESS, RIGHT, World, until};
use crate::report::Report;
use crate::rig::vf_address;

const RELOADS: usize = 10;
const SETTLE: Duration = Duration::from_secs(20);

/// `modprobe -r igbvf; modprobe igbvf`, again and again.
pub(super) fn reloads(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let begin = Instant::now();
    let mut left = world.left.take().context("the left guest is not running")?;
    let outcome = (1..=RELOADS).try_for_each(|round| {
        let again = || -> Result<()> {
            left.unload()?;
            left.load()?;
            left.set_up(0, &vf_address(LEFT))?;
            let has = left.link(0)?.mac;
            ensure!(has == LEFT_MAC, "the guest has {has}");
            left.reaches(&vf_address(RIGHT), LINK_LIMIT).map(drop)
        };
        let mut again = again;
        again().with_context(|| format!("round {round}"))
    });
    world.left = Some(left);
    report.outcome(
        &format!("vm/vf/igbvf reloaded {RELOADS} times"),
        outcome.map(|()| format!("{:.1?}", begin.elapsed())),
    );
    Ok(())
}

/// The guest reboots; its VF begins anew.
pub(super) fn reboot(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let mut left = world.left.take().context("the left guest is not running")?;
    let again = (|| -> Result<String> {
        let took = left.vm.reboot()?;
        left.log_is_new();
        left.load()?;
        left.set_up(0, &vf_address(LEFT))?;
        left.serve_iperf()?;
        left.reaches(&vf_address(RIGHT), LINK_LIMIT)?;
        Ok(format!("after {took:.1?}"))
    })();
    world.left = Some(left);
    report.outcome("vm/vf/guest rebooted", again);
    Ok(())
}

/// SIGKILL in mid traffic, and another tenant on the same sockets, who finds nothing of the first.
pub(super) fn killed(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left.take().context("the left guest is not running")?;
    // What the old tenant leaves behind: groups, a VLAN, an address of its own, counters, traffic.
    left.vm.agent().load_module("8021q", "")?;
    let interface = left.interface(0)?;
    left.ip(&format!(
        "link add link {interface} name vlan100 type vlan id 100"
    ))?;
    left.ip(&format!("maddress add 01:00:5e:7f:00:55 dev {interface}"))?;
    world.set(LEFT, "trust", "on")?;
    left.ip(&format!(
        "link set dev {interface} address 02:82:57:60:0c:01"
    ))?;
    world.set(LEFT, "trust", "off")?;
    let words = [
        "iperf3",
        "-c",
        &vf_address(RIGHT),
        "-p",
        IPERF_PORT,
        "-t",
        "60",
    ];
    left.vm.agent().spawn(&words)?;
    let before = sent(world)?;
    until("traffic flows", SETTLE, || {
        Ok(sent(world)? > before + 100_000)
    })
    .or_else(|_| -> Result<()> {
        // Its address was taken back with the trust, so the card may drop what it sends.
        ensure!(
            world.drops("vf0", "spoofed-mac")? > 0,
            "the guest sends nothing at all"
        );
        Ok(())
    })?;
    drop(left.vm.kill());
    until("the mediator sees the guest go", SETTLE, || {
        Ok(!attached(world, LEFT)?)
    })?;
    let config = world.config(LEFT)?;
    report.check(
        "vm/vf/killed guest leaves nothing with the PF driver",
        config["vlans"] == json!([])
            && config["multicast"] == 0
            && config["extra_macs"] == json!([])
            && config["mac"] == LEFT_MAC
            && config["phase"] == "reset",
        config.to_string(),
    );
    let next = Guest::boot(world.stage, "next", &world.left_sockets())?;
    let remains = remains(&next);
    report.outcome("vm/vf/next tenant sees nothing of the one before", remains);
    let mut next = next;
    next.load()?;
    let has = next.link(0)?.mac;
    next.set_up(0, &vf_address(LEFT))?;
    next.serve_iperf()?;
    world.right()?.ip("neigh flush all")?;
    let reached = next.reaches(&vf_address(RIGHT), LINK_LIMIT);
    let statistics = next.link(0)?.statistics;
    let few = statistics["tx_packets"] < 100 && statistics["rx_packets"] < 100;
    report.check(
        "vm/vf/next tenant works, with fresh statistics",
        has == LEFT_MAC && reached.is_ok() && few,
        format!(
            "{has}; {reached:?}; {} packets sent, {} received",
            statistics["tx_packets"], statistics["rx_packets"]
        ),
    );
    world.left = Some(next);
    Ok(())
}

fn sent(world: &World<'_>) -> Result<u64> {
    Ok(world.vf_stats(LEFT)?["tx_bytes"].as_u64().unwrap_or(0))
}

pub(super) fn attached(world: &World<'_>, vf: u16) -> Result<bool> {
    Ok(slot(world, vf)?["attached"] == true)
}

/// What `mediator ctl list` has of a slot.
pub(super) fn slot(world: &World<'_>, vf: u16) -> Result<serde_json::Value> {
    let listed = world.rig.mediator_ctl(&["list"])?;
    let slots = listed["slots"].as_array().context("no slots are listed")?;
    let found = slots.iter().find(|slot| slot["slot"] == vf).cloned();
    found.with_context(|| format!("slot {vf} is not listed"))
}

/// Registers of a VF that show what a tenant did, read by hand before any driver is loaded. Word
/// offsets in BAR0.
fn remains(guest: &Guest) -> Result<String> {
    let bar = Bar::of(guest, 0)?;
    let mut looked = 0;
    let mut found = Vec::new();
    let mut see = |name: &str, offset: u32| -> Result<()> {
        looked += 1;
        let value = bar.read(offset)?;
        if value != 0 {
            found.push(format!("{name} at {offset:#x} reads {value:#x}"));
        }
        Ok(())
    };
    for n in 0..igb::mailbox::WORDS as u32 {
        see("VMBMEM", igb::vf::VMBMEM::offset(n))?;
    }
    for (name, offset) in [
        ("RDBAL", igb::vf::RDBAL::offset(0)),
        ("RDBAH", igb::vf::RDBAH::offset(0)),
        ("RDLEN", igb::vf::RDLEN::offset(0)),
        ("RDH", igb::vf::RDH::offset(0)),
        ("RDT", igb::vf::RDT::offset(0)),
        ("TDBAL", igb::vf::TDBAL::offset(0)),
        ("TDBAH", igb::vf::TDBAH::offset(0)),
        ("TDLEN", igb::vf::TDLEN::offset(0)),
        ("TDH", igb::vf::TDH::offset(0)),
        ("TDT", igb::vf::TDT::offset(0)),
        ("VFGPRC", igb::vf::VFGPRC::offset(0)),
        ("VFGPTC", igb::vf::VFGPTC::offset(0)),
        ("VFGORC", igb::vf::VFGORC::offset(0)),
        ("VFGOTC", igb::vf::VFGOTC::offset(0)),
        ("VFMPRC", igb::vf::VFMPRC::offset(0)),
    ] {
        see(name, offset)?;
    }
    ensure!(found.is_empty(), "{}", found.join(", "));
    Ok(format!(
        "{looked} registers of queues, mailbox and statistics read 0"
    ))
}

/// A VF's BAR0 through /dev/mem, while no driver has it.
pub(super) struct Bar<'a> {
    guest: &'a Guest,
    base: u64,
}

impl<'a> Bar<'a> {
    /// Of the guest's VF number `n`, which no driver may have.
    pub(super) fn of(guest: &'a Guest, n: usize) -> Result<Self> {
        let functions = guest.vm.agent().pci()?;
        let mut vfs: Vec<_> = functions
            .into_iter()
            .filter(|f| (f.vendor, f.device) == (igb::pci::VENDOR_INTEL, igb::pci::VF_DEVICE_ID))
            .collect();
        vfs.sort_by(|a, b| a.address.cmp(&b.address));
        let vf = vfs.get(n).context("the guest does not see the VF")?;
        ensure!(
            vf.driver.is_none(),
            "{} belongs to {:?}",
            vf.address,
            vf.driver
        );
        let folder = format!("/sys/bus/pci/devices/{}", vf.address);
        let agent = guest.vm.agent();
        agent.write_file(&format!("{folder}/enable"), b"1", 0o644)?;
        let resources = agent.read_text(&format!("{folder}/resource"))?;
        let first = resources.split_whitespace().next().unwrap_or_default();
        let base = u64::from_str_radix(first.trim_start_matches("0x"), 16)
            .with_context(|| format!("BAR0 of {} is at {first:?}", vf.address))?;
        ensure!(base != 0, "BAR0 of {} has no address", vf.address);
        Ok(Self { guest, base })
    }

    fn devmem(&self, offset: u32, value: Option<u32>) -> Result<String> {
        let address = format!("{:#x}", self.base + u64::from(offset));
        let value = value.map(|value| format!("{value:#x}"));
        let mut words = vec!["devmem", &address, "32"];
        words.extend(value.as_deref());
        self.guest.vm.agent().run(&words, QUICK)
    }

    pub(super) fn read(&self, offset: u32) -> Result<u32> {
        let text = self.devmem(offset, None)?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .with_context(|| format!("devmem printed {text:?}"))
    }

    pub(super) fn write(&self, offset: u32, value: u32) -> Result<()> {
        self.devmem(offset, Some(value)).map(drop)
    }
}

/// A guest that speaks the mailbox by hand: what igbvf never asks for.
pub(super) fn by_hand(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left.take().context("the left guest is not running")?;
    let outcome = by_hand_checks(world, &left, report);
    let mut left = left;
    left.load()?;
    left.set_up(0, &vf_address(LEFT))?;
    world.left = Some(left);
    outcome
}

fn by_hand_checks(world: &World<'_>, left: &Guest, report: &mut Report) -> Result<()> {
    use igb::mailbox::{PfReply, VfMessage};
    left.unload()?;
    let bar = Bar::of(left, 1)?;
    let ask = |message: VfMessage| -> Result<PfReply> {
        let v2p = igb::vf::V2PMAILBOX::offset(0);
        bar.write(v2p, igb::V2PMAILBOX::VFU.mask())?;
        for (n, word) in (0..).zip(message.encode()).take(3) {
            bar.write(igb::vf::VMBMEM::offset(n), word)?;
        }
        bar.write(v2p, igb::V2PMAILBOX::REQ.mask())?;
        until("the mailbox answers", SETTLE, || {
            Ok(bar.read(v2p)? & igb::V2PMAILBOX::PFSTS.mask() != 0)
        })?;
        let mut words = [0; igb::mailbox::WORDS];
        for (n, word) in (0..).zip(&mut words).take(3) {
            *word = bar.read(igb::vf::VMBMEM::offset(n))?;
        }
        bar.write(v2p, igb::V2PMAILBOX::ACK.mask())?;
        Ok(PfReply::parse(&words)?)
    };
    let promisc = |unicast, multicast| VfMessage::SetPromisc { unicast, multicast };
    let begun = ask(VfMessage::Reset)?;
    report.check(
        "vm/vf/by hand: a VF without an address is told so",
        begun == PfReply::ResetNack,
        format!("{begun:?}"),
    );
    let unicast = ask(promisc(true, false))?;
    let multicast = ask(promisc(false, true))?;
    let shown = world.config(NAMELESS)?;
    report.check(
        "vm/vf/by hand: promiscuous refused without trust, all multicast granted",
        matches!(unicast, PfReply::Nack { .. })
            && matches!(multicast, PfReply::Ack { .. })
            && shown["promisc_unicast"] == false
            && shown["promisc_multicast"] == true,
        format!("{unicast:?}, {multicast:?}"),
    );
    world.set(NAMELESS, "trust", "on")?;
    let trusted = ask(promisc(true, true));
    let shown = world.config(NAMELESS);
    world.set(NAMELESS, "trust", "off")?;
    let after = world.config(NAMELESS)?["promisc_unicast"].clone();
    let (trusted, shown) = (trusted?, shown?);
    report.check(
        "vm/vf/by hand: promiscuous granted by trust and taken back with it",
        matches!(trusted, PfReply::Ack { .. })
            && shown["promisc_unicast"] == true
            && after == false,
        format!("{trusted:?}; after trust was taken away: {after}"),
    );
    Ok(())
}
