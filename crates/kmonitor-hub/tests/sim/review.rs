#![allow(warnings)]
use crate::support::hub as mkhub;
use crate::support::*;
use kmonitor_event::*;
use kmonitor_hub::*;
use kmonitor_source::sim::*;
use kmonitor_source::*;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

type Hook = Arc<dyn Fn(&SimKernel) + Send + Sync>;
struct P {
    probe: SimProbe,
    kernel: SimKernel,
    on_processes: Option<Hook>,
    fail_state: Arc<AtomicUsize>,
    fail_threads: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    hold: bool,
}
impl ProcessProbe for P {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        self.probe.identify(pid)
    }
    fn state(&self, pid: Pid, i: Option<Identity>) -> Result<ProcessState, ProbeError> {
        self.calls.fetch_add(1, SeqCst);
        if self.fail_state.load(SeqCst) > 0 {
            self.fail_state.fetch_sub(1, SeqCst);
            return Err(ProbeError::Io {
                action: "open a pidfd",
                source: std::io::Error::from_raw_os_error(24),
            });
        }
        self.probe.state(pid, i)
    }
    fn threads(&self, pid: Pid, t: &mut Vec<ThreadState>) -> Result<(), ProbeError> {
        if self.fail_threads.load(SeqCst) {
            return Err(ProbeError::Io {
                action: "list threads",
                source: std::io::Error::from_raw_os_error(24),
            });
        }
        self.probe.threads(pid, t)
    }
    fn processes(&self, p: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        if let Some(h) = &self.on_processes {
            h(&self.kernel);
        }
        self.probe.processes(p)
    }
    fn now(&self) -> Timestamp {
        self.probe.now()
    }
    fn reaped(&self, pid: Pid, i: Identity) -> ReapFuture {
        self.probe.reaped(pid, i)
    }
}
fn p(k: &SimKernel) -> P {
    P {
        probe: k.probe(),
        kernel: k.clone(),
        on_processes: None,
        fail_state: Default::default(),
        fail_threads: Default::default(),
        calls: Default::default(),
        hold: false,
    }
}
async fn hub_p(k: &SimKernel, p: P) -> Hub {
    Hub::builder()
        .source(k.source())
        .probe(p)
        .on_current_runtime()
        .status_grace(Duration::from_millis(200))
        .open()
        .await
        .unwrap()
}
async fn within<F: std::future::Future>(f: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_secs(600), f).await.ok()
}

// 1: two watches of one pid in one batch
#[tokio::test(start_paused = true)]
async fn r01_two_watches_in_one_batch() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    let (a, b) = futures::join!(hub.watch(pid), hub.watch(pid));
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    eprintln!("keys {:?} {:?}", a.process(), b.process());
    let ea = within(a.exited()).await;
    let eb = within(b.exited()).await;
    eprintln!(
        "process lives: {:?}\n a: {ea:?}\n b: {eb:?}",
        kernel.processes()
    );
    assert!(ea.is_none() && eb.is_none());
}
#[tokio::test(start_paused = true)]
async fn r02_a_pid_named_twice() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    let mut s = subscribe(&hub, Filter::pids([pid, pid])).await;
    let ev = drain(&mut s).await;
    eprintln!("alive, events: {ev:?}");
    assert!(ev.is_empty());
}
// 3: watch after hub handle dropped
#[tokio::test(start_paused = true)]
async fn r03_watch_outlives_handle() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    let mut w = hub.watch(pid).await.unwrap();
    drop(hub);
    tokio::task::yield_now().await;
    kernel.exit_group(pid.leader(), 3).unwrap();
    let e = within(w.settled()).await;
    eprintln!("{e:?}");
    assert!(e.unwrap().is_ok());
}
// 4: failing add of a followed process
#[tokio::test(start_paused = true)]
async fn r04_failed_add_takes_away_member() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    let mut s = subscribe(&hub, Filter::pid(pid)).await;
    kernel.fail_interest(SourceError::Ended);
    let e = s.add(pid).await;
    eprintln!("add: {e:?}");
    kernel.exit_group(pid.leader(), 3).unwrap();
    let ev = drain(&mut s).await;
    eprintln!("{ev:?}");
    assert_eq!(exits(&ev).len(), 1);
}
// 5: dispatcher panic / dropped runtime -> hang
#[test]
fn r05_runtime_gone_hangs() {
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kernel = SimKernel::with_seed(1);
    let pid = kernel.spawn().unwrap();
    let (mut s, mut w, hub) = other.block_on(async {
        let hub = Hub::builder()
            .source(kernel.source())
            .probe(kernel.probe())
            .on_current_runtime()
            .open()
            .await
            .unwrap();
        (
            hub.subscribe(Filter::pid(pid)).await.unwrap(),
            hub.watch(pid).await.unwrap(),
            hub,
        )
    });
    drop(other);
    let mine = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    mine.block_on(async {
        eprintln!("stats: {:?}", hub.stats().await.map(|_| ()));
        let a = tokio::time::timeout(Duration::from_secs(2), s.next()).await;
        let b = tokio::time::timeout(Duration::from_secs(2), w.exited()).await;
        eprintln!("{a:?} {b:?}");
        assert!(a.is_ok() && b.is_ok());
    });
}
// 6: status_grace(MAX)
#[tokio::test(start_paused = true)]
async fn r06_grace_max() {
    let kernel = SimKernel::with_seed(1);
    let hub = Hub::builder()
        .source(kernel.source())
        .probe(kernel.probe())
        .on_current_runtime()
        .status_grace(Duration::MAX)
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let mut w = hub.watch(pid).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    kernel.exit_group(pid.leader(), 3).unwrap();
    let e = within(w.settled()).await;
    eprintln!("{e:?}");
    assert!(matches!(e, Some(Ok(_))));
}
// 7: known-dead watch loses its exit when the hub closes
#[tokio::test(start_paused = true)]
async fn r07_close_forgets_a_death() {
    let (kernel, hub) = hub_on(SimConfig::default().seed(1).status_readable(false)).await;
    let pid = kernel.spawn().unwrap();
    let t = kernel.clone_thread(pid).unwrap();
    let mut w = hub.watch(pid).await.unwrap();
    let mut s = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    kernel.exit_task(t, 7).unwrap();
    kernel.exit_task(pid.leader(), 3).unwrap();
    eprintln!("before: {:?}", within(w.exited()).await);
    hub.close().await;
    let after = within(w.exited()).await;
    let ev = drain(&mut s).await;
    eprintln!("after: {after:?}; stream: {ev:?}");
    assert!(after.unwrap().is_ok());
    assert_eq!(exits(&ev).len(), 1);
}
// 8: host sees a second Exit for a zombie that's watched
#[tokio::test(start_paused = true)]
async fn r08_host_second_exit_of_a_zombie() {
    let (kernel, hub) = mkhub().await;
    let mut host = subscribe(&hub, Filter::host().events(EventMask::EXIT)).await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 3).unwrap();
    let first = drain(&mut host).await;
    let w = hub.watch(pid).await.unwrap();
    eprintln!("{:?}", w.await);
    let w = hub.watch(pid).await.unwrap();
    let again = drain(&mut host).await;
    eprintln!("first {first:?}\nagain {again:?}");
    assert_eq!(exits(&first).len() + exits(&again).len(), 1);
}
// 9: ghost of a zombie swallows exit of next owner
#[tokio::test(start_paused = true)]
async fn r09_ghost_swallows_next_owner() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 3).unwrap();
    let root = kernel.spawn().unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    tokio::task::yield_now().await;
    let w = hub.watch(pid).await.unwrap().await.unwrap();
    eprintln!("old: {w}");
    kernel.reap(pid).unwrap();
    kernel.set_next_pid(pid).unwrap();
    assert_eq!(kernel.fork(root).unwrap(), pid);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let mut w2 = hub.watch(pid).await.unwrap();
    kernel.exit_group(pid.leader(), 5).unwrap();
    let e = within(w2.settled()).await;
    eprintln!("new: {e:?}; tree {:?}", drain(&mut tree).await);
    assert!(e.is_some());
}
// 10: adopt error drops tracking of another watch
#[tokio::test(start_paused = true)]
async fn r10_second_watch_probe_error_drops_first() {
    let kernel = SimKernel::with_seed(1);
    let pr = p(&kernel);
    let (fs, ft) = (pr.fail_state.clone(), pr.fail_threads.clone());
    let hub = hub_p(&kernel, pr).await;
    let pid = kernel.spawn().unwrap();
    ft.store(true, SeqCst); // hidden threads: accounting stays incomplete
    let mut w1 = hub.watch(pid).await.unwrap();
    fs.store(1, SeqCst);
    let w2 = hub.watch(pid).await;
    eprintln!("second: {w2:?}");
    kernel.exit_group(pid.leader(), 5).unwrap();
    let e = within(w1.settled()).await;
    eprintln!("first: {e:?}");
    assert!(e.is_some());
}
// 11: recheck after loss with transient error
#[tokio::test(start_paused = true)]
async fn r11_recheck_transient_error_hangs_watch() {
    let kernel = SimKernel::with_seed(1);
    let pr = p(&kernel);
    let fs = pr.fail_state.clone();
    let hub = hub_p(&kernel, pr).await;
    let pid = kernel.spawn().unwrap();
    let mut w1 = hub.watch(pid).await.unwrap();
    kernel.lose(3);
    kernel.exit_group(pid.leader(), 5).unwrap();
    fs.store(1, SeqCst);
    let e = within(w1.settled()).await;
    eprintln!("{e:?}");
    assert!(e.is_some());
}
// 12: tree + pid overlap
#[tokio::test(start_paused = true)]
async fn r12_tree_scan_stops_at_plain_member() {
    let (kernel, hub) = mkhub().await;
    let root = kernel.spawn().unwrap();
    let mid = kernel.fork(root).unwrap();
    let leaf = kernel.fork(mid).unwrap();
    let mut s = subscribe(&hub, Filter::pid(mid)).await;
    s.add_tree(root).await.unwrap();
    let newleaf = kernel.fork(mid).unwrap();
    for q in [leaf, newleaf, mid, root] {
        kernel.exit_group(q.leader(), 0).unwrap();
    }
    let ev = drain(&mut s).await;
    eprintln!(
        "root {root} mid {mid} leaf {leaf} new {newleaf}: {:?}",
        exits(&ev)
    );
    assert_eq!(exits(&ev).len(), 4);
}
// 13: host subscribe with fork during look
#[tokio::test(start_paused = true)]
async fn r13_host_fork_during_look() {
    let kernel = SimKernel::new(SimConfig::default().seed(1).pid_max(2000));
    for _ in 0..600 {
        kernel.spawn().unwrap();
    }
    // a free low pid, as after a wrap
    let low = kernel.processes()[5];
    kernel.exit_group(low.leader(), 0).unwrap();
    kernel.reap(low).unwrap();
    kernel.set_next_pid(low).unwrap();
    let mut pr = p(&kernel);
    pr.on_processes = Some(Arc::new(move |k| {
        k.spawn().unwrap();
    }));
    let hub = hub_p(&kernel, pr).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    let ev = drain(&mut host).await;
    eprintln!("{low} lives: {}; {ev:?}", kernel.processes().contains(&low));
    assert!(exits(&ev).is_empty());
}
// 14: stale facts to a later subscription
#[tokio::test(start_paused = true)]
async fn r14_stale_facts_after_idle() {
    let (kernel, hub) = mkhub().await;
    let a = subscribe(&hub, Filter::host()).await;
    let pid = kernel.spawn().unwrap();
    kernel.exec(pid.leader()).unwrap();
    drop(a);
    while kernel.listening() {
        tokio::task::yield_now().await;
    }
    kernel.exit_group(pid.leader(), 0).unwrap();
    kernel.reap(pid).unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let mut b = subscribe(&hub, Filter::host()).await;
    let ev = drain(&mut b).await;
    eprintln!("{ev:?}");
    assert!(ev.is_empty());
}
// 15: count overflow
#[tokio::test(start_paused = true)]
async fn r15_lost_count_overflow() {
    let (kernel, hub) = mkhub().await;
    let mut a = subscribe(&hub, Filter::host()).await;
    kernel.lose(u64::MAX);
    tokio::task::yield_now().await;
    eprintln!("{:?}", a.next().await);
    kernel.lose(u64::MAX);
    eprintln!("{:?}", within(a.next()).await);
    eprintln!("{:?}", hub.stats().await);
    assert!(hub.stats().await.is_ok());
}
// 16: set_mask answered before in force
#[tokio::test(start_paused = true)]
async fn r16_set_mask_before_in_force() {
    let (kernel, hub) = mkhub().await;
    let pid = kernel.spawn().unwrap();
    let mut a = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    kernel.stall_interest(true);
    let r = within(a.set_mask(EventMask::all())).await;
    eprintln!("{r:?}");
    assert!(r.is_none(), "answered before the source listens");
}
// 17: remove PID:INODE of a tree member
#[tokio::test(start_paused = true)]
async fn r17_remove_by_inode() {
    let (kernel, hub) = mkhub().await;
    let root = kernel.spawn().unwrap();
    let mut a = subscribe(&hub, Filter::tree(root)).await;
    let child = kernel.fork(root).unwrap();
    let w = hub.watch(child).await.unwrap();
    let r = a.remove(w.process()).await.unwrap();
    eprintln!("{:?} removed {r}", w.process());
    assert!(r);
}
// 18: ended tree keeps listening
#[tokio::test(start_paused = true)]
async fn r18_ended_tree_listens_on() {
    let (kernel, hub) = mkhub().await;
    let root = kernel.spawn().unwrap();
    let mut a = subscribe(&hub, Filter::tree(root)).await;
    kernel.exit_group(root.leader(), 0).unwrap();
    while a.next().await.is_some() {}
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!kernel.listening());
}
// 19: event after None
#[tokio::test(start_paused = true)]
async fn r19_lost_after_end() {
    let (kernel, hub) = mkhub().await;
    let (x, y) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let mut a = subscribe(&hub, Filter::pid(x)).await;
    let w = hub.watch(y).await.unwrap();
    kernel.exit_group(x.leader(), 0).unwrap();
    while a.next().await.is_some() {}
    kernel.lose(4);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let e = within(a.next()).await;
    eprintln!("after the end: {e:?}");
    assert_eq!(e, Some(None));
}
// 20: recheck starvation / blocking of the runtime
#[tokio::test(start_paused = true)]
async fn r20_recheck_blocks_runtime() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let mut watches = vec![];
    let pr = p(&kernel);
    let calls = pr.calls.clone();
    let hub = hub_p(&kernel, pr).await;
    for _ in 0..5000 {
        let q = kernel.spawn().unwrap();
        watches.push(hub.watch(q).await.unwrap());
    }
    let before = calls.load(SeqCst);
    kernel.lose(1);
    let mut gap = 0;
    let mut last = before;
    for _ in 0..200 {
        tokio::task::yield_now().await;
        let c = calls.load(SeqCst);
        gap = gap.max(c - last);
        last = c;
    }
    eprintln!(
        "probes {} largest run without yielding {gap}",
        last - before
    );
    assert!(gap <= 512);
}
// 21: repeated loss starves the recheck
#[tokio::test(start_paused = true)]
async fn r21_repeated_losses_starve() {
    let (kernel, hub) = mkhub().await;
    let mut w = vec![];
    for _ in 0..2000 {
        let q = kernel.spawn().unwrap();
        w.push((q, hub.watch(q).await.unwrap()));
    }
    kernel.lose(1);
    for (q, _) in w.iter().step_by(40) {
        kernel.exit_group(q.leader(), 1).unwrap();
    }
    let mut told = 0;
    for _ in 0..500 {
        tokio::task::yield_now().await;
        kernel.lose(1);
    }
    for (q, x) in w.iter_mut().step_by(40) {
        if futures::poll!(Box::pin(x.exited())).is_ready() {
            told += 1;
        }
    }
    eprintln!("told {told} of 50 after 500 more losses");
    assert_eq!(told, 50);
}
// 22: busy source starves reapings
struct Busy {
    inner: SimSource,
    turn: u64,
}
impl EventSource for Busy {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        i: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.inner.poll_interest(cx, i)
    }
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        f: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let r = self.inner.poll_batch(cx, f);
        if r.is_pending() {
            f.push(Fact::new(
                Timestamp::default(),
                FactKind::Other {
                    what: 1,
                    process: None,
                },
            ));
            return Poll::Ready(Ok(()));
        }
        r
    }
    fn close(&mut self, f: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.inner.close(f)
    }
}
async fn busy(busy: bool) -> Status {
    let kernel = SimKernel::new(SimConfig::default().seed(1).status_readable(false));
    let b = Hub::builder()
        .probe(kernel.probe())
        .on_current_runtime()
        .holds_max(None)
        .status_grace(Duration::from_millis(500));
    let hub = if busy {
        b.source(Busy {
            inner: kernel.source(),
            turn: 0,
        })
    } else {
        b.source(kernel.source())
    }
    .open()
    .await
    .unwrap();
    let pid = kernel.spawn().unwrap();
    let t = kernel.clone_thread(pid).unwrap();
    let mut w = hub.watch(pid).await.unwrap();
    kernel.begin_exit(t, 7).unwrap();
    kernel.exit_group(pid.leader(), 5).unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    kernel.reap(pid).unwrap();
    w.settled().await.unwrap().status
}
#[tokio::test]
async fn r22_busy_source_starves_reapings() {
    let idle = busy(false).await;
    let b = busy(true).await;
    eprintln!("idle {idle:?} busy {b:?}");
    assert_eq!(idle, b);
}
// 23: sweep starved by commands, own thread
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r23_sweep_starved() {
    let kernel = SimKernel::with_seed(1);
    let hub = Hub::builder()
        .source(kernel.source())
        .probe(kernel.probe())
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let mut t = vec![];
    for _ in 0..400 {
        let hub = hub.clone();
        t.push(tokio::spawn(async move {
            for _ in 0..200 {
                drop(hub.watch(pid).await);
            }
        }));
    }
    let mut max = 0;
    for _ in 0..400 {
        max = max.max(hub.stats().await.unwrap().watches);
    }
    eprintln!("max watches {max}");
    for x in t {
        x.await.unwrap();
    }
    assert!(max < 2000);
}
// 24: late EXIT of the middle during the scan
#[tokio::test(start_paused = true)]
async fn r24_scan_incomplete_missed_when_exit_is_late() {
    let kernel = SimKernel::with_seed(3);
    let root = kernel.spawn().unwrap();
    let middle = kernel.fork(root).unwrap();
    let orphan = kernel.fork(middle).unwrap();
    let mut pr = p(&kernel);
    pr.on_processes = Some(Arc::new(move |k| {
        k.hold_exits(true);
        let _ = k.exit_group(middle.leader(), 0);
        k.reap(middle);
    }));
    let hub = hub_p(&kernel, pr).await;
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    kernel.hold_exits(false);
    kernel.settle();
    kernel.exit_group(orphan.leader(), 0).unwrap();
    kernel.exit_group(root.leader(), 0).unwrap();
    let events = drain(&mut events).await;
    eprintln!("{:?}", kinds(&events));
    assert!(kinds(&events).contains(&"track_incomplete"));
}
// 25: host, hidden threads, NewToUs recheck removes a watched process
#[tokio::test(start_paused = true)]
async fn r25_new_to_us_removes_a_watched_process() {
    let kernel = SimKernel::with_seed(3);
    let mut pids = vec![];
    for _ in 0..700 {
        pids.push(kernel.spawn().unwrap());
    }
    let pr = p(&kernel);
    let ft = pr.fail_threads.clone();
    let hub = hub_p(&kernel, pr).await;
    ft.store(true, SeqCst);
    let mut host = std::pin::pin!(hub.subscribe(Filter::host().events(EventMask::EXIT)));
    let mut watch = std::pin::pin!(hub.watch(pids[3]));
    let (h, w) = futures::join!(host, watch);
    let (mut h, mut w) = (h.unwrap(), w.unwrap());
    kernel.exit_group(pids[3].leader(), 5).unwrap();
    let e = within(w.settled()).await;
    eprintln!("{e:?} host {:?}", drain(&mut h).await);
    assert!(e.is_some());
}
// 26: holds stay in host mode
#[tokio::test(start_paused = true)]
async fn r26_holds_stay_in_host_mode() {
    let (kernel, hub) = mkhub().await;
    let h = subscribe(&hub, Filter::host()).await;
    for _ in 0..5 {
        let q = kernel.spawn().unwrap();
        drop(hub.watch(q).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let s = hub.stats().await.unwrap();
    eprintln!("held {} watches {}", s.held, s.watches);
    assert_eq!(s.held, 0);
}
// 27: source that panics
struct Panics(SimSource);
impl EventSource for Panics {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        i: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.0.poll_interest(cx, i)
    }
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        f: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let r = self.0.poll_batch(cx, f);
        if r.is_ready() {
            panic!("a bug in a source of one's own")
        }
        r
    }
    fn close(&mut self, f: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.0.close(f)
    }
}
#[tokio::test]
async fn r27_a_source_that_panics() {
    let kernel = SimKernel::with_seed(1);
    let hub = Hub::builder()
        .source(Panics(kernel.source()))
        .probe(kernel.probe())
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let mut s = hub.subscribe(Filter::pid(pid)).await.unwrap();
    let mut w = hub.watch(pid).await.unwrap();
    kernel.exec(pid.leader()).unwrap();
    let a = tokio::time::timeout(Duration::from_secs(3), s.next()).await;
    let b = tokio::time::timeout(Duration::from_secs(3), w.exited()).await;
    eprintln!("{a:?} {b:?}");
    assert!(a.is_ok() && b.is_ok());
}
// 28: a watched process whose leader's exit meets a transient probe error
#[tokio::test(start_paused = true)]
async fn r28_transient_error_at_a_leaders_exit_is_taken_for_death() {
    let kernel = SimKernel::with_seed(1);
    let pr = p(&kernel);
    let (fs, ft) = (pr.fail_state.clone(), pr.fail_threads.clone());
    let hub = hub_p(&kernel, pr).await;
    let pid = kernel.spawn().unwrap();
    let t = kernel.clone_thread(pid).unwrap();
    ft.store(true, SeqCst);
    let mut w = hub.watch(pid).await.unwrap();
    kernel.exit_task(pid.leader(), 0).unwrap(); // pthread_exit of the main thread
    fs.store(1, SeqCst);
    let e = within(w.exited()).await;
    eprintln!("threads alive {:?}: {e:?}", kernel.threads(pid));
    assert!(e.is_none());
}
