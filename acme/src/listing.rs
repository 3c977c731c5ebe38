//! What there is instead, in a sentence that says what is missing.
//!
//! Invariant: the list is short, however many there are.

/// The first few, and how many more there are; `none` if there is nothing.
pub(crate) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter();
    let first: Vec<T> = names.by_ref().take(MOST).collect();
    if first.is_empty() {
        return "none".to_owned();
    }
    let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Names that are listed.
const MOST: usize = 8;
