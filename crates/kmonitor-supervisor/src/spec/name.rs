//! Names of children, and their paths in a tree.

use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes.
const NAME_MAX: usize = 64;

/// A child's name, unique among its siblings. It names a cgroup and a file, so it is
/// 1 to 64 of `A-Z a-z 0-9 _ - . @ :`, and does not start with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildName(Arc<str>);

/// Not a child's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a child's name: 1 to 64 of A-Z a-z 0-9 _ - . @ : and no dot in front")]
pub struct NameError(String);

impl ChildName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] says what a name may be.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.@:".contains(c);
        let fits = (1..=NAME_MAX).contains(&name.len());
        if fits && !name.starts_with('.') && name.chars().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(NameError(name.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A child's place in a tree: the names from the root's to its own, with `/` between.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildPath(Arc<str>);

impl ChildPath {
    /// The root's path.
    pub fn root(name: &ChildName) -> Self {
        Self(Arc::clone(&name.0))
    }

    /// The path of a child of this one.
    #[must_use]
    pub fn join(&self, name: &ChildName) -> Self {
        Self(format!("{self}/{name}").into())
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ChildPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
