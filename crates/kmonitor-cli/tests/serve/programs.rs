//! Monitors as they were written for 2004: what they are told.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Target, until};
use crate::hand::{Hand, build};
use crate::server::Place;
use crate::{ABORT, EXIT, FORK, SIGRTMIN, line, number};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/c");

fn example(name: &str, place: &Place) -> Command {
    let source = Path::new(EXAMPLES).join(name).with_extension("c");
    Command::new(build(&source, place.path()))
}

/// The program of the patch's own description, word for word: a handler that
/// exits, `sigsuspend`, and the numbers spelled out.
const CLASSIC: &str = r#"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
struct kmonitor_cmd { pid_t pid; int type; int signal; };
static void handler(int signal, siginfo_t *info, void *unused)
{
	(void)signal, (void)unused;
	_exit(info->si_value.sival_int == 0x40 && info->si_code == SI_QUEUE ? 0 : 1);
}
int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	struct kmonitor_cmd cmd = { argc == 3 ? atoi(argv[1]) : 0, 0x40, SIGRTMIN };
	sigset_t none;
	int fd;
	sigemptyset(&action.sa_mask);
	sigaction(SIGRTMIN, &action, NULL);
	fd = open(argv[2], O_WRONLY);
	if (fd < 0 || ioctl(fd, 0x400CDE01, &cmd) < 0)
		return 2;
	(void)!write(1, "r", 1);
	sigemptyset(&none);
	for (;;)
		sigsuspend(&none);
}
"#;

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn a_monitor_of_2004_ends_when_its_target_does() {
    use std::io::Read as _;
    let place = Place::new();
    let _server = place.serve(&[]);
    let source = place.path().join("classic.c");
    std::fs::write(&source, CLASSIC).unwrap();
    let program = build(&source, place.path());
    let mut target = Target::exiting_with(0);
    let monitors: Vec<_> = (0..2)
        .map(|_| {
            let mut child = Command::new(&program)
                .arg(target.pid())
                .arg(place.device())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // Registered.
            let mut byte = [0];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut byte)
                .unwrap();
            child
        })
        .collect();
    target.release();
    for mut monitor in monitors {
        assert_eq!(monitor.wait().unwrap().code(), Some(0));
    }
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn the_example_that_waits_waits() {
    let place = Place::new();
    let server = place.serve(&[]);
    let mut target = Target::exiting_with(3);
    let mut monitor = example("wait_exit", &place)
        .arg(target.pid())
        .arg(place.device())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it has registered", || server.listens());
    assert!(monitor.try_wait().unwrap().is_none());
    target.release();
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn all_seven_events_come_as_they_happen() {
    let place = Place::new();
    let _server = place.serve(&[]);
    let output = example("every_event", &place)
        .arg(place.device())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("ok: ").count(), 9, "{said}");
}

#[test]
#[ignore = "needs root, to mount and become nobody, and the proc connector"]
fn a_signal_says_who_and_whose_and_what() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut first, fd) = server.caller();
    let (mut second, other) = server.caller();
    let nobody = || {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "cat",
            ])
            .stdin(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut target = nobody();
    let pid = i32::try_from(target.id()).unwrap();
    until("it is nobody's", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("\nUid:\t65534\t65534") && status.starts_with("Name:\tcat\n")
    });
    first.register(fd, pid, EXIT | ABORT, SIGRTMIN).unwrap();
    second
        .register(other, pid, EXIT | ABORT, SIGRTMIN + 7)
        .unwrap();
    target.kill().unwrap();
    for (hand, signal) in [(&mut first, SIGRTMIN), (&mut second, SIGRTMIN + 7)] {
        assert_eq!(hand.ask("next"), line(signal, pid, ABORT, 65534));
        assert_eq!(hand.ask("next"), line(signal, pid, EXIT, 65534));
        assert_eq!(hand.ask("none"), "none");
    }
    target.wait().unwrap();
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn one_monitor_is_told_of_200_targets_each_once() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let mut targets: Vec<_> = (0..200).map(|_| Target::exiting_with(0)).collect();
    for target in &targets {
        hand.register(fd, number(target), EXIT, SIGRTMIN).unwrap();
    }
    for target in &mut targets {
        target.release();
    }
    let mut told: Vec<_> = targets.iter().map(|_| hand.ask("next")).collect();
    let mut due: Vec<_> = targets
        .iter()
        .map(|target| line(SIGRTMIN, target.pid(), EXIT, 0))
        .collect();
    told.sort_unstable();
    due.sort_unstable();
    assert_eq!(told, due);
    assert_eq!(hand.ask("none"), "none");
    // Their records went with them.
    server.until_idle();
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn a_second_registration_adds_events_and_replaces_the_signal() {
    let place = Place::new();
    let server = place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let mut target = Hand::start();
    let pid = target.pid();
    hand.register(fd, pid, FORK, SIGRTMIN).unwrap();
    hand.register(fd, pid, EXIT, SIGRTMIN + 1).unwrap();
    let child = target.call("fork").unwrap();
    assert_eq!(hand.ask("next"), line(SIGRTMIN + 1, child, FORK, 0));

    hand.deregister(fd, pid, FORK).unwrap();
    target.call("endfork").unwrap();
    target.call("fork").unwrap();
    target.call("endfork").unwrap();
    target.end();
    assert_eq!(
        hand.ask("next"),
        line(SIGRTMIN + 1, pid, EXIT, 0),
        "and no fork"
    );
    assert_eq!(hand.ask("none"), "none");
}
