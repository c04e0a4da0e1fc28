//! Monitors that follow a whole tree by registering each child that they are
//! told of, as programs of 2004 did.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::{Target, until};
use crate::hand::build;
use crate::server::Place;
use crate::{EXIT, FORK, SIGRTMIN};

/// Notes its pid, stops until it is let go, and becomes the program that its
/// arguments name.
const GATE: &str = r#"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char line[16];
	int log = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
	int size = snprintf(line, sizeof line, "%d\n", (int)getpid());
	if (argc < 4 || write(log, line, (size_t)size) != size)
		return 1;
	close(log);
	if (argv[2][0] == 's')
		raise(SIGSTOP);
	execvp(argv[3], argv + 3);
	return 1;
}
"#;

/// Four at each level, each the work of a make of its own. No shell anywhere,
/// whose own processes nobody holds up.
const MAKEFILE: &str = "\
BELOW_3 = 2
BELOW_2 = 1
all: a b c d
ifeq ($(DEPTH),1)
a b c d:
\t@$(GATE) true
else
a b c d:
\t@$(GATE) $(MAKE) -s DEPTH=$(BELOW_$(DEPTH)) all
endif
";

/// How many processes there are below the first, for three levels.
const PROCESSES: usize = 4 + 16 + 64;

struct Tree {
    place: Place,
    gate: PathBuf,
    log: PathBuf,
}

impl Tree {
    fn new() -> Self {
        let place = Place::new();
        let source = place.path().join("gate.c");
        fs::write(&source, GATE).unwrap();
        let gate = build(&source, place.path());
        fs::write(place.path().join("Makefile"), MAKEFILE).unwrap();
        let log = place.path().join("log");
        Self { place, gate, log }
    }

    /// A make that starts when its input ends. With `s`, each process stops until
    /// it is let go.
    fn start(&self, stops: char) -> Target {
        let script = format!(
            "read line; exec make -s -j4 DEPTH=3 GATE='{} {} {stops}' all",
            self.gate.display(),
            self.log.display(),
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .current_dir(self.place.path())
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Target::of(command)
    }

    fn logged(&self) -> BTreeSet<i32> {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn is_stopped(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
}

#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn all_of_a_build_whose_processes_wait_to_be_registered_are_seen() {
    let tree = Tree::new();
    let server = tree.place.serve(&[]);
    let (mut hand, fd) = server.caller();
    let mut root = tree.start('s');
    let first: i32 = root.pid().parse().unwrap();
    hand.register(fd, first, FORK | EXIT, SIGRTMIN).unwrap();
    root.release();
    let (mut forked, mut ended) = (BTreeSet::new(), BTreeSet::new());
    while !ended.contains(&first) {
        let told = hand.ask("next");
        let fields: Vec<_> = told.split(' ').collect();
        let ["signal", _, pid, bit, "-1", "0"] = fields[..] else {
            panic!("{told}: after {forked:?}");
        };
        let (pid, bit): (i32, u32) = (pid.parse().unwrap(), bit.parse().unwrap());
        if bit == EXIT {
            assert!(ended.insert(pid), "{pid} ended twice");
            continue;
        }
        assert_eq!(bit, FORK);
        assert!(forked.insert(pid), "{pid} was born twice");
        hand.register(fd, pid, FORK | EXIT, SIGRTMIN).unwrap();
        until("it waits", || is_stopped(pid));
        let let_go = Command::new("kill")
            .args(["-CONT", &pid.to_string()])
            .status();
        assert!(let_go.unwrap().success());
    }
    assert_eq!(hand.ask("none"), "none");
    let logged = tree.logged();
    assert_eq!(logged.len(), PROCESSES);
    assert_eq!(forked, logged);
    ended.remove(&first);
    assert_eq!(ended, logged);
}

/// Being told and registering take most of a millisecond, within which a process can
/// have children and end. They are told all the same.
#[test]
#[ignore = "needs root, to mount, and the proc connector"]
fn all_of_a_build_that_waits_for_nobody_are_seen() {
    let tree = Tree::new();
    let _server = tree.place.serve(&[]);
    let mut root = tree.start('-');
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/c/follow_tree.c"
    );
    let follower = Command::new(build(source.as_ref(), tree.place.path()))
        .arg(root.pid())
        .arg(tree.place.device())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Once it has registered the first, and no sooner.
    let asleep = format!("/proc/{}/wchan", follower.id());
    until("it waits to be told", || {
        fs::read_to_string(&asleep).is_ok_and(|place| place.contains("sigtimedwait"))
    });
    root.release();
    let output = follower.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let forked: BTreeSet<i32> = said
        .lines()
        .filter_map(|line| line.strip_prefix("fork "))
        .map(|pid| pid.parse().unwrap())
        .collect();
    let missed: Vec<_> = tree.logged().difference(&forked).copied().collect();
    assert!(
        missed.is_empty(),
        "{} of {PROCESSES}: {missed:?}",
        missed.len()
    );
}
