//! A supervisor that dies at any moment: the next one adopts all that runs, starts
//! what does not, and nothing twice.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kmonitor_supervisor::backend::Origin;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{KillScope, ProcessSpec};

use crate::world::*;

const CHILDREN: usize = 50;

/// Says in a file that it was executed, and holds a lock as long as it lives. Who
/// does not get the lock is a second one.
fn child(dir: &Path, index: usize) -> ProcessSpec {
    let dir = dir.display();
    let script = format!(
        "exec 9>{dir}/lock.{index}; flock -n 9 || {{ echo second >> {dir}/twice; exit 77; }}; \
         echo $$ >> {dir}/started.{index}; echo up; exec sleep 1000"
    );
    shell(&script)
}

fn name(index: usize) -> String {
    format!("child{index}")
}

fn scope_named(name: &str) -> KillScope {
    match name {
        "tree" => KillScope::Tree,
        "group" => KillScope::Group,
        _ => KillScope::Best,
    }
}

/// The supervisor that is killed.
#[tokio::test]
#[ignore = "is no test: the program that the others here kill"]
async fn the_supervisor() {
    let Some(dir) = std::env::var_os("KMONITOR_TEST_DIR") else {
        return;
    };
    let dir = Path::new(&dir);
    let scope = scope_named(&std::env::var("KMONITOR_TEST_SCOPE").unwrap_or_default());
    let backend = with_state(&dir.join("state")).await;
    let mut children: Vec<_> = (0..CHILDREN)
        .map(|index| start(&backend, &name(index), child(dir, index), scope))
        .collect();
    for child in &mut children {
        child.started().await;
        child.ready().await;
    }
    for child in &children {
        child.wrote("up").await;
    }
    fs::write(dir.join("all"), "").unwrap();
    std::future::pending::<()>().await;
}

struct Former {
    program: Command,
    /// In its command line, and in no other's.
    token: String,
    dir: tempfile::TempDir,
    scope: &'static str,
}

impl Former {
    fn new(tracer: &[&str], scope: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let mut words: Vec<std::ffi::OsString> = tracer.iter().map(Into::into).collect();
        words.push(exe.into());
        let token = token();
        let args = [
            "--exact",
            "killed::the_supervisor",
            "--ignored",
            "--nocapture",
            "--skip",
            &token,
        ];
        words.extend(args.iter().map(Into::into));
        let mut program = Command::new(&words[0]);
        program
            .args(&words[1..])
            .env("KMONITOR_TEST_DIR", dir.path())
            .env("KMONITOR_TEST_SCOPE", scope)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            program,
            token,
            dir,
            scope,
        }
    }

    /// The next supervisor, on what this one left. How many it adopted.
    async fn is_followed_without_harm(&self, what: &str) -> usize {
        let dir = self.dir.path();
        let scope = scope_named(self.scope);
        let backend = LinuxBackend::builder()
            .state_dir(dir.join("state"))
            .build()
            .await
            .unwrap();
        let mut children: Vec<_> = (0..CHILDREN)
            .map(|index| start(&backend, &name(index), child(dir, index), scope))
            .collect();
        let mut recovered = 0;
        for (index, child) in children.iter_mut().enumerate() {
            let started = child.started().await;
            recovered += usize::from(started.origin == Origin::Recovered);
            let file = dir.join(format!("started.{index}"));
            let lines = || fs::read_to_string(&file).unwrap_or_default();
            eventually(|| lines().ends_with('\n')).await;
            // The one that is supervised is the one that was ever executed.
            let expected = format!("{}\n", started.process.pid);
            assert_eq!(
                lines(),
                expected,
                "{what}, child {index}, {:?}",
                started.origin
            );
            child.ready().await;
        }
        assert!(!dir.join("twice").exists(), "{what}: one was started twice");
        println!("{what}: adopted {recovered}");
        // Later ends are told, with their status.
        for child in &children[..3] {
            child.signal(kmonitor_supervisor::Signal::TERM);
        }
        for child in &mut children[..3] {
            assert_eq!(child.exited().await.signal(), Some(15), "{what}");
            child.empty().await;
        }
        for child in &children[3..] {
            child.running.kill();
        }
        for child in &mut children[3..] {
            let status = child.exited().await;
            assert_eq!(status.signal(), Some(9), "{what}: {status:?}");
            child.empty().await;
        }
        let left: Vec<_> = fs::read_dir(dir.join("state")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{what}: {left:?}");
        recovered
    }
}

fn kill(program: &mut std::process::Child) {
    // It may be dead already.
    let _ = program.kill();
    program.wait().unwrap();
}

/// By time: all over the start of 50 children, and when they are idle.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2; takes a minute"]
async fn at_any_time() {
    let mut adopted = Vec::new();
    for scope in ["best", "tree", "group"] {
        // How long it takes undisturbed.
        let mut former = Former::new(&[], scope);
        let begun = std::time::Instant::now();
        let mut program = former.program.spawn().unwrap();
        let all = former.dir.path().join("all");
        eventually(|| all.exists()).await;
        let whole = begun.elapsed();
        kill(&mut program);
        let recovered = former.is_followed_without_harm("when all ran").await;
        assert_eq!(recovered, CHILDREN);
        const STEPS: u32 = 20;
        for step in 0..STEPS {
            let mut former = Former::new(&[], scope);
            let mut program = former.program.spawn().unwrap();
            tokio::time::sleep(whole * step / STEPS).await;
            kill(&mut program);
            let what = format!("{scope}, killed at step {step} of {STEPS} of {whole:?}");
            adopted.push(former.is_followed_without_harm(&what).await);
        }
    }
    println!("adopted: {adopted:?}");
    // Some were killed in the middle.
    assert!(
        adopted.iter().any(|count| (1..CHILDREN).contains(count)),
        "{adopted:?}"
    );
}

/// At the nth call of each system call that a supervisor's threads, or a child before
/// its program, make: also between the wake-ups of the runtime.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a writable cgroup v2 and strace; takes minutes"]
async fn at_every_system_call() {
    let mut adopted = Vec::new();
    // Of the threads that fork, the runtime's, and the children's own steps.
    let calls: [(&str, &[u32]); 13] = [
        ("epoll_wait", &[1, 2, 5, 10, 20, 40, 60, 80]),
        ("clone3,clone,fork,vfork", &[1, 2, 3, 5, 8, 13]),
        ("write", &[1, 2, 3, 4, 8, 16, 32, 64]),
        ("openat", &[20, 40, 80, 160, 320]),
        ("rename", &[1, 2, 5, 10, 20]),
        ("mkdir", &[1, 2, 5, 10, 20]),
        ("mknodat,mknod", &[1, 2, 5, 10, 40]),
        ("pidfd_open", &[1, 2, 3, 5, 8, 13]),
        ("setsid", &[1]),
        ("close_range", &[1]),
        ("rt_sigprocmask", &[5, 10, 40]),
        ("epoll_ctl", &[3, 5, 10, 40, 100]),
        ("close", &[10, 20, 40, 80, 160, 320]),
    ];
    for (call, times) in calls {
        for when in times {
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let trace = format!("trace={call}");
            let tracer = [
                "strace",
                "-f",
                "-b",
                "execve",
                "-o",
                "/dev/null",
                "-e",
                &trace,
                "-e",
                &inject,
            ];
            let mut former = Former::new(&tracer, "best");
            let mut program = former.program.spawn().unwrap();
            let all = former.dir.path().join("all");
            // Killed, or a child before its program was, which is the supervisor's to
            // see: then it goes on until it is killed here.
            let until = std::time::Instant::now() + Duration::from_millis(1500);
            while program.try_wait().unwrap().is_none()
                && !all.exists()
                && std::time::Instant::now() < until
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for pid in living_with(&former.token) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            kill(&mut program);
            eventually(|| living_with(&former.token).is_empty()).await;
            let what = format!("{call} {when}");
            let recovered = former.is_followed_without_harm(&what).await;
            adopted.push((call, *when, recovered));
        }
    }
    println!("adopted: {adopted:?}");
    assert!(
        adopted
            .iter()
            .any(|(_, _, count)| (1..CHILDREN).contains(count)),
        "{adopted:?}"
    );
}
