use proptest::prelude::*;

use super::super::Granularity;
use super::*;

const PAGE: u64 = 4096;

fn offered(most: u64, over_holes: bool) -> DirtyTracking {
    DirtyTracking {
        page_size: PAGE,
        granularity: Granularity::WrittenPages,
        most,
        over_holes,
    }
}

#[test]
fn windows_that_lie_near_each_other_are_asked_for_at_once() {
    let windows = [
        (0x1_0000, 0x1000),
        (0x1_2000, 0x3000),
        (0x1_5000, 0x1000),
        // Far away, and of more pages than several windows are asked for at once.
        (0x100_0000_0000, 4 << 30),
        (0x101_0000_0000, 0x1000),
    ];
    let lengths = |offered| {
        let parts = pieces(&windows, &offered).expect("pieces");
        assert_eq!(parts.concat(), windows);
        parts.iter().map(|part| part.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(offered(1 << 20, true)), [3, 1, 1]);
    assert_eq!(lengths(offered(1 << 20, false)), [1, 2, 1, 1]);
    assert!(pieces(&[], &offered(8, true)).expect("none").is_empty());
}

#[test]
fn a_window_for_which_there_is_no_bitmap_is_named() {
    let windows = [(0x1000, 0x1000), (0x10_0000, 65 << 12)];
    assert_eq!(
        pieces(&windows, &offered(16, true)).expect("it fits").len(),
        2
    );
    let text = pieces(&windows, &offered(8, true)).expect_err("65 pages");
    let text = text.to_string();
    assert!(text.contains("0x41000 bytes at IOVA 0x100000"), "{text}");
    assert!(text.contains("as several windows"), "{text}");
}

#[test]
fn the_top_of_the_address_space_is_an_address_like_any_other() {
    let first = u64::MAX - 0x1FFF;
    let windows = [(first, 0x2000)];
    assert_eq!(bytes(&windows, PAGE), 8);
    let mut piece = Piece::about(&windows, PAGE);
    assert_eq!((piece.size, piece.words.len()), (0x2000, 1));
    piece.words[0] = u64::MAX;
    piece.keep_only(&windows);
    let mut pages = DirtyPages::new(PAGE);
    pages.push(piece);
    assert_eq!(pages.ranges().collect::<Vec<_>>(), [first..=u64::MAX]);
    assert!(pages.contains(u64::MAX) && !pages.contains(first - 1));
}

/// Windows with pages between them, and for each page of the whole whether its bit is set.
fn windows_and_bits() -> impl Strategy<Value = (Vec<(u64, usize)>, Vec<bool>)> {
    let lengths = proptest::collection::vec((0..70_u64, 1..140_u64), 1..6);
    lengths.prop_flat_map(|lengths| {
        let mut at = 0x10_0000;
        let mut windows = Vec::new();
        for (hole, pages) in lengths {
            at += hole * PAGE;
            windows.push((at, (pages * PAGE) as usize));
            at += pages * PAGE;
        }
        let all = pages(extent(&windows), PAGE) as usize;
        // The bits after the last page too: whoever filled the words may have set them.
        let bits = proptest::collection::vec(any::<bool>(), all.next_multiple_of(64));
        (Just(windows), bits)
    })
}

proptest! {
    #[test]
    fn a_bitmap_says_what_its_bits_say_of_windows_and_nothing_else(
        (windows, bits) in windows_and_bits(),
    ) {
        let mut piece = Piece::about(&windows, PAGE);
        prop_assert_eq!(piece.words.len() * 64, bits.len());
        for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
            piece.words[at / 64] |= 1 << (at % 64);
        }
        piece.keep_only(&windows);
        let base = piece.iova;
        let mut dirty = DirtyPages::new(PAGE);
        dirty.push(piece);
        let mut expected = Vec::new();
        for (at, bit) in bits.iter().enumerate() {
            let iova = base + at as u64 * PAGE;
            let inside = windows
                .iter()
                .any(|(first, size)| *first <= iova && iova < first + *size as u64);
            prop_assert_eq!(dirty.contains(iova + 0xFFF), *bit && inside);
            if *bit && inside {
                expected.push(iova);
            }
        }
        prop_assert_eq!(dirty.count(), expected.len() as u64);
        let mut told = Vec::new();
        let mut end = None;
        for range in dirty.ranges() {
            prop_assert!(end.is_none_or(|end| end + 1 < *range.start()), "not one range");
            end = Some(*range.end());
            told.extend(range.step_by(PAGE as usize));
        }
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn pieces_are_all_windows_in_order_and_none_is_larger_than_a_bitmap(
        (windows, _) in windows_and_bits(), most in 1..60_u64, over_holes: bool,
    ) {
        let offered = offered(most * 8, over_holes);
        match pieces(&windows, &offered) {
            Ok(parts) => {
                prop_assert_eq!(&parts.concat(), &windows);
                for part in parts {
                    prop_assert!(bytes(part, PAGE) <= offered.most);
                    let one = part.windows(2).all(|two| two[0].0 + two[0].1 as u64 == two[1].0);
                    prop_assert!(over_holes || one);
                }
            }
            Err(_) => prop_assert!(
                windows.iter().any(|window| bytes(&[*window], PAGE) > offered.most)
            ),
        }
    }
}
