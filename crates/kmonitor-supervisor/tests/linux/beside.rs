//! Beside the application's own children: each side gets exactly its own exits.

use std::sync::Arc;

use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::KillScope;

use crate::world::*;

const AT_A_TIME: usize = 20;

/// 20 supervised children in a round, and 40 of the application's own.
async fn each_side_gets_its_own(backend: LinuxBackend, script: &'static str, rounds: usize) {
    let backend = Arc::new(backend);
    let supervised = {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            for round in 0..rounds {
                let mut children: Vec<_> = (0..AT_A_TIME)
                    .map(|index| {
                        let code = (round + index) % 200;
                        let script = format!("{script} exit {code}");
                        let name = format!("c{index}");
                        (
                            code,
                            start(&backend, &name, shell(&script), KillScope::Tree),
                        )
                    })
                    .collect();
                for (code, child) in &mut children {
                    child.started().await;
                    child.ready().await;
                    assert_eq!(child.exited().await.code(), Some(*code as i32));
                    child.empty().await;
                }
            }
        })
    };
    let own = tokio::spawn(async move {
        for round in 0..2 * rounds {
            let mut children: Vec<_> = (0..AT_A_TIME)
                .map(|index| {
                    let code = (7 * round + index) % 200;
                    let script = format!("{script} exit {code}");
                    let mut command = tokio::process::Command::new("sh");
                    (code, command.args(["-c", &script]).spawn().unwrap())
                })
                .collect();
            for (code, child) in &mut children {
                let status = child.wait().await.expect("taken by another");
                assert_eq!(status.code(), Some(*code as i32));
            }
        }
    });
    // And some that are waited for by hand, late: they are zombies for a while.
    let mut late = Vec::new();
    for code in 0..50 {
        let script = format!("exit {code}");
        late.push(
            std::process::Command::new("sh")
                .args(["-c", &script])
                .spawn()
                .unwrap(),
        );
    }
    own.await.unwrap();
    supervised.await.unwrap();
    for (code, child) in late.iter_mut().enumerate() {
        assert_eq!(child.wait().unwrap().code(), Some(code as i32));
    }
    eventually(|| zombies().is_empty()).await;
}

/// Both sides leave orphans, which come to us: none stays a zombie.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn by_the_connector() {
    if !alone("beside::by_the_connector") {
        return;
    }
    each_side_gets_its_own(with_connector().await, "(sleep 0.01 &);", 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_scans() {
    if !alone("beside::by_scans") {
        return;
    }
    each_side_gets_its_own(plain().await, "", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: every end is looked for in the whole process table"]
async fn thousands_by_scans() {
    if !alone("beside::thousands_by_scans") {
        return;
    }
    each_side_gets_its_own(plain().await, "", 60).await;
}

/// Orphans of supervised children are reaped without a connector too.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_children_are_reaped() {
    if !alone("beside::orphans_of_children_are_reaped") {
        return;
    }
    let backend = plain().await;
    for _ in 0..5 {
        // They live until they have been seen: who has left the session and dies before
        // that cannot be told from a child of the application's.
        let script = "(sleep 1000 & setsid sleep 1000 &) ; exit 3";
        let mut child = start(&backend, "c", shell(script), KillScope::Tree);
        child.started().await;
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(3));
        child
            .has(|left| left.iter().filter(|one| one.comm == "sleep").count() == 2)
            .await;
        child.signal(kmonitor_supervisor::Signal::TERM);
        child.empty().await;
    }
    eventually(|| zombies().is_empty()).await;
}

/// For programs that do nothing else: all that comes to us is reaped.
#[test]
#[ignore = "is run in a process of its own by the next"]
fn reaps_everything() {
    if std::env::var_os("KMONITOR_TEST_REAPS").is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let backend = LinuxBackend::builder()
            .reap_all_children(true)
            .build()
            .await
            .unwrap();
        let mut child = start(&backend, "c", shell("exit 3"), KillScope::Tree);
        child.started().await;
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(3));
        child.empty().await;
        for _ in 0..20 {
            // Nobody waits for these.
            drop(std::process::Command::new("true").spawn().unwrap());
        }
        eventually(|| zombies().is_empty()).await;
        println!("reaped everything");
    });
}

#[test]
fn a_supervising_program_may_reap_all_children() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "beside::reaps_everything",
            "--ignored",
            "--nocapture",
        ])
        .env("KMONITOR_TEST_REAPS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("reaped everything"),
        "{output:?}"
    );
}
