//! The `puppet` program: a process that does what it is told, and whose children
//! are puppets too.
//!
//! # Protocol
//! Descriptor 0 is a stream socket. One line is a request, one line answers it:
//! `PATH VERB [ARGUMENT]`, and `ok [NUMBER]` or `error TEXT`. `PATH` leads from
//! child to child, pids joined by `/`; `-` is the reader itself.
//!
//! | verb | who does it | answered when |
//! |---|---|---|
//! | `fork` | the puppet | it has another child: its pid |
//! | `exec` | the puppet | the new program (this one) runs |
//! | `thread` | the puppet | it has another thread: its tid |
//! | `end-thread TID` | the puppet | that thread is gone |
//! | `exit CODE` | its parent | it is a zombie |
//! | `kill SIGNAL` | its parent | it is a zombie |
//! | `reap` | its parent | it is gone: its raw wait status |
//!
//! At the end of its input a puppet exits, so none outlives its test.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};

use crate::sys::{self, Forked};

/// First argument of a puppet that was told to exec.
const EXECED: &str = "__execed";

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("puppet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    sys::default_action(Signal::CHILD);
    let mut puppet = Puppet::on_stdin()?;
    if std::env::args().nth(1).as_deref() == Some(EXECED) {
        puppet.strings.answer(Ok(None))?;
    }
    puppet.obey()
}

/// One end of a puppet's socket.
#[derive(Debug)]
pub(crate) struct Strings {
    reader: BufReader<UnixStream>,
}

impl Strings {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            reader: BufReader::new(socket),
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(line.as_bytes())
    }

    fn read(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line)?;
        Ok((length > 0).then(|| line.trim_end().to_owned()))
    }

    fn answer(&mut self, result: io::Result<Option<i32>>) -> io::Result<()> {
        self.write(&match result {
            Ok(None) => "ok\n".to_owned(),
            Ok(Some(number)) => format!("ok {number}\n"),
            Err(error) => format!("error {error}\n"),
        })
    }

    /// Passes on a request; the answer's number, if it has one.
    pub(crate) fn ask(&mut self, path: &str, request: &str) -> io::Result<Option<i32>> {
        self.write(&format!("{path} {request}\n"))?;
        let answer = self.read()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", "") => Ok(None),
            ("ok", number) => Ok(Some(parse(number)?)),
            (_, text) => Err(io::Error::other(text.to_owned())),
        }
    }
}

fn parse(text: &str) -> io::Result<i32> {
    text.parse()
        .map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

struct Thread {
    end: mpsc::Sender<()>,
    handle: JoinHandle<()>,
}

struct Puppet {
    strings: Strings,
    children: HashMap<i32, Strings>,
    threads: HashMap<i32, Thread>,
}

impl Puppet {
    fn on_stdin() -> io::Result<Self> {
        // A copy that an exec closes; descriptor 0 itself stays.
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self {
            strings: Strings::new(socket.into()),
            children: HashMap::new(),
            threads: HashMap::new(),
        })
    }

    fn obey(&mut self) -> io::Result<()> {
        while let Some(line) = self.strings.read()? {
            let result = self.one(&line);
            self.strings.answer(result)?;
        }
        Ok(())
    }

    fn one(&mut self, line: &str) -> io::Result<Option<i32>> {
        let (path, request) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let (verb, argument) = request.split_once(' ').unwrap_or((request, ""));
        if path == "-" {
            return self.perform(verb, argument);
        }
        let (child, rest) = path.split_once('/').unwrap_or((path, "-"));
        let child = parse(child)?;
        if rest == "-" && ["exit", "kill", "reap"].contains(&verb) {
            return self.end(child, verb, argument);
        }
        let strings = self.children.get_mut(&child);
        strings
            .ok_or_else(|| io::Error::other(format!("no child {child}")))?
            .ask(rest, request)
    }

    /// What a puppet does itself.
    fn perform(&mut self, verb: &str, argument: &str) -> io::Result<Option<i32>> {
        match verb {
            "fork" => self.fork().map(Some),
            "exec" => Err(Command::new(std::env::current_exe()?).arg(EXECED).exec()),
            "thread" => self.thread().map(Some),
            "end-thread" => {
                let thread = self.threads.remove(&parse(argument)?);
                let Thread { end, handle } = thread.ok_or(io::ErrorKind::NotFound)?;
                drop(end);
                // It returns nothing and cannot panic.
                let _ = handle.join();
                Ok(None)
            }
            "exit" => sys::exit_group(parse(argument)?),
            _ => Err(io::Error::other(format!("cannot {verb:?}"))),
        }
    }

    fn fork(&mut self) -> io::Result<i32> {
        if !self.threads.is_empty() {
            return Err(io::Error::other("forks only while it has one thread"));
        }
        let (own, theirs) = UnixStream::pair()?;
        match sys::fork()? {
            Forked::Parent(pid) => {
                let pid = pid.as_raw_pid();
                self.children.insert(pid, Strings::new(own));
                Ok(pid)
            }
            Forked::Child => {
                // Our brothers' strings are our parent's to hold.
                self.children.clear();
                drop(own);
                let obeyed = rustix::stdio::dup2_stdin(&theirs)
                    .map_err(io::Error::from)
                    .and_then(|()| {
                        drop(theirs);
                        Self::on_stdin()
                    })
                    .and_then(|mut child| child.obey());
                sys::exit_group(i32::from(obeyed.is_err()))
            }
        }
    }

    fn thread(&mut self) -> io::Result<i32> {
        let (end, ended) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let handle = std::thread::Builder::new().spawn(move || {
            let tid = rustix::thread::gettid().as_raw_pid();
            // Both fail only when the other end is gone, which ends us too.
            let _ = tell.send(tid);
            let _ = ended.recv();
        })?;
        let tid = told.recv().map_err(io::Error::other)?;
        self.threads.insert(tid, Thread { end, handle });
        Ok(tid)
    }

    /// What a parent does about its child's end.
    fn end(&mut self, child: i32, verb: &str, argument: &str) -> io::Result<Option<i32>> {
        let pid = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidInput)?;
        match verb {
            "exit" => {
                let strings = self.children.get_mut(&child);
                strings
                    .ok_or(io::ErrorKind::NotFound)?
                    .write(&format!("- exit {argument}\n"))?;
            }
            "kill" => {
                let signal = Signal::from_named_raw(parse(argument)?);
                kill_process(pid, signal.ok_or(io::ErrorKind::InvalidInput)?)?;
            }
            _ => {
                let waited = waitpid(Some(pid), WaitOptions::empty())?;
                self.children.remove(&child);
                return Ok(waited.map(|(_, status)| status.as_raw()));
            }
        }
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )?;
        Ok(None)
    }
}
