//! A declaration, checked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::builder::SupervisorBuilder;
use super::task::TaskBody;
use crate::core::{NewChild, Policy, Rules};
use crate::output::OutputRing;
use crate::spec::{Backoff, ChildName, Codes, Output, ProcessSpec, Restart, Stop};
use crate::words::BuildError;

/// Supervisors in supervisors; deeper is a mistake, and each takes stack to check.
const DEPTH_MAX: usize = 32;

/// A child as declared: a [`Service`](super::Service), a [`Task`](super::Task) or a
/// [`SupervisorBuilder`], each of which turns into this.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    pub(crate) name: String,
    pub(crate) common: Common,
    pub(crate) body: Declared,
}

/// What all kinds of children have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) codes: Codes,
    pub(crate) stop: Stop,
    pub(crate) significant: bool,
    pub(crate) ready_within: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(crate) enum Declared {
    Process(ProcessSpec),
    Task(TaskBody),
    Supervisor(Box<SupervisorBuilder>),
}

/// A supervisor that can be started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: ChildName,
    pub(crate) rules: Rules,
    pub(crate) children: Vec<Planned>,
}

#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) new: NewChild,
    pub(crate) body: Body,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Process(Arc<ProcessSpec>),
    Task(TaskBody),
    Supervisor(Arc<Plan>),
}

impl Plan {
    pub(crate) fn check(builder: &SupervisorBuilder) -> Result<Self, BuildError> {
        Self::check_at(builder, 0)
    }

    fn check_at(builder: &SupervisorBuilder, depth: usize) -> Result<Self, BuildError> {
        if depth > DEPTH_MAX {
            return Err(BuildError::TooDeep(DEPTH_MAX));
        }
        let mut names = BTreeSet::new();
        let mut children = Vec::with_capacity(builder.children.len());
        for child in &builder.children {
            let planned = Planned::check_at(child, depth)?;
            if !names.insert(planned.new.name.clone()) {
                return Err(BuildError::Twice(planned.new.name));
            }
            children.push(planned);
        }
        Ok(Self {
            name: ChildName::new(&builder.name)?,
            rules: builder.rules.clone(),
            children,
        })
    }

    /// Whether the same would run.
    fn same(&self, other: &Self) -> bool {
        self.rules == other.rules
            && self.children.len() == other.children.len()
            && self.children.iter().zip(&other.children).all(|(a, b)| {
                a.new.name == b.new.name && a.new.policy == b.new.policy && a.body.same(&b.body)
            })
    }
}

impl Planned {
    pub(crate) fn check(child: &ChildSpec) -> Result<Self, BuildError> {
        Self::check_at(child, 0)
    }

    fn check_at(child: &ChildSpec, depth: usize) -> Result<Self, BuildError> {
        let name = ChildName::new(&child.name)?;
        let common = &child.common;
        check_backoff(&name, &common.backoff)?;
        if common.significant && common.restart == Restart::Always {
            return Err(BuildError::SignificantForever(name));
        }
        let body = match &child.body {
            Declared::Process(spec) if spec.command.is_none() && spec.adopt.is_none() => {
                return Err(BuildError::Nothing(name));
            }
            Declared::Process(spec) => Body::Process(Arc::new(spec.clone())),
            Declared::Task(body) => Body::Task(body.clone()),
            Declared::Supervisor(builder) => {
                Body::Supervisor(Arc::new(Plan::check_at(builder, depth + 1)?))
            }
        };
        let policy = Policy {
            restart: common.restart,
            backoff: common.backoff,
            codes: common.codes.clone(),
            stop: common.stop.clone(),
            ready_within: common.ready_within,
            significant: common.significant,
            bounds_itself: matches!(body, Body::Supervisor(_)),
        };
        Ok(Self {
            new: NewChild { name, policy },
            body,
        })
    }
}

fn check_backoff(child: &ChildName, backoff: &Backoff) -> Result<(), BuildError> {
    let wrong = |what, value| {
        Err(BuildError::Backoff {
            child: child.clone(),
            what,
            value,
        })
    };
    if !(0.0..=1.0).contains(&backoff.jitter) {
        return wrong("its jitter (0 to 1)", backoff.jitter);
    }
    if !(backoff.factor.is_finite() && backoff.factor >= 1.0) {
        return wrong("the factor of its waits (1 or more)", backoff.factor);
    }
    Ok(())
}

impl Body {
    /// Whether the same would run. Two closures cannot be told apart, so a task is
    /// taken to be the one of the same name.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process(a), Self::Process(b)) => a == b,
            (Self::Task(_), Self::Task(_)) => true,
            (Self::Supervisor(a), Self::Supervisor(b)) => a.same(b),
            _ => false,
        }
    }

    /// A ring for what it writes.
    pub(crate) fn ring(&self) -> Arc<OutputRing> {
        let lines = match self {
            Self::Process(spec) => match spec.output {
                Output::Capture { lines } => lines,
                Output::Inherit | Output::Null => 0,
            },
            Self::Task(_) | Self::Supervisor(_) => 0,
        };
        Arc::new(OutputRing::new(lines))
    }
}

/// The settings that services and tasks share.
macro_rules! common_settings {
    () => {
        /// Which ends make it be started again. On failure, unless told.
        #[must_use]
        pub fn restart(mut self, restart: $crate::spec::Restart) -> Self {
            self.common.restart = restart;
            self
        }

        /// How long restarts are put off.
        #[must_use]
        pub fn backoff(mut self, backoff: $crate::spec::Backoff) -> Self {
            self.common.backoff = backoff;
            self
        }

        /// Its supervisor may end with it: see
        /// [`auto_shutdown`](super::SupervisorBuilder::auto_shutdown).
        #[must_use]
        pub fn significant(mut self) -> Self {
            self.common.significant = true;
            self
        }

        /// How it is stopped.
        #[must_use]
        pub fn stop(mut self, stop: $crate::spec::Stop) -> Self {
            self.common.stop = stop;
            self
        }
    };
}
pub(super) use common_settings;
