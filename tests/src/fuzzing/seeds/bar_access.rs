//! What drivers of the functions do with registers, rings and memory.

use igb::descriptor::{ContextOptions, L4Type, RxRead, TxCommand, TxContext, TxData, TxOptions};
use igb::pci::{express, offset};
use igb::register::RegisterId;
use igb::{FunctionId, MacAddress, Value};

use super::{Seeds, config_operation, named};
use crate::fuzzing::bar_access::{pf_write, vf_write};
use crate::fuzzing::card::{RX_RING, TX_RING};

fn begin(vfs: u8) -> Vec<u8> {
    vec![2 | vfs << 4]
}

fn memory(function: FunctionId, at: u16, bytes: &[u8]) -> Vec<u8> {
    [
        &[11, function.slot() as u8],
        &at.to_le_bytes()[..],
        &[bytes.len() as u8],
        bytes,
    ]
    .concat()
}

fn ring(function: FunctionId, queue: u8) -> Vec<u8> {
    vec![5, function.slot() as u8, queue]
}

const RUN: [u8; 1] = [6];

fn frame(to: MacAddress, from: MacAddress) -> Vec<u8> {
    let mut frame = [to.bytes(), from.bytes()].concat();
    frame.extend([0x88, 0xB5]);
    frame.resize(60, 0x5A);
    frame
}

/// A transmit descriptor for the frame at 0x3000, and receive descriptors.
fn transmit(function: FunctionId, frame: &[u8], address: u64) -> Vec<u8> {
    let command = TxCommand::EOP | TxCommand::RS | TxCommand::IFCS;
    let [low, high] = TxData::new(address, frame.len() as u16, command)
        .with_payload_length(frame.len() as u32)
        .raw();
    let descriptor = [low.to_le_bytes(), high.to_le_bytes()].concat();
    [
        memory(function, TX_RING as u16, &descriptor),
        memory(function, 0x3000, frame),
    ]
    .concat()
}

/// A context, and a transmit descriptor of `length` bytes at 0x3000 that is carried out by it; the
/// frame begins with `header`.
fn by_context(
    function: FunctionId,
    context: TxContext,
    (length, payload): (u16, u32),
    command: TxCommand,
    header: &[u8],
) -> Vec<u8> {
    let command = TxCommand::EOP | TxCommand::RS | TxCommand::IFCS | command;
    let data = TxData::new(0x3000, length, command)
        .with_payload_length(payload)
        .with_options(TxOptions::IXSM | TxOptions::TXSM);
    let descriptors = [context.raw(), data.raw()].concat();
    let descriptors: Vec<u8> = descriptors.into_iter().flat_map(u64::to_le_bytes).collect();
    [
        memory(function, TX_RING as u16, &descriptors),
        memory(function, 0x3000, header),
    ]
    .concat()
}

fn receive(function: FunctionId) -> Vec<u8> {
    let mut descriptors = Vec::new();
    for n in 0..8 {
        let [packet, head] = RxRead::new(0x2800 + 0x100 * n, 0).raw();
        descriptors.extend(packet.to_le_bytes());
        descriptors.extend(head.to_le_bytes());
    }
    memory(function, RX_RING as u16, &descriptors)
}

/// Seeds of [`crate::fuzzing::bar_access`].
pub fn bar_access() -> Seeds {
    let (pf, vf0, vf1) = (FunctionId::PF, FunctionId::vf(0), FunctionId::vf(1));
    let (a, b) = (
        MacAddress::new([2, 0, 0, 0, 0, 0x10]),
        MacAddress::new([2, 0, 0, 0, 0, 0x11]),
    );
    let both = [receive(vf1), ring(vf1, 0), ring(vf0, 0)].concat();
    let send = |bytes: &[u8], address| {
        [
            begin(2),
            both.clone(),
            transmit(vf0, bytes, address),
            ring(vf0, 0),
            RUN.to_vec(),
        ]
        .concat()
    };
    let offload = |context, lengths, command| {
        let broadcast = frame(MacAddress::new([0xFF; 6]), a);
        [
            begin(2),
            pf_write::<igb::DTXCTL>(0, Value::RESET.set(igb::DTXCTL::MDP_EN)),
            both.clone(),
            by_context(vf0, context, lengths, command, &broadcast),
            ring(vf0, 0),
            RUN.to_vec(),
            RUN.to_vec(),
        ]
        .concat()
    };
    let cut = |kind, length, mss| {
        TxContext::new(0, 14, 20)
            .with_options(ContextOptions::IPV4)
            .with_l4(kind, length)
            .with_mss(mss)
    };
    let (tse, none) = (TxCommand::TSE, TxCommand::empty());
    let doorbell = |value| vf_write(0, RegisterId::TDT, 0, value);
    let flr = config_operation(
        1,
        vf0,
        offset::EXPRESS + express::DEVICE_CONTROL,
        &express::INITIATE_FLR.to_le_bytes(),
    );
    let mut seeds = named([
        ("empty", begin(0)),
        ("bring-up", [begin(7), RUN.to_vec()].concat()),
        (
            "broadcast",
            send(&frame(MacAddress::new([0xFF; 6]), a), 0x3000),
        ),
        ("unicast", send(&frame(b, a), 0x3000)),
        (
            "multicast",
            send(&frame(MacAddress::new([0x33, 0x33, 0, 0, 0, 1]), a), 0x3000),
        ),
        (
            "pause",
            send(&frame(MacAddress::new([1, 0x80, 0xC2, 0, 0, 1]), a), 0x3000),
        ),
        ("dma-outside", send(&frame(b, a), 0x4000_0000)),
        ("dma-edge", send(&frame(b, a), 0x3FFF)),
        ("dma-msi", send(&frame(b, a), 0xFEE0_0000)),
        ("runt", send(&[1, 2, 3], 0x3000)),
        (
            "tail-out-of-range",
            [begin(2), both.clone(), doorbell(u32::MAX), RUN.to_vec()].concat(),
        ),
        (
            "ring-length-huge",
            [
                begin(2),
                vf_write(0, RegisterId::TDLEN, 0, u32::MAX),
                vf_write(0, RegisterId::TXDCTL, 0, 1 << 25),
                doorbell(7),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "ring-length-odd",
            [
                begin(2),
                vf_write(0, RegisterId::RDLEN, 0, 0x81),
                vf_write(0, RegisterId::RXDCTL, 0, 1 << 25),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "ring-garbage",
            [
                begin(2),
                ring(vf0, 0),
                memory(vf0, TX_RING as u16, &[0xFF; 255]),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "segmentation-tcp",
            offload(cut(L4Type::Tcp, 20, 1000), (0xF00, 0xF00 - 54), tse),
        ),
        (
            "segmentation-udp",
            offload(
                cut(L4Type::Udp, 8, 300),
                (1000, 1000 - 42),
                tse | TxCommand::VLE,
            ),
        ),
        (
            "segmentation-mss-1",
            offload(cut(L4Type::Tcp, 20, 1), (0xF00, 0xF00 - 54), tse),
        ),
        (
            "segmentation-mss-0",
            offload(cut(L4Type::Tcp, 20, 0), (0xF00, 0xF00 - 54), tse),
        ),
        (
            "segmentation-paylen",
            offload(cut(L4Type::Tcp, 20, 100), (60, (1 << 18) - 1), tse),
        ),
        (
            "checksum-sctp",
            offload(cut(L4Type::Sctp, 12, 0), (200, 200), none),
        ),
        (
            "uplink",
            [
                begin(2),
                both.clone(),
                vec![7],
                60u16.to_le_bytes().to_vec(),
                frame(b, a),
            ]
            .concat(),
        ),
        (
            "mailbox",
            [
                vec![3 | 2 << 4],
                vf_write(0, RegisterId::V2PMAILBOX, 0, 4),
                vf_write(0, RegisterId::VMBMEM, 0, 1),
                vf_write(0, RegisterId::V2PMAILBOX, 0, 1),
                pf_write::<igb::P2VMAILBOX>(0, Value::from_raw(8)),
                pf_write::<igb::P2VMAILBOX>(0, Value::from_raw(3)),
            ]
            .concat(),
        ),
        (
            "mailbox-closed",
            [
                begin(2),
                vf_write(0, RegisterId::VMBMEM, 3, 0x5A5A_5A5A),
                vf_write(0, RegisterId::V2PMAILBOX, 0, 5),
            ]
            .concat(),
        ),
        (
            "ctrl-rst",
            [
                begin(2),
                both.clone(),
                vf_write(0, RegisterId::PVTCTRL, 0, 1 << 26),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "flr",
            [begin(2), both.clone(), vec![1, 1, 0], flr, RUN.to_vec()].concat(),
        ),
        (
            "pf-reset",
            [
                begin(2),
                both.clone(),
                pf_write::<igb::CTRL>(0, Value::default().set(igb::CTRL::RST)),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "vfs-off-in-flight",
            [
                begin(2),
                both.clone(),
                transmit(vf0, &frame(b, a), 0x3000),
                vec![12, 0],
                RUN.to_vec(),
            ]
            .concat(),
        ),
        (
            "interrupts",
            [
                begin(2),
                vf_write(0, RegisterId::VTIVAR, 0, 0x8180),
                vf_write(0, RegisterId::PVTEIMS, 0, 7),
                vf_write(0, RegisterId::PVTEICS, 0, 7),
                vf_write(0, RegisterId::EITR, 0, 0x7FFC),
                vec![8],
                1_000_000u32.to_le_bytes().to_vec(),
            ]
            .concat(),
        ),
        (
            "msix-table",
            [begin(2), vec![1, 1, 1, 0, 0, 0, 0, 16], vec![0xFE; 16]].concat(),
        ),
        (
            "pf-traffic",
            [
                begin(0),
                receive(pf),
                ring(pf, 0),
                transmit(pf, &frame(b, a), 0x3000),
                ring(pf, 0),
                RUN.to_vec(),
            ]
            .concat(),
        ),
        ("link", [begin(2), vec![9, 0], vec![9, 1]].concat()),
    ]);
    for (n, id) in [
        RegisterId::PVTEIAC,
        RegisterId::PVTEIAM,
        RegisterId::PVTEIMC,
        RegisterId::SRRCTL,
        RegisterId::PSRTYPE,
    ]
    .into_iter()
    .enumerate()
    {
        seeds.push((
            format!("vf-register-{n}"),
            [begin(3), vf_write(2, id, 0, u32::MAX)].concat(),
        ));
    }
    seeds
}
