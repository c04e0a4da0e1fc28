//! The hazard program against the kernel: every status it reports is one that
//! its scenario allows, its announcements mean what they say, and its helpers
//! do what their names say. What stands on it is worth no more than this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use kmonitor_tests::{
    Hazard, HeldPid, Rng, Scenario, in_unshare, run_as_nobody, set_next_pid, spawn_with_pid, storm,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};

use crate::HAZARD;

/// Runs a scenario and checks every status; returns how often each came.
fn statuses(hazard: Hazard, scenario: Scenario) -> BTreeMap<i32, usize> {
    let mut seen = BTreeMap::new();
    for (pid, status) in hazard.start().unwrap().finish().unwrap() {
        assert!(scenario.allows(status), "{scenario}: {pid} {status:#x}");
        *seen.entry(status).or_default() += 1;
    }
    seen
}

/// The state letter of one thread, or nothing when there is no such thread.
fn state(pid: i32, tid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn is_root() -> bool {
    geteuid().is_root()
}

#[test]
fn plain_codes_are_exact() {
    let hazard = Hazard::new(HAZARD, Scenario::Plain).count(512);
    let seen = statuses(hazard, Scenario::Plain);
    let expected = (0..256).map(|code| (code << 8, 2)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn signals_take_turns_and_dump_no_core() {
    let hazard = Hazard::new(HAZARD, Scenario::Signal).count(300);
    let seen = statuses(hazard, Scenario::Signal);
    let expected = [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV];
    assert_eq!(seen, expected.map(|signal| (signal, 100)).into());
}

#[test]
fn leader_first_always_ends_with_the_last_threads_code() {
    let hazard = Hazard::new(HAZARD, Scenario::LeaderFirst)
        .count(500)
        .delay(Duration::from_millis(1));
    assert_eq!(
        statuses(hazard, Scenario::LeaderFirst),
        [(0x500, 500)].into()
    );
}

#[test]
fn leader3_last9_always_ends_with_9() {
    let hazard = Hazard::new(HAZARD, Scenario::Leader3Last9).count(500);
    assert_eq!(
        statuses(hazard, Scenario::Leader3Last9),
        [(0x900, 500)].into()
    );
}

#[test]
fn thread_exec_ends_with_the_programs_code() {
    for scenario in [Scenario::ThreadExec, Scenario::ThreadExecLeaderGone] {
        let hazard = Hazard::new(HAZARD, scenario).count(200);
        assert_eq!(statuses(hazard, scenario), [(42 << 8, 200)].into());
    }
}

#[test]
fn thread_exit7_group5_always_ends_with_5() {
    let hazard = Hazard::new(HAZARD, Scenario::ThreadExit7Group5).count(1000);
    let seen = statuses(hazard, Scenario::ThreadExit7Group5);
    assert_eq!(seen, [(0x500, 1000)].into());
}

#[test]
fn race6_has_one_winner_and_not_always_the_same() {
    let hazard = Hazard::new(HAZARD, Scenario::Race6).count(500);
    let seen = statuses(hazard, Scenario::Race6);
    eprintln!("{seen:?}");
    assert!(seen.len() > 1, "no race at all: {seen:?}");
}

#[test]
fn every_scenario_is_held_until_released() {
    for &scenario in Scenario::all() {
        let mut run = Hazard::new(HAZARD, scenario)
            .count(5)
            .concurrency(3)
            .hold()
            .start()
            .unwrap();
        let mut announced = Vec::new();
        loop {
            let pids = run.pids().unwrap();
            if pids.is_empty() {
                break;
            }
            for &pid in &pids {
                assert_eq!(threads(pid), 1, "{scenario}: {pid} has gone on");
                assert_ne!(state(pid, pid), Some('Z'), "{scenario}: {pid}");
            }
            announced.extend(pids);
            run.release().unwrap();
        }
        if scenario == Scenario::Storm {
            // Held, but nobody is there yet; `finish` releases it.
            assert!(announced.is_empty());
        } else {
            assert_eq!(announced.len(), 5);
        }
        let mut reaped: Vec<i32> = run.finish().unwrap().iter().map(|&(pid, _)| pid).collect();
        announced.sort_unstable();
        reaped.sort_unstable();
        assert_eq!(announced, reaped, "{scenario}");
    }
}

#[test]
fn the_late_point_is_where_it_says() {
    for &scenario in Scenario::all() {
        if !scenario.has_late_point() {
            continue;
        }
        let mut run = Hazard::new(HAZARD, scenario)
            .count(8)
            .concurrency(8)
            .delay(Duration::ZERO)
            .hold()
            .late()
            .start()
            .unwrap();
        let early: BTreeSet<i32> = run.pids().unwrap().into_iter().collect();
        run.release().unwrap();
        let late: BTreeSet<i32> = run.late_pids().unwrap().into_iter().collect();
        assert_eq!(early, late);
        let (gone, count) = match scenario {
            Scenario::LeaderFirst | Scenario::Leader3Last9 | Scenario::ThreadExecLeaderGone => {
                (true, 2)
            }
            Scenario::Race6 => (false, 6),
            _ => (false, 2),
        };
        for pid in late {
            assert_eq!(state(pid, pid) == Some('Z'), gone, "{scenario}: {pid}");
            assert_eq!(threads(pid), count, "{scenario}: {pid}");
        }
        run.release().unwrap();
        for (pid, status) in run.finish_map().unwrap() {
            assert!(early.contains(&pid));
            assert!(scenario.allows(status), "{scenario}: {status:#x}");
        }
    }
}

#[test]
fn late_without_a_late_point_is_wrong_usage() {
    let status = Command::new(HAZARD)
        .args(["plain", "--late"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn an_abandoned_run_leaves_no_process_behind() {
    for &scenario in Scenario::all() {
        if !scenario.has_late_point() {
            continue;
        }
        let mut run = Hazard::new(HAZARD, scenario)
            .count(5)
            .late()
            .start()
            .unwrap();
        let pids = run.late_pids().unwrap();
        let pidfds: Vec<OwnedFd> = pids.into_iter().map(pidfd).collect();
        drop(run);
        for pidfd in &pidfds {
            // Readable once the whole process is dead.
            let mut poll = [PollFd::new(pidfd, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            let ready = rustix::event::poll(&mut poll, Some(&limit));
            assert_eq!(ready, Ok(1), "{scenario}: outlives its parent");
        }
    }
}

#[test]
fn statuses_come_one_by_one_too() {
    let mut run = Hazard::new(HAZARD, Scenario::Plain)
        .count(3)
        .start()
        .unwrap();
    let mut seen = Vec::new();
    while let Some(status) = run.next_status().unwrap() {
        seen.push(status);
    }
    assert_eq!(seen, run.finish().unwrap());
    assert_eq!(seen.len(), 3);
}

#[test]
fn storms_are_counted() {
    let report = storm(HAZARD, 5000).unwrap();
    eprintln!("{report:?}");
    assert_eq!(report.count, 5000);

    let hazard = Hazard::new(HAZARD, Scenario::Storm)
        .count(100)
        .concurrency(10)
        .print();
    assert_eq!(statuses(hazard, Scenario::Storm), [(0, 100)].into());
}

#[test]
fn reuse_takes_the_same_pid_again_and_again() {
    assert!(is_root(), "set_tid needs root");
    let run = Hazard::new(HAZARD, Scenario::Reuse).count(300).start();
    let statuses = run.unwrap().finish().unwrap();
    assert_eq!(statuses.len(), 300);
    for (index, &(pid, status)) in statuses.iter().enumerate() {
        assert_eq!(pid, statuses[0].0);
        assert_eq!(status >> 8, index as i32 % 256);
    }
}

#[test]
fn a_pid_can_be_chosen_held_and_taken_again() {
    assert!(is_root(), "set_tid needs root");
    let mut rng = Rng::from_env();
    // High up, where the counter of this boot is not about to come by.
    let pid_max: u64 = fs::read_to_string("/proc/sys/kernel/pid_max")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let (pid, mut held) = loop {
        let pid = (pid_max / 2 + rng.below(pid_max / 2)) as i32;
        match HeldPid::spawn(pid) {
            Ok(held) => break (pid, held),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{pid}: {error}"),
        }
    };
    assert_eq!(held.pid(), pid);
    let first = inode(pid);
    let taken = spawn_with_pid(pid, 1).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    held.exit(7).unwrap();
    assert_eq!(held.reap().unwrap(), 7 << 8);

    spawn_with_pid(pid, 8).unwrap();
    let held = HeldPid::spawn(pid).unwrap();
    assert_ne!(inode(pid), first, "same pid, another process");
    drop(held);
    assert!(state(pid, pid).is_none(), "reaped when dropped");
}

/// The number that tells two processes with one pid apart.
fn inode(pid: i32) -> u64 {
    rustix::fs::fstat(pidfd(pid)).unwrap().st_ino
}

fn pidfd(pid: i32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()
}

#[test]
fn the_next_pid_can_be_set() {
    assert!(is_root(), "ns_last_pid needs root");
    // Somebody else may fork in between, so more than one try; a little ahead
    // of the counter, so as not to disturb others.
    let hit = (0..100).any(|_| {
        let mut first = Command::new("true").spawn().unwrap();
        first.wait().unwrap();
        let wanted = first.id() as i32 + 20;
        // Beyond `pid_max` the kernel refuses.
        if set_next_pid(wanted).is_err() {
            return false;
        }
        let mut second = Command::new("true").spawn().unwrap();
        second.wait().unwrap();
        second.id() as i32 == wanted
    });
    assert!(hit, "never got the pid that was to be next");
}

#[test]
fn runs_as_nobody_and_in_other_namespaces() {
    assert!(is_root(), "changing the user needs root");
    let mut id = Command::new("id");
    id.arg("-u");
    let output = run_as_nobody(&id).output().unwrap();
    assert_eq!(output.stdout, b"65534\n");

    let hazard = Hazard::new(HAZARD, Scenario::LeaderFirst)
        .count(20)
        .concurrency(20)
        .delay(Duration::ZERO)
        .hold()
        .through(|command| in_unshare(&["--pid", "--mount-proc"], command));
    let mut run = hazard.start().unwrap();
    let pids = run.pids().unwrap();
    // The program is pid 1 there.
    assert_eq!(pids, (2..22).collect::<Vec<_>>());
    run.release().unwrap();
    assert!(
        run.finish()
            .unwrap()
            .iter()
            .all(|&(_, status)| status == 0x500)
    );
}
