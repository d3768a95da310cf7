//! What is wrong with an object, said so that it can be put right.

use std::fmt;

/// Everything that keeps one object from being used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// `IPAddressPool` or `L2Advertisement`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// The object's uid, for events; empty when it has none.
    pub uid: String,
    /// All of them, in the order of the fields.
    pub problems: Vec<Problem>,
    /// An earlier version of the object stays in force.
    pub last_good_kept: bool,
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The field's path, like `spec.addresses[2]`.
    pub field: String,
    /// The value and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Problem {
            field: field.into(),
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = self
            .problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        let outcome = if self.last_good_kept {
            "its last good version stays in force"
        } else {
            "it is left out"
        };
        write!(f, "{} {:?}: {problems}; {outcome}", self.kind, self.name)
    }
}
