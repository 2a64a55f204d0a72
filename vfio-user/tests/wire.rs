//! Encoders and decoders, on any input.

use proptest::collection::vec;
use proptest::prelude::*;
use vfio_user::device::{DmaAccess, Region, RegionFlags, SparseArea};
use vfio_user::wire::{
    Capabilities, HEADER_SIZE, Header, HeaderFlags, IrqRequest, Kind, MAX_MESSAGE, MAX_TRANSFER,
    Request, Vectors, WireError, decode_region, encode_region,
};
use zerocopy::IntoBytes;

fn message(command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut header = Header::command(7, command, body.len(), HeaderFlags::empty());
    header.flags |= flags;
    [header.as_bytes(), body].concat()
}

fn a_file() -> std::os::fd::OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

/// Whatever parses keeps the promises that [`Request`] makes.
fn check(request: &Request<'_>, fds: usize) {
    match *request {
        Request::Version { capabilities, .. } => {
            assert!((4096..=MAX_TRANSFER as u64).contains(&capabilities.max_data_xfer_size));
            assert!(capabilities.max_msg_fds <= 16);
        }
        Request::DmaMap {
            iova,
            size,
            access,
            offset,
        } => {
            assert!(size > 0 && iova.checked_add(size).is_some() && !access.is_empty());
            assert!(fds <= 1);
            assert!(fds == 0 || offset.checked_add(size).is_some());
        }
        Request::DmaUnmap(unmap) => {
            assert!(unmap.size > 0 && unmap.address.checked_add(unmap.size).is_some());
        }
        Request::SetIrqs {
            start,
            count,
            request,
            ..
        } => {
            assert!(start.checked_add(count).is_some());
            match request {
                IrqRequest::Disable => assert_eq!(count, 0),
                IrqRequest::Trigger(Vectors::Flags(flags))
                | IrqRequest::Mask(Vectors::Flags(flags))
                | IrqRequest::Unmask(Vectors::Flags(flags)) => {
                    assert_eq!(flags.len(), count as usize);
                }
                IrqRequest::Eventfds { assign: true } => assert_eq!(fds, count as usize),
                IrqRequest::Eventfds { assign: false } => assert_eq!(fds, 0),
                _ => assert!(count > 0),
            }
        }
        Request::RegionRead { offset, count, .. } => {
            assert!((1..=MAX_TRANSFER).contains(&count));
            assert!(offset.checked_add(count as u64).is_some());
        }
        Request::RegionWrite { offset, data, .. } => {
            assert!((1..=MAX_TRANSFER).contains(&data.len()));
            assert!(offset.checked_add(data.len() as u64).is_some());
        }
        _ => {}
    }
}

/// Numbers near the edges, and any others.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..40u32,
        Just(u32::MAX),
        any::<u32>(),
        (0..7u32).prop_map(|bit| 1 << bit | 1)
    ]
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail(bytes in vec(any::<u8>(), 0..200), fds in 0usize..20) {
        if let Ok(request) = Request::parse(&bytes, fds) {
            check(&request, fds);
        }
    }

    #[test]
    fn any_body_of_a_known_command_parses_or_fails(
        command in 0u16..20,
        words in vec(word(), 0..12),
        tail in vec(any::<u8>(), 0..40),
        fds in 0usize..20,
    ) {
        let body = [words.as_bytes(), &tail].concat();
        let bytes = message(command, 0, &body);
        if let Ok(request) = Request::parse(&bytes, fds) {
            check(&request, fds);
            // Padding changes nothing but the extent of a VERSION text.
            if command != 1 {
                let padded = message(command, 0, &[&body[..], &[0; 64]].concat());
                prop_assert_eq!(Request::parse(&padded, fds), Ok(request));
            }
        }
        // A part of the message is never enough.
        prop_assert!(Request::parse(&bytes[..bytes.len() - 1], fds).is_err());
    }

    #[test]
    fn headers_survive_the_wire(id: u16, command: u16, size: u32, flags: u32, error: u32) {
        let header = Header { message_id: id, command, message_size: size, flags, error };
        let valid = (HEADER_SIZE..=MAX_MESSAGE).contains(&(size as usize)) && flags & 0xf <= 1;
        match Header::parse(header.as_bytes()) {
            Ok(parsed) => {
                prop_assert!(valid);
                prop_assert_eq!(parsed, Some(header));
            }
            Err(_) => prop_assert!(!valid),
        }
        prop_assert_eq!(Header::parse(&header.as_bytes()[..15]), Ok(None));
        let reply = header.reply(24);
        prop_assert_eq!(reply.kind(), Ok(Kind::Reply));
        prop_assert_eq!((reply.message_id, reply.message_size, reply.errno()), (id, 40, None));
        // A reply is no request.
        let request = Request::parse(reply.as_bytes(), 0);
        prop_assert_eq!(request, Err(WireError::Type(reply.flags)));
    }

    #[test]
    fn capabilities_survive_the_wire(fds in 0u64..=16, size in 4096u64..=1 << 20, maps: u64) {
        let caps = Capabilities {
            max_msg_fds: fds,
            max_data_xfer_size: size,
            max_dma_maps: maps,
            pgsizes: 4096,
        };
        prop_assert_eq!(Capabilities::parse(&caps.encode()), Ok(caps));
    }

    #[test]
    fn any_capability_text_parses_or_fails(text in vec(any::<u8>(), 0..100)) {
        let _ = Capabilities::parse(&text);
    }

    #[test]
    fn any_json_of_capabilities_parses_or_fails(text in "[\\[\\]{}\",:a-c0-9.eE-]{0,60}") {
        let text = format!("{{\"capabilities\":{{\"max_msg_fds\":{text}}}}}\0");
        if let Ok(caps) = Capabilities::parse(text.as_bytes()) {
            prop_assert!(caps.max_msg_fds <= 16);
        }
    }

    #[test]
    fn regions_survive_the_wire(
        pages in 1u64..1000,
        areas in vec((0u64..1000, 1u64..10), 0..20),
        offset in 0u64..1 << 40,
        room in 0u32..600,
        with_file: bool,
    ) {
        let sparse: Vec<_> = areas
            .into_iter()
            .filter(|(at, count)| at + count <= pages)
            .map(|(at, count)| SparseArea { offset: at << 12, size: count << 12 })
            .collect();
        let region = Region {
            sparse: sparse.clone(),
            flags: RegionFlags::READ | RegionFlags::WRITE | RegionFlags::MMAP,
            fd_offset: offset,
            ..Region::trapped(pages << 12)
        };
        let mut body = Vec::new();
        encode_region(&region, 3, room, with_file, &mut body);
        prop_assert!(body.len() <= 32.max(room as usize));
        let (decoded, need) = decode_region(&body, 3, with_file.then(a_file)).unwrap();
        prop_assert_eq!(decoded.size, region.size);
        prop_assert_eq!(decoded.flags.contains(RegionFlags::MMAP), with_file);
        prop_assert_eq!(decoded.fd.is_some(), with_file);
        if with_file && need <= room {
            prop_assert_eq!(decoded.sparse, sparse);
            prop_assert_eq!(decoded.fd_offset, offset);
        }
        // With the room that was asked for, it fits.
        body.clear();
        encode_region(&region, 3, need, with_file, &mut body);
        prop_assert_eq!(body.len(), need as usize);
        prop_assert!(decode_region(&body, 4, None).is_err());
    }

    #[test]
    fn any_region_reply_decodes_within_bounds(
        words in vec(word(), 8..40),
        cap_offset in prop_oneof![Just(32u32), 0..200u32],
        size in prop_oneof![Just(0x4000u64), any::<u64>()],
    ) {
        let mut words = words;
        words[1] = 0xf;
        words[2] = 0;
        words[3] = cap_offset;
        words[4] = size as u32;
        words[5] = (size >> 32) as u32;
        if let Ok((region, _)) = decode_region(words.as_bytes(), 0, Some(a_file())) {
            for area in &region.sparse {
                prop_assert!(area.size > 0 && area.offset.is_multiple_of(4096));
                prop_assert!(area.offset.checked_add(area.size).unwrap() <= region.size);
            }
            prop_assert!(region.sparse.len() <= words.len() / 4);
        }
    }
}

#[test]
fn capability_chains_must_advance() {
    let region = Region {
        sparse: vec![SparseArea {
            offset: 0,
            size: 4096,
        }],
        flags: RegionFlags::all(),
        ..Region::trapped(8192)
    };
    let mut body = Vec::new();
    encode_region(&region, 0, 1024, true, &mut body);
    assert!(decode_region(&body, 0, Some(a_file())).is_ok());
    for (at, value) in [
        // next: itself, back, outside.
        (36, 32u32),
        (36, 8),
        (36, 4096),
        // More areas than there are bytes.
        (40, 2),
        (40, u32::MAX),
        // Misaligned, empty, beyond the end.
        (48, 1),
        (56, 0),
        (56, 0x3000),
        // The first capability lies inside the fixed part.
        (12, 16),
    ] {
        let mut broken = body.clone();
        broken[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        assert!(
            decode_region(&broken, 0, Some(a_file())).is_err(),
            "{value} at {at}"
        );
    }
}

#[test]
fn access_hints_of_newer_clients_are_passed_over() {
    let mut words = [32u32, 0b1111, 0, 0, 0x1000, 0, 0x1000, 0];
    let bytes = message(2, 0, words.as_bytes());
    let expected = Request::DmaMap {
        iova: 0x1000,
        size: 0x1000,
        access: DmaAccess::all(),
        offset: 0,
    };
    assert_eq!(Request::parse(&bytes, 1), Ok(expected));
    words[1] = 0b1_0011;
    assert!(Request::parse(&message(2, 0, words.as_bytes()), 1).is_err());
}
