//! A guest that attacks: every request ends with a defined verdict, the PF driver lives on, and the
//! configuration of every sibling is what it was.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use igb::pci::{self, header, msix, offset, sriov};
use igb::vf;
use mediator::limits::Limits;
use mediator_protocol::bar::{self, Command, Register as Bar};
use mediator_protocol::block::{self, Accept, Config, Features, VfRequest};
use mediator_protocol::Token;
use pf_driver::VfConfig;
use vf_driver::Status;
use vfio_user::device::region;

use crate::frames::{NO_VLAN};
use crate::raw::Raw;
use crate::rig::{PATIENCE, Rig, Setup, Station, Wiring};

const READ: u32 = Command::Read as u32;
const WRITE: u32 = Command::Write as u32;
const ABANDON: u32 = Command::Abandon as u32;

/// What a sibling is and sees. Nothing in it counts traffic or time.
#[derive(Debug, PartialEq, Eq)]
struct Sibling {
    config: VfConfig,
    granted: Config,
    registers: Vec<u32>,
    space: Vec<u8>,
    resets: u64,
}

fn sibling(rig: &mut Rig, number: u16) -> Sibling {
    let config = rig.config(number);
    let driver = rig.vf(number);
    let raw = Raw(Arc::clone(&driver.function));
    let mut registers = Vec::new();
    for (info, index) in vf::WINDOW.iter().flat_map(|info| (0..info.count).map(move |n| (info, n))) {
        // Heads, tails and counters move with traffic, and a read clears EICR and V2PMAILBOX.
        let moves = info.access != igb::Access::ReadWrite
            || ["RDH", "RDT", "TDH", "TDT", "V2PMAILBOX", "VMBMEM"].contains(&info.name);
        if !moves {
            registers.push(raw.read(region::BAR0, (info.offset + index * info.stride).into()));
        }
    }
    let mut space = vec![0; pci::CONFIG_SIZE];
    raw.0.read(region::CONFIG, 0, &mut space).expect("a read");
    let (granted, resets) = (*driver.driver.granted(), driver.driver.resets());
    Sibling { config, granted, registers, space, resets }
}

/// Three VFs with drivers, of which VF 0 attacks. Its siblings are as before, all of them reach each
/// other and the PF, and the PF driver answers.
fn unharmed(rig: &mut Rig, attack: impl FnOnce(&mut Rig, &Raw)) {
    if rig.driven().is_empty() {
        rig.start_with_drivers(3);
    }
    rig.all_reach_each_other();
    let before = [1, 2].map(|vf| sibling(rig, vf));
    let raw = Raw(Arc::clone(&rig.vf(0).function));
    attack(rig, &raw);
    let after = [1, 2].map(|vf| sibling(rig, vf));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after, "a sibling was changed");
    }
    rig.reaches(Station::Vf(1), Station::Vf(2));
    rig.reaches(Station::Vf(2), Station::Pf);
    rig.reaches(Station::Pf, Station::Vf(1));
    assert_eq!(rig.request(1, VfRequest::AddVlan(1000)), Status::Ok, "the PF serves a sibling");
}

/// Keeps the PF driver from answering until it is dropped.
struct Busy(#[expect(dead_code, reason = "hangs up when it is dropped")] Sender<()>);

fn busy_pf(rig: &Rig) -> Busy {
    let (release, wait) = channel();
    let (began, begun) = channel();
    rig.pf_begin(move |_| {
        let _ = began.send(());
        // Ends when the other side hangs up.
        let _ = wait.recv_timeout(PATIENCE);
    });
    begun.recv_timeout(PATIENCE).expect("the PF driver is there");
    Busy(release)
}

pub(super) fn lengths_out_of_bounds(rig: &mut Rig) {
    unharmed(rig, |_, raw| {
        for length in [0, 129, 256, 0x8000_0000, u32::MAX] {
            for command in [READ, WRITE] {
                assert_eq!(raw.command(command, block::CONFIG, length), Status::Invalid, "{command} {length}");
            }
        }
        // Accesses over the edge of the buffer and of the BAR.
        let mut data = [0; 64];
        assert!(raw.0.read(bar::INDEX, bar::SIZE - 4, &mut data).is_err());
        assert!(raw.0.write(bar::INDEX, bar::SIZE, &data).is_err());
        assert!(raw.0.write(bar::INDEX, u64::MAX - 3, &data).is_err());
        raw.0.write(bar::INDEX, bar::BUFFER + bar::BUFFER_SIZE - 4, &data).expect("a write");
        assert_eq!(raw.command(READ, block::CONFIG, 128), Status::Ok);
    });
}

pub(super) fn unknown_commands_and_blocks(rig: &mut Rig) {
    unharmed(rig, |_, raw| {
        for command in [0, 4, 5, 0xFF, 0x100, 0x8000_0001, u32::MAX] {
            assert_eq!(raw.command(command, block::CONFIG, 4), Status::Invalid, "{command:#x}");
        }
        for unknown in [3, 63, 65, 0x1_0000, u32::MAX] {
            for command in [READ, WRITE] {
                let status = raw.command(command, unknown, 16);
                assert!(matches!(status, Status::Unsupported | Status::Invalid | Status::Denied), "{unknown:#x}: {status:?}");
            }
        }
    });
}

pub(super) fn messages_that_lie_about_themselves(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let before = rig.config(0);
        let messages: [&[u8]; 12] = [
            // An operation that is none, and one with reserved flags or a count.
            &[0, 0, 0, 0],
            &[10, 0, 0, 0],
            &[0xFF; 128],
            &[1, 1, 0, 0],
            &[1, 0, 1, 0],
            // Too short, too long.
            &[2],
            &[2, 0, 0, 0, 2, 0, 0, 0, 0],
            &[2, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0],
            // Multicast lists whose count is not what they hold.
            &[7, 0, 21, 0, 0x33, 0x33, 0, 0, 0, 1],
            &[7, 0, 0xFF, 0xFF],
            &[7, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1],
            // A VLAN that there is not.
            &[5, 0, 0, 0, 0xFF, 0xFF],
        ];
        for message in messages {
            let status = raw.write_block(block::REQUEST, message);
            assert!(matches!(status, Status::Invalid | Status::Unsupported), "{message:x?}: {status:?}");
        }
        assert_eq!(rig.config(0), before);
    });
}

pub(super) fn a_vf_grants_itself_nothing(rig: &mut Rig) {
    rig.start_with_drivers(3);
    rig.pf(|pf| pf.set_vf_mac(0, igb::MacAddress::new([2, 0, 0, 0xAD, 0, 0]))).expect("an address");
    rig.pf(|pf| pf.set_vf_vlan(0, 40, 0)).expect("a VLAN");
    rig.wait("the VF to know", |rig| rig.vf(0).driver.granted().vlan == 40);
    // In the same VLAN, they have somebody to reach.
    rig.pf(|pf| pf.set_vf_vlan(0, 0, 0)).expect("no VLAN");
    rig.wait("the VF to know", |rig| rig.vf(0).driver.granted().vlan == 0);
    unharmed(rig, |rig, raw| {
        let before = rig.config(0);
        let config = Config { mac: [2, 9, 9, 9, 9, 9], flags: block::ConfigFlags::all(), ..Default::default() };
        assert_eq!(raw.say(block::CONFIG, &config.encode()), Status::Denied);
        assert_eq!(raw.write_block(block::STATS, &[0; 64]), Status::Denied);
        let requests = [
            VfRequest::SetMac([2, 9, 9, 9, 9, 9]),
            VfRequest::DelMac(before.mac.bytes()),
            VfRequest::SetPromisc { unicast: true, multicast: false },
            VfRequest::SetMtu(9000),
            VfRequest::SetMtu(u32::MAX),
        ];
        for request in requests {
            let status = raw.say(block::REQUEST, &request.encode());
            assert!(matches!(status, Status::Denied | Status::Invalid), "{request:?}: {status:?}");
        }
        assert_eq!(rig.config(0), before);
    });
}

pub(super) fn filters_exhausted(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let say = |request: VfRequest| raw.say(block::REQUEST, &request.encode());
        let macs: Vec<Status> = (0..40).map(|n| say(VfRequest::AddMac([2, 0, 0, 0xEE, 0, n]))).collect();
        assert!(macs.contains(&Status::Exhausted), "{macs:?}");
        assert!(macs.iter().all(|status| matches!(status, Status::Ok | Status::Exhausted)), "{macs:?}");
        let vlans: Vec<Status> = (1..60).map(|vid| say(VfRequest::AddVlan(vid))).collect();
        assert!(vlans.contains(&Status::Exhausted), "{vlans:?}");
        // Twice the same takes no second place.
        let (macs, vlans) = (rig.config(0).extra_macs, rig.config(0).vlans);
        for _ in 0..3 {
            let _ = say(VfRequest::AddMac([2, 0, 0, 0xEE, 0, 0]));
            let _ = say(VfRequest::AddVlan(1));
        }
        assert_eq!((rig.config(0).extra_macs, rig.config(0).vlans), (macs, vlans));
        // Room is left for a sibling.
        let sibling = VfRequest::AddMac([2, 0, 0, 0xEF, 0, 1]);
        assert_eq!(rig.request(1, sibling), Status::Ok);
        assert_eq!(rig.request(1, VfRequest::DelMac([2, 0, 0, 0xEF, 0, 1])), Status::Ok);
    });
}

pub(super) fn a_request_before_the_beginning(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        raw.0.reset().expect("a reset");
        let vlan = VfRequest::AddVlan(5).encode();
        assert_eq!(raw.say(block::REQUEST, &vlan), Status::Reset, "nothing is negotiated");
        assert_eq!(raw.say(block::REQUEST, &VfRequest::Init.encode()), Status::Reset);
        assert_eq!(rig.config(0).vlans, NO_VLAN);
        rig.vf(0).driver.reset().expect("a reset");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

pub(super) fn versions_are_negotiated_once(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let accept = |version, features| Accept { version, features }.encode();
        let again = accept(block::VERSION, Features::empty());
        assert_eq!(raw.say(block::CONTROL, &again), Status::Denied, "it is settled");
        assert_eq!(rig.request(0, VfRequest::AddVlan(6)), Status::Ok, "the first agreement holds");
        raw.0.reset().expect("a reset");
        for version in [0, block::VERSION + 1, u16::MAX] {
            assert_eq!(raw.say(block::CONTROL, &accept(version, Features::empty())), Status::Unsupported);
        }
        let unknown = [1, 0, 0, 0, 0, 0, 0, 0x80];
        let status = raw.write_block(block::CONTROL, &unknown);
        assert!(matches!(status, Status::Unsupported | Status::Invalid), "{status:?}");
        rig.vf(0).driver.reset().expect("a reset");
    });
}

pub(super) fn resets_on_resets(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let before = raw.bar(Bar::Generation);
        for _ in 0..20 {
            raw.0.reset().expect("a reset");
            raw.set::<vf::VTCTRL>(0, igb::PVTCTRL::RST.mask());
        }
        assert!(raw.bar(Bar::Generation) > before);
        rig.vf(0).driver.reset().expect("a reset");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

pub(super) fn ring_registers_of_nonsense(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        igb_driver::netdev::NetDevice::stop(&mut rig.vf(0).driver);
        for length in [1, 127, 0x81, 0xF_FF80, 0xFFFF_FFFF] {
            for queue in [0, 1] {
                raw.set::<vf::TXDCTL>(queue, 0);
                raw.set::<vf::RXDCTL>(queue, 0);
                raw.set::<vf::TDLEN>(queue, length);
                raw.set::<vf::RDLEN>(queue, length);
                raw.set::<vf::TDBAL>(queue, 0xFFFF_FFFF);
                raw.set::<vf::RDBAH>(queue, 0xFFFF_FFFF);
                raw.set::<vf::SRRCTL>(queue, 0xFFFF_FFFF);
                raw.set::<vf::TXDCTL>(queue, 0xFFFF_FFFF);
                raw.set::<vf::RXDCTL>(queue, 0xFFFF_FFFF);
                raw.set::<vf::TDH>(queue, 0xFFFF);
                raw.set::<vf::TDT>(queue, 0xFFFF_FFFF);
                raw.set::<vf::RDT>(queue, 0xFFFF_FFFF);
            }
            rig.reaches(Station::Vf(1), Station::Vf(2));
        }
        rig.vf(0).driver.reset().expect("a reset");
        igb_driver::netdev::NetDevice::open(&mut rig.vf(0).driver).expect("it opens");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

pub(super) fn config_space_of_nonsense(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        for at in (0..pci::EXTENDED_CONFIG_SIZE as u64).step_by(4) {
            for value in [0, u32::MAX] {
                // A VF may not exist in a size of 4 KiB.
                let _ = raw.0.write(region::CONFIG, at, &value.to_le_bytes());
            }
        }
        let sriov = u64::from(offset::SRIOV);
        let _ = raw.0.write(region::CONFIG, sriov + u64::from(sriov::NUM_VFS), &9_u16.to_le_bytes());
        let _ = raw.0.write(region::CONFIG, sriov + u64::from(sriov::CONTROL), &1_u16.to_le_bytes());
        assert_eq!(rig.num_vfs(), 3);
        let id = raw.read(region::CONFIG, header::VENDOR_ID.into());
        assert_eq!(id, u32::from(pci::VF_DEVICE_ID) << 16 | u32::from(pci::VENDOR_INTEL));
        rig.vf(0).driver.reset().expect("a reset");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

pub(super) fn interrupts_of_nonsense(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        for vector in 0..u64::from(igb::function::VF_VECTORS) {
            let entry = vector * u64::from(msix::ENTRY_SIZE);
            for (at, value) in [(msix::ENTRY_ADDRESS_LOW, 0xFEE0_0000), (msix::ENTRY_ADDRESS_HIGH, u32::MAX), (msix::ENTRY_DATA, u32::MAX), (msix::ENTRY_VECTOR_CONTROL, 0)] {
                let _ = raw.0.write(3, entry + u64::from(at), &value.to_le_bytes());
            }
        }
        for value in [0xFFFF_FFFF, 0x9F9F_9F9F, 0x8383_8383] {
            raw.set::<vf::VTIVAR>(0, value);
            raw.set::<vf::VTIVAR_MISC>(0, value);
            raw.set::<vf::VTEIMS>(0, u32::MAX);
            raw.set::<vf::VTEICS>(0, u32::MAX);
        }
        // A vector that there is not, and far too many.
        let event = iommu::interrupt::EventFd::new().expect("an eventfd");
        let fd = Some(std::os::fd::AsFd::as_fd(&event));
        assert!(raw.0.set_eventfds(vfio_user::device::irq::MSIX, 3, &[fd]).is_err());
        assert!(raw.0.set_eventfds(vfio_user::device::irq::MSIX, u32::MAX, &[fd]).is_err());
        assert!(raw.0.trigger_irqs(vfio_user::device::irq::MSIX, 2, &[true; 9]).is_err());
        rig.vf(0).driver.reset().expect("a reset");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

/// Few tokens, so that a flood meets their end.
fn narrow() -> Setup {
    let limits = Limits { requests_per_second: 5, burst: 40, ..Limits::default() };
    Setup { limits, ..Setup::default() }
}

fn start_narrow(rig: &mut Rig) {
    rig.start(narrow(), 3);
    (0..3).for_each(|vf| rig.probe(vf));
}

pub(super) fn a_flood_of_requests(rig: &mut Rig) {
    start_narrow(rig);
    unharmed(rig, |rig, raw| {
        let began = Instant::now();
        let answers: Vec<Status> = (0..1000).map(|_| raw.command(READ, block::CONFIG, 28)).collect();
        let granted = answers.iter().filter(|status| **status == Status::Ok).count();
        let limited = answers.iter().filter(|status| **status == Status::RateLimited).count();
        assert_eq!(granted + limited, answers.len(), "{answers:?}");
        // What the rate allows besides the burst, in the time that this took.
        let most = 40 + 5 * (began.elapsed().as_secs() as usize + 1);
        assert!(granted <= most, "{granted} of {most} allowed requests were granted");
        assert!(limited > 0);
        // Its siblings have their own tokens.
        assert_eq!(rig.request(2, VfRequest::AddVlan(2)), Status::Ok);
        assert_eq!(rig.request(2, VfRequest::DelVlan(2)), Status::Ok);
    });
}

/// A VF that talks nonsense for long is heard again when it has something to say.
pub(super) fn invalid_requests_silence_nobody(rig: &mut Rig) {
    start_narrow(rig);
    unharmed(rig, |rig, raw| {
        for _ in 0..500 {
            let status = raw.command(7, 0xFFFF, 500);
            assert!(matches!(status, Status::Invalid | Status::RateLimited), "{status:?}");
        }
        let raw = raw.clone();
        rig.wait("the VF to be heard again", |_| raw.command(READ, block::CONFIG, 28) == Status::Ok);
    });
}

pub(super) fn an_invalidation_storm(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let interrupts = 200;
        for n in 0..interrupts {
            rig.pf(move |pf| pf.set_vf_rate(0, 1 + n % 7)).expect("a rate");
        }
        rig.pf(|pf| pf.set_vf_rate(0, 500)).expect("a rate");
        rig.wait("the VF to know the last of all", |rig| rig.vf(0).driver.granted().max_tx_rate == 500);
        let pending = (raw.bar(Bar::InvalidatedLo), raw.bar(Bar::InvalidatedHi));
        assert_eq!((pending.0 & !(1 << block::CONFIG), pending.1), (0, 0), "blocks that did not change");
        rig.pf(|pf| pf.set_vf_rate(0, 0)).expect("no limit");
        rig.wait("the VF to know", |rig| rig.vf(0).driver.granted().max_tx_rate == 0);
    });
}

/// The PF driver answers what was given up when something else waits already.
pub(super) fn a_late_answer_is_not_mistaken(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let before = rig.config(0);
        let busy = busy_pf(rig);
        raw.0.write(bar::INDEX, bar::BUFFER, &VfRequest::AddVlan(66).encode()).expect("a write");
        raw.start(WRITE, block::REQUEST, VfRequest::AddVlan(66).encode().len() as u32);
        assert!(raw.status().is_busy());
        raw.set_bar(Bar::Command, ABANDON);
        assert_eq!(raw.verdict(), Status::TimedOut);
        raw.start(READ, block::CONFIG, 28);
        assert!(raw.status().is_busy(), "the first answer is not there either");
        drop(busy);
        assert_eq!(raw.verdict(), Status::Ok);
        let mut data = [0; 28];
        raw.0.read(bar::INDEX, bar::BUFFER, &mut data).expect("a read");
        assert_eq!(Config::parse(&data).map(|config| config.mac), Ok(before.mac.bytes()), "another request's answer");
        rig.wait("the late success to be taken back", |rig| rig.config(0) == before);
    });
}

pub(super) fn a_reset_ends_what_is_outstanding(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let generation = raw.bar(Bar::Generation);
        let busy = busy_pf(rig);
        let message = VfRequest::AddVlan(67).encode();
        raw.0.write(bar::INDEX, bar::BUFFER, &message).expect("a write");
        raw.start(WRITE, block::REQUEST, message.len() as u32);
        assert!(raw.status().is_busy());
        raw.0.reset().expect("a reset");
        assert_eq!(raw.verdict(), Status::Reset);
        assert!(raw.bar(Bar::Generation) > generation);
        drop(busy);
        rig.vf(0).driver.reset().expect("a reset");
        assert_eq!(rig.config(0).vlans, NO_VLAN, "a request of the old generation was granted in the new one");
        rig.reaches(Station::Vf(0), Station::Pf);
    });
}

pub(super) fn teardown_ends_what_is_outstanding(rig: &mut Rig) {
    unharmed(rig, |rig, raw| {
        let busy = busy_pf(rig);
        raw.start(READ, block::CONFIG, 28);
        assert!(raw.status().is_busy());
        rig.mediator().revoke(0).expect("a VF on the bus");
        // Whoever still gets through to it is told; afterwards there is nothing to read.
        let mut data = [0; 4];
        if raw.0.read(bar::INDEX, Bar::Status.offset(), &mut data).is_ok() {
            let status = bar::StatusRegister(u32::from_le_bytes(data));
            assert!(!status.is_busy() || data == [0xFF; 4], "{status:?}");
        }
        drop(busy);
        rig.wait("the VF driver to notice", |rig| igb_driver::netdev::NetDevice::gone(&rig.vf(0).driver));
        rig.remove(0);
    });
}

pub(super) fn eject_before_set_up_is_done(rig: &mut Rig) {
    rig.start(Setup::default(), 0);
    for _ in 0..10 {
        rig.pf(|pf| pf.sriov_configure(3)).expect("three VFs");
        // Wherever the mediator is with it.
        rig.pf(|pf| pf.eject_vf(0, Duration::from_millis(1))).expect("an eject");
        assert!(rig.mediator().wait_absent(0, PATIENCE));
        (1..3).for_each(|vf| rig.probe(vf));
        rig.reaches(Station::Vf(1), Station::Vf(2));
        (1..3).for_each(|vf| rig.remove(vf));
        rig.sriov_configure(0);
    }
}

pub(super) fn a_pf_driver_without_the_token(rig: &mut Rig) {
    unharmed(rig, |rig, _| {
        for token in [Token::ABSENT, Token([0xA5; 32])] {
            let mut channel = rig.pf_channel(token);
            let end = Instant::now() + PATIENCE;
            while !channel.is_refused() {
                let _ = channel.attempt();
                while channel.poll().is_some() {}
                assert!(!channel.is_ready(), "accepted with {token:?}");
                assert!(Instant::now() < end, "no refusal");
                std::thread::yield_now();
            }
        }
        assert!(rig.pf(|pf| pf.channel_ready()), "the true one lost its place");
    });
}

/// Somebody connects and stops in the middle of a message.
pub(super) fn half_a_message(rig: &mut Rig) {
    unharmed(rig, |rig, _| {
        if rig.wiring() != Wiring::Sockets {
            // There is only the PF's side to connect to.
            let mut stream = rig.mediator().connect_pf().expect("a connection");
            stream.write_all(&[0x81]).expect("a byte");
            assert_eq!(rig.request(0, VfRequest::AddVlan(3)), Status::Ok);
            return;
        }
        let mut streams = Vec::new();
        for socket in ["card/vf1.sock", "guests/vf1.sock", "card/pf.sock", "mediator.sock"] {
            let mut stream = UnixStream::connect(rig.path(socket)).expect("a connection");
            stream.write_all(&[1, 0, 1]).expect("three bytes");
            streams.push(stream);
        }
        rig.reaches(Station::Vf(0), Station::Vf(1));
        assert_eq!(rig.request(0, VfRequest::AddVlan(3)), Status::Ok);
    });
}
