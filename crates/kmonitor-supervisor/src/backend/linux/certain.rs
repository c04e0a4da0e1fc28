//! When a look at all processes proves that nobody is there.
//!
//! **Claim**: members that fork and end faster than one can look are noticed. Pids are
//! given in ascending order and processes are listed so, hence a listing cannot pass a
//! living member without listing it, nor a line of members of which one begets the next:
//! at every moment one of them lives, and the next has a higher pid. So it lists one of
//! them at least. If that one is not found alive, it has died since: it is gone, or is a
//! zombie that was none before. A look at which neither was the case, and in which pids
//! did not begin anew from the lowest, has shown that nobody is there. Where it is not told
//! which pids were given (`/proc` mounted with `subset=pid`), that none began anew is taken
//! for granted.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::procfs::{Stat, number};

/// What one look at all processes has shown.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Members that live.
    pub(super) members: Vec<Stat>,
    /// By pid and start: the dead who may have been members.
    pub(super) dead: HashSet<(i32, u64)>,
    /// Somebody was there and gone before it was known who that is.
    pub(super) any_vanished: bool,
}

/// How often one looks before one gives up for now.
const LOOKS_MAX: usize = 5;

/// Looks until somebody is found, or it is certain that nobody is there.
///
/// # Errors
/// It could not be looked, or ([`io::ErrorKind::WouldBlock`]) too many come and go.
pub(super) fn certainly(look: impl FnMut() -> io::Result<Look>) -> io::Result<Vec<Stat>> {
    certainly_by(look, Births::now)
}

fn certainly_by(
    mut look: impl FnMut() -> io::Result<Look>,
    births: impl Fn() -> io::Result<Births>,
) -> io::Result<Vec<Stat>> {
    let mut known_dead = HashSet::new();
    for _ in 0..LOOKS_MAX {
        let before = births()?;
        let seen = look()?;
        if !seen.members.is_empty() {
            return Ok(seen.members);
        }
        let after = births()?;
        let has_news = seen.any_vanished || !seen.dead.is_subset(&known_dead);
        if before.is_none_until(&after) || (!has_news && before.is_below(&after)) {
            return Ok(Vec::new());
        }
        known_dead = seen.dead;
    }
    let text = "processes come and go too fast to tell whose they are";
    Err(io::Error::new(io::ErrorKind::WouldBlock, text))
}

/// Whom the kernel has forked.
#[derive(Debug, Clone, Copy)]
struct Births {
    /// How many tasks, on the whole host; `None` where it does not tell.
    count: Option<u64>,
    /// The pid that was given last; `None` where it does not tell.
    last: Option<i32>,
}

impl Births {
    fn now() -> io::Result<Self> {
        let text = if_shown(std::fs::read_to_string("/proc/stat"))?;
        let mut lines = text.iter().flat_map(|text| text.lines());
        let count = lines.find_map(|line| line.strip_prefix("processes "));
        let load = if_shown(std::fs::read("/proc/loadavg"))?.unwrap_or_default();
        let last = load.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
        Ok(Self {
            count: count.and_then(|count| number(count.trim().as_bytes())),
            last: last.and_then(number),
        })
    }

    fn is_none_until(&self, later: &Self) -> bool {
        self.count.is_some() && self.count == later.count
    }

    /// Whether pids have not begun anew from the lowest until then.
    fn is_below(&self, later: &Self) -> bool {
        let told = self.last.zip(later.last);
        told.is_none_or(|(before, after)| before <= after)
    }
}

/// `None` for what this host does not show. For want of a descriptor or of memory it may be
/// there all the same.
fn if_shown<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Err(error),
            _ => Ok(None),
        },
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Of a host where somebody is forked during each look.
    fn busy() -> impl Fn() -> io::Result<Births> {
        let count = Cell::new(0);
        move || {
            count.set(count.get() + 1);
            Ok(Births {
                count: Some(count.get()),
                last: i32::try_from(count.get()).ok(),
            })
        }
    }

    fn quiet() -> io::Result<Births> {
        let (count, last) = (Some(7), Some(7));
        Ok(Births { count, last })
    }

    fn is_unknown(found: io::Result<Vec<Stat>>) -> bool {
        found.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn nobody_is_there_if_nobody_was_forked_meanwhile() {
        let look = || {
            Ok(Look {
                dead: HashSet::from([(7, 7)]),
                any_vanished: true,
                ..Look::default()
            })
        };
        assert_eq!(certainly_by(look, quiet).unwrap(), []);
    }

    #[test]
    fn those_who_always_have_gone_before_they_are_looked_at_are_there() {
        let gone = || {
            Ok(Look {
                any_vanished: true,
                ..Look::default()
            })
        };
        assert!(is_unknown(certainly_by(gone, busy())));
        let pids = Cell::new(0);
        let another_died = || {
            pids.set(pids.get() + 1);
            Ok(Look {
                dead: HashSet::from([(1, 1), (pids.get(), 1)]),
                ..Look::default()
            })
        };
        assert!(is_unknown(certainly_by(another_died, busy())));
    }

    #[test]
    fn the_dead_whom_nobody_reaps_are_nobody() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            Ok(Look {
                dead: HashSet::from([(7, 7)]),
                ..Look::default()
            })
        };
        assert_eq!(certainly_by(look, busy()).unwrap(), []);
        assert_eq!(looks.get(), 2);
    }

    #[test]
    fn a_look_within_which_pids_began_anew_proves_nothing() {
        let (looks, births) = (Cell::new(0), busy());
        let wraps = || {
            let mut at = births()?;
            at.last = i32::try_from(10_u64.saturating_sub(at.count.unwrap())).ok();
            Ok(at)
        };
        let look = || {
            looks.set(looks.get() + 1);
            Ok(Look::default())
        };
        assert!(is_unknown(certainly_by(look, wraps)));
        assert_eq!(looks.get(), LOOKS_MAX);
    }

    #[test]
    fn who_could_not_be_looked_at_may_be_there() {
        let look = || Err(io::ErrorKind::QuotaExceeded.into());
        certainly_by(look, quiet).unwrap_err();
        let births = || Err(io::ErrorKind::QuotaExceeded.into());
        certainly_by(|| Ok(Look::default()), births).unwrap_err();
    }

    #[test]
    fn births_are_told() {
        let before = Births::now().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let after = Births::now().unwrap();
        child.wait().unwrap();
        assert!(before.count.is_some() && !before.is_none_until(&after));
        assert!(after.last > Some(0));
    }
}
