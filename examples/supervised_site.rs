//! A web server and its database, supervised: each is started when the one before it
//! answers, restarted when it dies, and stopped in reverse order at Ctrl-C.
//!
//! ```text
//! cargo run -p kmonitor-examples --bin supervised_site -- DIRECTORY WEB_PORT DB_PORT
//! ```
//!
//! Needs nginx and redis-server. As root each gets a cgroup, so that a stop reaches
//! whatever they start; else they are followed as process trees.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kmonitor_supervisor::spec::{Readiness, Restart, Stop, Strategy};
use kmonitor_supervisor::{Service, Signal, Supervisor, SupervisorBuilder};

/// What a start may take.
const READY_WITHIN: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(web), Some(db)) = (args.next(), args.next(), args.next()) else {
        return Err("give a directory, a port for the web server and one for the database".into());
    };
    let dir = PathBuf::from(dir).canonicalize()?;
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let (web, db) = (local(web.parse()?), local(db.parse()?));
    write_configuration(&dir, web)?;

    let tree = site(&dir, web, db).begin().await?;
    let (_, mut events) = tree.handle().subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            println!("{event}");
        }
    });
    let up = async {
        if tree.ready().await.is_err() {
            return; // The report says why.
        }
        for child in tree.handle().snapshot().children {
            println!(
                "{} is {:?}, scope {:?}",
                child.path, child.state, child.scope
            );
        }
        println!("http://{web} answers");
    };
    // In this order: signals are heard from the first moment.
    let (report, ()) = tokio::join!(biased; tree.run_until_signal(), up);
    let report = report?;
    report.result()?;
    println!("nothing is left");
    Ok(())
}

fn site(dir: &Path, web: SocketAddr, db: SocketAddr) -> SupervisorBuilder {
    Supervisor::builder("site")
        // The web server is restarted with the database, not the other way round.
        .strategy(Strategy::RestForOne)
        .child(
            Service::command("db", "redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--port"])
                .arg(db.port().to_string())
                .current_dir(dir)
                .restart(Restart::Always)
                .ready(Readiness::Tcp(db), READY_WITHIN),
        )
        .child(
            Service::command("web", "nginx")
                .arg("-c")
                .arg(dir.join("nginx.conf"))
                .restart(Restart::Always)
                .ready(Readiness::Tcp(web), READY_WITHIN)
                // Lets requests finish.
                .stop(Stop::signal(Signal::QUIT)),
        )
}

fn write_configuration(dir: &Path, web: SocketAddr) -> std::io::Result<()> {
    let text = format!(
        "daemon off;\npid {}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\n  access_log off;\n  server {{ listen {web}; location / {{ return 200 \"up\"; }} }}\n}}\n",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), text)
}
