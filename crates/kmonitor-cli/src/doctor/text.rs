//! The findings for people.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::report::{Namespace, Report, State};

pub(crate) fn of(report: &Report, colours: bool) -> String {
    // Writing to a string cannot fail.
    let mut text = String::new();
    let style = |colour: AnsiColor| {
        if colours {
            colour.on_default()
        } else {
            Style::new()
        }
    };
    let bold = if colours {
        Style::new().bold()
    } else {
        Style::new()
    };
    let _ = writeln!(
        text,
        "kmonitor {} on Linux {}",
        report.version, report.kernel.release
    );
    let _ = writeln!(text);
    for check in &report.checks {
        let (word, colour) = match check.state {
            State::Works => ("works", AnsiColor::Green),
            State::Degraded => ("degraded", AnsiColor::Yellow),
            State::Fails => ("fails", AnsiColor::Red),
            State::Unknown => ("unknown", AnsiColor::Yellow),
        };
        let style = style(colour);
        let padding = "degraded".len() - word.len();
        let _ = writeln!(
            text,
            "{style}{word}{style:#}{:padding$}  {:<15} {}",
            "", check.name, check.detail
        );
    }
    let _ = writeln!(text);
    let namespaces = &report.namespaces;
    let _ = writeln!(
        text,
        "namespaces  pid {}, user {}, net {}",
        namespace(namespaces.pid),
        namespace(namespaces.user),
        namespace(namespaces.net)
    );
    let privileges = &report.privileges;
    let _ = writeln!(
        text,
        "privileges  uid {}, CAP_NET_ADMIN {}, CAP_SYS_PTRACE {}{}",
        privileges.uid.map_or("?".to_owned(), |uid| uid.to_string()),
        yes_no(privileges.cap_net_admin),
        yes_no(privileges.cap_sys_ptrace),
        if namespaces.user.initial == Some(false) {
            " (within this user namespace)"
        } else {
            ""
        }
    );
    let limits = &report.limits;
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let _ = writeln!(
        text,
        "limits      descriptors {} (hard {}), pid_max {}, net.core.rmem_max {}, hidepid {}",
        number(limits.nofile_soft),
        number(limits.nofile_hard),
        number(limits.pid_max),
        number(limits.rmem_max),
        limits.hidepid.as_deref().unwrap_or("off")
    );
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "{bold}{}{bold:#}: {}",
        report.tier.name(),
        report.summary
    );
    for (heading, lines) in [
        ("what is worse here", &report.degraded),
        ("what would help", &report.would_help),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(text, "{heading}:");
        }
        for line in lines {
            let _ = writeln!(text, "  - {line}");
        }
    }
    text
}

fn namespace(namespace: Namespace) -> &'static str {
    match namespace.initial {
        Some(true) => "initial",
        Some(false) => "not initial",
        None => "unknown",
    }
}

fn yes_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}
