//! `keeper COUNT SCOPE OUTPUT PROGRAM`: keeps that many children of a program running
//! until SIGTERM, as a user of the library would. SCOPE is `cgroup`, `tree`,
//! `group` or `leader`, OUTPUT is `capture` or `inherit`.

use std::error::Error;
use std::time::Duration;

use kmonitor_supervisor::spec::{Backoff, KillScope, Output, Restart, Stop};
use kmonitor_supervisor::{Service, Supervisor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [count, scope, output, program] = args.as_slice() else {
        return Err("usage: keeper COUNT SCOPE OUTPUT PROGRAM".into());
    };
    let count: usize = count.parse()?;
    let scope = match scope.as_str() {
        "cgroup" => KillScope::Cgroup,
        "tree" => KillScope::Tree,
        "group" => KillScope::Group,
        "leader" => KillScope::Leader,
        other => return Err(format!("no such scope: {other}").into()),
    };
    let output = match output.as_str() {
        "capture" => Output::default(),
        "inherit" => Output::Inherit,
        other => return Err(format!("no such output: {other}").into()),
    };
    let mut all = Supervisor::builder("keeper")
        // Killing is what they are here for.
        .intensity(u32::MAX, Duration::from_secs(1));
    for number in 0..count {
        all = all.child(
            Service::command(format!("child-{number}"), program)
                .restart(Restart::Always)
                .backoff(Backoff::constant(Duration::ZERO))
                .stop(Stop::default().scope(scope))
                .output(output.clone()),
        );
    }
    let tree = all.begin().await?;
    Ok(tree.run_until_signal().await?.result()?)
}
