//! What happens when no descriptors are left. A program of its own with one
//! test, because the limit is the whole process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::future::{IntoFuture, poll_fn};

use common::Held;
use kmonitor_event::{EventMask, ProcessKey};
use kmonitor_pidfd::{PidfdSource, watch};
use kmonitor_source::{EventSource, FactKind, KernelInterest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn running_out_of_descriptors_is_told_and_survived() {
    let mut children: Vec<_> = (0..3).map(|_| Held::shell("exit 7", None)).collect();
    // A runtime of its own needs some, so both are made before.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut source = PidfdSource::open().unwrap();
    let limits = |current| Rlimit {
        current: Some(current),
        maximum: Some(200),
    };
    setrlimit(Resource::Nofile, limits(100)).unwrap();
    let mut hoard = hoard_all();

    // One watch: an error that names the limit.
    let error = watch(children[0].pid());
    let error = runtime.block_on(error.into_future()).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    assert!(!error.is_gone());

    // The source: raises the soft limit to the hard one, once.
    let mut wanted = KernelInterest::new();
    let key = |child: &Held| ProcessKey::new(child.pid(), 1);
    wanted.want(key(&children[0]), EventMask::EXIT, None);
    let set = |source: &mut PidfdSource, wanted: &mut KernelInterest| {
        runtime
            .block_on(poll_fn(|cx| source.poll_interest(cx, wanted)))
            .unwrap();
        wanted.settle();
    };
    set(&mut source, &mut wanted);
    assert_eq!(getrlimit(Resource::Nofile).current, Some(200));

    // Beyond the hard limit it polls, and tells the end of all the same.
    hoard.extend(hoard_all());
    wanted.want(key(&children[1]), EventMask::EXIT, None);
    wanted.want(key(&children[2]), EventMask::EXIT, None);
    set(&mut source, &mut wanted);
    for child in &mut children {
        child.make_zombie();
    }
    let ended = |source: &mut PidfdSource, count| {
        let (mut dead, mut reaped) = (0, 0);
        runtime.block_on(async {
            while dead + reaped < count {
                let mut facts = Vec::new();
                poll_fn(|cx| source.poll_batch(cx, &mut facts))
                    .await
                    .unwrap();
                for fact in facts {
                    match fact.kind {
                        FactKind::GroupDead { status, .. } => {
                            assert_eq!(status.code(), Some(7));
                            dead += 1;
                        }
                        FactKind::Reaped { status, .. } => {
                            assert_eq!(status.code(), Some(7));
                            reaped += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        (dead, reaped)
    };
    assert_eq!(ended(&mut source, 3), (3, 0));
    // Room again: from now on they are held.
    drop(hoard);
    for child in &mut children {
        child.reap();
    }
    assert_eq!(ended(&mut source, 3), (0, 3));
}

/// Opens files until none can be opened any more.
fn hoard_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
