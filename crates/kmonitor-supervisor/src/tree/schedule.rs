//! What a declaration will do, to be read by people.

use std::fmt;
use std::time::Duration;

use super::plan::{Body, Plan, Planned};
use crate::core::{Rules, plain_wait};
use crate::spec::{Backoff, Restart, Strategy};

/// Waits are shown up to the longest one, but no more than so many.
const WAITS_MAX: u32 = 12;

/// What a tree will do: order of start and stop, time limits, waits before restarts.
/// Its `Display` is for people.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Schedule {
    /// The supervisor's name.
    pub name: String,
    /// Its children, in the order of their start; they are stopped in reverse.
    pub children: Vec<Scheduled>,
    rules: Rules,
}

/// What will be done about one child.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scheduled {
    /// Its name.
    pub name: String,
    /// How long its start may take; `None`: as long as its own children need.
    pub ready_within: Option<Duration>,
    /// How long its stop may take.
    pub stops_within: Duration,
    /// Which ends restart it.
    pub restart: Restart,
    /// The waits before restarts in a row, without jitter; after the last one all are
    /// as long.
    pub waits: Vec<Duration>,
    /// Whom its restart takes along, in the order of their start.
    pub takes_along: Vec<String>,
    /// Of a supervisor: what that will do.
    pub below: Option<Schedule>,
    jitter: f64,
}

impl Schedule {
    pub(super) fn of(plan: &Plan) -> Self {
        let names: Vec<&Planned> = plan.children.iter().collect();
        let children = plan.children.iter().enumerate().map(|(place, child)| {
            let along = match plan.rules.strategy {
                Strategy::OneForOne => &[],
                Strategy::OneForAll => names.as_slice(),
                Strategy::RestForOne => &names[place..],
            };
            let along = along
                .iter()
                .filter(|other| other.new.name != child.new.name);
            Scheduled::of(
                child,
                along.map(|other| other.new.name.to_string()).collect(),
            )
        });
        Self {
            name: plan.name.to_string(),
            children: children.collect(),
            rules: plan.rules.clone(),
        }
    }

    /// How long a shutdown can take at most, whatever the children do.
    pub fn stops_within(&self) -> Duration {
        let stops = self.children.iter().map(|child| child.stops_within);
        stops.fold(Duration::ZERO, Duration::saturating_add)
    }

    fn fmt_at(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let (restarts, period) = (self.rules.intensity.restarts, self.rules.intensity.period);
        let strategy = self.rules.strategy;
        let stops = self.stops_within();
        writeln!(
            f,
            "{:indent$}{}: {strategy:?}, bears {restarts} restarts in {period:?}, stops within {stops:?}",
            "", self.name
        )?;
        for (place, child) in self.children.iter().enumerate() {
            child.fmt_at(f, indent + 2, place + 1)?;
        }
        Ok(())
    }
}

impl Scheduled {
    fn of(child: &Planned, takes_along: Vec<String>) -> Self {
        let policy = &child.new.policy;
        let below = match &child.body {
            Body::Supervisor(plan) => Some(Schedule::of(plan)),
            Body::Process(_) | Body::Task(_) => None,
        };
        // Some patience is granted for what is stuck below as well.
        let own = match &below {
            Some(below) => below.stops_within(),
            None => policy.stop.grace,
        };
        Self {
            name: child.new.name.to_string(),
            ready_within: policy.ready_within,
            stops_within: own.saturating_add(policy.stop.patience),
            restart: policy.restart,
            waits: waits(&policy.backoff),
            takes_along,
            below,
            jitter: policy.backoff.jitter,
        }
    }

    fn fmt_at(&self, f: &mut fmt::Formatter<'_>, indent: usize, place: usize) -> fmt::Result {
        write!(f, "{:indent$}{place}. {}", "", self.name)?;
        if let Some(within) = self.ready_within {
            write!(f, ", ready within {within:?}")?;
        }
        write!(f, ", stops within {:?}", self.stops_within)?;
        if self.restart == Restart::Never {
            f.write_str(", never restarted")?;
        } else {
            write!(f, ", restarted {:?} after", self.restart)?;
            self.waits
                .iter()
                .try_for_each(|wait| write!(f, " {wait:?}"))?;
            if self.jitter > 0.0 {
                write!(f, " (±{:.0} %)", self.jitter * 100.0)?;
            }
            if !self.takes_along.is_empty() {
                write!(f, ", and with it {}", self.takes_along.join(", "))?;
            }
        }
        f.write_str("\n")?;
        match &self.below {
            Some(below) => below.fmt_at(f, indent + 3),
            None => Ok(()),
        }
    }
}

fn waits(backoff: &Backoff) -> Vec<Duration> {
    let mut waits: Vec<Duration> = (0..WAITS_MAX).map(|nth| plain_wait(backoff, nth)).collect();
    waits.dedup();
    waits
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_at(f, 0)
    }
}
