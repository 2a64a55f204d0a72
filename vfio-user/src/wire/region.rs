//! A region's description with its list of mappable areas.

use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{PAGE_SIZE, RegionInfo, WireError, command};
use crate::device::{Region, RegionFlags, SparseArea};

const CAP_SPARSE_MMAP: u16 = 1;

/// Header of a sparse-mmap capability; the areas follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SparseCap {
    id: u16,
    version: u16,
    next: u32,
    nr_areas: u32,
    reserved: u32,
}

/// The part that every capability begins with.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CapHeader {
    id: u16,
    version: u16,
    next: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Area {
    offset: u64,
    size: u64,
}

/// Append the description of `region` to `out`, for a client that has room for `argsz` bytes. If the
/// list of areas does not fit, it is left out with its flag, and the `argsz` of the reply says what
/// is needed. `mappable` says whether the file goes along; if it does not, nothing is mappable.
pub fn encode_region(region: &Region, index: u32, argsz: u32, mappable: bool, out: &mut Vec<u8>) {
    let mut flags = region.flags;
    flags.set(RegionFlags::MMAP, mappable);
    let listed = if mappable {
        region.sparse.as_slice()
    } else {
        &[]
    };
    let caps = if listed.is_empty() {
        0
    } else {
        size_of::<SparseCap>() + size_of::<Area>() * listed.len()
    };
    let need = u32::try_from(size_of::<RegionInfo>() + caps).unwrap_or(u32::MAX);
    let fits = caps != 0 && need <= argsz;
    let info = RegionInfo {
        argsz: need,
        flags: flags.bits() | if fits { RegionInfo::CAPS } else { 0 },
        index,
        cap_offset: if fits {
            size_of::<RegionInfo>() as u32
        } else {
            0
        },
        size: region.size,
        offset: region.fd_offset,
    };
    out.extend_from_slice(info.as_bytes());
    if fits {
        let cap = SparseCap {
            id: CAP_SPARSE_MMAP,
            version: 1,
            next: 0,
            nr_areas: listed.len() as u32,
            reserved: 0,
        };
        out.extend_from_slice(cap.as_bytes());
        for &SparseArea { offset, size } in listed {
            out.extend_from_slice(Area { offset, size }.as_bytes());
        }
    }
}

/// Read a description and check it: the index asked for, areas inside the region and page-aligned,
/// no offset that wraps. A region that claims to be mappable without a file is not.
///
/// The second value is how much room the server needs if it had to leave capabilities out.
pub fn decode_region(
    body: &[u8],
    index: u32,
    fd: Option<OwnedFd>,
) -> Result<(Region, u32), WireError> {
    let command = command::DEVICE_GET_REGION_INFO;
    let (info, _) = RegionInfo::read_from_prefix(body).map_err(|_| WireError::BodyTooShort {
        command,
        have: body.len(),
        need: size_of::<RegionInfo>(),
    })?;
    if info.index != index {
        return Err(WireError::Count {
            command,
            count: info.index.into(),
        });
    }
    let mut region = Region {
        size: info.size,
        flags: RegionFlags::from_bits_truncate(info.flags),
        ..Region::absent()
    };
    if fd.is_none() || !region.flags.contains(RegionFlags::MMAP) || info.size == 0 {
        region.flags.remove(RegionFlags::MMAP);
        return Ok((region, info.argsz));
    }
    if info
        .offset
        .checked_add(info.size)
        .is_none_or(|end| end > i64::MAX as u64)
    {
        return Err(WireError::Range {
            command,
            start: info.offset,
            size: info.size,
        });
    }
    if info.flags & RegionInfo::CAPS != 0 {
        region.sparse = decode_sparse(body, info.cap_offset as usize, info.size)?;
    }
    region.fd = fd;
    region.fd_offset = info.offset;
    Ok((region, info.argsz))
}

/// Walk the capability chain. Offsets count from the start of the body and must increase, so the
/// walk ends; areas are bounded by the bytes that came.
fn decode_sparse(body: &[u8], first: usize, size: u64) -> Result<Vec<SparseArea>, WireError> {
    let mut areas = Vec::new();
    let mut at = first;
    let mut floor = size_of::<RegionInfo>();
    while at != 0 {
        let bad = WireError::RegionCapability(at);
        if at < floor {
            return Err(bad);
        }
        let bytes = body.get(at..).ok_or(bad)?;
        let (cap, _) = CapHeader::read_from_prefix(bytes).map_err(|_| bad)?;
        if cap.id == CAP_SPARSE_MMAP {
            let (cap, mut rest) = SparseCap::read_from_prefix(bytes).map_err(|_| bad)?;
            for _ in 0..cap.nr_areas {
                let (area, after) = Area::read_from_prefix(rest).map_err(|_| bad)?;
                rest = after;
                // Capabilities that overlap could name more areas than there are bytes.
                if areas.len() >= body.len() / size_of::<Area>() {
                    return Err(bad);
                }
                areas.push(check_area(area, size)?);
            }
        }
        floor = at + size_of::<CapHeader>();
        at = cap.next as usize;
    }
    Ok(areas)
}

fn check_area(Area { offset, size }: Area, region: u64) -> Result<SparseArea, WireError> {
    let inside = offset.checked_add(size).is_some_and(|end| end <= region);
    let aligned = offset.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
    if size == 0 || !inside || !aligned {
        return Err(WireError::SparseArea { offset, size });
    }
    Ok(SparseArea { offset, size })
}
