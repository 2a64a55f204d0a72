//! What must hold between the stations.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Found;
use super::world::{At, CHANGE_LIMIT, Wiring, World, cable_end, eventually};
use crate::inside::{TEST_ETHERTYPE, hex};
use crate::rig::CALL_LIMIT;

const VF0: At = At::Vf(0);
const VF1: At = At::Vf(1);
const PINGS: u64 = 3;
const BROADCAST: [u8; 6] = [0xFF; 6];
const DRIVERS: [At; 3] = [At::Pf, VF0, VF1];

pub(super) fn interfaces_follow(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mut seen = Vec::new();
    for at in DRIVERS {
        let info = world.info(at)?;
        let link = world.link(at)?;
        ensure!(
            link["address"] == info["mac"] && link["mtu"] == info["mtu"],
            "{at}: the kernel has {} and MTU {}, the driver {} and {}",
            link["address"],
            link["mtu"],
            info["mac"],
            info["mtu"]
        );
        eventually(&format!("{at} has a carrier"), || world.carrier(at))?;
        seen.push(format!("{at} {} MTU {}", info["mac"], info["mtu"]));
    }
    Ok(seen.join(", "))
}

pub(super) fn pings(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    for from in At::ALL {
        for to in At::ALL.into_iter().filter(|to| *to != from) {
            let replies = world.ping(from, to, 56)?;
            ensure!(
                replies == PINGS,
                "{from} to {to}: {replies} of {PINGS} replies"
            );
        }
    }
    Ok("each to each".to_owned())
}

pub(super) fn files(world: &mut World, found: &mut Found<'_>) -> anyhow::Result<String> {
    let pairs = [
        (VF0, VF1),
        (VF0, At::Uplink),
        (VF0, At::Pf),
        (At::Pf, At::Uplink),
    ];
    let mut said = Vec::new();
    for (one, other) in pairs {
        for (from, to) in [(one, other), (other, one)] {
            let rate = world.send_to(from, to)?;
            let name = format!("TCP {from} to {to}");
            found.measured(
                &name,
                (rate, "MiB/s"),
                "the kernel's TCP, one file".to_owned(),
            );
            said.push(format!("{from}-{to} {rate:.0}"));
        }
    }
    Ok(format!("MiB/s: {}", said.join(", ")))
}

/// After the files: the card inserted checksums, and no stack found a wrong one.
pub(super) fn offloads(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mut said = Vec::new();
    for at in DRIVERS {
        let count = |name| world.counter(at, name);
        let (checksums, splits, verified) =
            (count("tx_csum")?, count("tx_tso")?, count("rx_csum_valid")?);
        ensure!(checksums > 0, "{at}: the card inserted no checksum");
        ensure!(splits > 0, "{at}: the card split nothing");
        for lost in ["tx_unsplit", "tx_not_taken", "host_refused"] {
            let lost_here = count(lost)?;
            ensure!(lost_here == 0, "{at}: {lost} is {lost_here}");
        }
        said.push(format!(
            "{at} {checksums} checksums, {splits} split, {verified} verified"
        ));
    }
    for at in At::ALL {
        let errors = checksum_errors(world, at)?;
        ensure!(errors == 0, "{at}'s stack found {errors} wrong checksums");
    }
    Ok(said.join("; "))
}

/// Segments that a station's TCP found with a wrong checksum.
fn checksum_errors(world: &World, at: At) -> anyhow::Result<u64> {
    let text = world.namespace(at).run("cat", &["/proc/net/snmp"])?;
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next().context("names")?, tcp.next().context("values")?);
    let column = names.split(' ').position(|name| name == "InCsumErrors");
    let value = values.split(' ').nth(column.context("InCsumErrors")?);
    Ok(value.context("a value")?.parse()?)
}

/// Packets (received, sent) in a JSON object of the kernel's, the driver's or the card's.
type Packets = (u64, u64);

fn packets(value: &Value, received: &str, sent: &str) -> anyhow::Result<Packets> {
    let count = |pointer: &str| {
        let found = value.pointer(pointer).and_then(Value::as_u64);
        found.with_context(|| format!("no {pointer} in {value}"))
    };
    Ok((count(received)?, count(sent)?))
}

pub(super) fn statistics(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mut said = Vec::new();
    for (vf, at) in [(0, VF0), (1, VF1)] {
        let mut last = String::new();
        let agreed = eventually("the counts agree", || {
            let kernel = |link: &Value| packets(link, "/stats64/rx/packets", "/stats64/tx/packets");
            let before = kernel(&world.link(at)?)?;
            let stats = world.driver(at, &json!({"op": "stats"}))?;
            let driver = packets(&stats, "/counters/rx_packets", "/counters/tx_packets")?;
            let segments = world.counter(at, "tx_tso")?;
            let stats = world
                .rig
                .card_control()
                .call(&json!({"op": "stats"}), CALL_LIMIT)?;
            let name = format!("vf{vf}");
            let functions = stats["functions"].as_array().context("functions")?;
            let own = functions
                .iter()
                .find(|function| function["function"] == name);
            let card = packets(own.context("the VF")?, "/rx_packets", "/tx_packets")?;
            let after = kernel(&world.link(at)?)?;
            last = format!("{at}: kernel {after:?}, driver {driver:?}, card {card:?} (rx, tx)");
            // The card counts each segment, kernel and driver what was to be split.
            let sent =
                after.1 == driver.1 && (card.1 == driver.1 || segments > 0 && card.1 > driver.1);
            Ok(before == after && after.0 == driver.0 && driver.0 == card.0 && sent)
        });
        agreed.with_context(|| last.clone())?;
        said.push(last);
    }
    Ok(said.join("; "))
}

fn request(world: &World, at: At, what: &str, value: &str) -> anyhow::Result<()> {
    let request = json!({"op": "request", "what": what, "value": value});
    let answer = world.driver(at, &request)?;
    ensure!(
        answer["status"] == "ok",
        "{at} asked for {what} {value}: {answer}"
    );
    Ok(())
}

pub(super) fn kernel_vlan(world: &mut World, found: &mut Found<'_>) -> anyhow::Result<String> {
    for (at, address) in [(VF0, "10.9.100.3/24"), (VF1, "10.9.100.4/24")] {
        request(world, at, "vlan", "100")?;
        let station = world.station(at);
        let (link, name) = (station.interface, format!("{}.100", station.interface));
        let add = [
            "link", "add", "link", link, "name", &name, "type", "vlan", "id", "100",
        ];
        if let Err(error) = station.namespace.ip(&add) {
            let said = format!("{error:#}");
            if said.contains("Unknown device type") || said.contains("not supported") {
                return found.not_applicable(format!("this kernel has no 8021q: {said}"));
            }
            return Err(error);
        }
        station
            .namespace
            .ip(&["addr", "add", address, "dev", &name])?;
        station.namespace.ip(&["link", "set", "dev", &name, "up"])?;
    }
    let replies = world.ping_address(VF0, "10.9.100.4", &[])?;
    ensure!(
        replies == PINGS,
        "{replies} of {PINGS} replies inside the VLAN"
    );
    let rate = world.send(VF0, "10.9.100.4")?;
    for (at, name) in [(VF0, "vf0.100"), (VF1, "vf1.100")] {
        world.namespace(at).ip(&["link", "del", "dev", name])?;
    }
    Ok(format!("ping, and a file at {rate:.0} MiB/s"))
}

/// A test frame, tagged or not, with a byte that tells it from others.
fn test_frame(to: [u8; 6], from: [u8; 6], vlan: Option<u16>, mark: u8) -> Vec<u8> {
    let mut frame = [to, from].concat();
    if let Some(vlan) = vlan {
        frame.extend_from_slice(&[0x81, 0]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    frame.extend_from_slice(&TEST_ETHERTYPE.to_be_bytes());
    // Long enough that nobody pads it.
    frame.resize(100, mark);
    frame
}

pub(super) fn tagged_frames(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    for at in [VF0, VF1] {
        request(world, at, "vlan", "100")?;
    }
    let frame = test_frame(world.mac(VF1)?, world.mac(VF0)?, Some(100), 1);
    let watch = world.watch(VF1, 1)?;
    world.raw(VF0, &frame)?;
    let seen = watch.frames()?;
    ensure!(seen == [hex(&frame)], "VF1 saw {seen:?}");
    let to_wire = test_frame(BROADCAST, world.mac(VF0)?, Some(100), 2);
    let watch = world.watch(At::Uplink, 1)?;
    world.raw(VF0, &to_wire)?;
    let seen = watch.frames()?;
    ensure!(seen == [hex(&to_wire)], "the uplink saw {seen:?}");
    let from_wire = test_frame(world.mac(VF1)?, world.mac(At::Uplink)?, Some(100), 3);
    let watch = world.watch(VF1, 1)?;
    world.raw(At::Uplink, &from_wire)?;
    let seen = watch.frames()?;
    ensure!(
        seen == [hex(&from_wire)],
        "VF1 saw {seen:?} from the uplink"
    );
    for at in [VF0, VF1] {
        request(world, at, "del-vlan", "100")?;
    }
    Ok("VF0 to VF1, VF0 to uplink, uplink to VF1".to_owned())
}

pub(super) fn port_vlan(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    for vf in ["0", "1"] {
        world.rig.pf_ctl(&["vf", vf, "vlan", "200"])?;
    }
    world.reaches(VF0, VF1)?;
    let out = ["--count", "1", "--timeout-ms", "500"];
    let replies = world.ping_address(VF0, world.station(At::Uplink).address, &out)?;
    ensure!(replies == 0, "VF0 still reaches the uplink");
    let untagged = test_frame(BROADCAST, world.mac(VF0)?, None, 4);
    let (on_wire, at_vf) = (world.watch(At::Uplink, 1)?, world.watch(VF1, 1)?);
    world.raw(VF0, &untagged)?;
    let (on_wire, at_vf) = (on_wire.frames()?, at_vf.frames()?);
    let tagged = test_frame(BROADCAST, world.mac(VF0)?, Some(200), 4);
    // The tag is put in: the frame on the wire is longer than what was sent.
    ensure!(
        on_wire.len() == 1 && on_wire[0].starts_with(&hex(&tagged)),
        "the uplink saw {on_wire:?}"
    );
    ensure!(at_vf == [hex(&untagged)], "VF1 saw {at_vf:?}");
    for vf in ["0", "1"] {
        world.rig.pf_ctl(&["vf", vf, "vlan", "0"])?;
    }
    world.reaches(VF0, At::Uplink)?;
    Ok("VLAN 200 between the VFs, tagged on the wire alone".to_owned())
}

pub(super) fn spoofchk(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let not_its_own = [0x02, 0, 0, 0, 0, 0x99];
    let spoofed = test_frame(world.mac(VF1)?, not_its_own, None, 5);
    let honest = test_frame(world.mac(VF1)?, world.mac(VF0)?, None, 6);
    for (state, expected) in [("on", &honest), ("off", &spoofed)] {
        world.rig.pf_ctl(&["vf", "0", "spoofchk", state])?;
        world.reaches(VF0, VF1)?;
        let watch = world.watch(VF1, 1)?;
        // Frames keep their order: the first that arrives tells.
        world.raw(VF0, &spoofed)?;
        world.raw(VF0, &honest)?;
        let seen = watch.frames()?;
        ensure!(
            seen == [hex(expected)],
            "with spoofchk {state} VF1 saw {seen:?}"
        );
    }
    world.rig.pf_ctl(&["vf", "0", "spoofchk", "on"])?;
    Ok("a frame under another address is dropped, then passes".to_owned())
}

pub(super) fn link_state(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    world.rig.pf_ctl(&["vf", "0", "state", "disable"])?;
    eventually("VF0's interface loses its carrier", || {
        Ok(!world.carrier(VF0)?)
    })?;
    ensure!(world.carrier(VF1)?, "VF1's interface lost its carrier too");
    world.rig.pf_ctl(&["vf", "0", "state", "auto"])?;
    eventually("VF0's interface gets its carrier back", || {
        world.carrier(VF0)
    })?;
    world.reaches(VF0, VF1)?;
    Ok("for VF0 alone".to_owned())
}

pub(super) fn jumbo(world: &mut World, found: &mut Found<'_>) -> anyhow::Result<String> {
    for at in [VF0, VF1] {
        request(world, at, "mtu", "9000")?;
        let interface = match world.wiring {
            Wiring::Tap => world.station(at).interface.to_owned(),
            Wiring::Packet => {
                world.configure(at)?;
                cable_end(world.station(at).interface)
            }
        };
        eventually(&format!("{interface} has MTU 9000"), || {
            let shown = world
                .namespace(at)
                .ip(&["link", "show", "dev", &interface])?;
            Ok(shown.contains("mtu 9000"))
        })?;
    }
    world.reaches(VF0, VF1)?;
    for (from, to) in [(VF0, VF1), (VF1, VF0), (VF0, At::Pf)] {
        let replies = world.ping(from, to, 8900)?;
        ensure!(
            replies == PINGS,
            "{from} to {to}: {replies} of {PINGS} replies of 8900 bytes"
        );
    }
    let rate = world.send_to(VF0, VF1)?;
    found.measured(
        "TCP VF0 to VF1, MTU 9000",
        (rate, "MiB/s"),
        "the kernel's TCP".to_owned(),
    );
    // To where the MTU is 1500.
    world.send_to(VF0, At::Uplink)?;
    Ok(format!("pings of 8900 bytes, TCP {rate:.0} MiB/s"))
}

pub(super) fn driver_restart(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mac = world.mac(VF0)?;
    world.rig.vf(0)?.crash()?;
    if world.wiring == Wiring::Tap {
        eventually("the carrier goes with the driver", || {
            Ok(!world.carrier(VF0)?)
        })?;
    }
    world.rig.start_vf(0)?;
    world.configure(VF0)?;
    eventually("the carrier is back", || world.carrier(VF0))?;
    world.reaches(VF0, VF1)?;
    ensure!(world.mac(VF0)? == mac, "the address changed");
    let rate = world.send_to(VF1, VF0)?;
    Ok(format!("the same address, and a file at {rate:.0} MiB/s"))
}

pub(super) fn interface_down(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let namespace = world.namespace(VF1).clone();
    let before = world.counter(VF1, "host_down")?;
    namespace.ip(&["link", "set", "dev", "vf1", "down"])?;
    let once = ["--count", "2", "--timeout-ms", "300"];
    let replies = world.ping_address(VF0, world.station(VF1).address, &once)?;
    ensure!(replies == 0, "an interface that is down answered");
    let lost = world.counter(VF1, "host_down")? - before;
    // The end of a cable cannot tell that the other end is down.
    ensure!(
        lost > 0 || world.wiring == Wiring::Packet,
        "no loss was counted"
    );
    namespace.ip(&["link", "set", "dev", "vf1", "up"])?;
    world.reaches(VF0, VF1)?;
    Ok(format!("{lost} frames counted, then it is reached again"))
}

pub(super) fn interface_removed(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mark = world.rig.vf(1)?.mark();
    world.namespace(VF1).ip(&["link", "del", "dev", "vf1"])?;
    let driver = world.rig.vf(1)?;
    let status = driver.wait(CHANGE_LIMIT)?;
    ensure!(!status.success(), "the driver ended with {status}");
    let said = driver.wait_for_line(mark, "was removed", CHANGE_LIMIT)?;
    world.make_interface(VF1)?;
    world.rig.start_vf(1)?;
    world.configure(VF1)?;
    world.reaches(VF0, VF1)?;
    Ok(said.trim().to_owned())
}

pub(super) fn uplink_removed(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    let mark = world.rig.card()?.mark();
    world
        .namespace(At::Uplink)
        .ip(&["link", "del", "dev", "up0"])?;
    let card = world.rig.card()?;
    card.wait_for_line(mark, "was removed", CHANGE_LIMIT)?;
    let pid = card.pid();
    let before = cpu_ticks(pid)?;
    // Two seconds in which the card has next to nothing to do.
    let unanswered = ["--count", "2", "--timeout-ms", "1000"];
    let replies = world.ping_address(VF0, "10.9.0.1", &unanswered)?;
    let ticks = cpu_ticks(pid)? - before;
    ensure!(replies == 0, "the uplink answered");
    ensure!(ticks < 40, "the card was busy for {ticks} ticks of 200");
    world.reaches(VF0, VF1)?;
    Ok(format!("{ticks} ticks of 200, and VF0 reaches VF1"))
}

/// Hundredths of a second that a process has been running for.
fn cpu_ticks(pid: nix::unistd::Pid) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may have spaces in it. Then come the state, ten numbers, and the two.
    let (_, rest) = stat.rsplit_once(") ").context("a name")?;
    let times = rest.split(' ').skip(11).take(2);
    times.map(|time| Ok(time.parse::<u64>()?)).sum()
}

pub(super) fn end(world: &mut World, _: &mut Found<'_>) -> anyhow::Result<String> {
    world.rig.stop_all()?;
    Ok("every program ended with 0".to_owned())
}
