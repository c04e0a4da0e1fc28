//! What a tree's end was like.

use std::fmt;
use std::time::Duration;

use super::{End, Ending};
use crate::backend::Survivor;
use crate::spec::ChildPath;

/// How a tree ended, and each of its children.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Why it ended.
    pub end: End,
    /// Its children in the order of their start, those of supervisors after these.
    pub children: Vec<ChildReport>,
    /// How long it took from the decision to end to the end.
    pub took: Duration,
}

/// A tree ended otherwise than it should: see [`Report::result`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TreeFailed(pub Report);

/// How a child ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildReport {
    /// Which.
    pub path: ChildPath,
    /// How its last incarnation ended; `None`: it never ran, or has not ended.
    pub ending: Option<Ending>,
    /// Whether it had to be killed.
    pub killed: bool,
    /// Who is left of it.
    pub survivors: Vec<Survivor>,
    /// Whether it is still there, be it that nobody can be named.
    pub stuck: bool,
    /// How long its stop took; `None`: it was down already.
    pub took: Option<Duration>,
}

impl Report {
    /// Whether nothing was left behind.
    pub fn is_clean(&self) -> bool {
        self.children.iter().all(|child| !child.stuck)
    }

    /// Whether it ended as it should: it was asked to, or ended with its significant
    /// children, and nothing was left behind. What a program returns that is its tree.
    ///
    /// # Errors
    /// It gave up, did not start, or left something; the error is this report in words.
    pub fn result(&self) -> Result<(), TreeFailed> {
        let is_as_it_should = matches!(self.end, End::Shutdown | End::AutoShutdown { .. });
        if is_as_it_should && self.is_clean() {
            Ok(())
        } else {
            Err(TreeFailed(self.clone()))
        }
    }

    /// The child with this path.
    pub fn child(&self, path: &str) -> Option<&ChildReport> {
        self.children
            .iter()
            .find(|child| child.path.as_str() == path)
    }
}

/// A line per child.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tree {} in {:?}", self.end, self.took)?;
        self.children
            .iter()
            .try_for_each(|child| write!(f, "\n{child}"))
    }
}

impl fmt::Display for ChildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.ending {
            Some(ending) => ending.fmt(f)?,
            None if self.stuck => f.write_str("has not ended")?,
            None => f.write_str("did not run")?,
        }
        if let Some(took) = self.took {
            write!(f, ", after {took:?}")?;
        }
        if self.killed {
            f.write_str(", killed")?;
        }
        self.survivors
            .iter()
            .try_for_each(|one| write!(f, "\n  left: {one}"))
    }
}
