//! However much there is of one kind of work, the other kinds get done.

use std::task::{Context, Poll};
use std::time::Duration;

use kmonitor_event::Timestamp;
use kmonitor_hub::Hub;
use kmonitor_source::sim::{SimConfig, SimKernel, SimSource};
use kmonitor_source::{Capabilities, EventSource, Fact, FactKind, KernelInterest, SourceError};

use crate::probes::FaultyProbe;
use crate::support::{hub, hub_probing};

/// Once all processes were looked at in one go after a loss, with nobody else
/// on the runtime getting a turn and the kernel's queue unread.
#[tokio::test(start_paused = true)]
async fn looking_after_a_loss_lets_others_run_in_between() {
    let kernel = SimKernel::with_seed(1);
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let mut watches = Vec::new();
    for _ in 0..5000 {
        let pid = kernel.spawn().unwrap();
        watches.push(hub.watch(pid).await.unwrap());
    }
    let before = faults.states_asked();
    kernel.lose(1);
    let mut last = before;
    let mut longest = 0;
    for _ in 0..200 {
        tokio::task::yield_now().await;
        let asked = faults.states_asked();
        longest = longest.max(asked - last);
        last = asked;
    }
    assert!(last - before >= watches.len(), "all were looked at");
    assert!(longest <= 512, "{longest} looks in one turn");
}

/// Once every further loss started the looks over, so that with enough of them
/// those at the back of the line were never looked at.
#[tokio::test(start_paused = true)]
async fn looking_after_a_loss_comes_to_an_end_under_further_losses() {
    let (kernel, hub) = hub().await;
    let mut watches = Vec::new();
    for _ in 0..2000 {
        let pid = kernel.spawn().unwrap();
        watches.push(hub.watch(pid).await.unwrap());
    }
    kernel.lose(1);
    for watch in watches.iter().step_by(40) {
        let leader = watch.process().pid().leader();
        kernel.exit_group(leader, 1).unwrap();
    }
    for _ in 0..500 {
        tokio::task::yield_now().await;
        kernel.lose(1);
    }
    let mut told = 0;
    for watch in watches.iter_mut().step_by(40) {
        if futures::poll!(Box::pin(watch.exited())).is_ready() {
            told += 1;
        }
    }
    assert_eq!(told, 50);
}

/// A simulated source that makes things hard.
struct HardSource {
    source: SimSource,
    /// It always has something to tell.
    busy: bool,
    /// Others get a turn whenever it is told what to listen to.
    yields: bool,
    yielded: bool,
}

impl HardSource {
    fn new(kernel: &SimKernel) -> Self {
        Self {
            source: kernel.source(),
            busy: false,
            yields: false,
            yielded: false,
        }
    }
}

impl EventSource for HardSource {
    fn capabilities(&self) -> &Capabilities {
        self.source.capabilities()
    }

    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.yielded = self.yields && !self.yielded;
        if self.yielded {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.source.poll_interest(cx, interest)
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let read = self.source.poll_batch(cx, facts);
        if read.is_ready() || !self.busy {
            return read;
        }
        let what = FactKind::Other {
            what: 1,
            process: None,
        };
        facts.push(Fact::new(Timestamp::default(), what));
        Poll::Ready(Ok(()))
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.source.close(facts)
    }
}

/// Once nobody heard of a reaping as long as the source had more to tell, and
/// the status that only the reaping tells came out unknown.
#[tokio::test(start_paused = true)]
async fn a_busy_source_does_not_keep_a_reaping_from_being_heard_of() {
    for busy in [false, true] {
        let kernel = SimKernel::new(SimConfig::default().seed(1).status_readable(false));
        let source = HardSource {
            busy,
            ..HardSource::new(&kernel)
        };
        let hub = Hub::builder()
            .source(source)
            .probe(kernel.probe())
            .on_current_runtime()
            .holds_max(None)
            .status_grace(Duration::from_millis(500))
            .open()
            .await
            .unwrap();
        let pid = kernel.spawn().unwrap();
        let thread = kernel.clone_thread(pid).unwrap();
        let mut watch = hub.watch(pid).await.unwrap();
        // Two codes: the reports alone do not decide.
        kernel.begin_exit(thread, 7).unwrap();
        kernel.exit_group(pid.leader(), 5).unwrap();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert!(futures::poll!(Box::pin(watch.settled())).is_pending());
        kernel.reap(pid).unwrap();
        // With a busy source paused time stands still: the grace never ends.
        let mut settled = Box::pin(watch.settled());
        let mut exit = None;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
            if let Poll::Ready(settled) = futures::poll!(&mut settled) {
                exit = Some(settled.unwrap());
                break;
            }
        }
        let exit = exit.expect("the reaping tells");
        assert_eq!(exit.status.code(), Some(5), "busy: {busy}");
    }
}

/// Once dropped watches piled up for as long as somebody kept asking for new
/// ones: cleaning up came after all commands.
#[tokio::test(start_paused = true)]
async fn dropped_watches_are_swept_up_while_new_ones_are_asked_for() {
    const TASKS: usize = 400;
    const ROUNDS: usize = 30;
    let kernel = SimKernel::with_seed(1);
    // So that there are new commands whenever a turn ends.
    let source = HardSource {
        yields: true,
        ..HardSource::new(&kernel)
    };
    let hub = Hub::builder()
        .source(source)
        .probe(kernel.probe())
        .on_current_runtime()
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    drop(hub.watch(pid).await.unwrap());
                }
            })
        })
        .collect();
    let mut most = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(hub.stats().await.unwrap().watches);
    }
    assert!(most > 0, "there were some");
    // Each task has one at a time; those of the turn before may still be there.
    assert!(most < 2 * TASKS, "{most} watches at once");
    for task in tasks {
        task.await.unwrap();
    }
}
