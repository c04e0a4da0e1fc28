//! Looks at processes that fail, or are overtaken by what happens meanwhile.

use kmonitor_event::EventMask;
use kmonitor_hub::Filter;
use kmonitor_source::WatchError;
use kmonitor_source::sim::{SimConfig, SimKernel};

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub_probing, kinds, subscribe, within};

/// Once a watch that could not be set up took the process out of the table,
/// with the watches that it had already: they never resolved.
#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_leaves_the_others_of_its_process_alone() {
    let kernel = SimKernel::with_seed(1);
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let pid = kernel.spawn().unwrap();
    // A process with unknown threads is looked at again for every watch.
    faults.fail_threads();
    let first = hub.watch(pid).await.unwrap();
    faults.fail_states(1);
    let error = hub.watch(pid).await.unwrap_err();
    assert!(matches!(error, WatchError::Probe(_)), "{error}");
    kernel.exit_group(pid.leader(), 5).unwrap();
    let exit = within(first).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(5));
}

/// Once a process that could not be looked at after a loss was not looked at
/// again, and a watch of it never resolved.
#[tokio::test(start_paused = true)]
async fn a_look_that_fails_after_a_loss_is_repeated() {
    let kernel = SimKernel::with_seed(1);
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    kernel.lose(3);
    kernel.exit_group(pid.leader(), 5).unwrap();
    faults.fail_states(1);
    let exit = within(watch).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(5));
    assert!(exit.inferred);
    assert_eq!(faults.states_to_fail(), 0, "the failure was met");
}

/// Once a look that failed at the exit of a leader passed for the death of the
/// process, whose other threads lived on.
#[tokio::test(start_paused = true)]
async fn a_look_that_fails_at_a_leaders_exit_is_not_taken_for_death() {
    let kernel = SimKernel::with_seed(1);
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    faults.fail_threads();
    let mut watch = hub.watch(pid).await.unwrap();
    faults.fail_states(1);
    // As `pthread_exit` in `main` does.
    kernel.exit_task(pid.leader(), 0).unwrap();
    assert!(within(watch.exited()).await.is_none(), "{thread} lives");
    assert_eq!(faults.states_to_fail(), 0, "the failure was met");
    kernel.exit_group(thread, 5).unwrap();
    let exit = within(watch).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(5));
}

/// A host subscription looks at everybody it has not seen before; that must not
/// cost a watch asked for in the same turn its process, threads known or not.
#[tokio::test(start_paused = true)]
async fn a_watch_beside_a_new_host_subscription_resolves_with_unknown_threads() {
    let kernel = SimKernel::with_seed(3);
    // More than are looked at in one turn.
    let pids: Vec<_> = (0..700).map(|_| kernel.spawn().unwrap()).collect();
    let probe = FaultyProbe::new(&kernel);
    probe.faults().fail_threads();
    let hub = hub_probing(&kernel, probe).await;
    let filter = Filter::host().events(EventMask::EXIT);
    let (host, watch) = futures::join!(hub.subscribe(filter), hub.watch(pids[3]));
    let (mut host, watch) = (host.unwrap(), watch.unwrap());
    kernel.exit_group(pids[3].leader(), 5).unwrap();
    let exit = within(watch).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(5));
    assert_eq!(exits(&drain(&mut host).await), [(pids[3], Some(0x500))]);
}

/// Once who was born with a low pid while the processes were being listed was
/// taken for dead: the list without it was believed over its fork.
#[tokio::test(start_paused = true)]
async fn a_process_born_during_the_listing_is_not_taken_for_dead() {
    let kernel = SimKernel::new(SimConfig::default().seed(1).pid_max(2000));
    // More than are looked at in one turn.
    for _ in 0..600 {
        kernel.spawn().unwrap();
    }
    // A low pid is the next, as after a wrap.
    let low = kernel.processes()[5];
    kernel.exit_group(low.leader(), 0).unwrap();
    kernel.reap(low).unwrap();
    kernel.set_next_pid(low).unwrap();
    let probe = FaultyProbe::new(&kernel).during_listing(|kernel| {
        kernel.spawn().unwrap();
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    let events = drain(&mut host).await;
    assert!(kernel.processes().contains(&low));
    assert_eq!(kinds(&events), ["fork"], "{events:?}");
    kernel.exit_group(low.leader(), 5).unwrap();
    assert_eq!(exits(&drain(&mut host).await), [(low, Some(0x500))]);
}
