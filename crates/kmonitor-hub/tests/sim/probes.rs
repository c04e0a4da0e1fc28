//! A probe that a test can spoil.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmonitor_event::{Pid, Timestamp};
use kmonitor_source::sim::{SimKernel, SimProbe};
use kmonitor_source::{
    Identity, Listing, ProbeError, ProcessEntry, ProcessProbe, ProcessState, ReapFuture,
    ThreadState,
};

type Happening = Box<dyn Fn(&SimKernel) + Send + Sync>;
type HappeningTo = Box<dyn Fn(&SimKernel, Pid) + Send + Sync>;

/// The simulated kernel's probe, with faults on demand and with things that
/// happen while it looks. It has nothing to hold processes by.
pub(crate) struct FaultyProbe {
    probe: SimProbe,
    kernel: SimKernel,
    faults: Arc<Faults>,
    during_listing: Option<Happening>,
    after_listing: Option<Happening>,
    before_identifying: Option<HappeningTo>,
    after_identifying: Option<HappeningTo>,
    after_state: Option<HappeningTo>,
}

/// What is wrong with a [`FaultyProbe`], and how often it was asked.
#[derive(Default)]
pub(crate) struct Faults {
    failing_states: AtomicUsize,
    threads_fail: AtomicBool,
    lists_are_cut: AtomicBool,
    listing_fails: AtomicBool,
    states_asked: AtomicUsize,
}

impl Faults {
    /// The next so many looks at the state of a process fail.
    pub(crate) fn fail_states(&self, count: usize) {
        self.failing_states.store(count, Ordering::SeqCst);
    }

    /// How many of these failures are still to come.
    pub(crate) fn states_to_fail(&self) -> usize {
        self.failing_states.load(Ordering::SeqCst)
    }

    /// From now on threads cannot be listed.
    pub(crate) fn fail_threads(&self) {
        self.threads_fail.store(true, Ordering::SeqCst);
    }

    /// Whether from now on the last thread is missing from each list.
    pub(crate) fn cut_lists(&self, cut: bool) {
        self.lists_are_cut.store(cut, Ordering::SeqCst);
    }

    /// From now on processes cannot be listed.
    pub(crate) fn fail_listing(&self) {
        self.listing_fails.store(true, Ordering::SeqCst);
    }

    /// How many looks at the state of a process there were.
    pub(crate) fn states_asked(&self) -> usize {
        self.states_asked.load(Ordering::SeqCst)
    }
}

impl FaultyProbe {
    pub(crate) fn new(kernel: &SimKernel) -> Self {
        Self {
            probe: kernel.probe(),
            kernel: kernel.clone(),
            faults: Arc::default(),
            during_listing: None,
            after_listing: None,
            before_identifying: None,
            after_identifying: None,
            after_state: None,
        }
    }

    /// Does this whenever the processes are listed, before they are read.
    pub(crate) fn during_listing(
        mut self,
        happens: impl Fn(&SimKernel) + Send + Sync + 'static,
    ) -> Self {
        self.during_listing = Some(Box::new(happens));
        self
    }

    /// Does this whenever the processes were listed, before anything else is done.
    pub(crate) fn after_listing(
        mut self,
        happens: impl Fn(&SimKernel) + Send + Sync + 'static,
    ) -> Self {
        self.after_listing = Some(Box::new(happens));
        self
    }

    /// Does this whenever a process is about to be identified.
    pub(crate) fn before_identifying(
        mut self,
        happens: impl Fn(&SimKernel, Pid) + Send + Sync + 'static,
    ) -> Self {
        self.before_identifying = Some(Box::new(happens));
        self
    }

    /// Does this whenever a process was identified.
    pub(crate) fn after_identifying(
        mut self,
        happens: impl Fn(&SimKernel, Pid) + Send + Sync + 'static,
    ) -> Self {
        self.after_identifying = Some(Box::new(happens));
        self
    }

    /// Does this whenever it was asked how a process is.
    pub(crate) fn after_state(
        mut self,
        happens: impl Fn(&SimKernel, Pid) + Send + Sync + 'static,
    ) -> Self {
        self.after_state = Some(Box::new(happens));
        self
    }

    pub(crate) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }
}

fn too_many_files(action: &'static str) -> ProbeError {
    let source = std::io::Error::from_raw_os_error(24);
    ProbeError::Io { action, source }
}

impl ProcessProbe for FaultyProbe {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        if let Some(happens) = &self.before_identifying {
            happens(&self.kernel, pid);
        }
        let identity = self.probe.identify(pid)?;
        if let Some(happens) = &self.after_identifying {
            happens(&self.kernel, pid);
        }
        Ok(identity)
    }

    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        self.faults.states_asked.fetch_add(1, Ordering::SeqCst);
        let left = self.faults.states_to_fail();
        if left > 0 {
            self.faults.fail_states(left - 1);
            return Err(too_many_files("open a pidfd"));
        }
        let state = self.probe.state(pid, identity)?;
        if let Some(happens) = &self.after_state {
            happens(&self.kernel, pid);
        }
        Ok(state)
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        if self.faults.threads_fail.load(Ordering::SeqCst) {
            return Err(too_many_files("list threads"));
        }
        let listing = self.probe.threads(pid, threads)?;
        if self.faults.lists_are_cut.load(Ordering::SeqCst) && threads.len() > 1 {
            threads.sort_unstable_by_key(|thread| thread.tid);
            threads.pop();
            return Ok(Listing::Partial);
        }
        Ok(listing)
    }

    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        if self.faults.listing_fails.load(Ordering::SeqCst) {
            return Err(too_many_files("list processes"));
        }
        if let Some(happens) = &self.during_listing {
            happens(&self.kernel);
        }
        self.probe.processes(processes)?;
        if let Some(happens) = &self.after_listing {
            happens(&self.kernel);
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.probe.now()
    }

    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        self.probe.reaped(pid, identity)
    }
}
