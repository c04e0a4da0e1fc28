//! `kmonitor doctor`, manual pages and completions.

mod common;

use common::{in_namespaces, kmonitor, run};
use serde_json::Value;

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().into_iter().flatten();
    let check = checks.find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn the_report_has_all_its_fields() {
    let finished = run(&mut kmonitor(&["doctor", "--json"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let [report] = finished.json().try_into().unwrap();
    for field in [
        "version",
        "kernel",
        "tier",
        "summary",
        "checks",
        "namespaces",
        "privileges",
        "limits",
        "degraded",
        "would_help",
    ] {
        assert!(!report[field].is_null(), "{field}: {report}");
    }
    for name in [
        "proc_connector",
        "pidfd_open",
        "pidfs_inode",
        "exit_status",
        "zombie_stat",
        "watch",
    ] {
        assert!(check(&report, name)["state"].is_string(), "{name}");
    }
    assert_eq!(check(&report, "watch")["state"], "works");

    let text = run(&mut kmonitor(&["doctor"]));
    assert!(
        text.stdout.contains(report["tier"].as_str().unwrap()),
        "{text:?}"
    );
    assert!(!text.stdout.contains('\x1b'), "{text:?}");
}

#[test]
#[ignore = "needs root in the initial namespaces"]
fn on_a_host_everything_works() {
    let [report] = run(&mut kmonitor(&["doctor", "--json"]))
        .json()
        .try_into()
        .unwrap();
    assert_eq!(report["tier"], "host", "{report}");
    assert_eq!(
        report["degraded"].as_array().map(Vec::len),
        Some(0),
        "{report}"
    );
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["state"], "works", "{check}");
    }
}

#[test]
#[ignore = "needs root, to become nobody"]
fn nobody_is_told_what_privileges_would_add() {
    let nobody = common::ForNobody::new();
    let finished = run(&mut nobody.kmonitor(&["doctor", "--json"]));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let [report] = finished.json().try_into().unwrap();
    assert_eq!(report["privileges"]["uid"], 65534);
    assert_eq!(report["privileges"]["cap_net_admin"], false);
    assert!(
        report["would_help"].to_string().contains("CAP_SYS_PTRACE"),
        "{report}"
    );
}

#[test]
#[ignore = "needs root, to make namespaces"]
fn in_namespaces_the_true_cause_is_named() {
    for (unshare, cause, field) in [
        (&["-n"][..], "network_namespace", "net"),
        (&["-Ur"], "user_namespace", "user"),
        (&["-pf", "--mount-proc"], "pid_namespace", "pid"),
    ] {
        let finished = in_namespaces(unshare, "exec \"$K\" doctor --json");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let [report] = finished.json().try_into().unwrap();
        assert_eq!(report["tier"], "container", "{report}");
        assert_eq!(check(&report, "proc_connector")["cause"], cause, "{report}");
        assert_eq!(report["namespaces"][field]["initial"], false, "{report}");
        assert_eq!(check(&report, "watch")["state"], "works", "{report}");
    }
}

#[test]
fn pages_and_completions_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man1");
    run(&mut kmonitor(&["man", "--dir", path.to_str().unwrap()])).assert(0, "");
    for page in [
        "kmonitor.1",
        "kmonitor-wait.1",
        "kmonitor-trace.1",
        "kmonitor-doctor.1",
    ] {
        let text = std::fs::read_to_string(path.join(page)).unwrap();
        assert!(
            text.contains("EXIT STATUS") && text.contains("EXAMPLES"),
            "{page}"
        );
    }
    assert_eq!(run(&mut kmonitor(&["man", "nosuch"])).code, Some(2));
    for shell in ["bash", "zsh", "fish"] {
        let finished = run(&mut kmonitor(&["completions", shell]));
        assert_eq!(finished.code, Some(0));
        assert!(finished.stdout.contains("kmonitor"), "{shell}");
    }
}

#[test]
fn help_version_and_log() {
    let finished = run(&mut kmonitor(&["--version"]));
    finished.assert(0, concat!("kmonitor ", env!("CARGO_PKG_VERSION"), "\n"));
    for command in ["wait", "trace", "doctor"] {
        let finished = run(&mut kmonitor(&[command, "--help"]));
        assert_eq!(finished.code, Some(0));
        assert!(finished.stdout.contains("Exit status:"), "{finished:?}");
        assert!(finished.stdout.contains("Examples:"), "{finished:?}");
    }
    assert_eq!(run(&mut kmonitor(&[])).code, Some(2));
    assert_eq!(
        run(&mut kmonitor(&["--log", "a=b=c", "doctor"])).code,
        Some(2)
    );
    let finished = run(kmonitor(&["doctor", "--json"]).env("KMONITOR_LOG", "debug"));
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.json().len(), 1, "the log is not on stdout");
    assert!(finished.stderr.contains("DEBUG"), "{finished:?}");
}
