//! Stopping: order, ladder, what is left.

use super::rig::{Rig, Start, child, exit, killed, name, secs};
use crate::Signal;
use crate::core::{Input, Request, Rules, Told};
use crate::spec::{AutoShutdown, Backoff, Restart, Strategy};
use crate::words::{Cause, ControlError, End, EventKind, StartFailure};

fn three() -> Rig {
    let children = ["a", "b", "c"].map(|name| child(name, Restart::OnFailure));
    Rig::up(Rules::default(), children.into())
}

#[test]
fn a_shutdown_stops_in_reverse_order_one_after_the_other() {
    let mut rig = three();
    rig.deaf.insert("b".into());
    rig.shutdown(false);
    assert_eq!(rig.take_log(), "-c -b");
    rig.pass(secs(10));
    assert_eq!(rig.take_log(), "!b -a");
    assert!(matches!(rig.end, Some(End::Shutdown)));
}

#[test]
fn a_second_shutdown_skips_the_grace() {
    let mut rig = three();
    rig.deaf.extend(["b".into(), "c".into()]);
    rig.shutdown(false);
    rig.shutdown(false);
    assert_eq!(rig.take_log(), "-c", "being asked again is no hurry");
    rig.shutdown(true);
    assert_eq!(rig.take_log(), "!c !b !a");
    assert!(rig.end.is_some());
}

#[test]
fn who_outlives_being_killed_is_given_up_and_told() {
    let mut rig = three();
    rig.deaf.insert("b".into());
    rig.stuck.insert("b".into());
    rig.shutdown(false);
    rig.pass(secs(15));
    assert_eq!(rig.take_log(), "-c -b !b ?b -a");
    assert!(rig.end.is_some());
    assert!(rig.core.children()[1].is_stuck());
}

#[test]
fn who_is_stuck_is_not_started_a_second_time() {
    let mut rig = three();
    rig.deaf.insert("b".into());
    rig.stuck.insert("b".into());
    let restart = rig.request(Request::Restart(name("b")));
    rig.pass(secs(15));
    assert!(matches!(
        rig.answer(restart),
        Some(Err(ControlError::Survivors { .. }))
    ));
    let start = rig.request(Request::Start(name("b")));
    assert!(matches!(
        rig.answer(start),
        Some(Err(ControlError::Survivors { .. }))
    ));
    assert_eq!(rig.take_log(), "-b !b ?b");
    rig.tell("b", Told::Empty);
    assert_eq!(
        rig.take_log(),
        "+b",
        "now it can be, and somebody had wanted it"
    );
}

#[test]
fn what_a_leader_leaves_is_swept_before_its_restart() {
    let mut rig = three();
    rig.deaf.insert("b".into());
    rig.tell("b", Told::Exited(exit(1)));
    assert_eq!(
        rig.take_log(),
        "",
        "whether anything is left is not known yet"
    );
    assert_eq!(rig.core.deadline(), Some(rig.now));
    rig.feed(Input::Tick);
    assert_eq!(rig.take_log(), "-b");
    rig.pass(secs(10));
    assert_eq!(rig.take_log(), "!b +b");
}

#[test]
fn who_leaves_nothing_is_not_signalled() {
    let mut rig = three();
    rig.ends("b", exit(1));
    rig.pass(secs(60));
    assert_eq!(rig.take_log(), "+b");
}

#[test]
fn a_stop_goes_before_a_pending_restart() {
    let mut b = child("b", Restart::Always);
    b.policy.backoff = Backoff::constant(secs(5));
    let mut rig = Rig::up(Rules::default(), vec![b]);
    rig.ends("b", exit(1));
    let stop = rig.request(Request::Stop(name("b")));
    assert!(rig.is_ok(stop));
    rig.pass(secs(60));
    assert_eq!(rig.take_log(), "");
    assert_eq!(rig.core.deadline(), None);
}

#[test]
fn a_stop_during_the_start_takes_it_back() {
    let mut rig = three();
    rig.request(Request::Stop(name("b")));
    rig.next_start("b", Start::NotReady);
    let start = rig.request(Request::Start(name("b")));
    assert!(rig.answer(start).is_none());
    let stop = rig.request(Request::Stop(name("b")));
    assert!(matches!(
        rig.answer(start),
        Some(Err(ControlError::Superseded(_)))
    ));
    assert!(rig.is_ok(stop));
    rig.pass(secs(120));
    assert_eq!(rig.running(), "a c");
}

#[test]
fn a_start_that_fails_rolls_back_in_reverse_and_names_the_culprit() {
    for how in [Start::SpawnError, Start::NotReady, Start::Ends(1 << 8)] {
        let children = ["a", "b", "c", "d"].map(|name| child(name, Restart::Always));
        let mut rig = Rig::new(Rules::default(), children.into());
        rig.next_start("c", how);
        rig.feed(Input::Begin);
        rig.pass(secs(60));
        let log = rig.take_log();
        let stopped = if how == Start::NotReady { " -c" } else { "" };
        assert_eq!(log, format!("+a +b +c{stopped} -b -a"), "{how:?}");
        let Some(End::StartFailed { child, why }) = &rig.end else {
            panic!("{:?}", rig.end);
        };
        assert_eq!(child.as_str(), "c");
        let fits = match how {
            Start::SpawnError => matches!(**why, StartFailure::Spawn(_)),
            Start::NotReady => matches!(**why, StartFailure::NotReady(_)),
            _ => matches!(**why, StartFailure::Ended(_)),
        };
        assert!(fits && !rig.up, "{why:?}");
    }
}

#[test]
fn each_is_started_when_those_before_it_are_ready() {
    let children = ["a", "b"].map(|name| child(name, Restart::Always));
    let mut rig = Rig::new(Rules::default(), children.into());
    rig.next_start("a", Start::NotReady);
    rig.feed(Input::Begin);
    rig.pass(secs(59));
    assert_eq!(rig.take_log(), "+a");
    rig.tell("a", Told::Ready);
    assert_eq!(rig.take_log(), "+b");
    assert!(rig.up);
}

#[test]
fn a_job_that_is_done_before_it_is_ready_holds_up_nobody() {
    let children = vec![
        child("job", Restart::OnFailure),
        child("b", Restart::Always),
    ];
    let mut rig = Rig::new(Rules::default(), children);
    rig.next_start("job", Start::Ends(0));
    rig.feed(Input::Begin);
    assert!(rig.up);
    assert_eq!(rig.running(), "b");
}

#[test]
fn a_shutdown_during_the_start_ends_it() {
    let children = ["a", "b", "c"].map(|name| child(name, Restart::Always));
    let mut rig = Rig::new(Rules::default(), children.into());
    rig.next_start("b", Start::NotReady);
    rig.feed(Input::Begin);
    rig.shutdown(false);
    assert_eq!(rig.take_log(), "+a +b -b -a");
    assert!(matches!(rig.end, Some(End::Shutdown)));
}

#[test]
fn significant_children_take_their_supervisor_along() {
    let all = AutoShutdown::AllSignificant;
    let any = AutoShutdown::AnySignificant;
    for (when, ends_after_first) in [(any, true), (all, false), (AutoShutdown::Never, false)] {
        let mut children = ["a", "b", "c"].map(|name| child(name, Restart::OnFailure));
        children[0].policy.significant = true;
        children[1].policy.significant = true;
        let rules = Rules {
            auto_shutdown: when,
            ..Rules::default()
        };
        let mut rig = Rig::up(rules, children.into());
        rig.ends("c", exit(0));
        rig.ends("a", exit(1));
        assert!(rig.end.is_none(), "nobody significant has ended for good");
        rig.ends("a", exit(0));
        assert_eq!(rig.end.is_some(), ends_after_first, "{when:?}");
        if !ends_after_first {
            rig.ends("b", exit(0));
            assert_eq!(rig.end.is_some(), when == all, "{when:?}");
        }
    }
}

#[test]
fn a_stop_by_request_is_no_end_of_a_significant_child() {
    let mut a = child("a", Restart::OnFailure);
    a.policy.significant = true;
    let rules = Rules {
        auto_shutdown: AutoShutdown::AnySignificant,
        ..Rules::default()
    };
    let mut rig = Rig::up(rules, vec![a]);
    rig.request(Request::Stop(name("a")));
    assert!(rig.end.is_none());
}

#[test]
fn a_second_crash_in_the_midst_of_a_restart() {
    let rules = Rules {
        strategy: Strategy::OneForAll,
        ..Rules::default()
    };
    let children = ["a", "b", "c"].map(|name| child(name, Restart::Always));
    let mut rig = Rig::up(rules, children.into());
    rig.deaf.insert("c".into());
    rig.ends("b", exit(1));
    assert_eq!(rig.take_log(), "-c");
    // a ends while it waits for its turn to be stopped: that is no second restart.
    rig.ends("a", exit(1));
    rig.pass(secs(10));
    assert_eq!(rig.take_log(), "!c +a +b +c");
    assert_eq!(rig.core.children()[0].restarts, 0);
}

#[test]
fn causes_are_told() {
    let mut rig = three();
    let cause_of = |rig: &Rig, which: fn(&EventKind) -> bool| {
        let last = rig.events.iter().rev().find(|(_, kind, _)| which(kind));
        last.map(|(_, _, cause)| cause.clone())
    };
    let exited = |kind: &EventKind| matches!(kind, EventKind::Exited { .. });
    let started = |kind: &EventKind| matches!(kind, EventKind::Starting { .. });
    rig.ends("a", killed(Signal::KILL));
    assert_eq!(cause_of(&rig, exited), Some(Cause::Outside));
    assert_eq!(cause_of(&rig, started), Some(Cause::Itself));
    rig.ends("a", killed(Signal::SEGV));
    assert_eq!(cause_of(&rig, exited), Some(Cause::Itself));
    let leader = crate::backend::Reach::Leader;
    rig.request(Request::Signal(name("a"), Signal::USR1, leader));
    rig.ends("a", killed(Signal::USR1));
    assert_eq!(cause_of(&rig, exited), Some(Cause::User));
    rig.request(Request::Restart(name("a")));
    assert_eq!(cause_of(&rig, exited), Some(Cause::User));
    assert_eq!(cause_of(&rig, started), Some(Cause::User));
}
