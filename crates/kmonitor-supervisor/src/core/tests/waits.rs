//! Backoff and intensity.

use std::time::Duration;

use super::rig::{Rig, child, exit, secs};
use crate::core::Rules;
use crate::core::waits::{Window, plain_wait, wait};
use crate::spec::{Backoff, Intensity, Restart};
use crate::words::{End, EventKind};

#[test]
fn waits_grow_up_to_a_cap() {
    let backoff = Backoff::exponential(Duration::from_millis(200), secs(30));
    let waits: Vec<u128> = (0..10)
        .map(|nth| plain_wait(&backoff, nth).as_millis())
        .collect();
    let expected = [
        200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000,
    ];
    assert_eq!(waits, expected);
    assert_eq!(plain_wait(&backoff, u32::MAX), secs(30));
    assert_eq!(wait(&backoff, 0, 0.0), Duration::from_millis(160));
    assert_eq!(wait(&backoff, 0, 0.5), Duration::from_millis(200));
    assert_eq!(wait(&backoff, 0, 1.0), Duration::from_millis(240));
    let forever = Backoff::exponential(Duration::MAX, Duration::MAX);
    assert_eq!(wait(&forever, 3, 1.0), Duration::MAX);
}

#[test]
fn the_window_slides() {
    let two_in_ten = Intensity::new(2, secs(10));
    let mut window = Window::default();
    assert!(window.bears(two_in_ten, secs(0)));
    assert!(window.bears(two_in_ten, secs(9)));
    assert!(window.bears(two_in_ten, secs(11)));
    assert!(!window.bears(two_in_ten, secs(19)));
    assert!(!Window::default().bears(Intensity::new(0, secs(10)), secs(0)));
}

fn crashing(backoff: Backoff) -> Rig {
    let mut a = child("a", Restart::Always);
    a.policy.backoff = backoff;
    let rules = Rules {
        intensity: Intensity::new(99, secs(60)),
        ..Rules::default()
    };
    Rig::up(rules, vec![a])
}

fn attempts(rig: &Rig) -> Vec<(u32, Duration)> {
    let kinds = rig.events.iter().map(|(_, kind, _)| kind);
    kinds
        .filter_map(|kind| match kind {
            EventKind::RestartScheduled { attempt, after } => Some((*attempt, *after)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_good_run_is_measured_from_ready() {
    let backoff = Backoff::exponential(secs(1), secs(9)).jitter(0.0);
    let mut rig = crashing(backoff.reset_after(secs(20)));
    rig.next_start("a", super::rig::Start::NotReady);
    rig.ends("a", exit(1));
    rig.pass(secs(1));
    // 19 s to be ready, and 19 s of running: no good run.
    rig.pass(secs(19));
    rig.tell("a", crate::core::Told::Ready);
    rig.pass(secs(19));
    rig.ends("a", exit(1));
    rig.pass(secs(2) + secs(20));
    rig.ends("a", exit(1));
    assert_eq!(attempts(&rig), [(1, secs(1)), (2, secs(2)), (1, secs(1))]);
}

#[test]
fn a_restart_waits_and_no_longer() {
    let mut rig = crashing(Backoff::constant(secs(5)));
    rig.ends("a", exit(1));
    rig.pass(Duration::from_millis(4_999));
    assert_eq!(rig.take_log(), "");
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.take_log(), "+a");
    assert_eq!(rig.core.deadline(), None, "an idle supervisor has no timer");
}

#[test]
fn one_restart_too_many_ends_the_supervisor() {
    let rules = Rules {
        intensity: Intensity::new(2, secs(10)),
        ..Rules::default()
    };
    let children = vec![child("a", Restart::Always), child("b", Restart::Always)];
    let mut rig = Rig::up(rules, children);
    rig.ends("b", exit(1));
    rig.ends("b", exit(1));
    rig.pass(secs(11));
    rig.ends("b", exit(1));
    rig.ends("b", exit(1));
    assert!(rig.end.is_none());
    rig.log.clear();
    rig.ends("b", exit(1));
    assert_eq!(rig.take_log(), "-a");
    assert!(matches!(&rig.end, Some(End::GaveUp { child }) if child.as_str() == "b"));
}
