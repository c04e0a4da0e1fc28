//! Why it does not open, told apart by cause: the test binary runs itself in
//! other namespaces and as another user.

mod common;

use std::env;
use std::process::Command;

use kmonitor_connector::ConnectorSource;

/// What `opens_here` prints before its findings.
const MARK: &str = "opening says: ";

/// Run by the others, elsewhere; run by itself, it must open.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn opens_here() {
    let opened = ConnectorSource::open().await;
    match &opened {
        Ok(_) => println!("{MARK}it works"),
        Err(error) => println!("{MARK}{:?}: {error}", error.kind()),
    }
    assert!(opened.is_ok() || env::var_os("KMONITOR_ELSEWHERE").is_some());
}

/// What opening says in a process started by a command.
fn opening(wrapper: &str) -> String {
    let mut words = wrapper.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .arg(env::current_exe().expect("a test binary"))
        .args(["--exact", "opens_here", "--ignored", "--nocapture"])
        .env("KMONITOR_ELSEWHERE", "1")
        .output()
        .expect("the command is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find_map(|line| line.split_once(MARK));
    let (_, said) = said.unwrap_or_else(|| panic!("{wrapper}: {output:?}"));
    said.to_owned()
}

#[test]
#[ignore = "needs root in the initial namespaces"]
fn another_network_namespace_is_named() {
    let said = opening("unshare --net");
    assert!(said.starts_with("NetworkNamespace: "), "{said}");
    assert!(said.contains("host's network"), "{said}");
}

#[test]
#[ignore = "needs root in the initial namespaces"]
fn another_user_namespace_is_named() {
    let said = opening("unshare --user --map-root-user");
    assert!(said.starts_with("UserNamespace: "), "{said}");
}

#[test]
#[ignore = "needs root in the initial namespaces"]
fn another_pid_namespace_is_named() {
    let said = opening("unshare --pid --fork --mount-proc");
    assert!(said.starts_with("PidNamespace: "), "{said}");
}

/// With no `/proc` to name the cause, the missing answer still shows it.
#[test]
#[ignore = "needs root in the initial namespaces"]
fn without_proc_the_missing_answer_decides() {
    let hide = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    for (namespaces, expected) in [
        ("--mount", "it works"),
        ("--mount --pid --fork", "NoAnswer: "),
    ] {
        let mut command = Command::new("unshare");
        command.args(namespaces.split(' '));
        let exe = env::current_exe().expect("a test binary");
        let output = command
            .args(["sh", "-c", hide])
            .arg(exe)
            .args(["--exact", "opens_here", "--ignored", "--nocapture"])
            .env("KMONITOR_ELSEWHERE", "1")
            .output()
            .expect("unshare is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.lines().find_map(|line| line.split_once(MARK));
        let (_, said) = said.unwrap_or_else(|| panic!("{namespaces}: {output:?}"));
        assert!(said.starts_with(expected), "{namespaces}: {said}");
    }
}

/// Since Linux 6.6 anybody may listen.
#[test]
#[ignore = "needs root in the initial namespaces"]
fn an_unprivileged_user_may_open_it() {
    let said = opening("setpriv --reuid 65534 --regid 65534 --clear-groups");
    assert_eq!(said, "it works");
}
