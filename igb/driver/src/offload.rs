//! What a stack leaves to the card in a frame that it sends, as a context descriptor says it (datasheet
//! 7.2.2.2, 7.2.4, 7.2.5), and what the card says of a frame that it received (7.1.11).

use igb::descriptor::{ContextOptions, L4Type, RxStatus, TxContext, TxOptions};
use igb::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, HEADER_LENGTH, TAG_LENGTH};

/// What a device can do for a stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TCP and UDP checksums of frames sent.
    pub checksum: bool,
    /// The longest TCP frame that it splits, headers included; 0 if it splits none.
    pub segmentation: usize,
}

/// What is left to the card in one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// The checksum above IP; the pseudo header's sum is in its place.
    pub checksum: Option<TxChecksum>,
    /// Split it: TCP payload bytes of a segment. Takes the checksum too.
    pub segment: Option<u16>,
}

impl TxOffload {
    /// Nothing: the frame is whole.
    pub const NONE: TxOffload = TxOffload {
        checksum: None,
        segment: None,
    };
}

/// A checksum to insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxChecksum {
    /// Where the header above IP begins, and the sum with it.
    pub start: u16,
    /// Where the checksum is, from there.
    pub offset: u16,
}

/// What the card says of the checksums of a received frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// It did not look, or found one wrong: the stack looks itself.
    #[default]
    Unknown,
    /// The checksum above IP is right, and so is IP's own where there is one.
    Valid,
}

impl RxChecksum {
    /// What the status of a frame's last descriptor says.
    #[must_use]
    pub const fn of(status: RxStatus) -> Self {
        if status.contains(RxStatus::L4CS) && !status.intersects(RxStatus::L4E.union(RxStatus::IPE))
        {
            RxChecksum::Valid
        } else {
            RxChecksum::Unknown
        }
    }
}

/// Where in a TCP header its length is, in words, and what it is.
const TCP_DATA_OFFSET: usize = 12;
/// Where the checksum is in the headers that the card knows.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
/// Fields of a context: MACLEN is below 128, IPLEN below 512 (datasheet 7.2.2.2.1).
const MOST_IP_HEADER: usize = 511;

/// Where the checksum is in an IPv4 header.
const IPV4_CHECKSUM: usize = 10;
/// Longest headers of a frame that the card splits (datasheet 7.2.4.5).
const MOST_SPLIT_HEADERS: usize = 240;

/// A frame's offload in the words of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) context: TxContext,
    pub(crate) options: TxOptions,
    /// For a frame that is split: bytes of all its headers, and where the pseudo header's sum is.
    pub(crate) split: Option<Split>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) headers: usize,
    pub(crate) checksum_at: usize,
    /// Where the IPv4 header's checksum is, which the card computes from what it finds there.
    pub(crate) ip_checksum_at: Option<usize>,
}

impl Plan {
    /// How the card is to be told, or `None` where it cannot do it: another protocol, headers longer
    /// than its fields count.
    pub(crate) fn new(frame: &[u8], offload: TxOffload) -> Option<Self> {
        let TxChecksum { start, offset } = offload.checksum?;
        let ethertype =
            |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let tagged = ethertype(HEADER_LENGTH - 2)? == ETHERTYPE_VLAN;
        let network = HEADER_LENGTH + if tagged { TAG_LENGTH } else { 0 };
        let kind = ethertype(network - 2)?;
        let v4 = kind == ETHERTYPE_IPV4;
        if !v4 && kind != ETHERTYPE_IPV6 {
            return None;
        }
        let l4 = match offset {
            TCP_CHECKSUM => L4Type::Tcp,
            UDP_CHECKSUM => L4Type::Udp,
            _ => return None,
        };
        let transport = usize::from(start);
        let ip_length = transport.checked_sub(network)?;
        let checksum_at = transport + usize::from(offset);
        if ip_length == 0 || ip_length > MOST_IP_HEADER || checksum_at + 2 > frame.len() {
            return None;
        }
        let mut context = TxContext::new(0, network as u8, ip_length as u16);
        if v4 {
            context = context.with_options(ContextOptions::IPV4);
        }
        let mut options = TxOptions::CC | TxOptions::TXSM;
        let Some(mss) = offload.segment else {
            return Some(Self {
                context: context.with_l4(l4, 0),
                options,
                split: None,
            });
        };
        let words = frame.get(transport + TCP_DATA_OFFSET)? >> 4;
        let l4_length = words * 4;
        let headers = transport + usize::from(l4_length);
        if l4 != L4Type::Tcp || words < 5 || mss == 0 || headers >= frame.len() {
            return None;
        }
        if headers > MOST_SPLIT_HEADERS {
            return None;
        }
        if v4 {
            options |= TxOptions::IXSM;
        }
        Some(Self {
            context: context.with_l4(l4, l4_length).with_mss(mss),
            options,
            split: Some(Split {
                headers,
                checksum_at,
                ip_checksum_at: v4.then_some(network + IPV4_CHECKSUM),
            }),
        })
    }
}

/// The pseudo header's sum as it stands in a frame that is split, without the length of the segment:
/// the card adds that of each (datasheet 7.2.4.7). `length` is what was summed.
pub(crate) fn without_length(sum: [u8; 2], length: usize) -> [u8; 2] {
    let sum = u32::from(u16::from_be_bytes(sum));
    // One's complement subtraction is addition of the complement; a length beyond 16 bits was folded.
    let length = (length >> 16) as u32 + (length as u32 & 0xFFFF);
    let mut sum = sum + (0xFFFF - (length & 0xFFFF)) + (length >> 16);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (sum as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(ethertype: u16, tagged: bool, len: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if tagged {
            frame.extend_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
            frame.extend_from_slice(&[0, 5]);
        }
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.resize(len, 0);
        frame
    }

    fn checksum(start: u16, offset: u16) -> TxOffload {
        TxOffload {
            checksum: Some(TxChecksum { start, offset }),
            segment: None,
        }
    }

    #[test]
    fn the_context_counts_the_headers_as_they_lie_in_the_frame() {
        for (ethertype, tagged, start, offset, l4, v4) in [
            (ETHERTYPE_IPV4, false, 34, 16, L4Type::Tcp, true),
            (ETHERTYPE_IPV4, true, 38, 6, L4Type::Udp, true),
            (ETHERTYPE_IPV6, false, 54, 16, L4Type::Tcp, false),
        ] {
            let frame = frame(ethertype, tagged, 120);
            let plan = Plan::new(&frame, checksum(start, offset)).expect("the card can");
            let mac = if tagged { 18 } else { 14 };
            assert_eq!(plan.context.mac_length(), mac);
            assert_eq!(plan.context.ip_length(), start - u16::from(mac));
            assert_eq!(plan.context.l4_type(), l4);
            assert_eq!(plan.context.options().contains(ContextOptions::IPV4), v4);
            assert_eq!(plan.options, TxOptions::CC | TxOptions::TXSM);
        }
    }

    #[test]
    fn what_the_card_cannot_do_is_said() {
        let ipv4 = frame(ETHERTYPE_IPV4, false, 80);
        assert!(Plan::new(&ipv4, checksum(34, 8)).is_none(), "SCTP's place");
        assert!(Plan::new(&ipv4, checksum(14, 16)).is_none(), "no IP header");
        assert!(Plan::new(&ipv4, checksum(70, 16)).is_none(), "outside");
        let arp = frame(igb::frame::ETHERTYPE_ARP, false, 80);
        assert!(Plan::new(&arp, checksum(34, 16)).is_none(), "no IP");
        let double = frame(ETHERTYPE_VLAN, true, 80);
        assert!(Plan::new(&double, checksum(42, 16)).is_none(), "two tags");
    }

    #[test]
    fn a_frame_to_split_names_its_headers() {
        let mut long = frame(ETHERTYPE_IPV4, false, 4000);
        long[34 + TCP_DATA_OFFSET] = 8 << 4;
        let offload = TxOffload {
            segment: Some(1448),
            ..checksum(34, 16)
        };
        let plan = Plan::new(&long, offload).expect("the card can");
        assert_eq!(plan.context.mss(), 1448);
        assert_eq!(plan.context.l4_length(), 32);
        let split = plan.split.expect("it is split");
        assert_eq!((split.headers, split.checksum_at), (66, 50));
        assert_eq!(split.ip_checksum_at, Some(24));
        assert!(plan.options.contains(TxOptions::IXSM));
        long[34 + TCP_DATA_OFFSET] = 4 << 4;
        assert!(Plan::new(&long, offload).is_none(), "a header too short");
    }

    proptest! {
        /// No frame and no offsets make it panic.
        #[test]
        fn any_offsets_are_judged(
            bytes in prop::collection::vec(any::<u8>(), 0..100), start: u16, offset: u16, mss: u16,
        ) {
            let offload = TxOffload { segment: Some(mss), ..checksum(start, offset) };
            let _ = Plan::new(&bytes, offload);
            let _ = Plan::new(&bytes, checksum(start, offset));
        }

        /// Taking the length out and putting it in again gives the sum.
        #[test]
        fn a_length_comes_out_of_a_sum(sum: u16, length in 0usize..70_000) {
            let without = u32::from(u16::from_be_bytes(without_length(sum.to_be_bytes(), length)));
            let mut with = without + (length as u32 & 0xFFFF) + (length as u32 >> 16);
            while with > 0xFFFF {
                with = (with & 0xFFFF) + (with >> 16);
            }
            // 0 and 0xFFFF are the same number.
            prop_assert_eq!(with % 0xFFFF, u32::from(sum) % 0xFFFF);
        }
    }
}
