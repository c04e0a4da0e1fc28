//! What the findings mean together.

use super::checks::{CONNECTOR, PIDFD_OPEN};
use super::children::{EXIT_STATUS, WATCH, ZOMBIE_STAT};
use super::report::{Check, Report, Tier};
use super::system::System;

/// As much as the connector asks for.
const RECEIVE_BUFFER_BYTES: u64 = 8 << 20;

pub(crate) fn of(checks: Vec<Check>, system: System) -> Report {
    let works = |name: &str| {
        checks
            .iter()
            .any(|check| check.name == name && check.works())
    };
    let tier = match (works(CONNECTOR), works(PIDFD_OPEN), works(WATCH)) {
        (_, _, false) => Tier::None,
        (_, false, true) => Tier::Restricted,
        (false, true, true) => Tier::Container,
        (true, true, true) => Tier::Host,
    };
    let summary = match tier {
        Tier::Host => "everything works: wait for any process, and trace forks, execs and exits",
        Tier::Container => {
            "wait works for any process; trace sees only the exits of processes named by pid, \
             because the proc connector does not work here"
        }
        Tier::Restricted => "wait works by polling /proc only, because pidfd_open does not work",
        Tier::None => "nothing works here",
    };

    let mut degraded = Vec::new();
    let mut would_help = Vec::new();
    let mut degrade = |text: &str| degraded.push(text.to_owned());
    if tier == Tier::Container {
        degrade("trace of a command, of a tree or of the host is refused");
    }
    if !works(EXIT_STATUS) {
        degrade(
            "the status of a process that is no child is known only to those who may ptrace it",
        );
    }
    if !works(ZOMBIE_STAT) {
        degrade("a status is known only when the process has been reaped");
    }
    let unprivileged = |held: Option<bool>| held == Some(false);
    if unprivileged(system.privileges.cap_sys_ptrace) && works(ZOMBIE_STAT) {
        degrade("other users' zombies do not tell their status: it comes when they are reaped");
        would_help.push(
            "CAP_SYS_PTRACE: the status of other users' processes while they are zombies"
                .to_owned(),
        );
    }
    if let Some(hidden) = &system.limits.hidepid {
        degrade(&format!(
            "/proc is mounted with hidepid={hidden}: other users' processes may be invisible"
        ));
    }
    let small_buffer = system
        .limits
        .rmem_max
        .is_some_and(|bytes| bytes < RECEIVE_BUFFER_BYTES);
    if works(CONNECTOR) && unprivileged(system.privileges.cap_net_admin) && small_buffer {
        let bytes = system.limits.rmem_max.unwrap_or_default();
        degrade(&format!(
            "the kernel's queue of events is limited to {bytes} bytes: a burst may overflow it, \
             which is told as lost events"
        ));
        would_help.push(format!(
            "CAP_NET_ADMIN, or sysctl net.core.rmem_max={RECEIVE_BUFFER_BYTES}: \
             fewer losses under load"
        ));
    }
    for check in &checks {
        // One cause may make several checks fail.
        if let Some(advice) = &check.advice
            && !would_help.contains(advice)
        {
            would_help.push(advice.clone());
        }
    }
    Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: system.kernel,
        tier,
        summary: summary.to_owned(),
        checks,
        namespaces: system.namespaces,
        privileges: system.privileges,
        limits: system.limits,
        degraded,
        would_help,
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Kernel, Limits, Namespaces, Privileges, State};
    use super::*;

    fn report(connector: State, pidfd: State, watch: State, root: bool) -> Report {
        let checks = vec![
            Check::new(CONNECTOR, connector, ""),
            Check::new(PIDFD_OPEN, pidfd, ""),
            Check::new(WATCH, watch, ""),
            Check::new(EXIT_STATUS, State::Works, ""),
            Check::new(ZOMBIE_STAT, State::Works, ""),
        ];
        let system = System {
            kernel: Kernel {
                release: "6.18".to_owned(),
            },
            namespaces: Namespaces::default(),
            privileges: Privileges {
                uid: Some(0),
                cap_net_admin: Some(root),
                cap_sys_ptrace: Some(root),
            },
            limits: Limits {
                rmem_max: Some(212_992),
                ..Limits::default()
            },
        };
        of(checks, system)
    }

    #[test]
    fn tiers_follow_from_what_works() {
        use State::{Degraded, Fails, Works};
        let tier = |connector, pidfd, watch| report(connector, pidfd, watch, true).tier;
        assert_eq!(tier(Works, Works, Works), Tier::Host);
        assert_eq!(tier(Fails, Works, Works), Tier::Container);
        assert_eq!(tier(Works, Fails, Degraded), Tier::Restricted);
        assert_eq!(tier(Fails, Fails, Degraded), Tier::Restricted);
        assert_eq!(tier(Fails, Fails, Fails), Tier::None);
    }

    #[test]
    fn what_a_privilege_would_add_is_told_to_those_without() {
        let root = report(State::Works, State::Works, State::Works, true);
        assert!(root.degraded.is_empty() && root.would_help.is_empty());
        let user = report(State::Works, State::Works, State::Works, false);
        let help = user.would_help.join("\n");
        assert!(help.contains("CAP_NET_ADMIN") && help.contains("CAP_SYS_PTRACE"));
    }
}
