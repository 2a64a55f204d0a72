//! A receive queue: descriptors fetched ahead, frames written into buffers, write-back (datasheet
//! 7.1).

use igb::descriptor::{
    self, LegacyRx, LegacyRxStatus, Raw, RxRead, RxStatus, RxWriteBack, STATUS_WORD,
};
use igb::frame::FCS_LENGTH;
use igb::queue_page::QueueRegister;
use igb::{SRRCTL, Value, VlanTag};

use super::checksum::sum;
use super::frame::Frame;
use super::inspect::Inspection;
use super::layout::{Format, Layout};
use super::ring::{Look, Place, Ring, State};
use super::whole::SenderFault;
use crate::drops::DropReason;
use crate::events::{HaltReason, Ring as Kind};
use crate::host::{CopyFault, DataHost, DmaFault, FaultCause};

/// Descriptors fetched at once.
const FETCH: usize = 32;
/// Descriptors that one frame may take.
const FRAME_DESCRIPTORS: usize = 64;

/// A receive queue.
#[derive(Debug, Default)]
pub(super) struct RxQueue {
    pub(super) ring: Ring,
    format: Format,
    drop_enable: bool,
    /// Descriptors from the head on that have been fetched.
    fetched: Vec<Raw>,
    /// Write-backs of received frames that were cancelled: where, and the two words. The first was
    /// left out where it is not written.
    owed: Vec<(u64, Option<u64>, u64)>,
    /// The round in which the page was looked at last.
    round: u64,
    /// The head in the page is not the ring's.
    pub(super) head_stale: bool,
}

/// How a receiver wants its frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) place: Place,
    pub(super) permitted: bool,
    /// Longest frame, with FCS and without tag.
    pub(super) max_frame: u32,
    pub(super) strip: bool,
    /// Where the header ends that may be split off, counted as [`super::packet::Packet`] does.
    pub(super) header_end: Option<usize>,
    /// QDE has the queue's bit.
    pub(super) drop_enable: bool,
    /// The frame comes from another pool.
    pub(super) loopback: bool,
    /// The stamp of the frame is for this receiver.
    pub(super) stamped: bool,
    pub(super) default_buffer: u32,
    pub(super) vlan_ethertype: u16,
}

/// Why a frame was not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Drop(DropReason),
    /// The receiver's memory: the queue is halted.
    Fault {
        iova: u64,
        len: u64,
        write: bool,
        fault: DmaFault,
    },
    /// The sender's memory.
    Sender(SenderFault),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Refusal::Drop(reason)
    }
}

impl RxQueue {
    pub(super) fn forget(&mut self) {
        let fetched = std::mem::take(&mut self.fetched);
        *self = Self {
            fetched,
            ..Self::default()
        };
        self.fetched.clear();
    }

    /// Look at the page: latch, or stop.
    pub(super) fn look(
        &mut self,
        place: Place,
        permitted: bool,
        default_buffer: u32,
        host: &dyn DataHost,
    ) -> Option<HaltReason> {
        let look = self.ring.look(Kind::Rx, place, permitted, host);
        if self.ring.state != State::Running || look == Look::Latched {
            self.fetched.clear();
            self.owed.clear();
        }
        match look {
            Look::Same => None,
            Look::Halted(reason) => Some(reason),
            Look::Latched => {
                let srrctl = Value::<SRRCTL>::from_raw(place.load(host, QueueRegister::SRRCTL));
                self.format = Format::new(srrctl, default_buffer);
                self.drop_enable = srrctl.has(SRRCTL::DROP_EN);
                None
            }
        }
    }

    /// Whether its descriptors are legacy ones, which tell a checksum of all bytes.
    pub(super) fn is_legacy(&self) -> bool {
        self.format.is_legacy()
    }

    /// Write a frame into the queue's buffers. Returns the halt that a look at the page led to.
    pub(super) fn receive(
        &mut self,
        frame: &Frame<'_>,
        told: &Inspection,
        receiver: &Receiver,
        round: u64,
        local: &mut Vec<u8>,
        host: &mut dyn DataHost,
    ) -> (Option<HaltReason>, Result<(), Refusal>) {
        let mut halt = None;
        if self.round != round {
            self.round = round;
            halt = self.look(
                receiver.place,
                receiver.permitted,
                receiver.default_buffer,
                host,
            );
        }
        let result = self.put(frame, told, receiver, local, host);
        match result {
            // The client had the card wait for something else: the frame is lost, the queue is not.
            Err(Refusal::Fault { fault, .. }) if fault.cause == FaultCause::Cancelled => {}
            Err(Refusal::Fault { .. }) => {
                self.stop();
                halt = Some(HaltReason::Fault);
            }
            Err(Refusal::Drop(DropReason::QueueHalted)) if self.ring.state == State::Running => {
                // The tail lies outside.
                self.stop();
                halt = Some(HaltReason::Tail);
            }
            _ => {}
        }
        (halt, result)
    }

    fn stop(&mut self) {
        self.ring.halt();
        self.fetched.clear();
        self.owed.clear();
    }

    /// Whether software has not been told of all frames yet.
    pub(super) fn is_owing(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Do the write-backs that were cancelled. A fault of another kind stops the queue.
    pub(super) fn pay(&mut self, place: Place, host: &mut dyn DataHost) -> Result<(), Refusal> {
        let mut done = 0;
        let mut result = Ok(());
        for &owed in &self.owed {
            result = store(place, owed, host);
            if result.is_err() {
                break;
            }
            done += 1;
        }
        self.owed.drain(..done);
        if matches!(result, Err(Refusal::Fault { fault, .. }) if fault.cause != FaultCause::Cancelled)
        {
            self.stop();
        }
        result
    }

    fn put(
        &mut self,
        frame: &Frame<'_>,
        told: &Inspection,
        receiver: &Receiver,
        local: &mut Vec<u8>,
        host: &mut dyn DataHost,
    ) -> Result<(), Refusal> {
        match self.ring.state {
            State::Off => return Err(DropReason::RxDisabled.into()),
            State::Halted => return Err(DropReason::QueueHalted.into()),
            State::Running => {}
        }
        // The limit allows for the tags (datasheet 8.10.3).
        let limit = receiver.max_frame as usize + frame.tags_len();
        if frame.len() + FCS_LENGTH > limit {
            return Err(DropReason::TooLong.into());
        }
        let stripped = frame.tag.filter(|_| receiver.strip);
        frame.write_local(stripped.is_none(), receiver.vlan_ethertype, local);
        let total = local.len() + frame.tail.map_or(0, |tail| tail.len);
        let before = local.len() - frame.rest.len();
        let layout = self
            .format
            .layout(receiver.header_end.map(|end| before + end), total);
        let needed = layout.descriptors();
        if needed > FRAME_DESCRIPTORS {
            return Err(DropReason::TooManyDescriptors.into());
        }
        if self.is_owing() {
            // Frames are told of in their order.
            return Err(DropReason::RxFault.into());
        }
        self.refill(needed, receiver, host)?;

        let header = RxRead::from_raw(self.fetched[0]).header_address();
        fill(
            frame,
            receiver.place,
            local,
            (0, layout.in_header),
            header,
            host,
        )?;
        for n in 0..needed {
            let address = RxRead::from_raw(self.fetched[n]).packet_address();
            fill(frame, receiver.place, local, layout.piece(n), address, host)?;
        }
        let report = Report {
            told,
            layout,
            stripped,
            loopback: receiver.loopback,
            stamped: receiver.stamped,
            sum: told
                .sum_from
                .filter(|_| self.is_legacy())
                .map_or(0, |from| sum(local.get(from..).unwrap_or_default(), 0)),
        };
        for n in 0..needed {
            let entry = self.write_back(n, n + 1 == needed, &report);
            // A write that was cancelled may have happened all the same, so the frame cannot be taken
            // back; writing the same once more does no harm.
            let stored = if self.owed.is_empty() {
                store(receiver.place, entry, host)
            } else {
                self.owed.push(entry);
                continue;
            };
            match stored {
                Err(Refusal::Fault { fault, .. }) if fault.cause == FaultCause::Cancelled => {
                    self.owed.push(entry);
                }
                stored => stored?,
            }
        }
        self.fetched.drain(..needed);
        self.ring.advance(needed as u32);
        self.head_stale = true;
        Ok(())
    }

    /// Have `needed` descriptors fetched.
    fn refill(
        &mut self,
        needed: usize,
        receiver: &Receiver,
        host: &mut dyn DataHost,
    ) -> Result<(), Refusal> {
        let have = self.fetched.len();
        if have >= needed {
            return Ok(());
        }
        let Some(available) = self.ring.available(Kind::Rx, receiver.place, host) else {
            return Err(DropReason::QueueHalted.into());
        };
        let available = available as usize;
        if available < needed {
            return Err(if receiver.drop_enable || self.drop_enable {
                DropReason::NoDescriptor
            } else {
                DropReason::NoDescriptorNoDropEn
            }
            .into());
        }
        let more = (available - have).min(FETCH.max(needed - have));
        let mut raw = [[0; descriptor::SIZE]; FRAME_DESCRIPTORS];
        let raw = &mut raw[..more];
        self.ring
            .fetch(receiver.place, have as u32, raw, host)
            .map_err(|(iova, len, fault)| Refusal::Fault {
                iova,
                len,
                write: false,
                fault,
            })?;
        self.fetched.extend(raw.iter().map(descriptor::from_bytes));
        Ok(())
    }

    /// What software is told of a descriptor.
    fn write_back(&self, n: usize, last: bool, report: &Report<'_>) -> (u64, Option<u64>, u64) {
        let Report {
            told,
            layout,
            stripped,
            loopback,
            stamped,
            sum,
        } = *report;
        let tag = stripped.filter(|_| last);
        let len = layout.length(n) as u16;
        let iova = self.ring.iova(n as u32);
        if self.is_legacy() {
            let mut status = LegacyRxStatus::DD;
            if last {
                status |= LegacyRxStatus::EOP | legacy_status(told.status);
            }
            status.set(LegacyRxStatus::VP, tag.is_some());
            let [_, high] = LegacyRx::from_raw(self.fetched[n])
                .written_back(len, sum, status, tag.unwrap_or_default().0)
                .raw();
            return (iova, None, high);
        }
        let mut status = RxStatus::DD;
        if last {
            status |= RxStatus::EOP | told.status;
        }
        status.set(RxStatus::VP, tag.is_some());
        status.set(RxStatus::LB, loopback);
        status.set(RxStatus::TS, last && stamped);
        status.set(RxStatus::HBO, layout.overflow && (last || n == 0));
        let mut done = RxWriteBack::new(len, status)
            .with_vlan_tag(tag.unwrap_or_default().0)
            .with_packet_type(told.kind);
        if n == 0 {
            done = done.with_header(layout.header_length as u16, layout.split);
        }
        done = match told.hash {
            _ if !told.hash_instead => done.with_checksum(told.ip_id, told.fragment_sum),
            Some((kind, hash)) => done.with_rss(kind, hash),
            None => done,
        };
        let [low, high] = done.raw();
        (iova, Some(low), high)
    }
}

/// What the write-backs of a frame have in common.
struct Report<'a> {
    told: &'a Inspection,
    layout: Layout,
    stripped: Option<VlanTag>,
    loopback: bool,
    stamped: bool,
    /// The packet checksum.
    sum: u16,
}

/// What a legacy descriptor has a place for.
fn legacy_status(status: RxStatus) -> LegacyRxStatus {
    [
        (RxStatus::IPCS, LegacyRxStatus::IPCS),
        (RxStatus::L4CS, LegacyRxStatus::TCPCS),
        (RxStatus::UDPCS, LegacyRxStatus::UDPCS),
        (RxStatus::IPE, LegacyRxStatus::IPE),
        (RxStatus::L4E, LegacyRxStatus::TCPE),
    ]
    .into_iter()
    .filter(|(bit, _)| status.contains(*bit))
    .fold(LegacyRxStatus::empty(), |bits, (_, bit)| bits | bit)
}

/// Put `len` bytes of the frame, from `start` on, at `address`.
fn fill(
    frame: &Frame<'_>,
    place: Place,
    local: &[u8],
    (start, len): (usize, usize),
    address: u64,
    host: &mut dyn DataHost,
) -> Result<(), Refusal> {
    let function = place.function;
    let mut to = address;
    let mut left = len;
    if let Some(bytes) = local.get(start..) {
        let bytes = &bytes[..bytes.len().min(left)];
        if !bytes.is_empty() {
            host.dma_write(function, to, bytes)
                .map_err(|fault| Refusal::Fault {
                    iova: to,
                    len: bytes.len() as u64,
                    write: true,
                    fault,
                })?;
        }
        to = to.wrapping_add(bytes.len() as u64);
        left -= bytes.len();
    }
    let Some(tail) = frame.tail.filter(|_| left != 0) else {
        return Ok(());
    };
    let offset = (start + len - left).saturating_sub(local.len());
    for piece in tail.pieces(offset, left) {
        let len = piece.len as u64;
        host.dma_copy((tail.function, piece.iova), (function, to), piece.len)
            .map_err(|fault| match fault {
                CopyFault::Source(fault) => Refusal::Sender(SenderFault {
                    iova: piece.iova,
                    len,
                    fault,
                }),
                CopyFault::Destination(fault) => Refusal::Fault {
                    iova: to,
                    len,
                    write: true,
                    fault,
                },
            })?;
        to = to.wrapping_add(len);
    }
    Ok(())
}

/// Write a descriptor back: the word with DD last, as one release store.
fn store(
    place: Place,
    (iova, low, high): (u64, Option<u64>, u64),
    host: &mut dyn DataHost,
) -> Result<(), Refusal> {
    let fault = |fault| Refusal::Fault {
        iova,
        len: descriptor::SIZE as u64,
        write: true,
        fault,
    };
    if let Some(low) = low {
        host.dma_write(place.function, iova, &low.to_le_bytes())
            .map_err(fault)?;
    }
    host.dma_store_release(place.function, iova + STATUS_WORD as u64, high)
        .map_err(fault)
}

const _: () = assert!(FETCH <= FRAME_DESCRIPTORS);
