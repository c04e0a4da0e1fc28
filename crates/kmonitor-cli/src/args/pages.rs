//! The longer texts of `--help` and the manual, from one source.

use std::fmt::Write as _;

/// What a manual page says beyond description and options.
#[derive(Debug)]
pub(crate) struct Page {
    /// Sections of plain paragraphs: heading and text.
    pub(crate) sections: &'static [(&'static str, &'static str)],
    /// Exit codes and what they mean.
    pub(crate) exit_status: &'static [(&'static str, &'static str)],
    /// What an example does, and the example.
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

impl Page {
    /// As the end of `--help`.
    pub(crate) fn as_help(&self) -> String {
        let mut text = String::new();
        for (heading, paragraphs) in self.sections {
            let _ = writeln!(text, "{heading}:");
            for line in paragraphs.lines() {
                let _ = writeln!(text, "{}", format!("  {line}").trim_end());
            }
            text.push('\n');
        }
        text.push_str("Exit status:\n");
        for (code, meaning) in self.exit_status {
            let mut label = *code;
            for line in meaning.lines() {
                let _ = writeln!(text, "  {label:<7} {line}");
                label = "";
            }
        }
        text.push_str("\nExamples:\n");
        for (what, example) in self.examples {
            let _ = writeln!(text, "  {what}:");
            for line in example.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

/// The page of a subcommand.
pub(crate) fn of(command: &str) -> Option<&'static Page> {
    Some(match command {
        "kmonitor" => &MAIN,
        "wait" => &WAIT,
        "trace" => &TRACE,
        "notify" => &NOTIFY,
        "doctor" => &DOCTOR,
        "serve" => &SERVE,
        "completions" => &COMPLETIONS,
        "man" => &MAN,
        _ => return None,
    })
}

const SUCCESS: (&str, &str) = ("0", "Success.");
const FAILURE: (&str, &str) = ("1", "Something went wrong; stderr says what.");
const USAGE: (&str, &str) = ("2", "The command line makes no sense.");

pub(crate) static MAIN: Page = Page {
    sections: &[(
        "Environment",
        "KMONITOR_LOG  as --log\n\
         NO_COLOR      no colours, whatever the terminal",
    )],
    exit_status: &[
        SUCCESS,
        FAILURE,
        USAGE,
        (
            "other",
            "See the single commands: wait and trace end as what they\nwatched ended.",
        ),
    ],
    examples: &[
        ("What works here", "kmonitor doctor"),
        (
            "Wait for a process that somebody else started",
            "kmonitor wait 4711",
        ),
        ("See all that a build runs", "kmonitor trace -- make -j4"),
    ],
};

pub(crate) static WAIT: Page = Page {
    sections: &[
        (
            "Which processes",
            "Any that exist: other people's, kernel threads, zombies. No privilege is\n\
             needed. The number must be that of a process; a thread's is refused, with\n\
             the process it belongs to. kmonitor's own is refused: it would wait for ever.\n\
             A process named twice counts once. PID:INODE names a process by the inode of\n\
             its pidfd as well (Linux 6.9); where the pid belongs to another process by\n\
             now, the process named is gone.",
        ),
        (
            "Status",
            "The status of a process that is no child is told by the kernel when its parent\n\
             reaps it (Linux 6.15), and earlier to those who may ptrace it. If the parent\n\
             takes longer than --grace, or the kernel is older, it is unknown. A process\n\
             counts as ended at its death, whoever reaps it and whenever.",
        ),
        (
            "JSON",
            "One object a line: for each process that ends the `exit` event (see\n\
             kmonitor-trace), of which `status` is {\"code\":N}, {\"signal\":N,\"core\":BOOL} or\n\
             {\"unknown\":REASON}. A process that was gone already (--allow-gone) has the\n\
             reason \"reaped_unseen\". With -p, {\"type\":\"running\",\"pid\":N} for each process\n\
             that has not ended; when the time is over, {\"type\":\"timeout\",\"time_ns\":N}.",
        ),
        (
            "Compared with FreeBSD's pwait",
            "-t, -o, -v and -p are as there, and print the same. What differs: with exactly\n\
             one PID the exit status is the target's, not 0. A pid that is gone already is\n\
             an error, also with -o; there it is a warning (here: --allow-gone). So is a\n\
             word that is no pid, and kmonitor's own pid. Errors of usage exit with 2.",
        ),
    ],
    exit_status: &[
        (
            "0",
            "All processes ended, or as many as --any or --count ask for. With exactly\n\
             one PID: it exited with 0, or was gone already (with --allow-gone).",
        ),
        ("N", "With exactly one PID: the code it exited with."),
        ("128+N", "With exactly one PID: signal N killed it."),
        (
            "1",
            "A process is gone already, or cannot be watched; stderr says why.",
        ),
        USAGE,
        ("124", "The time limit was over first."),
        (
            "125",
            "With exactly one PID: it ended, and its status cannot be known.",
        ),
    ],
    examples: &[
        (
            "Power off when a backup has ended well",
            "kmonitor wait 4711 && poweroff",
        ),
        (
            "Whichever of two ends first, for a minute at most",
            "kmonitor wait -o -v -t 1m 4711 4712",
        ),
        (
            "Name a process for good, and wait for that one only",
            "kmonitor wait 4711:81263",
        ),
        (
            "How some processes ended, as JSON",
            "kmonitor wait --json $(pgrep make) | jq .status",
        ),
    ],
};

pub(crate) static TRACE: Page = Page {
    sections: &[
        (
            "What is traced",
            "With CMD: the command and all its descendants, from its first moment, until\n\
             all of them have ended. With --pid: those processes, until all have ended.\n\
             With neither: every process of the host, until SIGINT.",
        ),
        (
            "Events",
            "Names for --events: fork, exec, exit; abort (exits by a signal or with an unknown\n\
             status); thread_create, thread_exit, thread_abort; uid, gid, sid, ptrace, comm,\n\
             coredump, other. lifecycle is fork,exec,exit. Losses are always told.",
        ),
        (
            "JSON",
            "One object a line, with the fields that concern the event:\n\
             \n\
             type        fork, exec, exit, thread_create, thread_exit, uid, gid, sid,\n\
             \u{20}           ptrace, comm, coredump, lost, resync, track_incomplete, other\n\
             seq         number of the printed event, from 0, without gaps\n\
             time_ns     CLOCK_MONOTONIC, in nanoseconds\n\
             pid, tid    the process; the thread, where it is a thread's event\n\
             key         PID:INODE, where the inode is known\n\
             incarnation which process of that pid\n\
             child, child_key, child_incarnation  fork: the new process\n\
             parent      pid of the parent, where known\n\
             status      {\"code\":N}, {\"signal\":N,\"core\":BOOL} or {\"unknown\":REASON}\n\
             status_source  who told the status\n\
             comm, exe, args  exec: name, program and arguments, where the process\n\
             \u{20}           was still there to be read; comm: the new name\n\
             args_truncated  true where the arguments were too long to be read whole\n\
             real, effective, tracer, what  of uid, gid, ptrace, other\n\
             count, origin  lost: how many, in whose queue (kernel or subscription)\n\
             phase, complete  resync: begin or end of finding out what the kernel lost;\n\
             \u{20}           at its end, whether surely nobody was missed\n\
             inferred    true where it was concluded after a loss",
        ),
        (
            "Signals",
            "With CMD, SIGINT from the terminal reaches the command too, and the trace goes\n\
             on until the tree has ended; a second one ends the trace at once. Otherwise\n\
             SIGINT ends the trace, and SIGTERM always does. A command that still runs then\n\
             is left running.",
        ),
    ],
    exit_status: &[
        (
            "0",
            "Success; also when the reader of a pipe has gone (without CMD).",
        ),
        ("N", "With CMD: the code the command exited with."),
        ("128+N", "With CMD: signal N killed the command."),
        FAILURE,
        USAGE,
        ("126", "With CMD: it cannot be executed."),
        ("127", "With CMD: it does not exist."),
        ("130, 143", "SIGINT, SIGTERM ended the trace."),
    ],
    examples: &[
        (
            "All that a build runs, and how it ends",
            "kmonitor trace -- make -j4",
        ),
        (
            "The same into a file, the command's output to the terminal",
            "kmonitor trace --json -o build.jsonl -- make -j4",
        ),
        (
            "Which programs a service starts",
            "kmonitor trace --pid 4711 --tree --events exec",
        ),
        (
            "All deaths by signal on this host",
            "kmonitor trace --events abort --time wall",
        ),
    ],
};

pub(crate) static NOTIFY: Page = Page {
    sections: &[
        (
            "What the monitor gets",
            "The signal, queued, with the bit of the event in si_int (as in kmonitor.h), the\n\
             pid it concerns in si_pid, and its uid in si_uid: of a fork or a new thread those\n\
             of the new one. An end by a signal is told by ABORT, and then EXIT. Real-time\n\
             signals arrive one for each event, in order; of others the kernel keeps one at a\n\
             time. No change to the monitored processes is needed, and the monitor must only\n\
             expect the signal.",
        ),
        (
            "How long",
            "In the foreground, until all targets or the monitor have ended, or SIGINT or\n\
             SIGTERM come: then nothing more is told. Signals that wait for room in the\n\
             monitor's queue are sent first.",
        ),
        (
            "Which processes",
            "The monitor must be one that you may signal, and in this pid namespace. It must\n\
             catch or block the signal when this command starts: a signal that is not\n\
             expected ends most programs (--force does not look). Targets may be anybody's.",
        ),
        (
            "JSON",
            "One object a line. For each target, when it is registered: type \"registered\",\n\
             monitor, target, events, signal (its name) and signal_number. At the end: type\n\
             \"finished\", reason (targets_ended, monitor_ended, interrupted, failed), and how\n\
             many signals were sent, dropped (the monitor did not take them), withdrawn (it\n\
             ended before it took them) and refused; and lost, events that were not seen.",
        ),
    ],
    exit_status: &[
        ("0", "All targets ended, and all signals were sent."),
        (
            "1",
            "A process is gone already, may not be signalled or cannot be watched; or\n\
             signals or events were lost. stderr says which.",
        ),
        USAGE,
        ("3", "The monitor ended while targets still ran."),
        ("128+N", "Signal N (SIGINT, SIGTERM) ended the command."),
    ],
    examples: &[
        (
            "Tell a service that runs of the end and the children of another",
            "kmonitor notify --monitor 4711 --target 4712 --events exit,fork --signal RTMIN+1",
        ),
        (
            "Tell the shell, which goes on meanwhile",
            "trap 'echo the build has ended' USR1\n\
             kmonitor notify --monitor $$ --target 4711 --signal USR1 &",
        ),
        (
            "How it went, as JSON",
            "kmonitor notify -m 4711 -p 4712,4713 -e all --json | jq .reason",
        ),
    ],
};

pub(crate) static DOCTOR: Page = Page {
    sections: &[
        (
            "What is checked",
            "Everything by trying it: the proc connector, pidfd_open, inodes of pidfds, the\n\
             status of processes that are no children, zombies in /proc, and waiting as such.\n\
             Then what privileges, namespaces and limits add or take away.",
        ),
        (
            "Tiers",
            "host        all works: wait, and trace of everything\n\
             container   no proc connector: wait, and trace of the exits of named processes\n\
             restricted  pidfd_open is blocked too: wait by polling /proc\n\
             none        not even that",
        ),
        (
            "JSON",
            "version     of kmonitor\n\
             kernel      release\n\
             tier        host, container, restricted, none\n\
             summary     the verdict in words\n\
             checks      list of: name, state (works, degraded, fails, unknown), detail;\n\
             \u{20}           cause and advice where it does not work\n\
             namespaces  pid, user, net: each with id and initial (true, false or null)\n\
             privileges  uid, cap_net_admin, cap_sys_ptrace\n\
             limits      nofile_soft, nofile_hard, pid_max, rmem_max, hidepid\n\
             degraded    list: what is worse here than it could be\n\
             would_help  list: what would make it better\n\
             \n\
             Checks by name: proc_connector, pidfd_open, pidfs_inode, exit_status,\n\
             zombie_stat, watch. A cause of proc_connector is one of unsupported, denied,\n\
             network_namespace, pid_namespace, user_namespace, time_namespace, blocked,\n\
             no_answer, io.\n\
             A number of limits is null where there is no limit or it cannot be read.",
        ),
    ],
    exit_status: &[
        ("0", "Waiting for processes works here."),
        ("1", "Nothing works here."),
        USAGE,
    ],
    examples: &[
        ("For people", "kmonitor doctor"),
        (
            "Why trace does not work",
            "kmonitor doctor --json | jq '.checks[0]'",
        ),
    ],
};

pub(crate) static SERVE: Page = Page {
    sections: &[
        (
            "The device",
            "Programs open it, register processes by ioctl, and get a signal for each event;\n\
             kmonitor.h has the numbers. It is there when the service manager is told READY\n\
             (sd_notify) and the log says \"serving\", and goes at SIGTERM, SIGINT or SIGHUP.\n\
             \n\
             It takes the place of an empty regular file, or of none: then the file is made,\n\
             and removed at the end. Anything else there is refused and left alone. What a\n\
             killed server left is cleared away at the next start. One place has one server.\n\
             Needs root (CAP_SYS_ADMIN), /dev/fuse and, for more than ends of processes, the\n\
             proc connector. While nothing is registered the kernel is not listened to.",
        ),
        (
            "Not as in 2004",
            "The device is a regular file, not a character device. What Linux answers for any\n\
             regular file itself (FIONREAD and its like) does not fail.\n\
             The last close returns before the server knows: a signal can follow it.\n\
             A caller waits for its answer even when killed, one second at most; then it gets\n\
             ETIMEDOUT, and whether its command was done is not known.\n\
             A bad pointer is EFAULT even where the command is none.\n\
             A record belongs to the open file too: a program that opens the device twice can\n\
             be told twice.\n\
             THREAD_CREATE is matched on the process: the kernel does not name the creating\n\
             thread. The number of a thread other than the first cannot be registered.\n\
             A fork with CLONE_PARENT is matched on the parent that the new process gets, the\n\
             parent of the one that called.\n\
             A monitor in another pid namespace is refused: si_pid would read 0.\n\
             A process that ends by a signal is told by ABORT and then EXIT; in 2004 no ABORT\n\
             was ever sent. A full queue of signals is waited for, and what is lost is logged.\n\
             When the server is killed, open files fail with ENOTCONN, and tell nothing more.\n\
             Being told and registering take some 0.3 ms each, not microseconds: see below.",
        ),
        (
            "Following a tree",
            "Who registers each child that PROCESS_FORK tells of misses nothing of it: what a\n\
             child did since its birth is told when it is registered, in order and before\n\
             anything later, also when it has ended and its pid is another's by then.\n\
             A monitor has 2 seconds for that, from the signal of the birth on; what is\n\
             registered later, or by another file or process, is told of from then on only.\n\
             Remembered are 16384 processes, 8192 of them for one file and process, and 65536\n\
             events, 4096 of them of one process; what exceeds that is logged.\n\
             An ABORT or EXIT is told after what its process's descendants did before, as long\n\
             as the monitor goes on registering those that it was told of: it waits up to 0.2\n\
             seconds for each next one, also for a monitor that registers none of them.\n\
             What the kernel or the server lost under load (the log says so) is not made up for.",
        ),
        (
            "Errors of ioctl",
            "EINVAL      no such command; nothing registered (DEREGISTER); a target below 1 or\n\
             \u{20}           a thread's number; a signal that does not exist or cannot be caught\n\
             EFAULT      a bad pointer\n\
             EOPNOTSUPP  the caller is in another pid namespace; the kernel tells no such events\n\
             \u{20}           here (the log says why)\n\
             ENOSPC      65536 records of this file, or 262144 of all\n\
             ETIMEDOUT   no answer within a second\n\
             ENOTCONN, ECONNABORTED, ENODEV  the server has ended, or is ending\n\
             Of open: ENFILE with 16384 open files, EMFILE with 8192 of one user.",
        ),
        (
            "Who may use it",
            "Whom --mode and --group let open it. A caller registers itself, never another, and\n\
             gets signals for as long as the file is open, also after it has executed another\n\
             program: open it with O_CLOEXEC where that is not wanted. It may name any process:\n\
             who may open the device may know what all processes start and when they end.",
        ),
    ],
    exit_status: &[
        ("0", "Ended by SIGTERM, SIGINT or SIGHUP."),
        (
            "1",
            "The device cannot be offered, or was unmounted by somebody else, or the\nevents ended; stderr says why.",
        ),
        USAGE,
    ],
    examples: &[
        (
            "For the programs of a group",
            "kmonitor serve --group monitors",
        ),
        (
            "For everybody, with a log of each call",
            "kmonitor serve --mode 0666 --log kmonitor_signal=debug",
        ),
        ("As a service", "systemctl enable --now kmonitor"),
    ],
};

pub(crate) static COMPLETIONS: Page = Page {
    sections: &[],
    exit_status: &[SUCCESS, FAILURE, USAGE],
    examples: &[(
        "Install for bash",
        "kmonitor completions bash > ~/.local/share/bash-completion/completions/kmonitor",
    )],
};

pub(crate) static MAN: Page = Page {
    sections: &[],
    exit_status: &[SUCCESS, FAILURE, USAGE],
    examples: &[
        ("Read a page", "kmonitor man trace | man -l -"),
        (
            "Install all pages",
            "kmonitor man --dir /usr/local/share/man/man1",
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal() {
        for page in [&MAIN, &WAIT, &TRACE, &DOCTOR, &SERVE, &COMPLETIONS, &MAN] {
            for line in page.as_help().lines() {
                assert!(line.chars().count() <= 90, "{line}");
            }
        }
    }
}
