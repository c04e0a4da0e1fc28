//! `PidfdSource` on the real kernel, against the parent's own `waitpid`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashMap;
use std::future::poll_fn;
use std::process::{Command, Stdio};

use common::{Foreign, Held, NOBODY, as_user, block_on, with_pidfd_open_answering};
use kmonitor_event::{EventMask, Pid, ProcessKey, Status, StatusSource, UnknownReason};
use kmonitor_pidfd::{LinuxProbe, PidfdSource};
use kmonitor_source::{
    BATCH_FACTS_MAX, EventSource, Fact, FactKind, Identity, KernelInterest, ProcessProbe,
    StartErrorKind,
};

fn key(pid: Pid) -> ProcessKey {
    ProcessKey::new(pid, 1)
}

async fn interest(source: &mut PidfdSource, interest: &mut KernelInterest) {
    poll_fn(|cx| source.poll_interest(cx, interest))
        .await
        .unwrap();
    interest.settle();
}

async fn batch(source: &mut PidfdSource) -> Vec<Fact> {
    let mut facts = Vec::new();
    poll_fn(|cx| source.poll_batch(cx, &mut facts))
        .await
        .unwrap();
    assert!(!facts.is_empty() && facts.len() <= BATCH_FACTS_MAX);
    facts
}

/// Whether there is nothing to read, now and after a look at the reactor.
async fn is_silent(source: &mut PidfdSource) -> bool {
    let look = std::time::Duration::from_millis(20);
    tokio::time::timeout(look, batch(source)).await.is_err()
}

fn dead(fact: &Fact) -> (ProcessKey, Status) {
    match fact.kind {
        FactKind::GroupDead {
            process,
            key: Some(key),
            status,
        } if key.pid() == process => (key, status),
        other => panic!("{other:?}"),
    }
}

fn reaped(fact: &Fact) -> (ProcessKey, Status) {
    match fact.kind {
        FactKind::Reaped {
            process,
            key: Some(key),
            status,
        } if key.pid() == process => (key, status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn death_and_reaping_are_two_facts_and_a_zombie_makes_no_noise() {
    let mut child = Held::shell("exit 7", None);
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    wanted.want(key(child.pid()), EventMask::EXIT, None);
    block_on(async {
        interest(&mut source, &mut wanted).await;
        assert!(is_silent(&mut source).await);
        child.make_zombie();
        let facts = batch(&mut source).await;
        assert_eq!(facts.len(), 1);
        assert_eq!(dead(&facts[0]).1.code(), Some(7));
        assert!(is_silent(&mut source).await, "told once, not all the time");
        child.reap();
        let facts = batch(&mut source).await;
        assert_eq!(facts.len(), 1);
        assert_eq!(reaped(&facts[0]).0, key(child.pid()));
        assert_eq!(reaped(&facts[0]).1.code(), Some(7));
        assert!(is_silent(&mut source).await);
        assert_eq!(source.stats().received, 2);
    });
}

#[test]
fn one_that_is_dead_already_is_told_at_once() {
    let mut child = Held::shell("exit 4", None);
    child.make_zombie();
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    wanted.want(key(child.pid()), EventMask::ABORT, None);
    block_on(async {
        interest(&mut source, &mut wanted).await;
        let facts = batch(&mut source).await;
        assert_eq!(dead(&facts[0]).1.code(), Some(4));
    });
}

#[test]
fn one_that_is_gone_or_another_is_told_all_the_same() {
    let mut gone = Held::shell("exit 0", None);
    gone.make_zombie();
    gone.reap();
    let other = Held::shell("exit 0", None);
    let inode = LinuxProbe::new().identify(other.pid()).unwrap().inode();
    let wrong = Identity::Inode(inode.unwrap().checked_add(1).unwrap());
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    wanted.want(key(gone.pid()), EventMask::EXIT, None);
    wanted.want(key(other.pid()), EventMask::EXIT, Some(wrong));
    block_on(async {
        interest(&mut source, &mut wanted).await;
        let facts = batch(&mut source).await;
        assert_eq!(facts.len(), 4);
        let unseen = Status::Unknown(UnknownReason::ReapedUnseen);
        for pair in facts.chunks(2) {
            assert_eq!(dead(&pair[0]), reaped(&pair[1]));
            assert_eq!(dead(&pair[0]).1, unseen);
        }
        // Told once, whatever else is wanted of it.
        wanted.want(key(gone.pid()), EventMask::EXIT | EventMask::ABORT, None);
        interest(&mut source, &mut wanted).await;
        assert!(is_silent(&mut source).await);
    });
}

#[test]
fn what_is_forgotten_is_not_told() {
    let mut child = Held::shell("exit 0", None);
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    block_on(async {
        interest(&mut source, &mut wanted).await;
        wanted.want(key(child.pid()), EventMask::EXIT, None);
        interest(&mut source, &mut wanted).await;
        wanted.want(key(child.pid()), EventMask::EXEC, None);
        interest(&mut source, &mut wanted).await;
        child.make_zombie();
        assert!(is_silent(&mut source).await, "only its exec is wanted");
        wanted.want(key(child.pid()), EventMask::EXIT, None);
        interest(&mut source, &mut wanted).await;
        assert_eq!(batch(&mut source).await.len(), 1);
        wanted.forget(key(child.pid()));
        interest(&mut source, &mut wanted).await;
        child.reap();
        assert!(is_silent(&mut source).await);
    });
}

#[test]
fn a_new_interest_wakes_who_waits_for_facts() {
    let mut child = Held::shell("exit 0", None);
    child.make_zombie();
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    wanted.want(key(child.pid()), EventMask::EXIT, None);
    block_on(async {
        let mut facts = Vec::new();
        let mut asked = false;
        // The interest is set once poll_batch is pending, by the same task; then
        // nothing but the waker can bring the task back.
        poll_fn(|cx| {
            let poll = source.poll_batch(cx, &mut facts);
            if poll.is_pending() && !asked {
                asked = true;
                assert!(source.poll_interest(cx, &wanted).is_ready());
            }
            poll
        })
        .await
        .unwrap();
        assert_eq!(facts.len(), 1);
    });
}

#[test]
fn closing_gives_what_was_queued() {
    let mut child = Held::shell("exit 5", None);
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    wanted.want(key(child.pid()), EventMask::EXIT, None);
    let mut facts = Vec::new();
    block_on(interest(&mut source, &mut wanted));
    child.make_zombie();
    child.reap();
    source.close(&mut facts).unwrap();
    assert_eq!(facts.len(), 2);
    assert_eq!(reaped(&facts[1]).1.code(), Some(5));
    source.close(&mut facts).unwrap_err();
}

#[test]
fn the_statuses_of_a_thousand_processes_are_those_of_waitpid() {
    const COUNT: u64 = 1000;
    let seed = std::env::var("KMONITOR_TEST_SEED").map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().unwrap(),
    );
    println!("KMONITOR_TEST_SEED={seed}");
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    let mut children = HashMap::new();
    for incarnation in 0..COUNT {
        let script = match next() % 4 {
            0 => "read word; kill -9 $$".to_owned(),
            _ => format!("read word; exit {}", next() % 256),
        };
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let key = ProcessKey::new(pid, incarnation);
        wanted.want(key, EventMask::EXIT, None);
        children.insert(key, child);
    }
    block_on(async {
        interest(&mut source, &mut wanted).await;
        let mut reaping = 0;
        for child in children.values_mut() {
            // The end of its input lets it go on; some are reaped at once, and
            // some when their death was told.
            drop(child.stdin.take());
            if next() % 2 == 0 {
                child.wait().unwrap();
            }
        }
        let mut deaths = HashMap::new();
        while reaping < COUNT {
            for fact in batch(&mut source).await {
                if let FactKind::Reaped { .. } = fact.kind {
                    reaping += 1;
                    let (key, status) = reaped(&fact);
                    assert!(deaths.contains_key(&key));
                    let oracle = children.get_mut(&key).unwrap().wait().unwrap();
                    assert_eq!(status.known(), Some(oracle), "{key}");
                } else {
                    let (key, status) = dead(&fact);
                    assert_eq!(deaths.insert(key, status), None, "told twice: {key}");
                    // Waits for a child once only, and remembers.
                    children.get_mut(&key).unwrap().wait().unwrap();
                }
            }
        }
        assert_eq!(deaths.len() as u64, COUNT);
        assert!(is_silent(&mut source).await);
    });
}

#[test]
#[ignore = "needs root"]
fn a_strangers_status_is_pending_until_it_is_reaped() {
    let mut child = Foreign::shell("exit 7");
    as_user(NOBODY, || {
        let mut source = PidfdSource::open().unwrap();
        let mut wanted = KernelInterest::new();
        wanted.want(key(child.pid()), EventMask::EXIT, None);
        block_on(async {
            interest(&mut source, &mut wanted).await;
            child.make_zombie();
            assert_eq!(dead(&batch(&mut source).await[0]).1, Status::Pending);
            assert_eq!(child.reap(), 0x700);
            let expected = Status::from_raw(0x700, StatusSource::PidfdInfo);
            assert_eq!(reaped(&batch(&mut source).await[0]).1, expected);
        });
    });
}

#[test]
fn where_pidfds_are_blocked_it_does_not_open_and_says_so() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let error = with_pidfd_open_answering(errno, PidfdSource::open).unwrap_err();
        assert_eq!(error.kind(), StartErrorKind::Blocked, "{error}");
        assert!(error.to_string().contains("seccomp"), "{error}");
    }
}

#[test]
fn a_source_that_is_blocked_later_goes_on_by_polling() {
    let mut child = Foreign::shell("exit 7");
    let mut source = PidfdSource::open().unwrap();
    let mut wanted = KernelInterest::new();
    let identity = LinuxProbe::new().identify(child.pid()).unwrap();
    wanted.want(key(child.pid()), EventMask::EXIT, Some(identity));
    with_pidfd_open_answering(libc::EPERM, || {
        block_on(async {
            interest(&mut source, &mut wanted).await;
            assert!(is_silent(&mut source).await);
            child.make_zombie();
            let (dead_key, _) = dead(&batch(&mut source).await[0]);
            assert_eq!(dead_key, key(child.pid()));
            child.reap();
            reaped(&batch(&mut source).await[0]);
        });
    });
}
