//! How a server begins and ends, and what a killed one leaves.

use crate::common::Target;
use crate::server::Place;
use crate::{EXIT, SIGRTMIN, line, number};

const ENOTCONN: i32 = 107;

#[test]
#[ignore = "needs root, to mount"]
fn the_service_manager_is_told_of_both_ends() {
    let place = Place::new();
    // READY was told, or this would not return.
    let server = place.serve(&[]);
    assert!(place.device().exists());
    server.signal("-HUP");
    assert_eq!(server.told(), "STOPPING=1\n");
    assert_eq!(server.wait().code, Some(0));

    let server = place.serve(&[]);
    let finished = server.stop();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for said in ["serving", "told to end", "served opened=0"] {
        assert!(finished.stderr.contains(said), "{said}: {finished:?}");
    }
    assert!(!place.device().exists(), "it was made, and is removed");
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn after_a_kill_callers_get_errors_and_the_next_server_works() {
    let place = Place::new();
    for round in 0..3 {
        let server = place.serve(&[]);
        let (mut hand, fd) = server.caller();
        let mut target = Target::exiting_with(0);
        hand.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
        server.kill();
        assert_eq!(hand.register(fd, 1, EXIT, SIGRTMIN), Err(ENOTCONN));
        assert_eq!(hand.open(&place.device()), Err(ENOTCONN));

        let server = place.serve(&[]);
        assert_eq!(
            hand.register(fd, 1, EXIT, SIGRTMIN),
            Err(ENOTCONN),
            "the old file"
        );
        let fd = hand.open(&place.device()).unwrap();
        hand.register(fd, number(&target), EXIT, SIGRTMIN).unwrap();
        target.release();
        let due = line(SIGRTMIN, target.pid(), EXIT, 0);
        assert_eq!(hand.ask("next"), due, "round {round}");
        assert_eq!(hand.ask("none"), "none");
        let finished = server.stop();
        assert!(
            finished.stderr.contains("a killed server left"),
            "{finished:?}"
        );
        assert!(
            !place.device().exists(),
            "the killed server had made the file"
        );
    }
}

#[test]
#[ignore = "needs root, to mount"]
fn open_files_of_a_server_that_ended_fail_and_do_not_hang() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    assert_eq!(server.stop().code, Some(0));
    assert_eq!(hand.register(fd, 1, EXIT, SIGRTMIN), Err(ENOTCONN));
}

#[test]
#[ignore = "needs root, to mount"]
fn being_unmounted_ends_the_server_with_an_error() {
    let place = Place::new();
    let server = place.serve(&[]);
    let status = std::process::Command::new("umount")
        .arg(place.device())
        .status();
    assert!(status.unwrap().success());
    assert_eq!(server.told(), "STOPPING=1\n");
    let finished = server.wait();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stderr.contains("unmounted by somebody else"),
        "{finished:?}"
    );
}
