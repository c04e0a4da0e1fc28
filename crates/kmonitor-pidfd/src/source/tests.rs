//! What the source does on kernels that tell less than this one.

use std::future::poll_fn;
use std::process::{Child, Command, Stdio};

use kmonitor_source::FactKind;

use super::*;

fn child(code: i32) -> (Child, ProcessKey) {
    let child = Command::new("sh")
        .args(["-c", &format!("read word; exit {code}")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::try_from(child.id()).unwrap();
    (child, ProcessKey::new(pid, 1))
}

async fn batch(source: &mut PidfdSource) -> Vec<FactKind> {
    let mut facts = Vec::new();
    poll_fn(|cx| source.poll_batch(cx, &mut facts))
        .await
        .unwrap();
    facts.into_iter().map(|fact| fact.kind).collect()
}

#[tokio::test]
async fn before_linux_6_9_the_reaping_is_looked_for() {
    let (mut child, key) = child(7);
    let mut source = PidfdSource::open().unwrap();
    let pidfd = Pidfd::open(key.pid()).unwrap().forget_pidfs();
    let token = source.keep(key, pidfd, Told::default()).unwrap();
    source.followed.insert(key, Followed::Kept(token));
    drop(child.stdin.take());
    assert!(matches!(
        batch(&mut source).await[..],
        [FactKind::GroupDead { status, .. }] if status.code() == Some(7)
    ));
    child.wait().unwrap();
    assert!(matches!(
        batch(&mut source).await[..],
        [FactKind::Reaped { status, .. }] if status.code() == Some(7)
    ));
    assert_eq!(source.followed.get(&key), Some(&Followed::Done));
    assert!(source.kept.is_empty());
}

#[tokio::test]
async fn one_that_is_not_held_is_told_in_full_and_once() {
    let (mut child, key) = child(7);
    let mut source = PidfdSource::open().unwrap();
    source.unheld.add(key, None);
    source.unheld.add(key, None);
    let mut facts = Vec::new();
    let round = source.unheld.round();
    assert_eq!(round, [key]);
    assert!(!source.unheld.look(key, &mut |fact| facts.push(fact)));
    assert!(facts.is_empty());
    // Its identity is known from now on.
    assert!(source.unheld.get(key).unwrap().identity.is_some());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(source.unheld.round(), [key]);
    assert!(source.unheld.look(key, &mut |fact| facts.push(fact)));
    let unseen = Status::Unknown(UnknownReason::NotObservable);
    let kinds: Vec<_> = facts.iter().map(|fact| fact.kind).collect();
    assert!(matches!(
        kinds[..],
        [FactKind::GroupDead { status: first, .. }, FactKind::Reaped { status: second, .. }]
            if first == unseen && second == unseen
    ));
    assert!(source.unheld.is_empty());
    assert!(source.unheld.round().is_empty());
}

#[tokio::test]
async fn a_batch_never_holds_more_than_it_may() {
    let mut source = PidfdSource::open().unwrap();
    let gone = {
        let (mut child, key) = child(0);
        drop(child.stdin.take());
        child.wait().unwrap();
        key.pid()
    };
    let mut interest = KernelInterest::new();
    for incarnation in 0..1500 {
        let key = ProcessKey::new(gone, incarnation);
        interest.want(key, EventMask::EXIT, None);
    }
    poll_fn(|cx| source.poll_interest(cx, &interest))
        .await
        .unwrap();
    let mut total = 0;
    while total < 3000 {
        let facts = batch(&mut source).await;
        assert!(!facts.is_empty() && facts.len() <= BATCH_FACTS_MAX);
        total += facts.len();
    }
    assert_eq!(total, 3000);
}
