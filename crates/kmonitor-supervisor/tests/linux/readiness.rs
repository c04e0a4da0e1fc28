//! When a child is ready.

use std::time::Duration;

use kmonitor_supervisor::backend::Report;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{KillScope, ProcessSpec, Readiness};

use crate::world::*;

const A_WHILE: Duration = Duration::from_millis(150);

async fn not_ready_yet(backend: &LinuxBackend, spec: ProcessSpec) -> Child {
    let mut child = start(backend, "c", spec, KillScope::Group);
    child.started().await;
    assert!(child.is_quiet(A_WHILE).await);
    child
}

async fn end(mut child: Child) {
    child.running.kill();
    child.exited().await;
    child.empty().await;
}

/// A script that goes on when this file appears.
fn gate(dir: &tempfile::TempDir, then: &str) -> ProcessSpec {
    let gate = dir.path().join("gate");
    let gate = gate.display();
    shell(&format!(
        "while [ ! -e {gate} ]; do sleep 0.01; done; {then}; exec sleep 1000"
    ))
}

fn open(dir: &tempfile::TempDir) {
    std::fs::write(dir.path().join("gate"), "").unwrap();
}

#[tokio::test]
async fn a_newline_to_the_notification_descriptor() {
    for number in [3, 10, 61] {
        for keeps_state in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let backend = match keeps_state {
                true => with_state(&dir.path().join("state")).await,
                false => plain().await,
            };
            let then = format!("python3 -c 'import os; os.write({number}, b\"\\n\")'");
            let spec = with_ready(gate(&dir, &then), Readiness::NotifyFd(number));
            let mut child = not_ready_yet(&backend, spec).await;
            open(&dir);
            child.ready().await;
            end(child).await;
        }
    }
}

#[tokio::test]
async fn a_descriptor_closed_without_a_newline_is_no_readiness() {
    let backend = plain().await;
    let spec = with_ready(shell("exec 3>&-; sleep 1000"), Readiness::NotifyFd(3));
    end(not_ready_yet(&backend, spec).await).await;
}

#[tokio::test]
async fn a_line_that_contains_a_text_on_either_stream() {
    let backend = plain().await;
    for redirect in ["", ">&2"] {
        let dir = tempfile::tempdir().unwrap();
        let then = format!("echo now is ready {redirect}");
        let spec = with_ready(gate(&dir, &then), Readiness::Line("is ready".into()));
        let mut child = not_ready_yet(&backend, spec).await;
        open(&dir);
        child.ready().await;
        end(child).await;
    }
}

#[tokio::test]
async fn somebody_who_accepts_connections() {
    let backend = plain().await;
    let dir = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listen = format!(
        "exec python3 -c 'import socket,time
s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((\"127.0.0.1\",{})); s.listen(); time.sleep(1000)'",
        address.port()
    );
    let spec = with_ready(gate(&dir, &listen), Readiness::Tcp(address));
    let mut child = not_ready_yet(&backend, spec).await;
    open(&dir);
    child.ready().await;
    end(child).await;
}

#[tokio::test]
async fn who_ends_before_it_is_ready_never_was() {
    let backend = plain().await;
    for ready in [
        Readiness::NotifyFd(3),
        Readiness::Line("never".into()),
        Readiness::Tcp("127.0.0.1:1".parse().unwrap()),
    ] {
        let mut child = start(
            &backend,
            "c",
            with_ready(shell("exit 4"), ready),
            KillScope::Group,
        );
        child.started().await;
        assert_eq!(child.exited().await.code(), Some(4));
        child.empty().await;
    }
}

#[tokio::test]
async fn reports_come_in_order_and_end() {
    let backend = plain().await;
    for ready in [Readiness::Immediate, Readiness::Exec] {
        for _ in 0..100 {
            let spec = with_ready(spec("true", &[]), ready.clone());
            let mut child = start(&backend, "c", spec, KillScope::Group);
            child.started().await;
            child.ready().await;
            assert!(child.exited().await.success());
            let last = child.next().await;
            assert!(matches!(last, Report::Empty), "{last:?}");
        }
    }
}
