//! Opening the hub, and subscribing to what the command line asks for.

use std::num::NonZeroUsize;

use kmonitor::{
    EventMask, Filter, Hub, OpenError, Pid, ProcessRef, SourceKind, SubscribeError, Subscription,
};

use crate::args::TraceArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;

/// How many events may wait while a slow terminal or pipe is written to: some
/// 25 MiB if ever full. More than one build's worth, so that `| less` loses
/// nothing of it.
const QUEUE_EVENTS: NonZeroUsize = NonZeroUsize::new(1 << 18).unwrap();

/// A hub and a subscription that is live, or what to say instead.
pub(crate) async fn subscribe(args: &TraceArgs) -> Result<(Hub, Subscription), Code> {
    let mut builder = Hub::builder();
    if let Some(source) = args.source {
        builder = builder.only(source.into());
    }
    let hub = builder.open().await.map_err(|error| {
        match &error {
            OpenError::Source(start) if start.source_kind() == SourceKind::Connector => {
                no_connector(start.message());
            }
            error => complain(chain(error)),
        }
        Code::Failure
    })?;
    match subscribe_on(&hub, args).await {
        Ok(events) => Ok((hub, events)),
        Err(error) => {
            explain(&hub, args, &error);
            Err(Code::Failure)
        }
    }
}

async fn subscribe_on(hub: &Hub, args: &TraceArgs) -> Result<Subscription, SubscribeError> {
    let mask = args.mask();
    if !args.command.is_empty() {
        // Whatever is printed: forks and exits tell when the tree has ended, and
        // execs are counted.
        let filter = Filter::descendants(Pid::current());
        return hub
            .subscribe(tuned(filter, mask | EventMask::LIFECYCLE))
            .await;
    }
    let pids = &args.pids;
    match (pids.split_first(), args.tree) {
        (None, _) => hub.subscribe(tuned(Filter::host(), mask)).await,
        (Some(_), false) => {
            let filter = Filter::pids(pids.iter().copied());
            hub.subscribe(tuned(filter, mask)).await
        }
        (Some((first, others)), true) => {
            let events = hub.subscribe(tuned(Filter::tree(*first), mask)).await?;
            for process in others {
                events.add_tree(*process).await?;
            }
            Ok(events)
        }
    }
}

fn tuned(filter: Filter, mask: EventMask) -> Filter {
    filter.events(mask).queue_events(QUEUE_EVENTS)
}

/// Says why a subscription was refused, and what would work.
fn explain(hub: &Hub, args: &TraceArgs, error: &SubscribeError) {
    let SubscribeError::Refused(refusal) = error else {
        complain(chain(error));
        return;
    };
    let capabilities = hub.capabilities();
    let connector = capabilities
        .passed_over
        .iter()
        .find(|start| start.source_kind() == SourceKind::Connector);
    match connector {
        Some(start) => no_connector(start.message()),
        None if args.pids.is_empty() => {
            complain(format_args!("{refusal}; the connector source can"));
        }
        None => complain(refusal),
    }
    let served = capabilities.source.events & args.mask();
    if !args.pids.is_empty() && !served.is_empty() {
        let pids: Vec<_> = args.pids.iter().map(ProcessRef::to_string).collect();
        complain(format_args!(
            "what the {} source can see: kmonitor trace --pid {} --events {served}",
            capabilities.source.kind,
            pids.join(","),
        ));
    }
}

fn no_connector(reason: &str) {
    complain(format_args!(
        "trace needs the proc connector, which does not work here: {reason}"
    ));
    complain("`kmonitor doctor` says what works here");
}
