//! The commands that a server receives.

use zerocopy::FromBytes;

use super::{
    Capabilities, DeviceInfo, DmaMap, DmaUnmap, HEADER_SIZE, Header, IrqInfo, Kind, MAJOR,
    MAX_TRANSFER, RegionAccess, RegionInfo, SetIrqs, VersionBody, WireError, command,
};
use crate::device::DmaAccess;

/// A command whose every field has been checked, as far as that is possible without knowing the
/// device: whether region, vectors and window exist is for the server to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// VERSION.
    Version {
        /// The client's minor version.
        minor: u16,
        /// What the client can do.
        capabilities: Capabilities,
    },
    /// DMA_MAP; neither the address nor the file range wraps.
    DmaMap {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes, not 0.
        size: u64,
        /// What the device may do; never nothing.
        access: DmaAccess,
        /// Offset in the file, if one came.
        offset: u64,
    },
    /// DMA_UNMAP of one window.
    DmaUnmap(DmaUnmap),
    /// DMA_UNMAP of every window.
    DmaUnmapAll(DmaUnmap),
    /// DEVICE_GET_INFO.
    DeviceInfo,
    /// DEVICE_GET_REGION_INFO.
    RegionInfo {
        /// Region index.
        index: u32,
        /// Room that the client has for structure and capabilities.
        argsz: u32,
    },
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo {
        /// Interrupt index.
        index: u32,
    },
    /// DEVICE_SET_IRQS.
    SetIrqs {
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// How many; 0 only with [`IrqRequest::Disable`].
        count: u32,
        /// What to do with them.
        request: IrqRequest<'a>,
    },
    /// REGION_READ.
    RegionRead {
        /// Region index.
        region: u32,
        /// Offset in it; `offset + count` does not wrap.
        offset: u64,
        /// Bytes, 1 to [`MAX_TRANSFER`].
        count: usize,
    },
    /// REGION_WRITE.
    RegionWrite {
        /// Region index.
        region: u32,
        /// Offset in it; `offset + data.len()` does not wrap.
        offset: u64,
        /// The data, 1 to [`MAX_TRANSFER`] bytes.
        data: &'a [u8],
    },
    /// DEVICE_RESET.
    Reset,
}

/// What SET_IRQS asks for. Where a file descriptor may come along, `assign` says whether one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqRequest<'a> {
    /// Assign one eventfd per vector, or take them away.
    Eventfds {
        /// As many eventfds as vectors came; else none.
        assign: bool,
    },
    /// Disable the whole index.
    Disable,
    /// Fire.
    Trigger(Vectors<'a>),
    /// Mask.
    Mask(Vectors<'a>),
    /// Unmask.
    Unmask(Vectors<'a>),
    /// Assign the eventfd that unmasks.
    UnmaskEventfd {
        /// One came; else none.
        assign: bool,
    },
    /// Assign the eventfd that masks.
    MaskEventfd {
        /// One came; else none.
        assign: bool,
    },
}

/// For which of the vectors an action holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors<'a> {
    /// For all.
    All,
    /// For those whose byte is not 0.
    Flags(&'a [u8]),
}

impl Vectors<'_> {
    /// One flag per vector. `count` must have been bounded.
    pub fn to_flags(self, count: u32) -> Vec<bool> {
        match self {
            Self::All => vec![true; count as usize],
            Self::Flags(bytes) => bytes.iter().map(|&byte| byte != 0).collect(),
        }
    }
}

impl<'a> Request<'a> {
    /// Check a whole command, header included, that came with `fds` file descriptors. Bodies longer
    /// than needed are accepted, as some clients pad them.
    pub fn parse(message: &'a [u8], fds: usize) -> Result<Self, WireError> {
        let header = Header::parse(message)?.ok_or(WireError::Incomplete {
            have: message.len(),
            size: 0,
        })?;
        if header.kind()? != Kind::Command {
            return Err(WireError::Type(header.flags));
        }
        let body = message
            .get(HEADER_SIZE..header.message_size as usize)
            .ok_or(WireError::Incomplete {
                have: message.len(),
                size: header.message_size,
            })?;
        let command = header.command;
        match command {
            command::VERSION => parse_version(body),
            command::DMA_MAP => parse_dma_map(body, fds),
            command::DMA_UNMAP => parse_dma_unmap(body),
            command::DEVICE_GET_INFO => {
                let (info, _) = fixed::<DeviceInfo>(command, body)?;
                check_argsz::<DeviceInfo>(command, info.argsz)?;
                Ok(Self::DeviceInfo)
            }
            command::DEVICE_GET_REGION_INFO => {
                let (info, _) = fixed::<RegionInfo>(command, body)?;
                check_argsz::<RegionInfo>(command, info.argsz)?;
                Ok(Self::RegionInfo {
                    index: info.index,
                    argsz: info.argsz,
                })
            }
            command::DEVICE_GET_IRQ_INFO => {
                let (info, _) = fixed::<IrqInfo>(command, body)?;
                check_argsz::<IrqInfo>(command, info.argsz)?;
                Ok(Self::IrqInfo { index: info.index })
            }
            command::DEVICE_SET_IRQS => parse_set_irqs(body, fds),
            command::REGION_READ => {
                let (access, _) = fixed::<RegionAccess>(command, body)?;
                let count = check_access(command, &access)?;
                Ok(Self::RegionRead {
                    region: access.region,
                    offset: access.offset,
                    count,
                })
            }
            command::REGION_WRITE => {
                let (access, rest) = fixed::<RegionAccess>(command, body)?;
                let count = check_access(command, &access)?;
                let data = rest.get(..count).ok_or(WireError::Count {
                    command,
                    count: access.count.into(),
                })?;
                Ok(Self::RegionWrite {
                    region: access.region,
                    offset: access.offset,
                    data,
                })
            }
            command::DEVICE_RESET => Ok(Self::Reset),
            command => Err(WireError::NotOffered { command }),
        }
    }
}

fn fixed<T: FromBytes>(command: u16, body: &[u8]) -> Result<(T, &[u8]), WireError> {
    T::read_from_prefix(body).map_err(|_| WireError::BodyTooShort {
        command,
        have: body.len(),
        need: size_of::<T>(),
    })
}

fn check_argsz<T>(command: u16, argsz: u32) -> Result<(), WireError> {
    let need = size_of::<T>();
    if (argsz as usize) < need {
        return Err(WireError::ArgszTooSmall {
            command,
            argsz,
            need,
        });
    }
    Ok(())
}

fn check_access(command: u16, access: &RegionAccess) -> Result<usize, WireError> {
    let count = access.count as usize;
    if count == 0 || count > MAX_TRANSFER {
        return Err(WireError::Count {
            command,
            count: access.count.into(),
        });
    }
    check_range(command, access.offset, access.count.into())?;
    Ok(count)
}

fn check_range(command: u16, start: u64, size: u64) -> Result<(), WireError> {
    if size == 0 || start.checked_add(size).is_none() {
        return Err(WireError::Range {
            command,
            start,
            size,
        });
    }
    Ok(())
}

fn parse_version(body: &[u8]) -> Result<Request<'_>, WireError> {
    let (version, text) = fixed::<VersionBody>(command::VERSION, body)?;
    if version.major != MAJOR {
        return Err(WireError::Major(version.major));
    }
    let capabilities = Capabilities::parse(text)?;
    Ok(Request::Version {
        minor: version.minor,
        capabilities,
    })
}

/// Bits of DMA_MAP that choose how the server gets at the file; the device chooses for itself.
const DMA_MAP_ACCESS_HINTS: u32 = 0b1100;

fn parse_dma_map(body: &[u8], fds: usize) -> Result<Request<'_>, WireError> {
    let command = command::DMA_MAP;
    let (map, _) = fixed::<DmaMap>(command, body)?;
    check_argsz::<DmaMap>(command, map.argsz)?;
    let access = DmaAccess::from_bits(map.flags & !DMA_MAP_ACCESS_HINTS)
        .filter(|access| !access.is_empty())
        .ok_or(WireError::Flags {
            command,
            flags: map.flags,
        })?;
    check_range(command, map.address, map.size)?;
    if fds > 1 {
        return Err(WireError::FdCount { command, got: fds });
    }
    // File offsets are signed.
    if fds == 1
        && map
            .offset
            .checked_add(map.size)
            .is_none_or(|end| end > i64::MAX as u64)
    {
        return Err(WireError::Range {
            command,
            start: map.offset,
            size: map.size,
        });
    }
    Ok(Request::DmaMap {
        iova: map.address,
        size: map.size,
        access,
        offset: map.offset,
    })
}

fn parse_dma_unmap(body: &[u8]) -> Result<Request<'_>, WireError> {
    let command = command::DMA_UNMAP;
    let (unmap, _) = fixed::<DmaUnmap>(command, body)?;
    check_argsz::<DmaUnmap>(command, unmap.argsz)?;
    match unmap.flags {
        0 => {
            check_range(command, unmap.address, unmap.size)?;
            Ok(Request::DmaUnmap(unmap))
        }
        DmaUnmap::ALL if unmap.address == 0 && unmap.size == 0 => Ok(Request::DmaUnmapAll(unmap)),
        DmaUnmap::ALL => Err(WireError::Range {
            command,
            start: unmap.address,
            size: unmap.size,
        }),
        DmaUnmap::DIRTY => Err(WireError::NotOffered { command }),
        flags => Err(WireError::Flags { command, flags }),
    }
}

fn parse_set_irqs(body: &[u8], fds: usize) -> Result<Request<'_>, WireError> {
    let command = command::DEVICE_SET_IRQS;
    let (set, data) = fixed::<SetIrqs>(command, body)?;
    check_argsz::<SetIrqs>(command, set.argsz)?;
    let SetIrqs {
        flags,
        index,
        start,
        count,
        ..
    } = set;
    let bad_count = WireError::Count {
        command,
        count: count.into(),
    };
    let bad_flags = WireError::Flags { command, flags };

    if flags == SetIrqs::DATA_NONE | SetIrqs::ACTION_TRIGGER && count == 0 {
        return Ok(Request::SetIrqs {
            index,
            start,
            count,
            request: IrqRequest::Disable,
        });
    }
    if count == 0 || start.checked_add(count).is_none() {
        return Err(bad_count);
    }
    const DATA: u32 = SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL | SetIrqs::DATA_EVENTFD;
    let action = flags & !DATA;
    let request = match flags & DATA {
        data_kind @ (SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL) => {
            let vectors = if data_kind == SetIrqs::DATA_NONE {
                Vectors::All
            } else {
                Vectors::Flags(data.get(..count as usize).ok_or(bad_count)?)
            };
            match action {
                SetIrqs::ACTION_TRIGGER => IrqRequest::Trigger(vectors),
                SetIrqs::ACTION_MASK => IrqRequest::Mask(vectors),
                SetIrqs::ACTION_UNMASK => IrqRequest::Unmask(vectors),
                _ => return Err(bad_flags),
            }
        }
        SetIrqs::DATA_EVENTFD => {
            let assign = match fds {
                0 => false,
                got if got == count as usize => true,
                got => return Err(WireError::FdCount { command, got }),
            };
            match action {
                SetIrqs::ACTION_TRIGGER => IrqRequest::Eventfds { assign },
                SetIrqs::ACTION_MASK | SetIrqs::ACTION_UNMASK if count != 1 => {
                    return Err(bad_count);
                }
                SetIrqs::ACTION_MASK => IrqRequest::MaskEventfd { assign },
                SetIrqs::ACTION_UNMASK => IrqRequest::UnmaskEventfd { assign },
                _ => return Err(bad_flags),
            }
        }
        _ => return Err(bad_flags),
    };
    Ok(Request::SetIrqs {
        index,
        start,
        count,
        request,
    })
}
