//! What it takes to begin (and give up) watching one real process.
//!
//! `free watch` opens a pidfd and closes it again. `Hub::watch` goes through the
//! hub on the proc connector: to the dispatcher, a look at the process, and back.
//! With the hub on a thread of its own that is a hop there and one back, which is
//! nearly all of it; `256 at once` shares the hops, and its time is that of one.
//!
//! Without privilege for the connector it says so, and measures the free watch.

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use kmonitor_benches::idlers::Idlers;
use kmonitor_event::Pid;
use kmonitor_hub::{Hub, HubBuilder, Watch};
use kmonitor_source::SourceKind;
use tokio::runtime::Runtime;

/// Watched in turn, so that a watch begins with a process the hub does not know.
const PROCESSES: usize = 257;
const AT_ONCE: usize = 256;

fn watching(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let idlers = Path::new(env!("CARGO_BIN_EXE_idlers"));
    let idlers = Idlers::start(idlers, PROCESSES).expect("idle processes");
    // One stays watched, so that the kernel is listened to all the time.
    let (stays, watched) = idlers.pids().split_first().expect("processes");
    let mut in_turn = watched.iter().copied().cycle();

    let mut group = criterion.benchmark_group("watch");
    group.bench_function("free watch", |bencher| {
        bencher.iter_custom(|count| {
            let began = Instant::now();
            for pid in in_turn.by_ref().take(count as usize) {
                let watch = kmonitor_pidfd::watch(pid);
                assert!(watch.process().is_some());
            }
            began.elapsed()
        });
    });
    for (name, builder) in [
        ("own thread", hub as fn() -> HubBuilder),
        ("own thread, no holds", || hub().holds_max(None)),
        ("current runtime", || hub().on_current_runtime()),
    ] {
        let Some((hub, _stays)) = open(&runtime, builder(), *stays) else {
            continue;
        };
        group.bench_function(format!("Hub::watch, {name}"), |bencher| {
            bencher.iter_custom(|count| {
                runtime.block_on(async {
                    let began = Instant::now();
                    for pid in in_turn.by_ref().take(count as usize) {
                        drop(hub.watch(pid).await.expect("a watch"));
                    }
                    began.elapsed()
                })
            });
        });
        group.bench_function(format!("Hub::watch, {name}, 256 at once"), |bencher| {
            bencher.iter_custom(|count| {
                let turns = count.div_ceil(AT_ONCE as u64);
                let took: Duration = runtime.block_on(async {
                    let began = Instant::now();
                    for _ in 0..turns {
                        let all = watched.iter().map(|pid| hub.watch(*pid));
                        assert!(join_all(all).await.iter().all(Result::is_ok));
                    }
                    began.elapsed()
                });
                took.mul_f64(count as f64 / (turns * AT_ONCE as u64) as f64)
            });
        });
    }
    group.finish();
}

fn hub() -> HubBuilder {
    Hub::builder().only(SourceKind::Connector)
}

fn open(runtime: &Runtime, builder: HubBuilder, stays: Pid) -> Option<(Hub, Watch)> {
    let opened = runtime.block_on(async {
        let hub = builder.open().await?;
        let stays = hub.watch(stays).await?;
        Ok::<_, Box<dyn std::error::Error>>((hub, stays))
    });
    opened
        .inspect_err(|error| println!("Hub::watch is not measured: {error}"))
        .ok()
}

criterion_group!(benches, watching);
criterion_main!(benches);
