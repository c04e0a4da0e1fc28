//! Manual pages and shell completions, generated from the command line itself.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::pages::{self, Page};
use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::complain::{chain, complain};
use crate::exit::Code;
use crate::output::Output;

/// `kmonitor completions SHELL`.
pub(crate) fn completions(args: &CompletionsArgs) -> Code {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kmonitor", &mut script);
    print(&script)
}

/// `kmonitor man`.
pub(crate) fn man(args: &ManArgs) -> Code {
    if let Some(directory) = &args.dir {
        return match write_all(directory) {
            Ok(()) => Code::Success,
            Err(error) => {
                let directory = directory.display();
                complain(format_args!(
                    "cannot write to {directory}: {}",
                    chain(&error)
                ));
                Code::Failure
            }
        };
    }
    let name = args.command.as_deref().unwrap_or("kmonitor");
    let Some(command) = find(name) else {
        complain(format_args!("{name}: no such command"));
        return Code::Usage;
    };
    let mut page = Vec::new();
    match render(&command, name, &mut page) {
        Ok(()) => print(&page),
        Err(error) => {
            complain(format_args!("cannot make the page: {}", chain(&error)));
            Code::Failure
        }
    }
}

fn print(bytes: &[u8]) -> Code {
    let mut output = Output::stdout();
    match output.write(bytes).and_then(|()| output.flush()) {
        Ok(()) => Code::Success,
        Err(error) => {
            complain(format_args!("cannot write: {}", chain(&error)));
            Code::Failure
        }
    }
}

/// The command as it was built, so that its page knows the whole command line.
fn built() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

fn find(name: &str) -> Option<clap::Command> {
    let main = built();
    if name == "kmonitor" {
        return Some(main);
    }
    pages::of(name)?;
    main.find_subcommand(name).cloned()
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let main = built();
    for command in main.get_subcommands().chain([&main]) {
        let name = command.get_name();
        if pages::of(name).is_none() {
            continue;
        }
        let file_name = match name {
            "kmonitor" => "kmonitor.1".to_owned(),
            name => format!("kmonitor-{name}.1"),
        };
        let mut file = File::create(directory.join(file_name))?;
        render(command, name, &mut file)?;
        file.flush()?;
    }
    Ok(())
}

/// One page: what is generated, and then our own sections, because a page of
/// generated ones alone has no EXIT STATUS and no EXAMPLES.
fn render(command: &clap::Command, name: &str, to: &mut dyn Write) -> io::Result<()> {
    let title = match name {
        "kmonitor" => "kmonitor".to_owned(),
        name => format!("kmonitor-{name}"),
    };
    let man = Man::new(command.clone())
        .title(title.to_uppercase())
        .source(concat!("kmonitor ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    if name == "kmonitor" {
        man.render_subcommands_section(to)?;
    }
    if let Some(page) = pages::of(name) {
        sections(page).to_writer(to)?;
    }
    let mut see_also = Roff::new();
    let others = [
        "kmonitor",
        "kmonitor-wait",
        "kmonitor-trace",
        "kmonitor-notify",
        "kmonitor-doctor",
        "kmonitor-serve",
    ];
    let others: Vec<_> = others.into_iter().filter(|other| *other != title).collect();
    see_also.control("SH", ["SEE ALSO"]);
    for (at, other) in others.iter().enumerate() {
        let end = if at + 1 < others.len() {
            "(1), "
        } else {
            "(1)"
        };
        see_also.text([bold(*other), roman(end)]);
    }
    see_also.to_writer(to)
}

fn sections(page: &Page) -> Roff {
    let mut roff = Roff::new();
    for (heading, text) in page.sections {
        roff.control("SH", [heading.to_uppercase().as_str()]);
        verbatim(&mut roff, text);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in page.exit_status {
        roff.control("TP", []);
        roff.text([bold(*code)]);
        roff.text([roman(meaning.replace('\n', " "))]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (what, example) in page.examples {
        roff.control("TP", []);
        roff.text([roman(format!("{what}:"))]);
        roff.control("nf", []);
        roff.text([bold(*example)]);
        roff.control("fi", []);
    }
    roff
}

/// Lines as they are: the texts hold small tables.
fn verbatim(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_sections() {
        for name in [
            "kmonitor",
            "wait",
            "trace",
            "notify",
            "notify",
            "doctor",
            "serve",
            "completions",
            "man",
        ] {
            let mut page = Vec::new();
            render(&find(name).unwrap(), name, &mut page).unwrap();
            let page = String::from_utf8(page).unwrap();
            for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "EXAMPLES"] {
                let plain = format!(".SH {section}\n");
                let quoted = format!(".SH \"{section}\"\n");
                assert!(
                    page.contains(&plain) || page.contains(&quoted),
                    "{name}: {section}:\n{page}"
                );
            }
        }
    }
}
