//! Which of several owners of a pid a report is of, around losses and late reports.

use std::time::Duration;

use kmonitor_event::{EventKind, Pid, ProcessKey, Status};
use kmonitor_hub::Filter;
use kmonitor_source::sim::{SimConfig, SimKernel, SimMode};

use crate::support::{drain, exits, hub, hub_on, idle, subscribe, within};

async fn turns() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn dies(kernel: &SimKernel, pid: Pid, code: u8) {
    kernel.exit_group(pid.leader(), code.into()).unwrap();
    kernel.reap(pid).unwrap();
}

/// Somebody else is born with the same number.
fn is_used_again(kernel: &SimKernel, pid: Pid, parent: Pid) {
    kernel.set_next_pid(pid).unwrap();
    assert_eq!(kernel.fork(parent).unwrap(), pid);
}

/// By a source of named processes, an unreadable zombie that is reaped before the
/// tracker asks has a status that the source tells next.
#[tokio::test(start_paused = true)]
async fn a_status_that_the_reaping_tells_is_not_given_up() {
    let config = SimConfig::default()
        .mode(SimMode::Named)
        .status_readable(false);
    let (kernel, hub) = hub_on(config).await;
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    dies(&kernel, pid, 7);
    let exit = within(watch).await.unwrap().unwrap();
    assert_eq!(exit.status.code(), Some(7), "{exit:?}");
}

/// A former owner whose report is due when a loss comes.
#[tokio::test(start_paused = true)]
async fn what_a_loss_settled_does_not_swallow_the_next_owners_exit() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut host = subscribe(&hub, Filter::host()).await;
    let pid = kernel.fork(root).unwrap();
    idle().await;
    // FORK of the next owner before EXIT of this one.
    kernel.hold_exits(true);
    dies(&kernel, pid, 1);
    kernel.advance(Duration::from_millis(11));
    is_used_again(&kernel, pid, root);
    turns().await;
    // The EXIT is lost.
    kernel.lose(1);
    kernel.hold_exits(false);
    tokio::time::sleep(Duration::from_millis(60)).await;
    let watch = hub.watch(pid).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    kernel.exit_group(pid.leader(), 2).unwrap();
    let exit = within(watch).await;
    let told = exits(&drain(&mut host).await);
    assert!(
        exit.is_some(),
        "the watch never resolves; the host was told {told:x?}"
    );
    assert_eq!(told, [(pid, None), (pid, Some(0x200))]);
}

/// A former owner whose report was lost, and the next one's report without a parent.
#[tokio::test(start_paused = true)]
async fn whose_report_was_lost_does_not_get_the_next_owners() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut host = subscribe(&hub, Filter::host()).await;
    let pid = kernel.fork(root).unwrap();
    idle().await;
    // A first loss and its look, so that the next look waits for 50 ms.
    kernel.lose(1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    kernel.lose(1);
    dies(&kernel, pid, 1);
    turns().await;
    kernel.advance(Duration::from_millis(11));
    is_used_again(&kernel, pid, root);
    turns().await;
    // Reaped before its report was made: no parent is named.
    kernel.hold_exits(true);
    dies(&kernel, pid, 2);
    kernel.hold_exits(false);
    let told = exits(&drain(&mut host).await);
    assert_eq!(told, [(pid, None), (pid, Some(0x200))]);
}

/// What was told of a stranger once is not the status of who was found alive then.
#[tokio::test(start_paused = true)]
async fn last_words_of_long_ago_are_not_the_status() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let stranger = kernel.spawn().unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root)).await;
    kernel.hold_exits(true);
    dies(&kernel, stranger, 1);
    let pid = stranger;
    is_used_again(&kernel, pid, root);
    kernel.hold_exits(false);
    // An hour.
    idle().await;
    kernel.advance(Duration::from_secs(3600));
    kernel.hold_exits(true);
    dies(&kernel, pid, 2);
    is_used_again(&kernel, pid, root);
    turns().await;
    kernel.hold_exits(false);
    turns().await;
    kernel.exit_group(pid.leader(), 3).unwrap();
    let told = exits(&drain(&mut tree).await);
    assert_eq!(told, [(pid, Some(0x200)), (pid, Some(0x300))]);
}

/// In the stream of the host, where all owners are known.
#[tokio::test(start_paused = true)]
async fn a_report_that_is_later_than_the_grace_ends_nobody_else() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut host = subscribe(&hub, Filter::host()).await;
    let pid = kernel.fork(root).unwrap();
    idle().await;
    // FORK before EXIT, and the EXIT comes more than the grace later.
    kernel.hold_exits(true);
    dies(&kernel, pid, 1);
    is_used_again(&kernel, pid, root);
    idle().await;
    kernel.hold_exits(false);
    idle().await;
    let events = drain(&mut host).await;
    let keys: Vec<(ProcessKey, Status)> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Exit(status) => Some((event.process?, status)),
            _ => None,
        })
        .collect();
    assert_eq!(keys.len(), 1, "{pid} lives: {events:?}");
}
