//! What is different between two states, in one pass over both: reports come often, and most of
//! what they hold is as it was.

use std::cmp::Ordering;
use std::iter::Peekable;

/// Walks two sorted sequences at once and calls `found` with whatever is in one of them only, or
/// in both but not the same.
pub(super) fn differences<T>(
    old: impl Iterator<Item = T>,
    new: impl Iterator<Item = T>,
    order: impl Fn(&T, &T) -> Ordering,
    same: impl Fn(&T, &T) -> bool,
    mut found: impl FnMut(T),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(left), Some(right)) => match order(left, right) {
                Ordering::Less => take(&mut old, &mut found),
                Ordering::Greater => take(&mut new, &mut found),
                Ordering::Equal => {
                    let same = same(left, right);
                    old.next();
                    if same {
                        new.next();
                    } else {
                        take(&mut new, &mut found);
                    }
                }
            },
            (Some(_), None) => take(&mut old, &mut found),
            (None, Some(_)) => take(&mut new, &mut found),
            (None, None) => return,
        }
    }
}

fn take<T>(from: &mut Peekable<impl Iterator<Item = T>>, found: &mut impl FnMut(T)) {
    if let Some(item) = from.next() {
        found(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_gone_or_changed_is_found() {
        let old = [(1, 'a'), (2, 'b'), (4, 'd'), (6, 'f')];
        let new = [(1, 'a'), (2, 'x'), (3, 'c'), (6, 'f'), (7, 'g')];
        let mut found = Vec::new();
        differences(
            old.iter(),
            new.iter(),
            |left, right| left.0.cmp(&right.0),
            |left, right| left == right,
            |item| found.push(*item),
        );
        assert_eq!(found, [(2, 'x'), (3, 'c'), (4, 'd'), (7, 'g')]);
    }
}
