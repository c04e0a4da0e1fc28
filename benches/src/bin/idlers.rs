//! `idlers COUNT`: forks that many children that wait for ever, prints their
//! pids, and kills and reaps them all when its input ends.

use std::io::{self, Read as _, Write as _};

use kmonitor_benches::sys::{Forked, fork};
use rustix::process::{Pid, Signal, WaitOptions};

fn main() -> io::Result<()> {
    let count = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let Some(count) = count else {
        return Err(io::Error::other("usage: idlers COUNT"));
    };
    let mut children = Vec::new();
    let done = run(count, &mut children);
    // Also where not all could be made.
    for child in &children {
        let _ = rustix::process::kill_process(*child, Signal::KILL);
    }
    for child in children {
        rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    }
    done
}

fn run(count: usize, children: &mut Vec<Pid>) -> io::Result<()> {
    let parent = rustix::process::getpid();
    for _ in 0..count {
        match fork()? {
            Forked::Child => idle(parent),
            Forked::Parent(child) => children.push(child),
        }
    }
    let mut lines = String::new();
    for child in &*children {
        lines.push_str(&child.as_raw_nonzero().to_string());
        lines.push('\n');
    }
    io::stdout().write_all(lines.as_bytes())?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Waits for ever, but not beyond the parent's death.
fn idle(parent: Pid) -> ! {
    let with_parent = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before that was set.
    while with_parent.is_ok() && rustix::process::getppid() == Some(parent) {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
    std::process::exit(1)
}
