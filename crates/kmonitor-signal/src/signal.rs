//! Which signal a monitor is told by.

use std::fmt;
use std::str::FromStr;

/// The lowest number that any C library gives to programs as `SIGRTMIN` is 34:
/// the kernel's real-time signals begin at 32, and libc keeps the first ones.
const REALTIME_MIN: i32 = 34;
/// The last signal of Linux, but for MIPS, which has 128.
const REALTIME_MAX: i32 = 64;

/// A signal that a monitor may be told by: any that a process can catch.
///
/// Real-time signals queue: each event arrives, in order. Of every other signal
/// the kernel keeps one at a time, so that events *coalesce*: those that come
/// while one is pending are not told, and where the receiver's queue is full one
/// arrives without pid, uid and event.
///
/// ```
/// use kmonitor_signal::Signal;
///
/// let signal: Signal = "RTMIN+1".parse()?;
/// assert_eq!(signal, Signal::realtime(1)?);
/// assert!(signal.is_realtime() && !Signal::new(10)?.is_realtime());
/// assert!(Signal::new(9).is_err());
/// # Ok::<(), kmonitor_signal::SignalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// Why a number or a word is no signal to tell a monitor by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// No signal has this number.
    #[error(
        "{0} is no signal; use one of 34 to {REALTIME_MAX} (real-time), or one of 1 to 31 \
         and lose what comes while one is pending"
    )]
    OutOfRange(i32),
    /// 32 and 33 belong to the C library's threads.
    #[error("signal {0} is kept by the C library for itself; use one of 34 to {REALTIME_MAX}")]
    Reserved(i32),
    /// SIGKILL and SIGSTOP would end or stop the monitor, and tell it nothing.
    #[error("signal {0} cannot be caught, so it would tell nothing; use a real-time signal")]
    Uncatchable(i32),
    /// A word that names no signal.
    #[error("{0:?} names no signal; use a number, RTMIN+N, RTMAX-N, or a name such as USR1")]
    Unknown(String),
}

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

impl Signal {
    /// The signal with this number.
    ///
    /// # Errors
    /// There is none, it cannot be caught (SIGKILL, SIGSTOP), or it belongs to
    /// the C library (32 and 33, `nptl(7)`).
    pub const fn new(number: i32) -> Result<Self, SignalError> {
        match number {
            libc::SIGKILL | libc::SIGSTOP => Err(SignalError::Uncatchable(number)),
            32..REALTIME_MIN => Err(SignalError::Reserved(number)),
            1..=REALTIME_MAX => Ok(Self(number)),
            _ => Err(SignalError::OutOfRange(number)),
        }
    }

    /// `SIGRTMIN + offset`, with the `SIGRTMIN` of this program's C library. That
    /// is 34 with glibc and 35 with musl: where the monitor is another program
    /// that may be built with the other one, use the number.
    ///
    /// # Errors
    /// It is beyond the last signal.
    pub fn realtime(offset: u8) -> Result<Self, SignalError> {
        Self::new(libc::SIGRTMIN() + i32::from(offset))
    }

    /// The number.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether it queues.
    #[must_use]
    pub const fn is_realtime(self) -> bool {
        self.0 >= REALTIME_MIN
    }
}

impl TryFrom<i32> for Signal {
    type Error = SignalError;
    fn try_from(number: i32) -> Result<Self, SignalError> {
        Self::new(number)
    }
}

/// `SIGRTMIN+1`, `SIGUSR1`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 - libc::SIGRTMIN() {
            0 => f.write_str("SIGRTMIN"),
            offset @ 1.. => write!(f, "SIGRTMIN+{offset}"),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// A number, `RTMIN`, `RTMIN+N`, `RTMAX`, `RTMAX-N`, or a name; with `SIG` in
/// front or without, in any case.
impl FromStr for Signal {
    type Err = SignalError;
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let unknown = || SignalError::Unknown(text.to_owned());
        if let Ok(number) = text.parse() {
            return Self::new(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |rest: &str, sign: char| -> Result<i32, SignalError> {
            if rest.is_empty() {
                return Ok(0);
            }
            let digits = rest.strip_prefix(sign).ok_or_else(unknown)?;
            digits.parse::<u8>().map(i32::from).map_err(|_| unknown())
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            libc::SIGRTMIN() + offset(rest, '+')?
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            libc::SIGRTMAX() - offset(rest, '-')?
        } else {
            let known = NAMES.iter().find(|(known, _)| *known == name);
            known.ok_or_else(unknown)?.1
        };
        Self::new(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_tell_a_monitor_is_refused() {
        for number in [0, -1, 65, i32::MAX, i32::MIN] {
            assert_eq!(Signal::new(number), Err(SignalError::OutOfRange(number)));
        }
        for number in [32, 33] {
            assert_eq!(Signal::new(number), Err(SignalError::Reserved(number)));
        }
        for number in [9, 19] {
            assert_eq!(Signal::new(number), Err(SignalError::Uncatchable(number)));
        }
        assert!(
            [1, 8, 10, 18, 20, 31, 34, 64]
                .iter()
                .all(|it| Signal::new(*it).is_ok())
        );
        assert!(Signal::realtime(30).is_ok() && Signal::realtime(40).is_err());
    }

    #[test]
    fn every_signal_is_read_back_from_its_name() {
        for number in 1..=64 {
            if let Ok(signal) = Signal::new(number) {
                assert_eq!(signal.to_string().parse(), Ok(signal));
                assert_eq!(number.to_string().parse(), Ok(signal));
            }
        }
        assert_eq!(
            "rtmax-1".parse::<Signal>().unwrap().as_raw(),
            libc::SIGRTMAX() - 1
        );
        assert_eq!("sigusr1".parse(), Ok(Signal(libc::SIGUSR1)));
        for word in [
            "", "RTMIN-1", "RTMIN+x", "RTMIN+", "SIG", "NOPE", "RTMAX+1", "1.5",
        ] {
            assert_eq!(
                word.parse::<Signal>(),
                Err(SignalError::Unknown(word.to_owned()))
            );
        }
        assert!("KILL".parse::<Signal>().is_err() && "RTMIN+200".parse::<Signal>().is_err());
    }
}
