//! Callers that the device must live with.

use std::process::Command;

use crate::common::{Target, until};
use crate::hand::{self, Hand, REGISTER};
use crate::server::Place;
use crate::{EXIT, FORK, SIGRTMIN, line, number};

const EINVAL: i32 = 22;
const EACCES: i32 = 13;
const EOPNOTSUPP: i32 = 95;

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn records_are_those_of_the_caller() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let (mut other, other_fd) = server.caller();
    let mut target = Target::exiting_with(0);
    let pid = number(&target);
    assert_eq!(hand.deregister(fd, pid, EXIT), Err(EINVAL), "none yet");
    hand.register(fd, pid, EXIT | FORK, SIGRTMIN).unwrap();
    assert_eq!(
        other.deregister(other_fd, pid, EXIT),
        Err(EINVAL),
        "another's"
    );
    hand.deregister(fd, pid, FORK).unwrap();
    hand.deregister(fd, pid, EXIT).unwrap();
    assert_eq!(hand.deregister(fd, pid, EXIT), Err(EINVAL), "none is left");

    // Nobody looks whether a target exists.
    let gone: i32 = Target::gone().parse().unwrap();
    hand.register(fd, gone, EXIT, SIGRTMIN).unwrap();
    hand.deregister(fd, gone, EXIT).unwrap();
    target.release();
    target.reap();
    server.until_idle();
    assert_eq!(hand.ask("none"), "none");
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn the_last_close_ends_all_and_none_before_it() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let mut targets = [Target::exiting_with(0), Target::exiting_with(0)];
    for target in &targets {
        hand.register(fd, number(target), EXIT, SIGRTMIN).unwrap();
    }
    let second = hand.call(&format!("dup {fd}")).unwrap();
    hand.call("fork").unwrap();
    hand.call(&format!("close {fd}")).unwrap();
    hand.call(&format!("close {second}")).unwrap();
    targets[0].release();
    let due = line(SIGRTMIN, targets[0].pid(), EXIT, 0);
    assert_eq!(hand.ask("next"), due, "the child has it open");

    hand.call("endfork").unwrap();
    server.until_idle();
    targets[1].release();
    targets[1].reap();
    assert_eq!(hand.ask("none"), "none");
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn while_nothing_is_registered_the_kernel_is_not_listened_to() {
    let place = Place::new();
    let server = place.serve(&[]);
    assert!(!server.listens());
    let (mut hand, fd) = server.caller();
    assert!(!server.listens(), "open, and nothing registered");
    let target = Target::exiting_with(0);
    for _ in 0..3 {
        hand.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
        assert!(server.listens());
        hand.deregister(fd, number(&target), EXIT).unwrap();
        server.until_idle();
    }
    hand.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
    hand.kill();
    server.until_idle();
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn random_commands_do_no_harm() {
    let place = Place::new();
    let server = place.serve(&["--log", "error"]);
    let mut storms: Vec<_> = (1..=3)
        .map(|seed| {
            let (mut hand, fd) = server.caller();
            hand.say(&format!("storm {fd} 10000 {seed}"));
            hand
        })
        .collect();
    let (mut hand, fd) = server.caller();
    let mut target = Target::exiting_with(0);
    hand.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
    for storm in &mut storms {
        storm.answer().unwrap();
    }
    target.release();
    assert_eq!(hand.ask("next"), line(SIGRTMIN, target.pid(), EXIT, 0));
    let finished = server.stop();
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn two_thousand_files_are_open_at_a_time() {
    let place = Place::new();
    let server = place.serve(&[]);
    let mut hand = Hand::start_by(with_files(3000));
    let opens = format!("opens {} 2000", place.device().display());
    assert_eq!(hand.ask(&opens), "ok 2000");
    let mut target = Target::exiting_with(0);
    // The first and the last of them.
    hand.register(3, number(&target), EXIT, SIGRTMIN).unwrap();
    hand.register(2002, number(&target), EXIT, SIGRTMIN + 1)
        .unwrap();
    target.release();
    let mut told = [hand.ask("next"), hand.ask("next")];
    told.sort_unstable();
    assert_eq!(told[0], line(SIGRTMIN, target.pid(), EXIT, 0));
    assert_eq!(told[1], line(SIGRTMIN + 1, target.pid(), EXIT, 0));
    hand.end();
    server.until_idle();
    let finished = server.stop();
    assert!(finished.stderr.contains("opened=2000"), "{finished:?}");
}

fn with_files(limit: u32) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={limit}"))
        .arg(hand::program());
    command
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn a_caller_killed_in_the_middle_of_a_call_harms_nobody() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let target = Target::exiting_with(0);
    // From the first close on, none waits for the server.
    let second = hand.open(&place.device()).unwrap();
    hand.call(&format!("close {second}")).unwrap();
    server.pause();
    hand.say(&format!(
        "ioctl {fd} {REGISTER} {} {EXIT} {SIGRTMIN}",
        target.pid()
    ));
    let waits = format!("/proc/{}/wchan", hand.pid());
    until("it waits for the answer", || {
        std::fs::read_to_string(&waits).is_ok_and(|place| place.contains("request_wait"))
    });
    hand.kill();
    // The server has not read the request, so that the kernel lets go.
    hand.end();
    server.signal("-CONT");
    let (mut other, fd) = server.caller();
    other.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
    other.kill();
    other.end();
    server.until_idle();
}

#[test]
#[ignore = "needs root, to mount and to make a pid namespace"]
fn a_caller_in_another_pid_namespace_is_refused_and_told_of() {
    let place = Place::new();
    let server = place.serve(&[]);
    let mut inside = Command::new("unshare");
    inside
        .args(["-p", "-f", "--kill-child"])
        .arg(hand::program());
    let mut hand = Hand::start_by(inside);
    let fd = hand.open(&place.device()).unwrap();
    assert_eq!(hand.register(fd, 1, EXIT, SIGRTMIN), Err(EOPNOTSUPP));
    assert_eq!(hand.deregister(fd, 1, EXIT), Err(EOPNOTSUPP));
    assert!(!server.listens());
    let finished = server.stop();
    let told = finished.stderr.matches("another pid namespace").count();
    assert_eq!(told, 1, "once for a file: {finished:?}");
}

#[test]
#[ignore = "needs root, to mount and become nobody, and the proc connector"]
fn the_mode_says_who_may_open_it() {
    let place = Place::new();
    let copy = place.path().join("hand");
    std::fs::copy(hand::program(), &copy).unwrap();
    let nobody = |group: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", group, "--clear-groups"]);
        command.arg(&copy);
        Hand::start_by(command)
    };
    let server = place.serve(&["--mode", "0620", "--group", "12345"]);
    assert_eq!(nobody("65534").open(&place.device()), Err(EACCES));
    let mut member = nobody("12345");
    let fd = member.open(&place.device()).unwrap();
    let read = format!("open {} 0", place.device().display());
    assert_eq!(member.call(&read), Err(EACCES));
    // Root's process, of which root's server tells somebody else's.
    let mut target = Target::exiting_with(0);
    member
        .register(fd, number(&target), EXIT, SIGRTMIN)
        .unwrap();
    target.release();
    assert_eq!(member.ask("next"), line(SIGRTMIN, target.pid(), EXIT, 0));
    drop(server);
}
