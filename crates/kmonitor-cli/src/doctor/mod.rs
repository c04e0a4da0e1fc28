//! `kmonitor doctor`: tries what works on this host.

mod checks;
mod children;
mod report;
mod system;
mod text;
mod verdict;

use crate::args::DoctorArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;
use crate::output::Output;

pub(crate) use self::children::probe_child;

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> Code {
    let report = match crate::runtime::start() {
        Ok(runtime) => runtime.block_on(examine()),
        Err(code) => return code,
    };
    let mut output = Output::stdout();
    let text = if args.json {
        serde_json::to_string(&report)
            .map(|line| line + "\n")
            .map_err(Into::into)
    } else {
        Ok(text::of(&report, output.has_colours()))
    };
    let printed = text
        .and_then(|text| output.write(text.as_bytes()))
        .and_then(|()| output.flush());
    if let Err(error) = printed {
        complain(format_args!("cannot write: {}", chain(&error)));
        return Code::Failure;
    }
    if report.tier == report::Tier::None {
        Code::Failure
    } else {
        Code::Success
    }
}

async fn examine() -> report::Report {
    let connector = checks::connector().await;
    let pidfd = checks::pidfd();
    let children = children::examine().await;
    let mut checks = vec![connector];
    checks.extend(pidfd);
    checks.extend(children);
    let mut system = system::look();
    let connector_works = checks.first().is_some_and(report::Check::works);
    system
        .namespaces
        .conclude_net(connector_works, checks.first());
    verdict::of(checks, system)
}
