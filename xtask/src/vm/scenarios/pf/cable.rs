//! Two guests on one cable, ours on the PF and a peer on QEMU's own igb: for what the kernel of this
//! machine may lack, VLANs for one. No privileges are needed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::report::Report;
use crate::rig::{Rig, RigOptions};
use crate::vm::scenario::Stage;
use crate::vm::{Vm, VmConfig};

const VID: u16 = 100;
const ADDRESSES: [&str; 2] = ["10.85.0.1", "10.85.0.2"];
const TAGGED: [&str; 2] = ["10.86.0.1", "10.86.0.2"];
const LIMIT: Duration = Duration::from_secs(60);

pub(in super::super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let wire = folder.path().join("wire").display().to_string();
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 0,
        policy: json!({}),
        capture: false,
        card_arguments: vec!["--uplink".into(), format!("unix:{wire}")],
    })?;
    rig.start_card()?;
    let ours = VmConfig::new("pf-cable").tools();
    let ours = ours.vfio_user(&rig.nic().join("pf.sock"))?;
    let netdev = format!(
        "dgram,id=n0,local.type=unix,local.path={wire}.peer,remote.type=unix,remote.path={wire}"
    );
    let device = "igb,netdev=n0,bus=rp1,mac=02:00:00:00:00:77";
    let peer = VmConfig::new("pf-cable-peer").tools().root_port();
    let peer = peer.qemu_args(&["-netdev", &netdev, "-device", device]);
    let guests = [stage.start(ours)?, stage.start(peer)?];
    let names = [set_up(&guests[0], 0)?, set_up(&guests[1], 1)?];
    let ping = |address: &str, size| -> Result<String> {
        let pings = guests[0].agent().ping(address.parse()?, 4, LIMIT, size)?;
        ensure!(
            pings.received == pings.sent,
            "{} of {}",
            pings.received,
            pings.sent
        );
        Ok(format!(
            "{} answered, {:?} us",
            pings.received, pings.rtts_us
        ))
    };
    report.outcome("vm/pf-cable/ping", ping(ADDRESSES[1], 56));
    for (n, guest) in guests.iter().enumerate() {
        guest.agent().add_vlan(&names[n], VID, "tagged")?;
        let address = format!("{}/24", TAGGED[n]);
        let run = |words: &[&str]| guest.agent().run(words, LIMIT);
        run(&["ip", "addr", "add", &address, "dev", "tagged"])?;
        run(&["ip", "link", "set", "tagged", "up"])?;
    }
    report.outcome("vm/pf-cable/VLAN", ping(TAGGED[1], 1472));
    report.outcome("vm/pf-cable/VLAN tags", tags(&guests, &names));
    // Without hardware's help, in and out, the same frames pass.
    let set = |value: &str| {
        let words = ["ethtool", "-K", &names[0], "rxvlan", value];
        guests[0].agent().run(&words, LIMIT)?;
        guests[0].agent().wait_link(&names[0], Some(true), LIMIT)
    };
    let name = "vm/pf-cable/VLAN without rxvlan and txvlan";
    report.outcome(name, set("off").and_then(|_| ping(TAGGED[1], 1472)));
    set("on")?;
    guests[0]
        .agent()
        .run(&["ip", "link", "del", "tagged"], LIMIT)?;
    let gone = strangers(&guests, &names);
    report.outcome("vm/pf-cable/VLAN filter", gone);
    for guest in guests {
        guest.shutdown()?;
    }
    rig.stop_all()
}

fn set_up(vm: &Vm, n: usize) -> Result<String> {
    let agent = vm.agent();
    agent.load_module("igb", "")?;
    let links = agent.links_of("igb")?;
    let name = links.first().context("igb made no interface")?.name.clone();
    agent.set_addr(&name, ADDRESSES[n].parse()?, 24)?;
    agent.link_up(&name)?;
    agent.wait_link(&name, Some(true), LIMIT)?;
    Ok(name)
}

/// A frame with the tag of our VLAN from the peer to our guest.
fn tagged(guests: &[Vm; 2], names: &[String; 2]) -> Result<Vec<u8>> {
    let mac = |n: usize| -> Result<Vec<u8>> {
        let link = guests[n].agent().wait_link(&names[n], None, LIMIT)?;
        link.mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).context("a MAC address"))
            .collect()
    };
    let mut frame = [mac(0)?, mac(1)?].concat();
    frame.extend_from_slice(&[0x81, 0, 0, VID as u8, 0x88, 0xB5]);
    frame.resize(64, 0x5A);
    Ok(frame)
}

/// How many frames from the peer's raw socket our guest sees.
fn arriving(guests: &[Vm; 2], names: &[String; 2], frame: &[u8]) -> Result<usize> {
    let capture = guests[0].agent().begin_capture(&names[0], 256)?;
    let frames = vec![frame.to_vec(); 5];
    guests[1].agent().send_frames(&names[1], &frames)?;
    let seen = capture.end(Duration::from_secs(3))?;
    Ok(seen.iter().filter(|seen| *seen == frame).count())
}

/// A tag that hardware has taken out is told to the kernel.
fn tags(guests: &[Vm; 2], names: &[String; 2]) -> Result<String> {
    let seen = arriving(guests, names, &tagged(guests, names)?)?;
    ensure!(seen == 5, "{seen} of 5 arrived with their tag");
    Ok("5 of 5 with their tag".into())
}

/// A VLAN that the guest has left is filtered.
fn strangers(guests: &[Vm; 2], names: &[String; 2]) -> Result<String> {
    let seen = arriving(guests, names, &tagged(guests, names)?)?;
    ensure!(seen == 0, "{seen} of 5 arrived after the VLAN was left");
    Ok("none arrives after the VLAN was left".into())
}
