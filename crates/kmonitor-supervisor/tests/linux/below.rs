//! A supervisor that runs below what a former one started or adopted, as one does that is
//! started again from a login: it would signal itself, whom it descends from, and the
//! application's other children.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use kmonitor_supervisor::backend::Origin;
use kmonitor_supervisor::spec::{Adopt, KillScope, ProcessSpec, Stop};

use crate::world::*;

const DIR: &str = "KMONITOR_TEST_BELOW";
const SCOPE: &str = "KMONITOR_TEST_BELOW_SCOPE";
/// What its error says; without one it clears what is left, and starts.
const REFUSAL: &str = "KMONITOR_TEST_BELOW_REFUSAL";

const SCOPES: [(&str, KillScope); 4] = [
    ("cgroup", KillScope::Cgroup),
    ("tree", KillScope::Tree),
    ("group", KillScope::Group),
    ("leader", KillScope::Leader),
];

/// How the supervisor below comes from the leader.
#[derive(Debug, Clone, Copy)]
enum As {
    Child,
    /// Its parent has ended.
    Orphan,
    /// And it leads a session of its own.
    Daemon,
    /// One whose environment has no word of ours, but that of its parent has.
    Cleared,
    /// As at a login: in a session of its own as well. An orphan is its parent.
    Login,
}

/// The supervisor below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is no test: the program that the others here run below what they supervised"]
async fn the_program() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let name = std::env::var(SCOPE).unwrap();
    let (_, scope) = *SCOPES.iter().find(|(of, _)| *of == name).unwrap();
    let backend = with_state(&Path::new(&dir).join("state")).await;
    let left = backend.leftovers();
    assert_eq!(left.len(), 1);
    let mut own = Command::new("sleep").arg("300").spawn().unwrap();
    let mut child = start(&backend, "c", shell("exit 3"), scope);
    match std::env::var(REFUSAL) {
        Ok(refusal) => {
            let error = child.failed().await.to_string();
            assert!(error.contains(&refusal), "{error}");
            let error = backend.stop_leftover(&left[0], &Stop::default()).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains(&refusal), "{error}");
            assert_eq!(backend.leftovers(), left);
        }
        Err(_) => {
            assert_eq!(child.started().await.origin, Origin::Spawned);
            child.ready().await;
            assert_eq!(child.exited().await.code(), Some(3));
            child.empty().await;
        }
    }
    assert_eq!(own.try_wait().unwrap(), None, "the application's own child");
    own.kill().unwrap();
    own.wait().unwrap();
}

/// A script that runs the supervisor below once the gate is open, and what becomes of it.
struct Below(tempfile::TempDir);

impl Below {
    fn new(how: As, scope: KillScope, refusal: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (scope, _) = SCOPES.iter().find(|(_, of)| *of == scope).unwrap();
        let refusal = refusal.map(|text| format!("export {REFUSAL}='{text}'"));
        let cleared = match how {
            As::Cleared | As::Login => "env -u KMONITOR_CHILD",
            _ => "",
        };
        // Not for ever, if the test is killed.
        let script = format!(
            "cd {0}; i=0
while [ ! -e gate ] && [ $i -lt 30000 ]; do i=$((i+1)); sleep 0.01; done
export {DIR}={0} {SCOPE}={scope}; {1}
{cleared} {2} --exact below::the_program --ignored --nocapture >said 2>&1
echo $? >status.new; mv status.new status",
            dir.path().display(),
            refusal.unwrap_or_default(),
            std::env::current_exe().unwrap().display(),
        );
        std::fs::write(dir.path().join("run"), script).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// The leader's script. It says when nothing is missing but the gate.
    fn leader(&self, how: As) -> String {
        let run = self.path("run");
        let run = run.display();
        match how {
            As::Child => format!("echo up; sh {run}; exec sleep 300"),
            As::Orphan | As::Cleared => format!("(sh {run} &); echo up; exec sleep 300"),
            As::Daemon => format!("(setsid sh {run} &); echo up; exec sleep 300"),
            As::Login => {
                let login = format!("env -u KMONITOR_CHILD setsid -w sh {run}; :");
                format!("(sh -c '{login}' &); echo up; exec sleep 300")
            }
        }
    }

    /// Starts the leader as a former run did. Its pid.
    fn a_former_run(&self, script: &str, scope: KillScope) -> i32 {
        let (state, spec) = (self.path("state"), shell(script));
        formerly(move || async move {
            let backend = with_state(&state).await;
            let mut child = start(&backend, "c", spec, scope);
            let started = child.started().await;
            assert_eq!(started.scope, scope);
            child.wrote("up").await;
            started.process.pid.as_raw()
        })
    }

    /// Opens the gate, and waits for its end or that of the leader.
    async fn succeeds(&self, what: &str) {
        std::fs::write(self.path("gate"), "").unwrap();
        let status = self.path("status");
        eventually(|| status.exists()).await;
        let said = std::fs::read_to_string(self.path("said")).unwrap();
        let status = std::fs::read_to_string(status).unwrap();
        assert_eq!(status, "0\n", "{what}: {said}");
        assert!(said.contains("1 passed"), "{what}: {said}");
    }
}

/// It is refused, the leader lives on, and who is not below it can take it up.
async fn is_refused(how: As, scope: KillScope, refusal: &str) {
    let below = Below::new(how, scope, Some(refusal));
    let pid = below.a_former_run(&below.leader(how), scope);
    below.succeeds(&format!("{how:?} {scope:?}")).await;
    assert!(alive(pid), "{how:?} {scope:?}");
    let backend = with_state(&below.path("state")).await;
    let mut child = start(&backend, "c", shell("exit 3"), scope);
    let started = child.started().await;
    assert_eq!(started.origin, Origin::Recovered);
    assert_eq!(started.process.pid.as_raw(), pid);
    child.ready().await;
    child.running.kill();
    assert_eq!(child.exited().await.signal(), Some(9));
    child.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_we_descend_from_is_neither_taken_over_nor_stopped() {
    for scope in [KillScope::Tree, KillScope::Group, KillScope::Leader] {
        is_refused(As::Child, scope, "descends from").await;
    }
}

/// Also where it is not known any more that we descend from it.
#[tokio::test(flavor = "multi_thread")]
async fn whose_scope_we_are_in_is_neither_taken_over_nor_stopped() {
    is_refused(As::Orphan, KillScope::Group, "is in the group").await;
    is_refused(As::Orphan, KillScope::Tree, "is in the session").await;
    is_refused(As::Daemon, KillScope::Tree, "is in the tree").await;
}

/// Nor those that we descend from.
#[tokio::test(flavor = "multi_thread")]
async fn whose_scope_one_above_us_is_in_is_neither_taken_over_nor_stopped() {
    is_refused(As::Login, KillScope::Group, "is in the group").await;
    is_refused(As::Login, KillScope::Tree, "is in the session").await;
}

/// Session and group have the number 0 where they are of an outer PID namespace: these are
/// nobody's here.
#[test]
#[ignore = "needs root, to unshare namespaces"]
fn a_session_and_a_group_of_an_outer_namespace() {
    for test in [
        "below::who_we_descend_from_is_neither_taken_over_nor_stopped",
        "below::whose_scope_we_are_in_is_neither_taken_over_nor_stopped",
        "groups::a_group_that_we_are_in_is_not_adopted",
    ] {
        let output = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            // The first process of a namespace gets its orphans, as no test expects it.
            .args(["sh", "-c", "cat /proc/self/stat; \"$@\"; exit", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let ids: Vec<&str> = said.split_ascii_whitespace().skip(4).take(2).collect();
        assert_eq!(ids, ["0", "0"], "group and session");
        assert!(said.contains("1 passed"), "{said}");
        assert!(output.status.success(), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn whose_cgroup_we_are_in_is_neither_taken_over_nor_stopped() {
    is_refused(As::Child, KillScope::Cgroup, "descends from").await;
    is_refused(As::Daemon, KillScope::Cgroup, "in the cgroup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_process_that_we_descend_from_is_left_alone() {
    for scope in [KillScope::Tree, KillScope::Group] {
        let below = Below::new(As::Child, scope, Some("descends from"));
        let mut leader = Command::new("sh")
            .args(["-c", &below.leader(As::Child)])
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = Pid::try_from(leader.id()).unwrap();
        let state = below.path("state");
        formerly(move || async move {
            let spec = ProcessSpec::adopt(Adopt::Pid(pid));
            let mut child = start(&with_state(&state).await, "c", spec, scope);
            assert_eq!(child.started().await.origin, Origin::Adopted);
            child.ready().await;
        });
        below.succeeds(&format!("{scope:?}")).await;
        assert_eq!(leader.try_wait().unwrap(), None, "{scope:?}");
        let backend = with_state(&below.path("state")).await;
        let left = backend.leftovers();
        let survivors = backend.stop_leftover(&left[0], &Stop::default()).await;
        assert_eq!(survivors.unwrap(), []);
        leader.wait().unwrap();
    }
}

/// Kills the leader only.
async fn end(leader: i32) {
    let held = Pidfd::open(Pid::new(leader).unwrap()).unwrap();
    held.send_signal(9).unwrap();
    eventually(|| !alive(leader)).await;
    // The former run was this program too.
    let child = rustix::process::Pid::from_raw(leader).unwrap();
    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::NOHANG);
}

/// The leader is dead, and we are among what it left: that is not cleared away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_cgroup_that_we_are_in_is_not_cleared() {
    let (how, scope) = (As::Orphan, KillScope::Cgroup);
    let below = Below::new(how, scope, Some("in the cgroup"));
    let pid = below.a_former_run(&below.leader(how), scope);
    end(pid).await;
    below.succeeds("").await;
    let backend = with_state(&below.path("state")).await;
    let left = backend.leftovers();
    let survivors = backend.stop_leftover(&left[0], &Stop::default()).await;
    assert_eq!(survivors.unwrap(), []);
}

/// The same where it is known by its environment: all others are cleared away.
#[tokio::test(flavor = "multi_thread")]
async fn whom_we_descend_from_is_spared_when_the_rest_is_cleared() {
    for how in [As::Orphan, As::Daemon, As::Cleared] {
        let token = token();
        let below = Below::new(how, KillScope::Tree, None);
        let rest = format!("(sh -c 'sleep 300; : {token}' &); {}", below.leader(how));
        let pid = below.a_former_run(&rest, KillScope::Tree);
        end(pid).await;
        eventually(|| living_with(&token).len() == 1).await;
        below.succeeds(&format!("{how:?}")).await;
        assert_eq!(living_with(&token), [0; 0], "{how:?}");
    }
}
