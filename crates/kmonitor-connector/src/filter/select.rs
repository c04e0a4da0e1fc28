//! From the interest to what shall pass.

use kmonitor_event::EventMask;
use kmonitor_source::KernelInterest;

use super::Kinds;

/// So many processes are told apart in the kernel. More are not: all events of the
/// kinds that are wanted of any of them pass.
///
/// Each process takes two instructions, one of them run per event. Measured on
/// 6.18: attaching takes about 0.3 µs an instruction (128 processes: 75 µs), and a
/// storm of forks is not measurably slower below 1 000 processes. So the limit is
/// for the sake of attaching, which happens with each batch of changes, and of
/// kernels with little room for programs.
const NAMED_MAX: usize = 128;

/// With so many processes too many in a program it is not replaced by a smaller one.
const STALE_MAX: usize = 16;

/// Which datagrams pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selection {
    /// Kinds that pass, whomever they are about.
    pub(crate) host: Kinds,
    /// Kinds that pass if they are about one of `pids`.
    pub(crate) named: Kinds,
    /// In order, each once. Of FORK, the child: its new threads, and the birth of
    /// who has its pid next.
    pub(crate) pids: Vec<u32>,
    /// Those of `pids` whose children are wanted. In order.
    pub(crate) parents: Vec<u32>,
}

impl Selection {
    /// Without a filter.
    pub(crate) fn everything() -> Self {
        Self {
            host: Kinds::ALL,
            ..Self::default()
        }
    }

    /// Whether this may stay where `wanted` is wanted: it lets pass all of that,
    /// and not so much else that another program would pay.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        let stale = self.pids.len().saturating_sub(wanted.pids.len());
        self.host == wanted.host
            && self.named == wanted.named
            && stale <= STALE_MAX
            && includes(&self.pids, &wanted.pids)
            && includes(&self.parents, &wanted.parents)
    }
}

/// Whether all of `few` are in `many`, both in order.
fn includes(many: &[u32], few: &[u32]) -> bool {
    few.iter().all(|pid| many.binary_search(pid).is_ok())
}

/// Makes selections, one after the other.
#[derive(Debug)]
pub(crate) struct Selector {
    named_max: usize,
    /// The kinds wanted of any process by name, while there are too many of them.
    /// Kept, because they would have to be gone through for each change.
    crowd: Option<Kinds>,
}

impl Default for Selector {
    fn default() -> Self {
        Self {
            named_max: NAMED_MAX,
            crowd: None,
        }
    }
}

impl Selector {
    /// How many processes are told apart.
    pub(super) fn named_max(&self) -> usize {
        self.named_max
    }

    /// Tells fewer apart from now on.
    pub(super) fn limit(&mut self, named_max: usize) {
        self.named_max = self.named_max.min(named_max);
    }

    /// What shall pass for this interest.
    pub(crate) fn select(&mut self, interest: &KernelInterest) -> Selection {
        let selection = self.least(interest);
        if selection.host.contains(Kinds::COMMON) {
            Selection::everything()
        } else {
            selection
        }
    }

    /// The least that must pass.
    fn least(&mut self, interest: &KernelInterest) -> Selection {
        let host = Kinds::of(interest.host());
        let wanted = interest.iter_named();
        if wanted.len() > self.named_max {
            let crowd = match self.crowd {
                // It grows with what is new, and shrinks when the crowd has gone.
                Some(crowd) => {
                    let changed = interest.changes().iter();
                    let changed = changed.filter_map(|key| interest.named(*key));
                    changed.fold(crowd, |crowd, it| crowd | Kinds::of(it.events))
                }
                None => wanted.fold(Kinds::NONE, |crowd, (_, it)| crowd | Kinds::of(it.events)),
            };
            self.crowd = Some(crowd);
            return Selection {
                host: host | crowd,
                ..Selection::default()
            };
        }
        self.crowd = None;
        let mut selection = Selection {
            host,
            ..Selection::default()
        };
        for (key, wanted) in wanted {
            let kinds = Kinds::of(wanted.events).without(host);
            if kinds.is_empty() {
                continue;
            }
            let pid = key.pid().as_raw().cast_unsigned();
            selection.named = selection.named | kinds;
            selection.pids.push(pid);
            if wanted.events.contains(EventMask::FORK) && !host.contains(Kinds::FORK) {
                selection.parents.push(pid);
            }
        }
        for pids in [&mut selection.pids, &mut selection.parents] {
            // A pid and its next owner may both be wanted.
            pids.sort_unstable();
            pids.dedup();
        }
        selection
    }
}
