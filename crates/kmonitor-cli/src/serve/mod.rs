//! `kmonitor serve`: the device of 2004.

mod group;
mod losses;
mod manager;

use std::time::Duration;

use futures::StreamExt as _;
use kmonitor::Hub;
use kmonitor::signal::SignalAdapter;
use kmonitor::signal::device::{Device, DeviceOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::time::MissedTickBehavior;

use self::group::GroupError;
use self::losses::Losses;
use self::manager::Manager;
use crate::args::ServeArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;

/// What is logged where nothing else is asked for: a server's log is expected to
/// say something.
pub(crate) const LOGGED: &str = "warn,kmonitor=info,kmonitor_signal=info";

/// How often the log is told of losses, if there are any.
const TELL_LOSSES_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &ServeArgs) -> Code {
    let done = crate::runtime::start().and_then(|runtime| runtime.block_on(serve(args)));
    done.unwrap_or_else(|code| code)
}

async fn serve(args: &ServeArgs) -> Result<Code, Code> {
    let options = options(args)?;
    raise_limit();
    // A terminal that goes away must not leave a dead device behind.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| {
        complain(format_args!("cannot handle signals: {}", chain(&error)));
        Code::Failure
    })?;
    let hub = Hub::open().await.map_err(|error| {
        complain(chain(&error));
        Code::Failure
    })?;
    for reason in &hub.capabilities().passed_over {
        tracing::warn!(%reason, "only ends of processes can be told: a better source does not work");
    }
    let adapter = SignalAdapter::new(&hub);
    let mut device = options.mount(&adapter).map_err(|error| {
        complain(chain(&error));
        Code::Failure
    })?;

    let manager = Manager::from_environment();
    let serving = format!("serving {}", device.path().display());
    tracing::info!("{serving}");
    manager.ready(&serving);
    let mut losses = Losses::default();
    let mut tick = tokio::time::interval(TELL_LOSSES_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ending = loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::info!(signal, "told to end");
                break Ok(Code::Success);
            }
            ended = device.ended() => {
                if let Err(error) = ended {
                    complain(chain(&error));
                }
                break Err(Code::Failure);
            }
            () = adapter.closed() => {
                complain("the event source failed, and no signal can be sent any more");
                break Err(Code::Failure);
            }
            _ = tick.tick() => losses.tell(adapter.stats()),
        }
    };
    manager.stopping();
    losses.tell(adapter.stats());
    summarize(&device, &adapter);
    ending
}

fn options(args: &ServeArgs) -> Result<DeviceOptions, Code> {
    let options = DeviceOptions::new().path(&args.device).mode(args.mode);
    let Some(name) = &args.group else {
        return Ok(options);
    };
    match group::find(name) {
        Ok(group) => Ok(options.group(group)),
        Err(GroupError::Unknown) => {
            complain(format_args!("--group: there is no group {name:?}"));
            Err(Code::Usage)
        }
        Err(GroupError::Io(error)) => {
            complain(format_args!("cannot read /etc/group: {}", chain(&error)));
            Err(Code::Failure)
        }
    }
}

/// One descriptor for each monitor, and the hub's. Where it is not enough, the
/// caller of `REGISTER` is told.
fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

fn summarize(device: &Device, adapter: &SignalAdapter) {
    let (calls, signals) = (device.stats(), adapter.stats());
    tracing::info!(
        opened = calls.opened,
        open_refused = calls.open_refused,
        done = calls.done,
        refused = calls.refused,
        timed_out = calls.timed_out,
        sent = signals.sent,
        dropped = signals.dropped,
        "served"
    );
}
