//! What is wrong with an object: which one, which field, which value, and what would be right.

use std::fmt;

use thiserror::Error;

use crate::objects::{Kind, ObjectRef};
use crate::problem::Problem;

/// One mistake in one object. An object with several mistakes has one error for each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ObjectError {
    /// The kind, as users write it: `IPAddressPool`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Where in the object: `spec.addresses[2]`; empty for the object as a whole.
    pub field: String,
    /// The text that stands there; empty when nothing does, or when it must not be shown.
    pub value: String,
    /// What is wrong with it.
    pub problem: Box<Problem>,
    /// What becomes of the object.
    pub outcome: Outcome,
}

/// What becomes of an object about which there is something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force; what is said about it is a warning.
    InForce,
    /// It is in force, except for what the message names.
    InPart,
    /// Its last version without mistakes stays in force.
    LastGood,
    /// Nothing of it is in force.
    LeftOut,
}

impl ObjectError {
    /// The object, if it is one of the configuration.
    pub fn object(&self) -> Option<ObjectRef> {
        let kind = Kind::ALL.iter().find(|kind| kind.name() == self.kind)?;
        Some(ObjectRef::new(*kind, &self.name))
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::InForce => "a warning; the object is in force",
            Outcome::InPart => "the rest of the object is in force",
            Outcome::LastGood => "its last good version stays in force",
            Outcome::LeftOut => "the object is left out",
        };
        write!(f, "{} {:?}: ", self.kind, self.name)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({outcome})", self.problem)
    }
}

/// Collects what is to be said about one object.
pub(crate) struct Report {
    kind: &'static str,
    name: String,
    errors: Vec<ObjectError>,
}

impl Report {
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        Report {
            kind: kind.name(),
            name: name.to_owned(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn of(object: &ObjectRef) -> Self {
        Report::new(object.kind, &object.name)
    }

    pub(crate) fn push(&mut self, field: impl Into<String>, value: impl Into<String>, problem: impl Into<Problem>) {
        self.errors.push(ObjectError {
            kind: self.kind,
            name: self.name.clone(),
            field: field.into(),
            value: value.into(),
            problem: Box::new(problem.into()),
            outcome: Outcome::LeftOut,
        });
    }

    /// The value of what was read, or a mistake.
    pub(crate) fn take<T, P: Into<Problem>>(
        &mut self,
        field: impl Into<String>,
        value: &str,
        result: Result<T, P>,
    ) -> Option<T> {
        result.map_err(|problem| self.push(field, value, problem)).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Everything that was said, with the same outcome.
    pub(crate) fn into_errors(self, outcome: Outcome) -> impl Iterator<Item = ObjectError> {
        self.errors
            .into_iter()
            .map(move |error| ObjectError { outcome, ..error })
    }
}
