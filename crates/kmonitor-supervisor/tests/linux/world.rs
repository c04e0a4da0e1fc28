//! What the tests share: a backend, an incarnation with its reports in order, and
//! looking at the system.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kmonitor_event::Status;
use kmonitor_hub::Hub;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::backend::{
    Backend, Incarnation, Launch, Origin, Process, Reach, Report, Reports, Running, StartError,
    Survivor,
};
use kmonitor_supervisor::spec::{
    ChildName, ChildPath, CommandSpec, KillScope, Output, ProcessSpec, Readiness,
};
use kmonitor_supervisor::{OutputRing, Signal};
use tokio::sync::mpsc;

/// Longer than anything here takes, also where every look at the process table waits for
/// a busy machine, so that only what hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than a test takes that runs by itself, in seconds.
const ALONE_MAX: &str = "600";

pub(crate) struct Child {
    pub(crate) running: Box<dyn Running>,
    pub(crate) output: Arc<OutputRing>,
    reports: mpsc::UnboundedReceiver<(Incarnation, Report)>,
}

pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) origin: Origin,
    pub(crate) scope: KillScope,
}

impl Child {
    pub(crate) async fn next(&mut self) -> Report {
        let next = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        next.expect("no report came").expect("reports ended").1
    }

    pub(crate) async fn started(&mut self) -> Started {
        match self.next().await {
            Report::Started {
                process,
                origin,
                scope,
            } => Started {
                process,
                origin,
                scope,
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ready(&mut self) {
        let report = self.next().await;
        assert!(matches!(report, Report::Ready), "{report:?}");
    }

    pub(crate) async fn exited(&mut self) -> Status {
        match self.next().await {
            Report::Exited(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn empty(&mut self) {
        let report = self.next().await;
        assert!(matches!(report, Report::Empty), "{report:?}");
    }

    pub(crate) async fn failed(&mut self) -> StartError {
        match self.next().await {
            Report::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Whether no report comes for a while.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.reports.recv())
            .await
            .is_err()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It is sent whether or not somebody waits for it.
        drop(self.running.signal(&[signal], Reach::Scope));
    }

    /// Waits until those in its scope are such.
    pub(crate) async fn has(&self, such: impl Fn(&[Survivor]) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !such(&self.running.survivors().await) {
            assert!(Instant::now() < until, "it did not come about");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.output.snapshot().lines;
        lines.iter().map(|line| line.text().into_owned()).collect()
    }

    /// Waits until it has written that line.
    pub(crate) async fn wrote(&self, line: &str) {
        eventually(|| self.lines().iter().any(|written| written == line)).await;
    }
}

pub(crate) fn path(name: &str) -> ChildPath {
    ChildPath::root(&ChildName::new(name).unwrap())
}

pub(crate) fn command(program: &str, args: &[&str]) -> CommandSpec {
    let mut command = CommandSpec::new(program);
    command.args = args.iter().map(Into::into).collect();
    command
}

pub(crate) fn spec(program: &str, args: &[&str]) -> ProcessSpec {
    ProcessSpec::command(command(program, args))
}

pub(crate) fn shell(script: &str) -> ProcessSpec {
    spec("sh", &["-c", script])
}

pub(crate) fn python(script: &str) -> ProcessSpec {
    spec("python3", &["-c", script])
}

pub(crate) fn with_ready(mut spec: ProcessSpec, ready: Readiness) -> ProcessSpec {
    spec.ready = ready;
    spec
}

pub(crate) fn with_output(mut spec: ProcessSpec, output: Output) -> ProcessSpec {
    spec.output = output;
    spec
}

pub(crate) fn start(
    backend: &LinuxBackend,
    name: &str,
    spec: ProcessSpec,
    scope: KillScope,
) -> Child {
    start_again(backend, name, 1, spec, scope)
}

pub(crate) fn start_again(
    backend: &LinuxBackend,
    name: &str,
    generation: u64,
    spec: ProcessSpec,
    scope: KillScope,
) -> Child {
    let (to, reports) = mpsc::unbounded_channel();
    let about = Incarnation {
        child: 1,
        generation,
    };
    let output = Arc::new(OutputRing::new(10_000));
    let launch = Launch::new(
        path(name),
        generation,
        Arc::new(spec),
        scope,
        Arc::clone(&output),
    );
    let running = backend.start(launch, Reports::new(about, to));
    Child {
        running,
        output,
        reports,
    }
}

/// Without a hub: as in a container.
pub(crate) async fn plain() -> LinuxBackend {
    LinuxBackend::builder().build().await.unwrap()
}

pub(crate) async fn with_connector() -> LinuxBackend {
    let hub = Hub::builder()
        .only(kmonitor_source::SourceKind::Connector)
        .open()
        .await
        .unwrap();
    LinuxBackend::builder().hub(hub).build().await.unwrap()
}

pub(crate) async fn with_state(dir: &Path) -> LinuxBackend {
    LinuxBackend::builder()
        .state_dir(dir)
        .build()
        .await
        .unwrap()
}

/// Runs this on a runtime of its own, which ends with it: what a former run did.
pub(crate) fn formerly<F: Future<Output: Send + 'static>>(
    run: impl FnOnce() -> F + Send + 'static,
) -> F::Output {
    let former = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run())
    });
    former.join().unwrap()
}

/// A word that no other process of the host has in its command line.
pub(crate) fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("kmtest{}x{count}x", std::process::id())
}

/// Living processes that have the word in their command line.
pub(crate) fn living_with(token: &str) -> Vec<i32> {
    let pids = pids();
    pids.into_iter()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(token)
        })
        .collect()
}

pub(crate) fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Where cgroups v2 are mounted.
pub(crate) fn cgroup2() -> std::path::PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut lines = mounts.lines();
    let line = lines.find(|line| line.contains(" - cgroup2 ")).unwrap();
    line.split(' ').nth(4).unwrap().into()
}

/// Our children that are zombies.
pub(crate) fn zombies() -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
    }
    found.retain(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    });
    found
}

/// Waits for what the system will do without telling us.
#[track_caller]
pub(crate) fn eventually(holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    eventually_within(PATIENCE, holds)
}

#[track_caller]
pub(crate) fn eventually_within(
    patience: Duration,
    mut holds: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let until = Instant::now() + patience;
        while !holds() {
            assert!(Instant::now() < until, "it did not come about: {place}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Whether this is the process that one test has for itself.
///
/// What is counted of a whole process (its zombies, its descriptors, its wake-ups) and
/// what belongs to one (to be a subreaper) is everybody's where tests run beside each
/// other. So such a test begins with
/// `if !alone("module::test") { return; }`: then it is run again, by itself, and fails
/// here if it fails there.
pub(crate) fn alone(test: &str) -> bool {
    const WORD: &str = "KMONITOR_TEST_ALONE";
    if std::env::var(WORD).is_ok_and(|word| word == test) {
        println!("alone: {test}");
        return true;
    }
    // Not by a thread in there: it would be among what is counted.
    let output = std::process::Command::new("timeout")
        .args(["--verbose", ALONE_MAX])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(WORD, test)
        .output()
        .unwrap();
    let [text, errors] = [&output.stdout, &output.stderr].map(|t| String::from_utf8_lossy(t));
    println!("{text}{errors}");
    let was_run = text.contains(&format!("alone: {test}"));
    assert!(output.status.success() && was_run, "see above");
    false
}

pub(crate) fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    !stat
        .rsplit_once(')')
        .is_some_and(|(_, rest)| rest.starts_with(" Z"))
}
