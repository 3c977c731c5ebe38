//! The steps of a certificate as they happen, for those who test what a crash at each of them does.
//!
//! In production nobody listens.

use std::fmt;

use crate::Answer;
use crate::ca::Step;
use crate::plan::Target;
use crate::record::Phase;

/// One side of one effect: a kill here must cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// About to store the record in this phase.
    Storing(Phase),
    /// Stored.
    Stored(Phase),
    /// About to ask the authority.
    Asking(Step),
    /// The authority answered, nothing is stored yet.
    Asked(Step),
    /// About to write or remove a TXT record.
    Writing,
    /// Done.
    Written,
    /// About to hand the certificate out.
    Projecting,
    /// Handed out.
    Projected,
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storing(phase) => write!(formatter, "storing-{phase:?}"),
            Self::Stored(phase) => write!(formatter, "stored-{phase:?}"),
            Self::Asking(step) => write!(formatter, "asking-{step:?}"),
            Self::Asked(step) => write!(formatter, "asked-{step:?}"),
            other => write!(formatter, "{other:?}"),
        }
    }
}

/// Who listens.
pub trait Journal: Send + Sync {
    /// Returns when the flow may go on; never, to let it die here.
    fn reached<'a>(&'a self, point: Point, target: &'a Target) -> Answer<'a, ()>;
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Journal for Silent {
    fn reached<'a>(&'a self, _: Point, _: &'a Target) -> Answer<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
