//! Lays the accesses of one function in two runs side by side.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use super::{Comparison, Difference, Item, Located, field_differences};
use crate::trace::entry::{Entry, Place};

/// After this long the best alignment so far is taken: two runs that have nothing in common.
const PATIENCE: Duration = Duration::from_secs(10);

/// Compare the accesses of one function.
pub(super) fn align<'a>(
    function: &str,
    a: &[Item<'a>],
    b: &[Item<'a>],
    context: usize,
    result: &mut Comparison,
) {
    // Numbers are quicker to compare than names.
    let mut numbers: HashMap<(bool, &'a str, &'a Place), u32> = HashMap::new();
    let mut number = |item: &Item<'a>| {
        let next = numbers.len() as u32;
        *numbers.entry(item.identity()).or_insert(next)
    };
    let left: Vec<u32> = a.iter().map(&mut number).collect();
    let right: Vec<u32> = b.iter().map(&mut number).collect();
    let deadline = Instant::now() + PATIENCE;
    let steps = capture_diff_slices_deadline(Algorithm::Myers, &left, &right, Some(deadline));
    let before = |end: usize| -> Vec<Entry> {
        a[end.saturating_sub(context)..end]
            .iter()
            .map(|item| item.entry.clone())
            .collect()
    };
    let entries = |items: &[Item<'_>], range: Range<usize>| -> Vec<Entry> {
        items[range].iter().map(|item| item.entry.clone()).collect()
    };
    for step in steps {
        if let DiffOp::Equal {
            old_index,
            new_index,
            len,
        } = step
        {
            for n in 0..len {
                let (x, y) = (&a[old_index + n], &b[new_index + n]);
                if x.same_value(y) {
                    result.same += 1;
                    continue;
                }
                let (old, new) = (x.access.value, y.access.value);
                let fields = field_differences(
                    &x.access.place,
                    old.unwrap_or_default(),
                    new.unwrap_or_default(),
                );
                result.differences.push(Located {
                    function: function.to_owned(),
                    difference: Difference::Value {
                        a: Box::new(x.entry.clone()),
                        b: Box::new(y.entry.clone()),
                        fields,
                    },
                    before: before(old_index + n),
                });
            }
            continue;
        }
        let (old, new) = (step.old_range(), step.new_range());
        result.differences.push(Located {
            function: function.to_owned(),
            before: before(old.start),
            difference: Difference::Accesses {
                a: entries(a, old),
                b: entries(b, new),
            },
        });
    }
}
