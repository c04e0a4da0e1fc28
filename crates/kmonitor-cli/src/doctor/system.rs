//! What the system says of itself: namespaces, privileges, limits.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::report::{Check, Kernel, Limits, Namespace, Namespaces, Privileges};

/// `PROC_PID_INIT_INO` and `PROC_USER_INIT_INO` of `linux/proc_ns.h`.
const INITIAL_PID: u64 = 0xEFFF_FFFC;
const INITIAL_USER: u64 = 0xEFFF_FFFD;

/// Bits of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;

pub(crate) struct System {
    pub(crate) kernel: Kernel,
    pub(crate) namespaces: Namespaces,
    pub(crate) privileges: Privileges,
    pub(crate) limits: Limits,
}

pub(crate) fn look() -> System {
    System {
        kernel: Kernel {
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        },
        namespaces: namespaces(),
        privileges: privileges(),
        limits: limits(),
    }
}

fn namespaces() -> Namespaces {
    let of = |kind: &str, initial: Option<u64>| {
        let id = namespace_id("self", kind);
        Namespace {
            id,
            initial: id.zip(initial).map(|(id, initial)| id == initial),
        }
    };
    Namespaces {
        pid: of("pid", Some(INITIAL_PID)),
        user: of("user", Some(INITIAL_USER)),
        net: of("net", None),
    }
}

impl Namespaces {
    /// The initial network namespace has no number of its own on most kernels.
    /// That the connector works proves it, how it refuses disproves it, and
    /// otherwise process 1 is compared with, if it is the host's.
    pub(crate) fn conclude_net(&mut self, connector_works: bool, connector: Option<&Check>) {
        let refused = connector.and_then(|check| check.cause) == Some("network_namespace");
        self.net.initial = if connector_works {
            Some(true)
        } else if refused {
            Some(false)
        } else if self.pid.initial == Some(true) {
            self.net
                .id
                .zip(namespace_id("1", "net"))
                .map(|(own, first)| own == first)
        } else {
            None
        };
    }
}

fn namespace_id(process: &str, kind: &str) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()?;
    let (_, number) = target.to_str()?.split_once(":[")?;
    number.strip_suffix(']')?.parse().ok()
}

fn privileges() -> Privileges {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = capabilities(&status);
    let has = |bit: u32| effective.map(|set| set & (1 << bit) != 0);
    Privileges {
        uid: Some(rustix::process::geteuid().as_raw()),
        cap_net_admin: has(CAP_NET_ADMIN),
        cap_sys_ptrace: has(CAP_SYS_PTRACE),
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn limits() -> Limits {
    let nofile = getrlimit(Resource::Nofile);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    Limits {
        nofile_soft: nofile.current,
        nofile_hard: nofile.maximum,
        pid_max: number("/proc/sys/kernel/pid_max"),
        rmem_max: number("/proc/sys/net/core/rmem_max"),
        hidepid: hidepid(&mounts),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// How `/proc` hides processes of others, if it does. A later mount covers an
/// earlier one.
fn hidepid(mounts: &str) -> Option<String> {
    let options = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        (place == "/proc" && kind == "proc").then_some(options)
    })?;
    let hidden = options
        .split(',')
        .find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(hidden, "0" | "off")).then(|| hidden.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_a_hexadecimal_line() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000081000\n";
        let set = capabilities(status).unwrap();
        assert!(set & (1 << CAP_NET_ADMIN) != 0 && set & (1 << CAP_SYS_PTRACE) != 0);
        assert_eq!(capabilities("Name: x"), None);
    }

    #[test]
    fn hidepid_is_read_from_the_last_mount_of_proc() {
        let mounts = "proc /proc proc rw,hidepid=invisible 0 0\nx /x tmpfs rw 0 0\n";
        assert_eq!(hidepid(mounts).as_deref(), Some("invisible"));
        let covered = format!("{mounts}proc /proc proc rw,nosuid 0 0\n");
        assert_eq!(hidepid(&covered), None);
        assert_eq!(hidepid("proc /proc proc rw,hidepid=0 0 0\n"), None);
        assert_eq!(hidepid(""), None);
    }
}
