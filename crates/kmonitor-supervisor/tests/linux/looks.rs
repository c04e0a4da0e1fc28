//! What a look at the processes must not take for the end of all of them.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use kmonitor_event::Pid;
use kmonitor_supervisor::Signal;
use kmonitor_supervisor::backend::Reach;
use kmonitor_supervisor::spec::{Adopt, KillScope, ProcessSpec};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::world::*;

/// The leader waits to be told to end; its worker is not told.
const WITH_WORKER: &str = "import os, signal
is_worker = os.fork() == 0
signal.alarm(300)
if is_worker:
    print('up', flush=True)
signal.pause()";

/// As long as it lives, this program can open nothing more, or no more than so many files
/// at a time.
struct NoDescriptors {
    former: rustix::process::Rlimit,
    _all: Vec<File>,
}

impl NoDescriptors {
    fn begin() -> Self {
        Self::but(0)
    }

    fn but(spare: usize) -> Self {
        let former = getrlimit(Resource::Nofile);
        let mut few = former;
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        few.current = Some((open + spare) as u64);
        setrlimit(Resource::Nofile, few).unwrap();
        let all = std::iter::repeat_with(|| File::open("/dev/null"));
        let mut all: Vec<_> = all.map_while(Result::ok).collect();
        std::fs::read_dir("/proc").unwrap_err();
        all.truncate(all.len() - spare);
        Self { former, _all: all }
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.former).unwrap();
    }
}

/// Whose members cannot be looked at is not empty.
async fn without_descriptors(scope: KillScope) {
    let backend = plain().await;
    let mut child = start(&backend, "c", python(WITH_WORKER), scope);
    assert_eq!(child.started().await.scope, scope);
    child.ready().await;
    child.wrote("up").await;
    let none = NoDescriptors::begin();
    drop(child.running.signal(&[Signal::KILL], Reach::Leader));
    child.exited().await;
    assert!(child.is_quiet(Duration::from_millis(1500)).await);
    drop(none);
    assert_eq!(child.running.survivors().await.len(), 1);
    child.running.kill();
    child.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_cannot_be_looked_at_is_not_empty() {
    if alone("looks::a_tree_that_cannot_be_looked_at_is_not_empty") {
        without_descriptors(KillScope::Tree).await;
    }
}

/// Nor is it taken for an older kernel's, which tells less of groups.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_looked_at_is_not_empty() {
    if alone("looks::a_group_that_cannot_be_looked_at_is_not_empty") {
        without_descriptors(KillScope::Group).await;
    }
}

/// One descriptor is enough to find a member, and not to take hold of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_could_not_be_sent_is_not_said_to_be() {
    if !alone("looks::a_signal_that_could_not_be_sent_is_not_said_to_be") {
        return;
    }
    let backend = plain().await;
    let mut child = start(&backend, "c", shell("exec sleep 300"), KillScope::Tree);
    child.started().await;
    child.ready().await;
    let few = NoDescriptors::but(1);
    let sent = child.running.signal(&[Signal::TERM], Reach::Scope).await;
    // Nor is a killing given up that nobody waits for.
    child.running.kill();
    assert!(child.is_quiet(Duration::from_millis(300)).await);
    drop(few);
    sent.unwrap_err();
    assert_eq!(child.exited().await.signal(), Some(9));
    child.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn nor_is_one_to_a_cgroup() {
    if !alone("looks::nor_is_one_to_a_cgroup") {
        return;
    }
    let backend = plain().await;
    let mut child = start(&backend, "c", python(WITH_WORKER), KillScope::Cgroup);
    child.started().await;
    child.ready().await;
    child.wrote("up").await;
    drop(child.running.signal(&[Signal::KILL], Reach::Leader));
    child.exited().await;
    let none = NoDescriptors::begin();
    let sent = child.running.signal(&[Signal::TERM], Reach::Scope).await;
    drop(none);
    sent.unwrap_err();
    assert_eq!(child.running.survivors().await.len(), 1);
    child.running.kill();
    child.empty().await;
}

/// A leader that ends once its standard input is closed. In its group each is then the
/// child of the one before, who has ended, and is reaped at once by one who is not in it.
/// They end with the directory, too, if a test fails, and after a while in any case.
fn hops(dir: &std::path::Path) -> Command {
    let program = format!(
        "import ctypes, os, signal, sys, time
sys.stdin.readline()
group = os.getpid()
end = time.monotonic() + 300
lasts = lambda: os.path.exists('{0}/hops') and not os.path.exists('{0}/end') and time.monotonic() < end
hops = os.open('{0}/hops', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
joined, join = os.pipe()
if os.fork():
    os.read(joined, 1)
    os._exit(3)
os.setpgid(0, 0)
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
hopper = os.fork()
while hopper and lasts():
    time.sleep(0.01)
if hopper:
    os._exit(0)
os.setpgid(0, group)
os.write(join, b'x')
hop = 0
while hop % 8 or lasts():
    hop += 1
    os.write(hops, b'x')
    if os.fork():
        os._exit(0)",
        dir.display()
    );
    let mut command = Command::new("python3");
    command
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .process_group(0);
    command
}

fn count(dir: &std::path::Path) -> u64 {
    std::fs::metadata(dir.join("hops")).map_or(0, |file| file.len())
}

/// Others, who do nothing but to be looked at.
struct Crowd(Vec<std::process::Child>);

impl Crowd {
    fn gather() -> Self {
        let sleeper = || Command::new("sleep").arg("300").spawn().unwrap();
        Self(std::iter::repeat_with(sleeper).take(300).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A dead leader that nobody reaps is in its group, for the kernel; who else is in it must
/// be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_a_zombie_is_not_empty_while_its_members_hop() {
    let _crowd = Crowd::gather();
    let dir = tempfile::tempdir().unwrap();
    let mut leader = hops(dir.path()).spawn().unwrap();
    let backend = plain().await;
    let spec = ProcessSpec::adopt(Adopt::Pid(Pid::try_from(leader.id()).unwrap()));
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    drop(leader.stdin.take());
    assert_eq!(child.exited().await.code(), Some(3));
    assert!(child.is_quiet(Duration::from_millis(1500)).await);
    assert!(
        count(dir.path()) > 100,
        "they did not hop: this tested nothing"
    );
    std::fs::write(dir.path().join("end"), "").unwrap();
    child.empty().await;
    assert_eq!(leader.wait().unwrap().code(), Some(3));
}

/// Others who come and go all the time, and are not in it, do not keep it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_empty_while_others_hop() {
    let dir = tempfile::tempdir().unwrap();
    let mut others = hops(dir.path()).spawn().unwrap();
    drop(others.stdin.take());
    others.wait().unwrap();
    let mut leader = Command::new("sh")
        .args(["-c", "read x; exit 4"])
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let backend = plain().await;
    let spec = ProcessSpec::adopt(Adopt::Pid(Pid::try_from(leader.id()).unwrap()));
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    eventually(|| count(dir.path()) > 100).await;
    drop(leader.stdin.take());
    assert_eq!(child.exited().await.code(), Some(4));
    child.empty().await;
    let before = count(dir.path());
    eventually(|| count(dir.path()) > before).await;
    std::fs::write(dir.path().join("end"), "").unwrap();
    leader.wait().unwrap();
}

/// The same of a tree, whose members are looked for in the whole process table.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_empty_while_others_hop() {
    let dir = tempfile::tempdir().unwrap();
    let backend = plain().await;
    let mut child = start(&backend, "c", shell("sleep 300"), KillScope::Tree);
    child.started().await;
    child.ready().await;
    // Younger than its root.
    let mut others = hops(dir.path()).spawn().unwrap();
    drop(others.stdin.take());
    others.wait().unwrap();
    eventually(|| count(dir.path()) > 100).await;
    child.running.kill();
    child.exited().await;
    child.empty().await;
    let before = count(dir.path());
    eventually(|| count(dir.path()) > before).await;
    std::fs::write(dir.path().join("end"), "").unwrap();
}

/// Its orphans go to the first process there, which is a stranger and lives.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to unshare namespaces"]
async fn who_went_into_another_pid_namespace_is_found_by_its_mark() {
    if !alone("looks::who_went_into_another_pid_namespace_is_found_by_its_mark") {
        return;
    }
    let container = Container::start();
    let children = |pid: i32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let outer = i32::try_from(container.0.id()).unwrap();
    eventually(|| !children(outer).is_empty()).await;
    let first: i32 = children(outer).trim().parse().unwrap();
    let script = format!(
        "nsenter --target {first} --pid sh -c 'setsid sleep 1000 >/dev/null 2>&1 &'
exec sleep 1000"
    );
    let backend = plain().await;
    let mut child = start(&backend, "c", shell(&script), KillScope::Tree);
    child.started().await;
    child.ready().await;
    eventually(|| !children(first).is_empty()).await;
    child.running.kill();
    child.exited().await;
    child.empty().await;
    // Nobody reaps it there.
    let left: i32 = children(first).trim().parse().unwrap();
    assert!(!alive(left), "an orphan is left");
}

/// A PID namespace, as long as this lives.
struct Container(std::process::Child);

impl Container {
    fn start() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "sleep", "1000"]);
        // Whoever reads what the test writes is not to wait for this.
        let quiet = unshare.stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
