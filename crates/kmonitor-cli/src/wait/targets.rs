//! Taking hold of the processes that were named.

use futures::future::FutureExt as _;
use kmonitor::pidfd::Mechanism;
use kmonitor::{Pid, ProcessRef, Watch};
use rustc_hash::FxHashSet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::WaitArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;

/// Descriptors that are needed besides one per process: the standard three, the
/// runtime's, and what is opened for a moment.
const OTHER_DESCRIPTORS: u64 = 32;

/// The processes that were named, each once.
pub(crate) struct Opened {
    /// Those that exist, held.
    pub(crate) watches: Vec<Watch>,
    /// Those that were gone, where that is allowed.
    pub(crate) gone: Vec<ProcessRef>,
}

/// Opens them all, or says what is wrong with each that cannot be waited for.
pub(crate) fn open(args: &WaitArgs) -> Result<Opened, Code> {
    let own = Pid::current();
    if args.targets.iter().any(|target| target.pid == own) {
        complain(format_args!(
            "{own} is kmonitor itself, which would wait for ever"
        ));
        return Err(Code::Usage);
    }
    raise_limit(args.targets.len());

    let mut opened = Opened {
        watches: Vec::with_capacity(args.targets.len()),
        gone: Vec::new(),
    };
    let mut named = FxHashSet::default();
    let mut held = FxHashSet::default();
    let mut failed = false;
    let mut polling = false;
    for target in &args.targets {
        if !named.insert(*target) {
            continue;
        }
        let mut watch = kmonitor::watch(*target);
        let Some(key) = watch.process() else {
            // It cannot be watched, and says so when it is first asked.
            match watch.exited().now_or_never() {
                Some(Err(error)) if error.is_gone() && args.allow_gone => {
                    opened.gone.push(*target);
                }
                Some(Err(error)) => {
                    complain(chain(&error));
                    failed = true;
                }
                Some(Ok(_)) | None => {}
            }
            continue;
        };
        // `12` and `12:345` may be one process.
        if held.insert((key.pid(), key.inode())) {
            polling |= watch.mechanism() == Some(Mechanism::Polling);
            opened.watches.push(watch);
        }
    }
    if failed {
        return Err(Code::Failure);
    }
    if polling && args.verbose {
        complain(
            "pidfd_open is blocked (seccomp) or missing (before Linux 5.3): \
             polling /proc, ends are noticed up to 0.25 s late",
        );
    }
    let total = opened.watches.len() + opened.gone.len();
    if let Some(count) = args.count
        && count.get() > total
    {
        complain(format_args!(
            "--count {count} is more than the processes named, which are {total}"
        ));
        return Err(Code::Usage);
    }
    Ok(opened)
}

/// Makes room for one descriptor per process, as far as that is allowed. Where
/// it is not enough, opening the process says so.
fn raise_limit(processes: usize) {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(processes)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHER_DESCRIPTORS);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // The worst that follows is the error above.
    let _ = setrlimit(Resource::Nofile, raised);
}
