//! Following the stream until there is nothing more to follow.

use std::io;
use std::time::Duration;

use futures::StreamExt as _;
use kmonitor::{Event, EventKind, Hub, ProcessKey, Subscription};
use rustc_hash::FxHashSet;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::time::Instant;

use super::batch::{self, Batch};
use super::enrich::{self, Program};
use super::live::Live;
use super::spawn::Traced;
use super::summary::Summary;
use super::table::Table;
use super::view::View;
use crate::complain::complain;

/// How often, after a loss, the processes that should still live are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Why following ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// All that was to be traced has ended.
    Ended,
    /// The command itself has ended, and that was all that was asked for.
    CommandEnded,
    /// A signal asked for the end.
    Interrupted(i32),
    /// Nobody reads the output any more.
    Closed,
    /// The hub failed.
    Broken(String),
}

/// One trace.
pub(crate) struct Session {
    hub: Hub,
    events: Subscription,
    signals: Signals,
    pub(crate) table: Table,
    view: View,
    live: Live,
    pub(crate) summary: Summary,
    pub(crate) traced: Option<Traced>,
    pub(crate) until_exit: bool,
    interrupted: bool,
}

/// SIGINT and SIGTERM as a stream.
pub(crate) fn signals() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM])
}

impl Session {
    pub(crate) fn new(
        hub: Hub,
        events: Subscription,
        signals: Signals,
        table: Table,
        view: View,
        live: Live,
    ) -> Self {
        Self {
            hub,
            events,
            signals,
            table,
            view,
            live,
            summary: Summary::default(),
            traced: None,
            until_exit: false,
            interrupted: false,
        }
    }

    /// Prints events until there is a reason to stop.
    pub(crate) async fn follow(&mut self) -> io::Result<Ending> {
        let ending = self.follow_events().await;
        self.live.clear();
        let flushed = self.view.flush();
        let ending = ending?;
        flushed?;
        Ok(ending)
    }

    async fn follow_events(&mut self) -> io::Result<Ending> {
        let mut taken = Vec::new();
        let mut look_at = Instant::now();
        loop {
            if let Some(ending) = self.ending() {
                return Ok(ending);
            }
            let reap_by = self.traced.as_ref().and_then(Traced::reap_by);
            let give_up_by = match &self.traced {
                Some(traced) if !self.table.root_ended() => traced.give_up_by(),
                _ => None,
            };
            let look = self.table.is_doubtful() && self.is_command_over();
            tokio::select! {
                biased;
                Some(signal) = self.signals.next() => {
                    if let Some(ending) = self.interrupt(signal) {
                        return Ok(ending);
                    }
                }
                batch = batch::next(&mut self.events, &mut taken) => match batch {
                    Batch::Ended => return Ok(self.why_ended().await),
                    Batch::More => self.take(&mut taken)?,
                    Batch::Drained => {
                        self.take(&mut taken)?;
                        // Nothing waits: now is the time for the system call.
                        self.view.flush()?;
                    }
                },
                () = death(&mut self.traced) => {}
                () = sleep_until(reap_by) => self.reap()?,
                () = sleep_until(give_up_by) => self.table.give_up_root(),
                () = tokio::time::sleep_until(look_at), if look => {
                    self.table.look();
                    look_at = Instant::now() + LOOK_PERIOD;
                }
                () = self.live.due() => {
                    let line = self.summary.live(&self.table);
                    self.live.show(&line);
                }
            }
        }
    }

    /// Whether there is nothing more to wait for.
    fn ending(&mut self) -> Option<Ending> {
        if self.view.is_closed() {
            return Some(Ending::Closed);
        }
        if !self.is_command_over() {
            return None;
        }
        if self.table.alive() == Some(0) {
            return Some(Ending::Ended);
        }
        self.until_exit.then_some(Ending::CommandEnded)
    }

    /// Whether the command has ended, and its exit was told or will not be.
    fn is_command_over(&self) -> bool {
        let Some(traced) = &self.traced else {
            return false;
        };
        self.table.root_ended() || (traced.is_reaped() && self.table.is_doubtful())
    }

    fn take(&mut self, taken: &mut Vec<Event>) -> io::Result<()> {
        if self.view.is_terminal() {
            self.live.clear();
        }
        let programs = last_execs(taken);
        for (at, event) in taken.drain(..).enumerate() {
            if !self.table.enter(&event) {
                continue;
            }
            let program = if programs.contains(&at) {
                self.program(&event)
            } else {
                None
            };
            self.summary.count(&event);
            if self.view.wants(&event) {
                let name = event.process.and_then(|key| self.table.name(key));
                self.view.print(&event, program.as_ref(), name)?;
            }
            self.table.leave(&event);
            if self.table.root_ended()
                && let Some(traced) = &mut self.traced
                && !traced.is_reaped()
            {
                // The hub knows how it ended, and needs the zombie no more.
                traced.reap()?;
            }
        }
        Ok(())
    }

    fn program(&mut self, event: &Event) -> Option<Program> {
        let process = event.process?;
        let program = enrich::program(process.pid(), event.time)?;
        self.table.set_name(process, &program.comm);
        Some(program)
    }

    /// The command has been dead for long enough, and its exit was not told.
    fn reap(&mut self) -> io::Result<()> {
        if let Some(traced) = &mut self.traced {
            traced.reap()?;
        }
        Ok(())
    }

    fn interrupt(&mut self, signal: i32) -> Option<Ending> {
        let patient = self.traced.is_some() && signal == SIGINT && !self.interrupted;
        self.interrupted = true;
        if !patient {
            return Some(Ending::Interrupted(signal));
        }
        // The terminal sent it to the command as well, which may clean up now.
        None
    }

    async fn why_ended(&self) -> Ending {
        match self.hub.stats().await {
            Err(closed) => Ending::Broken(closed.reason),
            Ok(_) if self.traced.is_some() => {
                Ending::Broken("the stream ended before the command".to_owned())
            }
            Ok(_) => Ending::Ended,
        }
    }

    /// Waits for the command only; gives the signal that put an end to that.
    pub(crate) async fn wait_for_command(&mut self) -> Option<i32> {
        if self.traced.as_ref().is_none_or(Traced::is_dead) {
            return None;
        }
        loop {
            tokio::select! {
                Some(signal) = self.signals.next() => {
                    if let Some(Ending::Interrupted(signal)) = self.interrupt(signal) {
                        return Some(signal);
                    }
                }
                () = death(&mut self.traced) => return None,
            }
        }
    }

    /// Says how many processes of the command run on.
    pub(crate) fn tell_survivors(&self) {
        let (Some(_), Some(alive)) = (&self.traced, self.table.alive()) else {
            return;
        };
        match alive {
            0 => {}
            1 => complain("1 process of the command still runs"),
            _ => complain(format_args!("{alive} processes of the command still run")),
        }
    }
}

async fn death(traced: &mut Option<Traced>) {
    match traced {
        Some(traced) => traced.death().await,
        None => std::future::pending().await,
    }
}

/// Never, without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The execs of a batch that no later exec or exit of the same process follows:
/// what `/proc` says now is about these, if about any.
fn last_execs(events: &[Event]) -> FxHashSet<usize> {
    let mut later: FxHashSet<ProcessKey> = FxHashSet::default();
    let mut last = FxHashSet::default();
    for (at, event) in events.iter().enumerate().rev() {
        let is_exec = matches!(event.kind, EventKind::Exec);
        if !is_exec && !matches!(event.kind, EventKind::Exit(_)) {
            continue;
        }
        if let Some(process) = event.process
            && later.insert(process)
            && is_exec
        {
            last.insert(at);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor::{Pid, Status, StatusSource, Timestamp};

    #[test]
    fn only_the_last_exec_of_a_living_process_is_looked_at() {
        let event = |pid, kind| {
            let key = ProcessKey::new(Pid::new(pid).unwrap(), 1);
            Event::new(Timestamp::default(), Some(key), kind)
        };
        let exit = EventKind::Exit(Status::from_raw(0, StatusSource::Event));
        let events = [
            event(1, EventKind::Exec),
            event(2, EventKind::Exec),
            event(1, EventKind::Exec),
            event(2, exit),
            event(3, EventKind::Exec),
        ];
        let mut last: Vec<_> = last_execs(&events).into_iter().collect();
        last.sort_unstable();
        assert_eq!(last, [2, 4]);
    }
}
