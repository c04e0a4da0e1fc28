//! Requests are answered when their effect is visible.

use super::rig::{Rig, Start, child, exit, name, secs};
use crate::Signal;
use crate::backend::Reach;
use crate::core::{Request, Rules, Told};
use crate::spec::{Backoff, Restart};
use crate::words::ControlError;

fn ab() -> Rig {
    let children = ["a", "b"].map(|name| child(name, Restart::OnFailure));
    Rig::up(Rules::default(), children.into())
}

#[test]
fn a_restart_is_answered_when_the_next_incarnation_is_ready() {
    let mut rig = ab();
    rig.deaf.insert("a".into());
    rig.next_start("a", Start::NotReady);
    let restart = rig.request(Request::Restart(name("a")));
    rig.pass(secs(10));
    assert_eq!(rig.take_log(), "-a !a +a");
    assert!(rig.answer(restart).is_none());
    rig.tell("a", Told::Ready);
    assert!(rig.is_ok(restart));
}

#[test]
fn a_start_of_who_runs_is_answered_at_once() {
    let mut rig = ab();
    let start = rig.request(Request::Start(name("a")));
    assert!(rig.is_ok(start));
    assert_eq!(rig.take_log(), "");
}

#[test]
fn a_start_ends_a_backoff() {
    let mut a = child("a", Restart::OnFailure);
    a.policy.backoff = Backoff::constant(secs(60));
    let mut rig = Rig::up(Rules::default(), vec![a]);
    rig.ends("a", exit(1));
    let start = rig.request(Request::Start(name("a")));
    assert_eq!(rig.take_log(), "+a");
    assert!(rig.is_ok(start));
}

#[test]
fn a_start_during_a_stop_follows_it() {
    let mut rig = ab();
    rig.deaf.insert("a".into());
    let stop = rig.request(Request::Stop(name("a")));
    let start = rig.request(Request::Start(name("a")));
    rig.pass(secs(10));
    assert_eq!(rig.take_log(), "-a !a +a");
    assert!(rig.is_ok(stop) && rig.is_ok(start));
}

/// OTP does not try again what a person asked for and can see fail.
#[test]
fn a_requested_start_that_fails_is_told_and_not_tried_again() {
    for how in [Start::SpawnError, Start::NotReady, Start::Ends(1 << 8)] {
        let mut rig = ab();
        rig.request(Request::Stop(name("a")));
        rig.log.clear();
        rig.next_start("a", how);
        let start = rig.request(Request::Start(name("a")));
        rig.pass(secs(120));
        assert!(
            matches!(
                rig.answer(start),
                Some(Err(ControlError::StartFailed { .. }))
            ),
            "{how:?}: {:?}",
            rig.answer(start)
        );
        assert_eq!(rig.running(), "b");
        assert_eq!(rig.log.iter().filter(|entry| *entry == "+a").count(), 1);
    }
}

#[test]
fn whom_nobody_knows() {
    let mut rig = ab();
    for request in [
        Request::Start(name("z")),
        Request::Stop(name("z")),
        Request::Restart(name("z")),
        Request::Remove(name("z")),
        Request::Signal(name("z"), Signal::HUP, Reach::Leader),
    ] {
        let request = rig.request(request);
        assert!(matches!(
            rig.answer(request),
            Some(Err(ControlError::NoSuchChild(_)))
        ));
    }
}

#[test]
fn who_is_down_is_not_signalled() {
    let mut rig = ab();
    rig.request(Request::Stop(name("a")));
    let signal = rig.request(Request::Signal(name("a"), Signal::HUP, Reach::Leader));
    assert!(matches!(
        rig.answer(signal),
        Some(Err(ControlError::NotRunning(_)))
    ));
}

#[test]
fn added_children_are_last_and_removed_ones_are_gone() {
    let mut rig = ab();
    let add = rig.request(Request::Add(child("c", Restart::Always)));
    assert!(rig.is_ok(add));
    let again = rig.request(Request::Add(child("c", Restart::Always)));
    assert!(matches!(
        rig.answer(again),
        Some(Err(ControlError::Exists(_)))
    ));
    let remove = rig.request(Request::Remove(name("a")));
    assert!(rig.is_ok(remove));
    assert_eq!(rig.take_log(), "+c -a");
    rig.shutdown(false);
    assert_eq!(rig.take_log(), "-c -b");
}

#[test]
fn who_does_not_start_is_not_added() {
    let mut rig = ab();
    rig.next_start("c", Start::NotReady);
    let add = rig.request(Request::Add(child("c", Restart::Always)));
    rig.pass(secs(60));
    assert!(matches!(
        rig.answer(add),
        Some(Err(ControlError::StartFailed { .. }))
    ));
    assert_eq!(rig.core.children().len(), 2);
}

#[test]
fn a_reload_touches_only_what_changed() {
    let children = ["keep", "change", "drop", "down"].map(|name| child(name, Restart::Always));
    let mut rig = Rig::up(Rules::default(), children.into());
    rig.request(Request::Stop(name("down")));
    rig.log.clear();
    let new = |name, changed| (child(name, Restart::Always), changed);
    let wanted = vec![
        new("new", true),
        new("keep", false),
        new("down", true),
        new("change", true),
    ];
    let reload = rig.request(Request::Reload(Rules::default(), wanted));
    assert!(rig.is_ok(reload));
    assert_eq!(rig.take_log(), "-drop -change +new +change");
    rig.shutdown(false);
    assert_eq!(rig.take_log(), "-change -keep -new");
}

#[test]
fn a_reload_tells_the_first_failure_once_all_is_settled() {
    let mut rig = ab();
    rig.next_start("a", Start::SpawnError);
    rig.next_start("c", Start::NotReady);
    let new = |name, changed| (child(name, Restart::Always), changed);
    let wanted = vec![new("a", true), new("b", false), new("c", true)];
    let reload = rig.request(Request::Reload(Rules::default(), wanted));
    assert!(rig.answer(reload).is_none());
    rig.tell("c", Told::Ready);
    let Some(Err(ControlError::StartFailed { child, .. })) = rig.answer(reload) else {
        panic!("{:?}", rig.answer(reload));
    };
    assert_eq!(child.as_str(), "a");
    assert_eq!(rig.running(), "b c");
}

#[test]
fn requests_at_the_end_are_answered() {
    let mut rig = ab();
    rig.deaf.insert("b".into());
    rig.next_start("a", Start::NotReady);
    let restart = rig.request(Request::Restart(name("a")));
    rig.shutdown(false);
    assert!(matches!(
        rig.answer(restart),
        Some(Err(ControlError::ShuttingDown))
    ));
    let stop = rig.request(Request::Stop(name("a")));
    assert!(rig.answer(stop).is_none());
    let start = rig.request(Request::Start(name("a")));
    assert!(matches!(
        rig.answer(start),
        Some(Err(ControlError::ShuttingDown))
    ));
    rig.pass(secs(10));
    assert!(rig.is_ok(stop));
    let late = rig.request(Request::Start(name("a")));
    assert!(matches!(rig.answer(late), Some(Err(ControlError::Ended))));
}
