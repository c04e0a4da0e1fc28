//! What the environment of a process says, as `/proc` shows it.
//!
//! Rules: `proc_pid_environ(5)`, `fs/proc/base.c`, `fs/binfmt_elf.c`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::MARK;
use super::procfs::{self, Stat, fields, is_gone, is_hidden, number, parse_stat};

/// Why there are no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWords {
    /// There is no environment, or it may not be read.
    None,
    /// The process is dead, or there is none.
    Gone,
    /// A program is being executed just now. That takes the kernel some microseconds,
    /// unless it is kept from the processor, or the program from its file.
    NotYet,
    /// It is not dead and has no memory any more. To free gigabytes takes the kernel a
    /// while, and only after it does it close files (`do_exit()`), which can take long too.
    Dying,
    /// It could not be looked at.
    Unknown(Errno),
}

/// How often it is looked at a process that got its environment while it was read.
const READINGS: usize = 3;

/// The words of [`MARK`] in the environment that a process was given.
pub(super) fn marks(pid: i32) -> Result<Vec<String>, NoWords> {
    words(pid, MARK)
}

/// The words, separated by `:`, of a variable; none where it has no such variable.
fn words(pid: i32, variable: &str) -> Result<Vec<String>, NoWords> {
    let environment = match of_task(&format!("/proc/{pid}")) {
        // A leader that has exited has no memory any more, but its threads have.
        Err(NoWords::Dying) => of_threads(pid),
        environment => environment,
    };
    environment.map(|bytes| words_in(&bytes, variable))
}

fn of_threads(pid: i32) -> Result<Vec<u8>, NoWords> {
    let tasks = procfs::tasks(pid).map_err(|error| NoWords::unknown(&error))?;
    for task in tasks.unwrap_or_default() {
        match of_task(&task) {
            Err(NoWords::Gone | NoWords::Dying) => {}
            told => return told,
        }
    }
    Err(NoWords::Dying)
}

/// Of a process by its leader, or of one of its threads.
fn of_task(dir: &str) -> Result<Vec<u8>, NoWords> {
    for _ in 0..READINGS {
        if let Some(environment) = environment_at(&format!("{dir}/environ"))? {
            return Ok(environment);
        }
        let (stat, memory) = procfs::record(dir, stat_and_memory).map_err(|error| {
            match (is_gone(&error), is_hidden(&error)) {
                (true, _) => NoWords::Gone,
                (_, true) => NoWords::None,
                _ => NoWords::unknown(&error),
            }
        })?;
        let [begin, end] = memory.environment;
        match memory {
            _ if stat.is_dead() => return Err(NoWords::Gone),
            Memory {
                bytes: 0,
                of_kernel: true,
                ..
            } => return Err(NoWords::None),
            Memory { bytes: 0, .. } => return Err(NoWords::Dying),
            // `execve` changes the memory first, says where the environment is later, and
            // last where the code is (`load_elf_binary()`). `posix_spawn` has returned by
            // then.
            Memory { code: 0, .. } => return Err(NoWords::NotYet),
            _ if begin == end => return Err(NoWords::None),
            // It got another memory while it was read.
            _ => {}
        }
    }
    Err(NoWords::NotYet)
}

impl NoWords {
    pub(super) fn unknown(error: &io::Error) -> Self {
        Self::Unknown(Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

fn words_in(environment: &[u8], variable: &str) -> Vec<String> {
    let mut entries = environment.split(|byte| *byte == 0);
    let value =
        entries.find_map(|entry| entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"="));
    let text = String::from_utf8_lossy(value.unwrap_or_default());
    text.split(':').map(str::to_owned).collect()
}

/// All of it, or nothing.
fn environment_at(path: &str) -> Result<Option<Vec<u8>>, NoWords> {
    match read_whole(path) {
        // Gone, hidden, or (`EIO`) nothing where it should be: the stat says more.
        Err(error)
            if is_gone(&error)
                || is_hidden(&error)
                || Errno::from_io_error(&error) == Some(Errno::IO) =>
        {
            Ok(None)
        }
        Err(error) => Err(NoWords::unknown(&error)),
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
    }
}

fn read_whole(path: &str) -> io::Result<Vec<u8>> {
    // Bounded: an environment can be megabytes.
    const BYTES_MAX: u64 = 4 << 20;
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    (&file).take(BYTES_MAX).read_to_end(&mut bytes)?;
    // What is open is the memory of the program that was executed then. If that has
    // gone meanwhile, the reading has ended early.
    let is_whole = file.read_at(&mut [0], 0)? > 0;
    Ok(if is_whole { bytes } else { Vec::new() })
}

/// Where things are in the memory of a process.
struct Memory {
    of_kernel: bool,
    /// None of a kernel thread, of the dying and of the dead.
    bytes: u64,
    code: u64,
    environment: [u64; 2],
}

fn stat_and_memory(line: &[u8]) -> Option<(Stat, Memory)> {
    /// `PF_KTHREAD`.
    const OF_KERNEL: u32 = 0x0020_0000;
    let stat = parse_stat(line)?;
    let mut fields = fields(line)?;
    // Fields 9, 23, 26, 50 and 51, counted from field 3.
    let flags: u32 = number(fields.nth(6)?)?;
    let memory = Memory {
        of_kernel: flags & OF_KERNEL != 0,
        bytes: number(fields.nth(13)?)?,
        code: number(fields.nth(2)?)?,
        environment: [number(fields.nth(23)?)?, number(fields.next()?)?],
    };
    Some((stat, memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(child: &std::process::Child) -> Result<Vec<String>, NoWords> {
        words(i32::try_from(child.id()).unwrap(), "KMONITOR_TEST")
    }

    /// A program that executes itself again and again has its environment all the time,
    /// or will have it.
    #[test]
    fn who_is_executing_a_program_has_an_environment() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", r#"exec /bin/sh -c "$0" "$0""#])
            .arg(r#"exec /bin/sh -c "$0" "$0""#)
            .env("KMONITOR_TEST", "a:b")
            .spawn()
            .unwrap();
        let readings: Vec<_> = (0..20_000).map(|_| words_of(&child)).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let all = Ok(vec!["a".to_owned(), "b".to_owned()]);
        let wrong = |it: &&Result<_, _>| **it != all && **it != Err(NoWords::NotYet);
        assert_eq!(readings.iter().find(wrong), None);
        assert!(readings.contains(&all) && readings.contains(&Err(NoWords::NotYet)));
    }

    #[test]
    fn who_has_no_environment_will_have_none() {
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").env_clear().spawn().unwrap();
        while words_of(&child) == Err(NoWords::NotYet) {
            std::thread::yield_now();
        }
        assert_eq!(words_of(&child), Err(NoWords::None));
        child.kill().unwrap();
        child.wait().unwrap();
        // Nor has a thread of the kernel's.
        assert_eq!(words(2, "KMONITOR_TEST"), Err(NoWords::None));
    }

    /// A process whose first thread has exited is marked as before.
    #[test]
    fn who_has_lost_its_leader_has_its_environment() {
        let program = "import ctypes, threading, time, os
threading.Thread(target=lambda: time.sleep(60)).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", program])
            .env("KMONITOR_TEST", "a")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while procfs::stat(pid).unwrap().state != b'Z' {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(words_of(&child), Ok(vec!["a".to_owned()]));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Its memory goes first, and takes its time; what it has open goes last.
    #[test]
    fn who_is_dying_is_no_stranger() {
        // On a busy machine it may be dead before it is looked at.
        let seen = (0..20).any(|_| times_seen_dying() > 0);
        assert!(seen, "they died at once: this tested nothing");
    }

    fn times_seen_dying() -> usize {
        use std::io::BufRead as _;
        // In pages of the usual size: huge ones are freed at once.
        let program = "import mmap
memory = mmap.mmap(-1, 1 << 29, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(15)
for at in range(0, 1 << 29, 4096): memory[at] = 1
print('up', flush=True)
input()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", program])
            .env("KMONITOR_TEST", "a")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        child.kill().unwrap();
        let mut dying = 0;
        loop {
            match words_of(&child) {
                Ok(words) => assert_eq!(words, ["a"]),
                Err(NoWords::Dying) => dying += 1,
                Err(NoWords::Gone) => break,
                other => panic!("{other:?}, after it was dying {dying} times"),
            }
        }
        child.wait().unwrap();
        dying
    }
}
