// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a resource: where ([`InvalidResource`]) and why ([`Problem`]). Made by parsing, by `TryFrom` of the
//! domain types and by `Resources::merge`; printed by whoever asked for them.
//!
//! Invariant: a message names the place, what is wrong there and what to do, on one line.

use std::{
    fmt::{self, Display},
    sync::Arc,
};

mod admission;
mod packet;
mod problem;

pub use admission::AdmissionProblem;
pub use packet::PacketProblem;
pub use problem::{Found, Problem};

/// Most errors that one list holds; the others are counted.
pub const MAX_ERRORS: usize = 100;

/// One error in one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidResource {
    /// Label of the source, such as a file's name, where one is known.
    pub file: Option<Arc<str>>,
    /// Number of the document in its source, from 1; empty documents are not counted.
    pub document: usize,
    /// Kind as written, where one is.
    pub kind: Option<String>,
    /// `namespace/name` as written, where there is a name.
    pub name: Option<String>,
    /// Path of the field such as `spec.backends[2].port`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong, and the remedy.
    pub problem: Problem,
}

impl Display for InvalidResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        write!(f, "document {}", self.document)?;
        match (&self.kind, &self.name) {
            (Some(kind), Some(name)) => write!(f, ", {} {}", on_one_line(kind), on_one_line(name))?,
            (Some(kind), None) => write!(f, ", {}", on_one_line(kind))?,
            (None, Some(name)) => write!(f, ", {}", on_one_line(name))?,
            (None, None) => {}
        }
        if !self.field.is_empty() {
            write!(f, ", {}", on_one_line(&self.field))?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for InvalidResource {}

/// `text` with its control characters escaped.
pub(crate) fn on_one_line(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut line, char| {
            if char.is_control() {
                line.extend(char.escape_default());
            } else {
                line.push(char);
            }
            line
        })
}

/// Errors of one parse or merge: the first [`MAX_ERRORS`], and how many there are besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvalidResources {
    listed: Vec<InvalidResource>,
    omitted: usize,
}

impl InvalidResources {
    /// The errors that are listed, in the order of the sources.
    pub fn listed(&self) -> &[InvalidResource] {
        &self.listed
    }

    /// How many errors there are besides the listed ones.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether there are no errors.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub(crate) fn push(&mut self, error: InvalidResource) {
        if self.listed.len() < MAX_ERRORS {
            self.listed.push(error);
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn omit(&mut self, count: usize) {
        self.omitted += count;
    }
}

/// One error per line.
impl Display for InvalidResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.listed.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.omitted {
            0 => Ok(()),
            1 => f.write_str("\nand 1 more error"),
            count => write!(f, "\nand {count} more errors"),
        }
    }
}

impl std::error::Error for InvalidResources {}

/// A problem and the path of its field, before it is known which document it belongs to.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) field: String,
    pub(crate) problem: Problem,
}

/// The findings of one document, capped like the list that they go to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) listed: Vec<Finding>,
    pub(crate) omitted: usize,
}

impl Findings {
    /// Notes a problem of `field`.
    pub(crate) fn add(&mut self, field: impl Display, problem: Problem) {
        if self.listed.len() < MAX_ERRORS {
            self.listed.push(Finding {
                field: field.to_string(),
                problem,
            });
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The value, or `None` with its problem noted.
    pub(crate) fn check<T>(&mut self, field: impl Display, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.add(field, problem)).ok()
    }
}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        Self {
            listed: vec![finding],
            omitted: 0,
        }
    }
}

impl From<Problem> for Findings {
    fn from(problem: Problem) -> Self {
        Finding {
            field: String::new(),
            problem,
        }
        .into()
    }
}

/// Where a resource is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// Label of the source.
    pub file: Arc<str>,
    /// Number of the document in it, from 1.
    pub document: usize,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)
    }
}
