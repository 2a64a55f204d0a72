//! Inputs that fuzzing begins with: for each target what well-behaved software does, and the entries
//! of the attack catalogue that fit it.

use igb::descriptor::{ContextOptions, L4Type, RxRead, TxCommand, TxContext, TxData, TxOptions};
use igb::mailbox::VfMessage;
use igb::pci::{express, header, msix, offset, sriov};
use igb::register::RegisterId;
use igb::{FunctionId, MacAddress, Value};
use mediator_protocol::block::{
    Accept, Config, ConfigFlags, Control, Features, MulticastList, Stats, VERSION, VfRequest,
};
use mediator_protocol::{
    BlockData, Frame, FromPf, MailboxWords, PfFeatures, RefuseReason, Reply, ReplyBody, Request,
    RequestBody, ResetCause, Status, ToPf, Token,
};
use vfio_user::wire::{
    Capabilities, DmaMap, DmaUnmap, Header, HeaderFlags, IrqInfo, RegionAccess, RegionInfo,
    SetIrqs, VersionBody, command,
};
use zerocopy::IntoBytes;

use super::bar_access::{pf_write, vf_write};
use super::card::{RX_RING, TX_RING};
use super::vfio_user_stream::{CLIENT, SERVER, SERVER_AFTER_VERSION};

type Seeds = Vec<(String, Vec<u8>)>;

fn named<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Seeds {
    seeds
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

// ---- vfio-user ----

fn message(id: u16, number: u16, flags: HeaderFlags, body: &[u8]) -> Vec<u8> {
    [
        Header::command(id, number, body.len(), flags).as_bytes(),
        body,
    ]
    .concat()
}

fn reply(id: u16, number: u16, body: &[u8]) -> Vec<u8> {
    let asked = Header::command(id, number, 0, HeaderFlags::empty());
    [asked.reply(body.len()).as_bytes(), body].concat()
}

/// One call to send: descriptors, length, bytes.
fn chunk(fds: u8, bytes: &[u8]) -> Vec<u8> {
    [&[fds], &(bytes.len() as u16).to_le_bytes()[..], bytes].concat()
}

fn version() -> Vec<u8> {
    [
        VersionBody { major: 0, minor: 0 }.as_bytes(),
        &Capabilities::own(8).encode(),
    ]
    .concat()
}

fn map(size: u64, file_offset: u64) -> Vec<u8> {
    let argsz = size_of::<DmaMap>() as u32;
    DmaMap {
        argsz,
        flags: 3,
        offset: file_offset,
        address: 0x1_0000,
        size,
    }
    .as_bytes()
    .to_vec()
}

fn unmap(flags: u32, size: u64) -> Vec<u8> {
    let argsz = size_of::<DmaUnmap>() as u32;
    DmaUnmap {
        argsz,
        flags,
        address: 0x1_0000,
        size,
    }
    .as_bytes()
    .to_vec()
}

fn access(offset: u64, region: u32, count: u32, data: &[u8]) -> Vec<u8> {
    [
        RegionAccess {
            offset,
            region,
            count,
        }
        .as_bytes(),
        data,
    ]
    .concat()
}

fn irqs(flags: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let argsz = (size_of::<SetIrqs>() + data.len()) as u32;
    [
        SetIrqs {
            argsz,
            flags,
            index: 2,
            start,
            count,
        }
        .as_bytes(),
        data,
    ]
    .concat()
}

/// Seeds of [`super::vfio_user_stream`].
pub fn vfio_user_stream() -> Seeds {
    let none = HeaderFlags::empty();
    let requests: &[(&str, u8, u16, Vec<u8>)] = &[
        (
            "device-info",
            0,
            command::DEVICE_GET_INFO,
            [16u32, 0, 0, 0].as_bytes().to_vec(),
        ),
        (
            "region-info",
            0,
            command::DEVICE_GET_REGION_INFO,
            RegionInfo {
                argsz: 64,
                ..Default::default()
            }
            .as_bytes()
            .to_vec(),
        ),
        (
            "irq-info",
            0,
            command::DEVICE_GET_IRQ_INFO,
            IrqInfo {
                argsz: 16,
                index: 2,
                ..Default::default()
            }
            .as_bytes()
            .to_vec(),
        ),
        (
            "region-read",
            0,
            command::REGION_READ,
            access(0, 7, 64, &[]),
        ),
        (
            "region-write",
            0,
            command::REGION_WRITE,
            access(4, 0, 4, &[1, 2, 3, 4]),
        ),
        (
            "region-edge",
            0,
            command::REGION_READ,
            access(u64::MAX, 0, 2, &[]),
        ),
        (
            "region-huge",
            0,
            command::REGION_READ,
            access(0, 0, u32::MAX, &[]),
        ),
        (
            "region-no-such",
            0,
            command::REGION_READ,
            access(0, 77, 4, &[]),
        ),
        (
            "region-write-short",
            0,
            command::REGION_WRITE,
            access(0, 0, 8, &[1]),
        ),
        ("dma-map", 1, command::DMA_MAP, map(0x1000, 0)),
        ("dma-map-message", 0, command::DMA_MAP, map(0x1000, 0)),
        ("dma-map-two-fds", 2, command::DMA_MAP, map(0x1000, 0)),
        ("dma-map-wraps", 1, command::DMA_MAP, map(u64::MAX, 0)),
        (
            "dma-map-file-wraps",
            1,
            command::DMA_MAP,
            map(0x1000, u64::MAX),
        ),
        ("dma-map-empty", 1, command::DMA_MAP, map(0, 0)),
        ("dma-unmap", 0, command::DMA_UNMAP, unmap(0, 0x1000)),
        (
            "dma-unmap-all",
            0,
            command::DMA_UNMAP,
            unmap(DmaUnmap::ALL, 0),
        ),
        (
            "dma-unmap-dirty",
            0,
            command::DMA_UNMAP,
            unmap(DmaUnmap::DIRTY, 0x1000),
        ),
        (
            "irqs-eventfds",
            3,
            command::DEVICE_SET_IRQS,
            irqs(SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER, 0, 3, &[]),
        ),
        (
            "irqs-disable",
            0,
            command::DEVICE_SET_IRQS,
            irqs(SetIrqs::DATA_NONE | SetIrqs::ACTION_TRIGGER, 0, 0, &[]),
        ),
        (
            "irqs-bools",
            0,
            command::DEVICE_SET_IRQS,
            irqs(SetIrqs::DATA_BOOL | SetIrqs::ACTION_MASK, 1, 2, &[1, 0]),
        ),
        (
            "irqs-count",
            0,
            command::DEVICE_SET_IRQS,
            irqs(
                SetIrqs::DATA_NONE | SetIrqs::ACTION_TRIGGER,
                u32::MAX,
                u32::MAX,
                &[],
            ),
        ),
        (
            "irqs-fds-missing",
            1,
            command::DEVICE_SET_IRQS,
            irqs(SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER, 0, 3, &[]),
        ),
        ("reset", 0, command::DEVICE_RESET, Vec::new()),
        ("version-twice", 0, command::VERSION, version()),
        ("unknown", 0, 0x7777, vec![0; 8]),
    ];
    let mut seeds = Seeds::new();
    let mut all = vec![SERVER_AFTER_VERSION];
    for (n, (name, fds, number, body)) in requests.iter().enumerate() {
        let bytes = chunk(*fds, &message(n as u16, *number, none, body));
        if !matches!(*number, command::VERSION) {
            all.extend(&bytes);
        }
        seeds.push((
            (*name).into(),
            [&[SERVER_AFTER_VERSION], &bytes[..]].concat(),
        ));
    }
    seeds.push(("everything".into(), all));
    let posted = message(
        1,
        command::REGION_WRITE,
        HeaderFlags::NO_REPLY,
        &access(0, 0, 4, &[0; 4]),
    );
    let split = posted.split_at(9);
    let broken_size = [
        1u16.as_bytes(),
        4u16.as_bytes(),
        u32::MAX.as_bytes(),
        &[0; 8],
    ]
    .concat();
    let bytes = |mode: u8, chunks: &[Vec<u8>]| [&[mode], &chunks.concat()[..]].concat();
    seeds.extend(named([
        (
            "posted-split",
            bytes(
                SERVER_AFTER_VERSION,
                &[chunk(0, split.0), chunk(0, split.1)],
            ),
        ),
        (
            "size-huge",
            bytes(SERVER_AFTER_VERSION, &[chunk(0, &broken_size)]),
        ),
        (
            "reply-to-nothing",
            bytes(
                SERVER_AFTER_VERSION,
                &[chunk(0, &reply(5, command::DMA_READ, &[0; 24]))],
            ),
        ),
        (
            "truncated",
            bytes(SERVER_AFTER_VERSION, &[chunk(0, &posted[..20])]),
        ),
        ("fds-19", bytes(SERVER_AFTER_VERSION, &[chunk(19, &posted)])),
        (
            "version",
            bytes(
                SERVER,
                &[chunk(0, &message(0, command::VERSION, none, &version()))],
            ),
        ),
        (
            "version-no-text",
            bytes(
                SERVER,
                &[chunk(0, &message(0, command::VERSION, none, &[0; 4]))],
            ),
        ),
        (
            "version-major",
            bytes(
                SERVER,
                &[chunk(0, &message(0, command::VERSION, none, &[9, 0, 0, 0]))],
            ),
        ),
        ("version-missing", bytes(SERVER, &[chunk(0, &posted)])),
        (
            "version-fd",
            bytes(
                SERVER,
                &[chunk(1, &message(0, command::VERSION, none, &version()))],
            ),
        ),
        ("empty", bytes(SERVER, &[])),
    ]));
    seeds.extend(client_seeds());
    seeds
}

fn client_seeds() -> Seeds {
    let region = |size, flags, fd_offset| {
        RegionInfo {
            argsz: 32,
            flags,
            index: 0,
            cap_offset: 32,
            size,
            offset: fd_offset,
        }
        .as_bytes()
        .to_vec()
    };
    // A sparse-mmap capability of one area.
    let area = |offset: u64, size: u64| {
        [
            &1u16.to_ne_bytes()[..],
            &1u16.to_ne_bytes(),
            &0u32.to_ne_bytes(),
            &1u32.to_ne_bytes(),
            &[0; 4],
            &offset.to_ne_bytes(),
            &size.to_ne_bytes(),
        ]
        .concat()
    };
    let info = [16u32, 3, 9, 5].as_bytes().to_vec();
    let mut seeds = Seeds::new();
    for first in [0u16, 1] {
        let begin = [
            chunk(0, &reply(first, command::VERSION, &version())),
            chunk(0, &reply(first + 1, command::DEVICE_GET_INFO, &info)),
        ]
        .concat();
        for (name, fds, body) in [
            ("plain", 0, region(0x4000, 3, 0)),
            (
                "mapped",
                1,
                [region(0x4000, 15, 0), area(0x2000, 0x1000)].concat(),
            ),
            (
                "area-outside",
                1,
                [region(0x4000, 15, 0), area(0x4000, 0x1000)].concat(),
            ),
            (
                "area-wraps",
                1,
                [region(0x4000, 15, 0), area(u64::MAX - 0xFFF, 0x2000)].concat(),
            ),
            (
                "offset-wraps",
                1,
                [region(0x4000, 15, u64::MAX), area(0, 0x1000)].concat(),
            ),
        ] {
            let info = chunk(
                fds,
                &reply(first + 2, command::DEVICE_GET_REGION_INFO, &body),
            );
            seeds.push((
                format!("client-{first}-{name}"),
                [&[CLIENT], &begin[..], &info].concat(),
            ));
        }
        // The server asks for DMA while the client waits for its reply.
        let dma = message(
            900,
            command::DMA_READ,
            HeaderFlags::empty(),
            [0u64, 64].as_bytes(),
        );
        seeds.push((
            format!("client-{first}-dma"),
            [&[CLIENT], &begin[..], &chunk(0, &dma)].concat(),
        ));
    }
    seeds
}

// ---- the card ----

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

/// Seeds of [`super::bar_access`].
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

fn config_operation(op: u8, function: FunctionId, at: u16, bytes: &[u8]) -> Vec<u8> {
    [
        &[op, function.slot() as u8],
        &at.to_le_bytes()[..],
        &[bytes.len() as u8],
        bytes,
    ]
    .concat()
}

/// Seeds of [`super::config_space`].
pub fn config_space() -> Seeds {
    let (pf, vf0) = (FunctionId::PF, FunctionId::vf(0));
    let write =
        |function, at: u16, value: u16| config_operation(1, function, at, &value.to_le_bytes());
    let enable = |count: u16| {
        [
            write(pf, offset::SRIOV + sriov::NUM_VFS, count),
            write(
                pf,
                offset::SRIOV + sriov::CONTROL,
                sriov::VF_ENABLE | sriov::VF_MSE,
            ),
        ]
        .concat()
    };
    let mut seeds = named([
        (
            "walk-pf",
            (0..64).flat_map(|n| [0, 0, (n * 4) as u8, 0, 4]).collect(),
        ),
        (
            "walk-vf",
            (0..64).flat_map(|n| [0, 1, (n * 4) as u8, 0, 4]).collect(),
        ),
        ("enable-2", enable(2)),
        ("enable-8", enable(8)),
        ("enable-9", enable(9)),
        ("enable-all-ones", enable(u16::MAX)),
        ("enable-0", enable(0)),
        (
            "change-while-enabled",
            [enable(2), write(pf, offset::SRIOV + sriov::NUM_VFS, 5)].concat(),
        ),
        (
            "disable",
            [enable(2), write(pf, offset::SRIOV + sriov::CONTROL, 0)].concat(),
        ),
        (
            "vf-sriov",
            [enable(2), write(vf0, offset::SRIOV + sriov::CONTROL, 1)].concat(),
        ),
        (
            "vf-bars",
            [
                enable(2),
                config_operation(1, vf0, header::BAR0, &[0xFF; 8]),
            ]
            .concat(),
        ),
        (
            "vf-bus-master",
            [enable(2), write(vf0, header::COMMAND, u16::MAX)].concat(),
        ),
        (
            "vf-flr",
            [
                enable(2),
                write(vf0, offset::EXPRESS + express::DEVICE_CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "pf-flr",
            [
                enable(2),
                write(pf, offset::EXPRESS + express::DEVICE_CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "msix",
            [
                enable(1),
                write(vf0, offset::MSIX + msix::CONTROL, msix::ENABLE),
                write(vf0, offset::MSIX + msix::CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "power",
            [write(pf, offset::PM + 4, 3), write(pf, offset::PM + 4, 0)].concat(),
        ),
        (
            "beyond",
            [
                config_operation(1, pf, 0x0FFE, &[0xFF; 8]),
                vec![0, 0, 0xFE, 0x0F, 8],
            ]
            .concat(),
        ),
        (
            "reset",
            [enable(3), vec![3, 0, 0, 0, 0], vec![3, 1, 0, 0, 0]].concat(),
        ),
        (
            "unaligned",
            [
                config_operation(1, pf, offset::SRIOV + sriov::NUM_VFS - 1, &[1, 2, 0]),
                write(pf, offset::SRIOV + sriov::CONTROL, 1),
            ]
            .concat(),
        ),
    ]);
    for bar in 0..6 {
        seeds.push((
            format!("size-bar{bar}"),
            config_operation(1, pf, header::bar(bar), &[0xFF; 4]),
        ));
    }
    let everything = (0..0x400u16)
        .step_by(8)
        .flat_map(|at| config_operation(1, pf, at, &[0xFF; 8]))
        .collect();
    seeds.push(("all-ones".into(), everything));
    seeds
}

// ---- the channel ----

/// The messages that a well-behaved VF sends, and some that none would.
fn vf_messages() -> Vec<(&'static str, igb::mailbox::Words)> {
    let mac = MacAddress::new([2, 0, 0, 0, 0, 9]);
    let mut words = vec![
        ("reset", VfMessage::Reset.encode()),
        ("set-mac", VfMessage::SetMac(mac).encode()),
        (
            "set-mac-multicast",
            VfMessage::SetMac(MacAddress::new([1, 0, 0x5E, 0, 0, 1])).encode(),
        ),
        ("add-mac", VfMessage::AddMacFilter(mac).encode()),
        ("clear-macs", VfMessage::ClearMacFilters.encode()),
        (
            "multicast",
            VfMessage::SetMulticast(igb::mailbox::Hashes::new(0..30)).encode(),
        ),
        (
            "multicast-31",
            VfMessage::SetMulticast(igb::mailbox::Hashes::new(0..31)).encode(),
        ),
        (
            "add-vlan",
            VfMessage::SetVlan {
                add: true,
                vid: 100,
            }
            .encode(),
        ),
        ("lpe", VfMessage::SetLpe(u32::MAX).encode()),
        (
            "promisc",
            VfMessage::SetPromisc {
                unicast: true,
                multicast: true,
            }
            .encode(),
        ),
    ];
    for (name, word0) in [
        ("unknown", 0x77),
        ("control", 0x100),
        ("ones", u32::MAX),
        ("vlan-info", 0x0204),
    ] {
        let mut message = [u32::MAX; igb::mailbox::WORDS];
        message[0] = word0;
        words.push((name, message));
    }
    words
}

/// Seeds of [`super::mailbox_words`].
pub fn mailbox_words() -> Seeds {
    const OFFER: [u8; 2] = [13, 1];
    const ATTACH: [u8; 2] = [18, 1];
    let ring = [1, 1];
    let ask = |words: &igb::mailbox::Words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        [&[1, 4, 0, 0, 64][..], &bytes, &ring].concat()
    };
    let mut seeds = Seeds::new();
    for (name, words) in vf_messages() {
        let first: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Ask, be answered, read.
        let dialogue = [
            &first[..],
            &OFFER,
            &ATTACH,
            &ask(&words),
            &[7, 0, 0],
            &[2, 0, 0xFF, 0, 0, 0],
            &[1, 2],
        ]
        .concat();
        seeds.push((format!("message-{name}"), dialogue));
    }
    let blank = [0; 64];
    let reset = ask(&VfMessage::Reset.encode());
    let block = |command: u8, block: u8, length: u8| vec![5, command, block, length];
    let with = |parts: &[&[u8]]| [&blank[..], &OFFER, &ATTACH, &parts.concat()].concat();
    seeds.extend(named([
        ("no-pf", [&blank[..], &reset, &block(1, 0, 12)].concat()),
        ("block-read", with(&[&block(1, 1, 28), &[7, 0, 0]])),
        ("block-write", with(&[&block(2, 64, 10), &[7, 0, 0]])),
        ("block-length-0", with(&[&block(1, 1, 0)])),
        ("block-length-129", with(&[&block(2, 1, 129)])),
        ("block-unknown-command", with(&[&block(9, 1, 4)])),
        (
            "block-overrun-abandon",
            with(&[
                &block(1, 1, 4),
                &block(1, 1, 4),
                &block(3, 0, 0),
                &[7, 0, 0],
            ]),
        ),
        (
            "late-reply",
            with(&[&reset, &[15, 0xF5, 1], &[16], &[7, 0, 0]]),
        ),
        ("stale-generation", with(&[&reset, &[17, 0], &[7, 0, 0]])),
        ("replayed-reply", with(&[&reset, &[7, 0, 0], &[7, 0, 0]])),
        ("forged-reply", with(&[&reset, &[8, 0, 0], &[0xFF; 12]])),
        (
            "reply-of-wrong-kind",
            with(&[&block(1, 1, 4), &[9, 0, 0, 1], &[0; 8]]),
        ),
        (
            "invalidation-storm",
            with(&[
                &reset,
                &[7, 0, 0],
                &[11; 1],
                &[0xFF; 8],
                &[11],
                &[0xFF; 8],
                &[1, 2],
            ]),
        ),
        (
            "link",
            with(&[&reset, &[7, 0, 0], &[12, 1], &[0; 4], &[12, 0], &[0; 4]]),
        ),
        ("flood", with(&[&block(1, 1, 4).repeat(30)])),
        ("mailbox-flood", with(&[&reset.repeat(12)])),
        (
            "held-while-answered",
            with(&[&reset, &[1, 4], &[7, 0, 0], &[1, 0], &[1, 2]]),
        ),
        (
            "rsti",
            with(&[&reset, &[7, 0, 0], &[1, 2], &[2, 0x40], &[0xFF; 4]]),
        ),
        ("pf-gone", with(&[&reset, &block(1, 1, 4), &[14], &OFFER])),
        ("torn-down", with(&[&reset, &block(1, 1, 4), &[19], &reset])),
        ("detach", with(&[&reset, &[18, 0], &[17, 3], &ATTACH])),
    ]));
    seeds
}

/// Seeds of [`super::channel_messages`].
pub fn channel_messages() -> Seeds {
    let data = BlockData::new(&[0x5A; 128]).expect("a block");
    let request = |body| {
        ToPf::Request(Request {
            vf: 3,
            generation: 2,
            id: 9,
            body,
        })
    };
    let answer = |status, body| {
        FromPf::Reply(Reply {
            vf: 3,
            generation: 2,
            id: 9,
            status,
            body,
        })
    };
    let words = MailboxWords::new(&[0x8000_0001, 0x3322_1100, 0x5544]).expect("three words");
    let to_pf = [
        ToPf::Welcome {
            version: mediator_protocol::VERSION,
            features: PfFeatures::all(),
        },
        ToPf::Refused {
            reason: RefuseReason::Token,
        },
        ToPf::Attached {
            vf: 1,
            generation: 1,
        },
        ToPf::Detached {
            vf: 1,
            generation: 1,
        },
        ToPf::Reset {
            vf: 1,
            generation: 2,
            cause: ResetCause::Flr,
        },
        request(RequestBody::Mailbox(VfMessage::Reset.encode())),
        request(RequestBody::ReadBlock {
            block: 1,
            length: 28,
        }),
        request(RequestBody::WriteBlock { block: 64, data }),
        ToPf::Expired {
            vf: 1,
            generation: 2,
            id: 9,
        },
        ToPf::Ejected {
            vf: 1,
            graceful: true,
        },
        ToPf::Rejected {
            vf: 300,
            status: Status::Invalid,
        },
    ];
    let from_pf = [
        FromPf::Hello {
            version: mediator_protocol::VERSION,
            features: PfFeatures::all(),
            token: Token([7; 32]),
        },
        FromPf::Offer {
            vf: 0,
            serial: 1,
            link_up: true,
            mac: Some([2, 0, 0, 0, 0, 1]),
        },
        FromPf::Eject {
            vf: 0,
            timeout_ms: 60_000,
        },
        FromPf::Revoke { vf: 0 },
        answer(Status::Ok, ReplyBody::Mailbox(words)),
        answer(Status::Ok, ReplyBody::Block(data)),
        answer(Status::Denied, ReplyBody::Empty),
        FromPf::Invalidate {
            vf: 0,
            generation: 1,
            mask: 2,
        },
        FromPf::Link {
            vf: 0,
            up: false,
            speed: 1000,
        },
    ];
    let mut seeds = Seeds::new();
    let all_to_pf: Vec<u8> = to_pf.iter().flat_map(Frame::to_bytes).collect();
    let all_from_pf: Vec<u8> = from_pf.iter().flat_map(Frame::to_bytes).collect();
    let one_by_one = to_pf
        .iter()
        .map(Frame::to_bytes)
        .chain(from_pf.iter().map(Frame::to_bytes));
    for (n, bytes) in one_by_one.enumerate() {
        let kind = bytes[0];
        let mut longer = bytes.clone();
        // Header length and packet differ by 4.
        longer[4] = longer[4].wrapping_add(4);
        // A message of each kind, then cut short, then with a length that lies, then without frame.
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}"),
            [&[1], &bytes[..]].concat(),
        ));
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}-short"),
            [&[0], &bytes[..bytes.len() - 1]].concat(),
        ));
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}-length"),
            [&[0], &longer[..], &[0; 8]].concat(),
        ));
    }
    seeds.extend(named([
        ("to-pf", [&[7], &all_to_pf[..]].concat()),
        ("from-pf", [&[3], &all_from_pf[..]].concat()),
        ("huge", [0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec()),
        ("flags", [0, 1, 0, 1, 0, 0, 0, 0, 0].to_vec()),
    ]));
    for (name, block) in blocks() {
        seeds.push((format!("block-{name}"), [&[0], &block[..]].concat()));
    }
    seeds
}

fn blocks() -> Vec<(&'static str, BlockData)> {
    let mac = [2, 0, 0, 0, 0, 9];
    let list = MulticastList::new(&[[0x33, 0x33, 0, 0, 0, 1]; 20]).expect("20 addresses");
    vec![
        (
            "control",
            Control {
                version: VERSION,
                offered: Features::all(),
                accepted: Features::empty(),
            }
            .encode(),
        ),
        (
            "accept",
            Accept {
                version: VERSION,
                features: Features::all(),
            }
            .encode(),
        ),
        (
            "config",
            Config {
                mac,
                flags: ConfigFlags::LINK_UP,
                vlan: 10,
                mtu: 1500,
                max_mtu: 9216,
                ..Default::default()
            }
            .encode(),
        ),
        (
            "stats",
            Stats {
                rx_packets: 1,
                tx_spoofed: 2,
                ..Default::default()
            }
            .encode(),
        ),
        ("init", VfRequest::Init.encode()),
        ("set-mac", VfRequest::SetMac(mac).encode()),
        ("add-mac", VfRequest::AddMac(mac).encode()),
        ("add-vlan", VfRequest::AddVlan(100).encode()),
        (
            "set-multicast",
            VfRequest::SetMulticast { append: true, list }.encode(),
        ),
        ("set-mtu", VfRequest::SetMtu(u32::MAX).encode()),
        (
            "set-promisc",
            VfRequest::SetPromisc {
                unicast: true,
                multicast: true,
            }
            .encode(),
        ),
    ]
}
