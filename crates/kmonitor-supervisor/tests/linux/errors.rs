//! What cannot be started says why, in words that name it, and leaves nothing.

use std::sync::Arc;

use kmonitor_supervisor::backend::StartError;
use kmonitor_supervisor::backend::linux::{LinuxBackend, StateError};
use kmonitor_supervisor::spec::{Adopt, Backoff, KillScope, Output, ProcessSpec, Readiness, Stop};
use kmonitor_supervisor::{EventKind, Service, Supervisor};

use crate::world::*;

async fn error_of(backend: &LinuxBackend, spec: ProcessSpec, scope: KillScope) -> StartError {
    start(backend, "c", spec, scope).failed().await
}

async fn text_of(spec: ProcessSpec) -> String {
    let dir = tempfile::tempdir().unwrap();
    let backend = with_state(dir.path()).await;
    let error = error_of(&backend, spec, KillScope::Best).await;
    let files = std::fs::read_dir(dir.path()).unwrap().flatten();
    let names: Vec<_> = files.map(|file| file.file_name()).collect();
    assert_eq!(names, ["lock"], "after {error}");
    error.to_string()
}

#[tokio::test]
async fn programs() {
    let text = text_of(spec("/nowhere/program", &[])).await;
    assert!(
        text.contains("/nowhere/program") && text.contains("No such file"),
        "{text}"
    );
    let text = text_of(spec("no-such-program-in-path", &[])).await;
    assert!(
        text.contains("no-such-program-in-path") && text.contains("No such file"),
        "{text}"
    );
    let text = text_of(spec("/etc/passwd", &[])).await;
    assert!(
        text.contains("/etc/passwd") && text.contains("Permission denied"),
        "{text}"
    );
    let text = text_of(spec("/", &[])).await;
    assert!(text.contains("Permission denied"), "{text}");
    let text = text_of(spec("sh\0x", &[])).await;
    assert!(text.contains("nul byte"), "{text}");
    let text = text_of(spec("", &[])).await;
    assert!(text.contains("No such file"), "{text}");
    let long = "x".repeat(4 << 20);
    let text = text_of(spec("sh", &[&long])).await;
    assert!(text.contains("Argument list too long"), "{text}");
}

#[tokio::test]
async fn directories() {
    let mut command = command("sh", &[]);
    command.dir = Some("/nowhere".into());
    let text = text_of(ProcessSpec::command(command.clone())).await;
    assert!(
        text.contains("directory /nowhere cannot be entered"),
        "{text}"
    );
    command.dir = Some("a\0b".into());
    let text = text_of(ProcessSpec::command(command)).await;
    assert!(text.contains("NUL"), "{text}");
}

#[tokio::test]
async fn readiness_that_cannot_come() {
    let line = with_ready(shell(":"), Readiness::Line("x".into()));
    let text = text_of(with_output(line, Output::Null)).await;
    assert!(text.contains("captured"), "{text}");
    let text = text_of(with_ready(shell(":"), Readiness::NotifyFd(1))).await;
    assert!(text.contains("3 or more"), "{text}");
    let text = text_of(with_ready(shell(":"), Readiness::NotifyFd(1 << 30))).await;
    assert!(text.contains("descriptor 1073741824"), "{text}");
}

#[tokio::test]
async fn a_port_that_is_in_use() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text = text_of(with_ready(shell("sleep 1000"), Readiness::Tcp(address))).await;
    assert!(
        text.contains(&address.to_string()) && text.contains("in use"),
        "{text}"
    );
}

#[tokio::test]
async fn nobody_to_adopt() {
    let text = text_of(ProcessSpec::adopt(Adopt::PidFile("/nowhere/x.pid".into()))).await;
    assert!(
        text.contains("cannot adopt: pid file /nowhere/x.pid"),
        "{text}"
    );
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = kmonitor_event::Pid::try_from(child.id()).unwrap();
    child.wait().unwrap();
    let text = text_of(ProcessSpec::adopt(Adopt::Pid(pid))).await;
    assert!(text.contains(&pid.to_string()), "{text}");
}

#[tokio::test]
async fn an_adopted_process_has_no_cgroup_of_ours() {
    let backend = plain().await;
    let mut child = tokio::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = kmonitor_event::Pid::try_from(child.id().unwrap()).unwrap();
    let spec = ProcessSpec::adopt(Adopt::Pid(pid));
    let error = error_of(&backend, spec, KillScope::Cgroup).await;
    assert!(matches!(error, StartError::Scope { .. }), "{error}");
    assert!(
        error.to_string().contains("stays in the cgroup it is in"),
        "{error}"
    );
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_cgroup_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let backend = LinuxBackend::builder()
        .cgroup(dir.path())
        .build()
        .await
        .unwrap();
    assert!(
        backend
            .cgroups_unusable()
            .unwrap()
            .contains("is not a cgroup")
    );
    let error = error_of(&backend, shell(":"), KillScope::Cgroup).await;
    let StartError::Scope { scope, why } = error else {
        panic!("{error}");
    };
    assert!(scope == KillScope::Cgroup && why.contains("is not a cgroup"));
    // The best that works is a tree then.
    let mut child = start(&backend, "c", shell("exit 3"), KillScope::Best);
    assert_eq!(child.started().await.scope, KillScope::Tree);
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(3));
    child.empty().await;
}

#[tokio::test]
async fn stopped_before_it_was_started() {
    let backend = plain().await;
    let mut child = start(&backend, "c", shell("sleep 1000"), KillScope::Leader);
    child.running.kill();
    assert!(matches!(child.failed().await, StartError::Cancelled));
}

#[tokio::test]
async fn a_second_supervisor_on_the_same_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _first = with_state(dir.path()).await;
    let second = LinuxBackend::builder()
        .state_dir(dir.path())
        .lock_patience(std::time::Duration::from_millis(30))
        .build()
        .await;
    assert!(
        matches!(second, Err(StateError::Locked { .. })),
        "{second:?}"
    );
}

#[tokio::test]
async fn a_state_directory_that_cannot_be() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let built = LinuxBackend::builder()
        .state_dir(file.path().join("x"))
        .build()
        .await;
    let text = built.unwrap_err().to_string();
    assert!(
        text.contains("cannot make") && text.contains("Not a directory"),
        "{text}"
    );
}

/// A tree with a child that is well, to which others are added that cannot be. Each
/// says which it is and why, and the first goes on, as the same process.
async fn the_rest_is_unharmed(backend: LinuxBackend, cases: Vec<(Service, &str)>) {
    let well = Service::command("well", "sleep").arg("1000");
    let tree = Supervisor::builder("site")
        .child(well)
        .start_on(Arc::new(backend))
        .await
        .unwrap();
    let handle = tree.handle();
    let before = handle.snapshot();
    for (service, why) in cases {
        let (_, mut events) = handle.subscribe();
        let text = handle.add(service).await.unwrap_err().to_string();
        assert!(text.contains("bad") && text.contains(why), "{text}");
        assert_eq!(handle.snapshot().children.len(), 1);
        // Nothing is told of the one that is well. The first is that of the tree.
        let well = handle.child("well").unwrap().status();
        assert!(well.is_ready() && well.restarts == 0);
        assert_eq!(well.process, before.children[0].process);
        let done = async {
            while let Some(event) = events.recv().await {
                assert_ne!(event.path.name(), "well", "{event}");
                if matches!(event.kind, EventKind::Removed) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap();
    }
    let report = tree.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn what_cannot_be_started_harms_nobody_else() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let no_cgroup = tempfile::tempdir().unwrap();
    let backend = LinuxBackend::builder().cgroup(no_cgroup.path());
    let backend = backend.build().await.unwrap();
    let sleep = || Service::command("bad", "sleep").arg("1000");
    let cgroup = Stop::default().scope(KillScope::Cgroup);
    let cases = vec![
        (Service::command("bad", "/nowhere/program"), "No such file"),
        (
            sleep().ready(Readiness::Tcp(address), PATIENCE),
            "is in use",
        ),
        (sleep().stop(cgroup), "is not a cgroup"),
        (
            sleep().current_dir("/nowhere"),
            "/nowhere cannot be entered",
        ),
        (
            Service::adopt("bad", Adopt::PidFile("/nowhere/x.pid".into())),
            "/nowhere/x.pid",
        ),
        // Nothing is started of a specification that makes no sense.
        (
            sleep().backoff(Backoff::constant(PATIENCE).jitter(7.0)),
            "jitter",
        ),
    ];
    for (service, why) in cases.iter().take(5) {
        // As a first child it takes the tree along, and says the same.
        let tree = Supervisor::builder("site").child(service.clone());
        let error = tree.start_on(Arc::new(backend.clone())).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("bad") && text.contains(why), "{text}");
    }
    let (nonsense, _) = &cases[5];
    let error = Supervisor::builder("site")
        .child(nonsense.clone())
        .schedule()
        .unwrap_err()
        .to_string();
    assert!(error.contains("bad") && error.contains("jitter"), "{error}");
    let cases = cases.into_iter().take(5).collect();
    the_rest_is_unharmed(backend, cases).await;
}

/// As nobody: no user may be changed to, and no cgroup made. In a process of its own,
/// because a user is a process's.
#[test]
#[ignore = "needs root, to become nobody"]
fn as_nobody() {
    let exe = std::env::current_exe().unwrap();
    let copy = tempfile::tempdir().unwrap();
    // Where nobody may read it.
    let program = copy.path().join("linux");
    std::fs::copy(exe, &program).unwrap();
    for path in [copy.path(), &program] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args([
            "--exact",
            "errors::nobodys_part",
            "--ignored",
            "--nocapture",
        ])
        .env("KMONITOR_TEST_NOBODY", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("nobody saw it all"),
        "{output:?}"
    );
}

#[tokio::test]
#[ignore = "is no test: the part of as_nobody that nobody runs"]
async fn nobodys_part() {
    if std::env::var_os("KMONITOR_TEST_NOBODY").is_none() {
        return;
    }
    let backend = plain().await;
    let why = backend.cgroups_unusable().unwrap();
    assert!(
        why.contains("cannot make the cgroup") && why.contains("Permission denied"),
        "{why}"
    );
    let error = error_of(&backend, shell(":"), KillScope::Cgroup).await;
    assert!(matches!(error, StartError::Scope { .. }), "{error}");
    let mut command = command("sh", &[]);
    command.user = Some((0, 0));
    let error = error_of(&backend, ProcessSpec::command(command), KillScope::Best).await;
    let text = error.to_string();
    assert!(text.contains("cannot become user 0 and group 0"), "{text}");
    // Its own user it may have.
    let mut command = crate::world::command("sh", &["-c", "exit 3"]);
    command.user = Some((65534, 65534));
    let mut child = start(
        &backend,
        "c",
        ProcessSpec::command(command),
        KillScope::Best,
    );
    assert_eq!(child.started().await.scope, KillScope::Tree);
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(3));
    child.empty().await;
    let cgroup = Stop::default().scope(KillScope::Cgroup);
    let sleep = Service::command("bad", "sleep").arg("1000");
    the_rest_is_unharmed(
        backend,
        vec![
            (sleep.clone().stop(cgroup), "Permission denied"),
            (sleep.user(0, 0), "cannot become user 0"),
        ],
    )
    .await;
    println!("nobody saw it all");
}
