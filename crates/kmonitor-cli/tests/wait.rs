//! `kmonitor wait`, end to end on this kernel.

mod common;

use common::{Finished, ForNobody, Target, finish, in_namespaces, kmonitor, run, start_holding};

/// Waits for one process with these options, and lets it go once it is held.
fn wait_for(target: &mut Target, options: &[&str]) -> Finished {
    let pid = target.pid();
    let args = [&["wait"], options, &[pid.as_str()]].concat();
    let child = start_holding(&mut kmonitor(&args), &[&pid]);
    target.release();
    target.reap();
    finish(child)
}

#[test]
fn ends_as_its_only_process_ends() {
    for code in [0, 7, 255] {
        let mut target = Target::exiting_with(code);
        wait_for(&mut target, &[]).assert(i32::from(code), "");
    }
}

#[test]
fn a_killed_process_is_128_and_the_signal() {
    let mut target = Target::exiting_with(0);
    let pid = target.pid();
    let child = start_holding(&mut kmonitor(&["wait", "-v", &pid]), &[&pid]);
    target.kill();
    target.reap();
    finish(child).assert(137, &format!("{pid}: killed by signal 9.\n"));
}

#[test]
fn verbose_prints_as_freebsd_does() {
    let mut target = Target::exiting_with(3);
    let expected = format!("{}: exited with status 3.\n", target.pid());
    wait_for(&mut target, &["-v"]).assert(3, &expected);
}

#[test]
fn json_is_the_exit_event() {
    let mut target = Target::exiting_with(3);
    let pid: i64 = target.pid().parse().unwrap();
    let finished = wait_for(&mut target, &["--json"]);
    assert_eq!(finished.code, Some(3));
    let [line] = finished.json().try_into().unwrap();
    assert_eq!(line["type"], "exit");
    assert_eq!(line["pid"], pid);
    assert_eq!(line["status"]["code"], 3);
    let event: kmonitor::Event = serde_json::from_str(finished.stdout.trim()).unwrap();
    assert_eq!(event.pid().map(|pid| i64::from(pid.as_raw())), Some(pid));
}

#[test]
fn a_timeout_is_124_and_tells_who_runs() {
    let target = Target::exiting_with(0);
    let pid = target.pid();
    run(&mut kmonitor(&["wait", "-t", "0.05", &pid])).assert(124, "");
    let told = format!("timeout\n{pid}\n");
    run(&mut kmonitor(&["wait", "-vp", "-t0.05s", &pid])).assert(124, &told);

    let finished = run(&mut kmonitor(&["wait", "--json", "-p", "-t", "0.05", &pid]));
    let [timeout, running] = finished.json().try_into().unwrap();
    assert_eq!(timeout["type"], "timeout");
    assert_eq!(running["type"], "running");
    assert_eq!(running["pid"].to_string(), pid);
}

#[test]
fn a_limit_of_zero_is_none() {
    let mut target = Target::exiting_with(5);
    wait_for(&mut target, &["-t", "0"]).assert(5, "");
}

#[test]
fn gone_is_an_error_unless_allowed() {
    let pid = Target::gone();
    let finished = run(&mut kmonitor(&["wait", &pid]));
    finished.assert(1, "");
    assert_eq!(
        finished.stderr,
        format!("kmonitor: process {pid} does not exist (any more)\n")
    );
    run(&mut kmonitor(&["wait", "-o", &pid])).assert(1, "");
    for option in ["-e", "--allow-gone", "--exited"] {
        run(&mut kmonitor(&["wait", option, &pid])).assert(0, "");
    }
    let line = format!("{pid}: terminated.\n");
    run(&mut kmonitor(&["wait", "-ev", &pid])).assert(0, &line);
}

#[test]
fn any_returns_at_the_first_end() {
    let (mut first, second) = (Target::exiting_with(3), Target::exiting_with(4));
    let (a, b) = (first.pid(), second.pid());
    let child = start_holding(&mut kmonitor(&["wait", "-opv", &b, &a]), &[&a, &b]);
    first.release();
    first.reap();
    finish(child).assert(0, &format!("{a}: exited with status 3.\n{b}\n"));
    // One that is gone has ended, where that is allowed.
    run(&mut kmonitor(&["wait", "-oe", &a, &b])).assert(0, "");
}

#[test]
fn count_returns_at_the_nth_end() {
    let mut targets = [1, 2, 3].map(Target::exiting_with);
    let pids = targets.each_ref().map(Target::pid);
    let pids = pids.each_ref().map(String::as_str);
    let args = [&["wait", "-c", "2", "-p"], &pids[..]].concat();
    let child = start_holding(&mut kmonitor(&args), &pids);
    for target in &mut targets[..2] {
        target.release();
        target.reap();
    }
    finish(child).assert(0, &format!("{}\n", pids[2]));
}

#[test]
fn several_end_with_success_whatever_their_codes() {
    let mut targets = [1, 2].map(Target::exiting_with);
    let pids = targets.each_ref().map(Target::pid);
    let pids = pids.each_ref().map(String::as_str);
    // Named twice, waited for once.
    let args = [&["wait", "-v"], &pids[..], &pids[..]].concat();
    let child = start_holding(&mut kmonitor(&args), &pids);
    for target in &mut targets {
        target.release();
        target.reap();
    }
    let finished = finish(child);
    assert_eq!(finished.code, Some(0));
    let mut lines: Vec<_> = finished.stdout.lines().collect();
    lines.sort_unstable();
    let mut expected = [
        format!("{}: exited with status 1.", pids[0]),
        format!("{}: exited with status 2.", pids[1]),
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[test]
fn bad_words_are_errors_of_usage() {
    let own = std::process::id().to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["0"], "ids are positive"),
        (&["-5"], "ids are positive"),
        (&["--", "-5"], "ids are positive"),
        (&["99999999999"], "ids end at 2147483647"),
        (&["99999999999999999999999"], "expected a number"),
        (&["x"], "expected a number"),
        (&["1:x"], "inode must be a positive number"),
        (&["-t", "1d", "1"], "unknown unit"),
        (&["-c", "2", &own], "more than the processes named"),
    ];
    for (args, message) in cases {
        let finished = run(&mut kmonitor(&[&["wait"], args].concat()));
        finished.assert(2, "");
        assert!(finished.stderr.contains(message), "{args:?}: {finished:?}");
    }
    run(&mut kmonitor(&["wait"])).assert(2, "");
}

#[test]
fn waiting_for_itself_is_refused() {
    let script = format!("exec {} wait $$", env!("CARGO_BIN_EXE_kmonitor"));
    let finished = run(std::process::Command::new("sh").args(["-c", &script]));
    finished.assert(2, "");
    assert!(
        finished.stderr.contains("is kmonitor itself"),
        "{finished:?}"
    );
}

#[test]
fn a_thread_is_refused_with_its_process() {
    let (to_test, from_thread) = std::sync::mpsc::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let link = std::fs::read_link("/proc/thread-self").unwrap();
        let tid = link.file_name().unwrap().to_str().unwrap().to_owned();
        to_test.send(tid).unwrap();
        let _ = held.recv();
    });
    let tid = from_thread.recv().unwrap();
    let finished = run(&mut kmonitor(&["wait", &tid]));
    drop(release);
    thread.join().unwrap();
    finished.assert(1, "");
    let message = format!("{tid} is a thread of process {}", std::process::id());
    assert!(finished.stderr.contains(&message), "{finished:?}");
}

#[test]
fn a_process_is_addressed_by_its_inode_too() {
    let mut target = Target::exiting_with(7);
    let pid = target.pid();
    let finished = run(&mut kmonitor(&["wait", "--json", "-p", "-t", "0.01", &pid]));
    let lines = finished.json();
    let Some(key) = lines[1]["key"].as_str() else {
        // Before Linux 6.9 there are no such inodes, and PID:INODE is refused.
        let finished = run(&mut kmonitor(&["wait", &format!("{pid}:1")]));
        finished.assert(1, "");
        assert!(finished.stderr.contains("6.9"), "{finished:?}");
        return;
    };
    let other = format!("{pid}:1");
    let refused = run(&mut kmonitor(&["wait", &other]));
    refused.assert(1, "");
    assert!(
        refused.stderr.contains(&format!("{other} is gone")),
        "{refused:?}"
    );
    run(&mut kmonitor(&["wait", "-e", &other])).assert(0, "");

    let child = start_holding(&mut kmonitor(&["wait", key]), &[&pid]);
    target.release();
    target.reap();
    finish(child).assert(7, "");
}

#[test]
fn a_closed_pipe_ends_the_printing_and_not_the_waiting() {
    let mut targets = [1, 2].map(Target::exiting_with);
    let pids = targets.each_ref().map(Target::pid);
    let pids = pids.each_ref().map(String::as_str);
    let args = [&["wait", "-v"], &pids[..]].concat();
    let mut child = start_holding(&mut kmonitor(&args), &pids);
    drop(child.stdout.take());
    for target in &mut targets {
        target.release();
        target.reap();
    }
    finish(child).assert(0, "");
}

#[test]
fn many_processes_need_no_higher_limit_from_the_caller() {
    let mut targets: Vec<_> = (0..60).map(|_| Target::exiting_with(0)).collect();
    let pids: Vec<_> = targets.iter().map(Target::pid).collect();
    let limit = "ulimit -Sn 40 && exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", limit, "sh", env!("CARGO_BIN_EXE_kmonitor"), "wait"]);
    command.args(&pids);
    let pids: Vec<_> = pids.iter().map(String::as_str).collect();
    let child = start_holding(&mut command, &pids);
    for target in &mut targets {
        target.release();
        target.reap();
    }
    finish(child).assert(0, "");
}

#[test]
fn too_few_descriptors_are_named_as_the_cause() {
    let targets: Vec<_> = (0..40).map(|_| Target::exiting_with(0)).collect();
    let pids: Vec<_> = targets.iter().map(Target::pid).collect();
    let limit = "ulimit -n 30 && exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", limit, "sh", env!("CARGO_BIN_EXE_kmonitor"), "wait"]);
    let finished = run(command.args(&pids));
    finished.assert(1, "");
    assert!(finished.stderr.contains("RLIMIT_NOFILE"), "{finished:?}");
}

#[test]
#[ignore = "needs root, to become nobody"]
fn nobody_learns_the_code_of_somebody_elses_child() {
    let nobody = ForNobody::new();
    for (code, expected) in [(7, 7), (0, 0)] {
        let mut target = Target::exiting_with(code);
        let pid = target.pid();
        let child = start_holding(&mut nobody.kmonitor(&["wait", &pid]), &[&pid]);
        target.release();
        target.reap();
        finish(child).assert(expected, "");
    }
    let mut target = Target::exiting_with(0);
    let pid = target.pid();
    let child = start_holding(&mut nobody.kmonitor(&["wait", &pid]), &[&pid]);
    target.kill();
    target.reap();
    finish(child).assert(137, "");
}

#[test]
#[ignore = "needs root, to become nobody"]
fn a_status_that_nobody_may_know_is_125_with_the_reason() {
    let nobody = ForNobody::new();
    let mut target = Target::exiting_with(7);
    let pid = target.pid();
    let args = ["wait", "--grace", "0.05", "-v", &pid];
    let child = start_holding(&mut nobody.kmonitor(&args), &[&pid]);
    target.release(); // And not reaped.
    let finished = finish(child);
    finished.assert(125, &format!("{pid}: terminated.\n"));
    assert!(
        finished.stderr.contains("has not reaped it"),
        "{finished:?}"
    );

    // Dead in time, although its status was not known in time: no timeout.
    let args = ["wait", "--grace", "10m", "-t", "0.1", &pid];
    run(&mut nobody.kmonitor(&args)).assert(125, "");
    target.reap();
}

#[test]
#[ignore = "needs root, to make namespaces"]
fn waiting_works_in_namespaces() {
    for unshare in [&["-n"][..], &["-Ur"], &["-pf", "--mount-proc"]] {
        // The process is let go when the command is seen to hold it.
        let script = r#"
            cd "$(mktemp -d)" && mkfifo hold
            sh -c 'read x; exit 7' <hold & target=$!
            exec 3>hold
            "$K" wait -v $target 3>&- & waiter=$!
            until grep -qx "Pid:[[:space:]]*$target" /proc/$waiter/fdinfo/* 2>/dev/null; do :; done
            exec 3>&-
            wait $waiter; echo $?
            rm hold; rmdir "$PWD""#;
        let finished = in_namespaces(unshare, script);
        assert!(
            finished.stdout.ends_with(": exited with status 7.\n7\n"),
            "{unshare:?}: {finished:?}"
        );
    }
}

#[test]
#[ignore = "needs kernel threads in sight: not in a pid namespace"]
fn a_kernel_thread_may_be_waited_for() {
    // kthreadd, which is process 2 on each Linux.
    run(&mut kmonitor(&["wait", "-t", "0.05", "2"])).assert(124, "");
}
