//! What is wrong with an object: which one, which field, which value, and what would be right.

use std::fmt;

use ferrolb_model::RangeError;
use thiserror::Error;

/// One mistake in one object. An object with several mistakes has one error for each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ObjectError {
    /// The kind, as users write it: `IPAddressPool`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Where in the object: `spec.addresses[2]`.
    pub field: String,
    /// The text that stands there; empty when nothing does.
    pub value: String,
    /// What is wrong with it.
    pub problem: Box<Problem>,
    /// The last version without mistakes stays in force; otherwise the object is left out.
    pub last_good: bool,
}

/// What can be wrong. The messages say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// An item of `spec.addresses` cannot be read.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A list that needs an item, or a text that needs a character.
    #[error("is empty; {0}")]
    Empty(&'static str),
    /// Two items of one pool have addresses in common.
    #[error("{value:?} has addresses in common with {other_field} {other:?}; write each address once")]
    OverlapWithin {
        /// This item.
        value: String,
        /// The other item.
        other: String,
        /// Where the other item stands.
        other_field: String,
    },
    /// Two pools have addresses in common; the older one stays.
    #[error(
        "{value:?} has addresses in common with {other} of the older IPAddressPool {pool:?}; no address may be in two pools"
    )]
    OverlapWith {
        /// This pool's item.
        value: String,
        /// The range of the other pool.
        other: String,
        /// The other pool.
        pool: String,
    },
    /// The same item twice.
    #[error("{value} stands there already, in {other_field}; remove one of them")]
    Duplicate {
        /// This item.
        value: String,
        /// Where the same item stands.
        other_field: String,
    },
    /// A selector asks something that does not exist.
    #[error("{0:?} is not an operator; write In, NotIn, Exists or DoesNotExist")]
    Operator(String),
    /// `In` and `NotIn` need values.
    #[error("operator {0} needs at least one value")]
    ValuesMissing(&'static str),
    /// `Exists` and `DoesNotExist` take none.
    #[error("operator {0} takes no values")]
    ValuesNotAllowed(&'static str),
    /// No label can have this key.
    #[error(
        "{0:?} is not a label key; write up to 63 letters, digits, '-', '_' or '.', after an optional DNS name and a slash"
    )]
    LabelKey(String),
    /// No label can have this value.
    #[error(
        "{0:?} is not a label value; write up to 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
    )]
    LabelValue(String),
    /// A weight outside 1 to 100.
    #[error("{0} is not a weight; write a number from 1 to 100")]
    Weight(i32),
    /// A text that is no address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The name of a VirtualIP follows from its address.
    #[error("{name:?} is not the name for address {address}; call the object {right:?}")]
    VirtualIpName {
        /// The object's name.
        name: String,
        /// The address it holds.
        address: String,
        /// The name it should have.
        right: String,
    },
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.last_good {
            true => "its last good version stays in force",
            false => "the object is left out",
        };
        write!(
            f,
            "{} {:?}: {}: {} ({outcome})",
            self.kind, self.name, self.field, self.problem
        )
    }
}

/// Collects the mistakes of one object.
pub(crate) struct Report {
    kind: &'static str,
    name: String,
    errors: Vec<ObjectError>,
}

impl Report {
    pub(crate) fn new(kind: &'static str, name: &str) -> Self {
        Report {
            kind,
            name: name.to_owned(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, field: impl Into<String>, value: impl Into<String>, problem: Problem) {
        self.errors.push(ObjectError {
            kind: self.kind,
            name: self.name.clone(),
            field: field.into(),
            value: value.into(),
            problem: Box::new(problem),
            last_good: false,
        });
    }

    /// `value` when nothing was wrong, else every mistake.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Vec<ObjectError>> {
        if self.errors.is_empty() {
            Ok(value)
        } else {
            Err(self.errors)
        }
    }
}
