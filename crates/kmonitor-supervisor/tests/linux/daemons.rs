//! Real daemons in a tree: a web server and its database.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use kmonitor_supervisor::spec::{Backoff, KillScope, Readiness, Restart, Stop};
use kmonitor_supervisor::{Handle, Service, Signal, Supervisor, SupervisorBuilder, Tree};

use crate::world::*;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn configure(dir: &Path, web: SocketAddr, answer: &str) {
    let dir_name = dir.display();
    let text = format!(
        "daemon off; worker_processes 2; pid {dir_name}/nginx.pid; error_log stderr notice;\n\
         events {{}}\n\
         http {{ access_log off; server {{ listen {web}; location / {{ return 200 \"{answer}\"; }} }} }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), text).unwrap();
}

fn declared(dir: &Path, web: SocketAddr, db: SocketAddr) -> SupervisorBuilder {
    let wait = Duration::from_secs(20);
    let quick = || Backoff::constant(Duration::from_millis(10));
    let stop = |signal| Stop::signal(signal).grace(Duration::from_secs(10));
    Supervisor::builder("site")
        .child(
            Service::command("db", "redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--port"])
                .arg(db.port().to_string())
                .current_dir(dir)
                .ready(Readiness::Tcp(db), wait)
                .backoff(quick())
                .restart(Restart::Always)
                .stop(stop(Signal::TERM)),
        )
        .child(
            Service::command("web", "nginx")
                .arg("-c")
                .arg(dir.join("nginx.conf"))
                .ready(Readiness::Tcp(web), wait)
                .backoff(quick())
                .restart(Restart::Always)
                .stop(stop(Signal::QUIT)),
        )
}

fn ask(address: SocketAddr, question: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn page(web: SocketAddr) -> String {
    ask(web, "GET / HTTP/1.0\r\n\r\n")
}

fn pid_of(handle: &Handle, child: &str) -> i32 {
    let status = handle.child(child).unwrap().status();
    status.process.unwrap().pid.as_raw()
}

async fn is_restarted_when_killed(tree: &Tree, name: &str) {
    let handle = tree.handle();
    let child = handle.child(name).unwrap();
    let before = pid_of(&handle, name);
    let ended = child.exited();
    child.signal(Signal::KILL).await.unwrap();
    assert!(ended.await.is_ok());
    eventually(|| {
        let status = child.status();
        status.is_ready() && status.process.is_some_and(|p| p.pid.as_raw() != before)
    })
    .await;
    assert!(!alive(before));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a writable cgroup v2, nginx and redis-server"]
async fn nginx_and_redis() {
    let dir = tempfile::tempdir().unwrap();
    let (web, db) = (free_address(), free_address());
    configure(dir.path(), web, "one");
    let tree = declared(dir.path(), web, db).start().await.unwrap();
    // Ready means that they answer.
    assert!(ask(db, "PING\r\n").contains("PONG"));
    assert!(page(web).ends_with("one"));
    let handle = tree.handle();
    for name in ["db", "web"] {
        let status = handle.child(name).unwrap().status();
        assert_eq!(status.scope, Some(KillScope::Cgroup));
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", pid_of(&handle, "web")));
    let cgroup = cgroup.unwrap();
    let base = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    let base = Path::new(base)
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_owned();

    // Killed, also with workers that outlive their master.
    is_restarted_when_killed(&tree, "web").await;
    assert!(page(web).ends_with("one"));
    is_restarted_when_killed(&tree, "db").await;
    assert!(ask(db, "PING\r\n").contains("PONG"));

    // Reloaded by its own signal: the same master.
    let master = pid_of(&handle, "web");
    configure(dir.path(), web, "two");
    handle
        .child("web")
        .unwrap()
        .signal(Signal::HUP)
        .await
        .unwrap();
    eventually(|| page(web).ends_with("two")).await;
    assert_eq!(pid_of(&handle, "web"), master);

    // Stopped in reverse order, with nothing left.
    let (_, mut events) = handle.subscribe();
    let report = tree.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let mut ended = Vec::new();
    while let Some(event) = events.recv().await {
        if matches!(event.kind, kmonitor_supervisor::EventKind::Exited { .. }) {
            ended.push(event.path.name().to_owned());
        }
    }
    assert_eq!(ended, ["web", "db"]);
    drop(tree);
    let configuration = dir.path().display().to_string();
    assert_eq!(living_with(&configuration), [0; 0]);
    assert_eq!(living_with(&format!("127.0.0.1:{}", db.port())), [0; 0]);
    assert!(TcpStream::connect(web).is_err() && TcpStream::connect(db).is_err());
    TcpListener::bind(db).unwrap();
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let path = Path::new(root).join(&base);
        eventually(|| !path.exists()).await;
    }
}

/// The second one finds its port taken, and the first is stopped again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a writable cgroup v2, nginx and redis-server"]
async fn a_site_whose_port_is_taken_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (web, db) = (taken.local_addr().unwrap(), free_address());
    configure(dir.path(), web, "one");
    let error = declared(dir.path(), web, db).start().await.unwrap_err();
    let text = format!("{error}: {error:?}");
    assert!(
        text.contains("site/web") && text.contains("in use"),
        "{text}"
    );
    assert!(TcpStream::connect(db).is_err());
}
