//! What can be tried without a child: the connector and pidfds.

use kmonitor::pidfd::Pidfd;
use kmonitor::source::{StartError, StartErrorKind};
use kmonitor::{Hub, OpenError, Pid, SourceKind};

use super::report::{Check, State};
use crate::complain::chain;

pub(crate) const CONNECTOR: &str = "proc_connector";
pub(crate) const PIDFD_OPEN: &str = "pidfd_open";
pub(crate) const PIDFS_INODE: &str = "pidfs_inode";

/// Opens the proc connector: the kernel's own answer is the proof.
pub(crate) async fn connector() -> Check {
    let opened = Hub::builder()
        .only(SourceKind::Connector)
        .on_current_runtime()
        .open()
        .await;
    match opened {
        Ok(hub) => {
            hub.close().await;
            Check::new(
                CONNECTOR,
                State::Works,
                "the kernel confirmed that it listens",
            )
        }
        Err(OpenError::Source(error)) => refused(&error),
        Err(error) => Check::new(CONNECTOR, State::Fails, chain(&error)).cause("io"),
    }
}

fn refused(error: &StartError) -> Check {
    let mut detail = error.message().to_owned();
    // Where the cause is named, what the system said adds nothing for people.
    if error.kind() == StartErrorKind::Io
        && let Some(source) = std::error::Error::source(error)
    {
        detail.push_str(": ");
        detail.push_str(&source.to_string());
    }
    let (cause, advice) = match error.kind() {
        StartErrorKind::Unsupported => (
            "unsupported",
            "use a kernel built with CONFIG_CONNECTOR=y and CONFIG_PROC_EVENTS=y",
        ),
        StartErrorKind::Denied => ("denied", "grant CAP_NET_ADMIN, or use Linux 6.6 or later"),
        StartErrorKind::NetworkNamespace => (
            "network_namespace",
            "run with the host's network (for containers: --network=host)",
        ),
        StartErrorKind::PidNamespace => (
            "pid_namespace",
            "run with the host's pid namespace (for containers: --pid=host)",
        ),
        StartErrorKind::UserNamespace => (
            "user_namespace",
            "run outside of the user namespace (for containers: not rootless)",
        ),
        StartErrorKind::TimeNamespace => (
            "time_namespace",
            "run outside of the time namespace (not under unshare --time)",
        ),
        StartErrorKind::Blocked => (
            "blocked",
            "allow socket(AF_NETLINK) in the seccomp or security profile",
        ),
        StartErrorKind::NoAnswer => (
            "no_answer",
            "run outside of containers, on a kernel built with CONFIG_PROC_EVENTS=y",
        ),
        _ => ("io", "see the reason"),
    };
    Check::new(CONNECTOR, State::Fails, detail)
        .cause(cause)
        .advice(advice)
}

/// Opens a pidfd of ourselves, and looks whether its inode identifies.
pub(crate) fn pidfd() -> [Check; 2] {
    match Pidfd::open(Pid::current()) {
        Ok(pidfd) => {
            let inode = match pidfd.inode() {
                Some(inode) => Check::new(
                    PIDFS_INODE,
                    State::Works,
                    format!(
                        "pidfds identify processes; kmonitor is {}:{inode}",
                        pidfd.pid()
                    ),
                ),
                None => Check::new(
                    PIDFS_INODE,
                    State::Fails,
                    "pidfds share one inode: PID:INODE does not work, start times identify",
                )
                .cause("unsupported")
                .advice("use Linux 6.9 or later"),
            };
            [
                Check::new(PIDFD_OPEN, State::Works, "processes can be held"),
                inode,
            ]
        }
        Err(error) => [
            Check::new(PIDFD_OPEN, State::Fails, chain(&error))
                .cause("blocked")
                .advice("allow pidfd_open in the seccomp profile; it needs Linux 5.3 or later"),
            Check::new(PIDFS_INODE, State::Unknown, "no pidfd could be opened"),
        ],
    }
}
