//! Streams of a vfio-user client and server.

use vfio_user::wire::{
    Capabilities, DmaMap, DmaUnmap, Header, HeaderFlags, IrqInfo, RegionAccess, RegionInfo,
    SetIrqs, VersionBody, command,
};
use zerocopy::IntoBytes;

use super::{Seeds, named};
use crate::fuzzing::vfio_user_stream::{CLIENT, SERVER, SERVER_AFTER_VERSION};

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

/// Seeds of [`crate::fuzzing::vfio_user_stream`].
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
