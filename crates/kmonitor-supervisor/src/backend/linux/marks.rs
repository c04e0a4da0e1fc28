//! By what the members of a tree are known where nobody tells of their births.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kmonitor_pidfd::{Pidfd, Readiness};

use super::certain::{Look, certainly};
use super::environment::{self, NoWords};
use super::identity::Identity;
use super::kin::{self, Table};
use super::procfs::{self, Stat};
use super::subreaper::Subreaper;

/// How long one look waits, in all, for those who cannot be told yet: their programs are
/// being executed, or they are about to be dead.
const LOOK_PATIENCE: Duration = Duration::from_millis(100);
const LOOK_PAUSE: Duration = Duration::from_micros(50);

/// After this whoever is still executing a program is taken for a stranger: somebody can
/// keep a program from its file for ever. Shorter than what is left is given to be cleared.
const EXEC_PATIENCE: Duration = Duration::from_secs(3);
/// The same of who is dying: some hundred gigabytes are freed meanwhile.
const DEATH_PATIENCE: Duration = Duration::from_secs(300);

/// With so many verdicts kept, those on processes that are gone are dropped.
const JUDGED_MIN: usize = 1024;

/// By what a scan of `/proc` knows the members of a tree: as descendants of members,
/// by their session, or by a word in their environment.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) root: Identity,
    /// Known to be dead, so that whoever has its pid is another.
    pub(super) rootless: bool,
    /// Of a root that led a session of its own from the beginning: nobody else is in
    /// it. Its number is the root's until that is reaped, and says nothing after.
    pub(super) session: Option<Arc<Pidfd>>,
    /// A word of [`MARK`](super::MARK) that only its descendants have.
    pub(super) word: Option<String>,
    /// Its orphans do not come to us, so that only the whole process table shows them.
    pub(super) strays: bool,
    judged: Mutex<Judged>,
    /// By pid and start: since when it is tried to tell those who could not be told by the
    /// last look.
    undecided: Mutex<HashMap<(i32, u64), Instant>>,
}

/// Whether those seen before have the word, by pid and start: at most twice as many as
/// there are processes.
#[derive(Debug, Default)]
struct Judged {
    verdicts: HashMap<(i32, u64), bool>,
    kept: usize,
}

/// Who is a member whoever its parents are.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) roots: Vec<Stat>,
    /// Those who may be: it cannot be told yet.
    pub(super) undecided: Vec<Stat>,
    /// Those who may have been: they were gone before it could be told.
    pub(super) gone: Vec<Stat>,
}

impl Marks {
    pub(super) fn new(root: Identity) -> Self {
        Self {
            root,
            rootless: false,
            session: None,
            word: None,
            strays: false,
            judged: Mutex::default(),
            undecided: Mutex::default(),
        }
    }

    /// Some of the members that live; none only if there is none. `all` of them, where
    /// nobody looks again before long.
    ///
    /// Missed is who left the session, lost its parents *and* cleared its
    /// environment.
    ///
    /// # Errors
    /// Nobody was found, and it is not certain that nobody is there.
    pub(super) fn members(&self, all: bool) -> io::Result<Vec<Stat>> {
        match self.near()?.filter(|_| !(all && self.strays)) {
            Some(near) if !near.is_empty() => Ok(near),
            _ => certainly(|| self.anywhere()),
        }
    }

    /// Those that are found by lists of children: what descends from the root, and
    /// from orphans that came to us. The lists are quick and not always whole; `None`
    /// where there are none.
    fn near(&self) -> io::Result<Option<Vec<Stat>>> {
        let root = self.root.pid.as_raw();
        let mut orphans = Vec::new();
        for pid in kin::own_children()? {
            if pid != root {
                orphans.extend(procfs::look_at(pid)?);
            }
        }
        // Who is undecided is told by the look at all.
        let orphans = self
            .judge(&orphans, Duration::ZERO, |_| true, environment::marks)?
            .roots;
        let seen = match self.rootless {
            false => procfs::look_at(root)?,
            true => None,
        };
        let seen = seen.filter(|stat| stat.start == self.root.start);
        let near = kin::descending_from(orphans.into_iter().chain(seen))?;
        Ok(near.map(Self::living))
    }

    /// All, by reading the whole process table.
    fn anywhere(&self) -> io::Result<Look> {
        self.among(&Table::read()?, environment::marks)
    }

    fn among(
        &self,
        table: &Table,
        words: impl Fn(i32) -> Result<Vec<String>, NoWords>,
    ) -> io::Result<Look> {
        let others = Others::of(table, self.root.start);
        let may_be = |stat: &Stat| self.may_be_orphan(stat, &others);
        let verdict = self.judge(table.all(), LOOK_PATIENCE, may_be, words)?;
        let roots: HashSet<_> = verdict.roots.iter().map(Stat::id).collect();
        let members = Self::living(table.descending_from(|stat| roots.contains(&stat.id())));
        if members.is_empty() && !verdict.undecided.is_empty() {
            let text = "it cannot be told yet whose a process is that is executing or dying";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        let dead = table
            .all()
            .iter()
            .filter(|stat| stat.is_dead() && may_be(stat));
        Ok(Look {
            members,
            dead: dead.map(Stat::id).collect(),
            any_vanished: table.any_vanished || !verdict.gone.is_empty(),
        })
    }

    /// All members in a table that are such whoever their parents are, and who may be.
    pub(super) fn roots(&self, table: &Table) -> io::Result<Verdict> {
        let others = Others::of(table, self.root.start);
        let may_be = |stat: &Stat| self.may_be_orphan(stat, &others);
        self.judge(table.all(), LOOK_PATIENCE, may_be, environment::marks)
    }

    /// Whether somebody can be a member of whom no member is known to be the parent.
    ///
    /// Nobody joins a session from outside. So members of a root that began one are in
    /// that one, or in one that began later; and who is marked was begun so. An orphan
    /// comes to us, where we are who gets them; of who has another parent, that one says
    /// whose it is. Only in another PID namespace it comes to the first process of that.
    fn may_be_orphan(&self, stat: &Stat, others: &Others) -> bool {
        let comes_to_us = !self.strays && Subreaper::is_active();
        let has_parent = stat.parent != procfs::own_pid() && others.living.contains(&stat.parent);
        stat.start >= self.root.start
            && !(self.word.is_some() && others.older_sessions.contains(&stat.session))
            && !(comes_to_us && has_parent && !others.is_nested(stat.parent))
    }

    fn living(mut members: Vec<Stat>) -> Vec<Stat> {
        let me = procfs::own_pid();
        members.retain(|stat| !stat.is_dead() && stat.pid != me);
        members
    }

    /// Who of some processes is a member, whoever its parents are.
    ///
    /// Reads the environments of those for whom `may_be` says so, so it blocks; while it
    /// cannot be told of them, up to this `patience` for all of them together. Not of
    /// others: whose memory is locked, as of one who waits for a device, whoever reads it
    /// waits too.
    ///
    /// # Errors
    /// One of them could not be looked at.
    fn judge(
        &self,
        all: &[Stat],
        patience: Duration,
        may_be: impl Fn(&Stat) -> bool,
        words: impl Fn(i32) -> Result<Vec<String>, NoWords>,
    ) -> io::Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut todo = all.to_vec();
        let mut hanging: Vec<(Stat, NoWords)> = Vec::new();
        let began = Instant::now();
        loop {
            hanging.clear();
            for stat in todo.drain(..) {
                match self.is_root(&stat, || may_be(&stat), &words) {
                    Ok(true) => verdict.roots.push(stat),
                    Ok(false) | Err(NoWords::None) => {}
                    Err(NoWords::Gone) => verdict.gone.push(stat),
                    Err(NoWords::Unknown(errno)) => return Err(errno.into()),
                    Err(why @ (NoWords::NotYet | NoWords::Dying)) => hanging.push((stat, why)),
                }
            }
            let is_news = |(stat, _): &(Stat, NoWords)| !self.is_undecided(stat);
            // Who hung in the last look already is not waited for again.
            if began.elapsed() >= patience || !hanging.iter().any(is_news) {
                break;
            }
            std::thread::sleep(LOOK_PAUSE);
            todo.extend(hanging.iter().map(|(stat, _)| *stat));
        }
        if !patience.is_zero() {
            verdict.undecided = self.not_for_ever(&hanging);
        }
        Ok(verdict)
    }

    fn is_undecided(&self, stat: &Stat) -> bool {
        let undecided = self.undecided.lock();
        let undecided = undecided.unwrap_or_else(PoisonError::into_inner);
        undecided.contains_key(&stat.id())
    }

    /// Those of some who cannot be told whom that is not known of for too long.
    fn not_for_ever(&self, hanging: &[(Stat, NoWords)]) -> Vec<Stat> {
        let mut undecided = self
            .undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *undecided);
        let now = Instant::now();
        let mut left = Vec::new();
        for (stat, why) in hanging {
            let since = before.get(&stat.id()).copied().unwrap_or(now);
            undecided.insert(stat.id(), since);
            let patience = match why {
                NoWords::Dying => DEATH_PATIENCE,
                _ => EXEC_PATIENCE,
            };
            if now.duration_since(since) < patience {
                left.push(*stat);
            }
        }
        left
    }

    /// Whether a process is a member, whoever its parents are. `may_be` by its environment.
    fn is_root(
        &self,
        stat: &Stat,
        may_be: impl Fn() -> bool,
        words: impl Fn(i32) -> Result<Vec<String>, NoWords>,
    ) -> Result<bool, NoWords> {
        let root = self.root.pid.as_raw();
        // A member is not older than the root, nor is it this program.
        if stat.start < self.root.start || stat.pid == procfs::own_pid() {
            return Ok(false);
        }
        if !self.rootless && stat.pid == root && stat.start == self.root.start {
            return Ok(true);
        }
        if stat.session == root && self.has_session()? {
            // For when the root is reaped, and the number says nothing any more.
            self.judged().keep(stat.id(), true);
            return Ok(true);
        }
        if stat.is_dead() {
            return Ok(false);
        }
        self.has_word(stat, may_be, words)
    }

    /// An environment is given at birth, and by executing a program: who has the word
    /// has it from a member, and who has it not is none. So each is read once.
    fn has_word(
        &self,
        stat: &Stat,
        may_be: impl Fn() -> bool,
        words: impl Fn(i32) -> Result<Vec<String>, NoWords>,
    ) -> Result<bool, NoWords> {
        let Some(word) = &self.word else {
            return Ok(false);
        };
        if let Some(known) = self.judged().verdicts.get(&stat.id()) {
            return Ok(*known);
        }
        if !may_be() {
            return Ok(false);
        }
        let has = match words(stat.pid) {
            Ok(words) => words.contains(word),
            Err(NoWords::None) => return Ok(false),
            Err(why) => return Err(why),
        };
        self.judged().keep(stat.id(), has);
        Ok(has)
    }

    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked after a stat was read: whoever was read with that session was in it.
    fn has_session(&self) -> Result<bool, NoWords> {
        let Some(root) = &self.session else {
            return Ok(false);
        };
        match root.readiness() {
            Ok(readiness) => Ok(readiness != Readiness::Reaped),
            Err(error) => Err(NoWords::unknown(&error)),
        }
    }
}

/// What the others in a table say of somebody.
struct Others {
    /// Of parents that were asked about.
    nested: RefCell<HashMap<i32, bool>>,
    living: HashSet<i32>,
    /// The sessions that were there before the root.
    older_sessions: HashSet<i32>,
}

impl Others {
    fn of(table: &Table, root_start: u64) -> Self {
        let living = table.all().iter().filter(|stat| !stat.is_dead());
        let older = table.all().iter().filter(|stat| stat.start < root_start);
        Self {
            nested: RefCell::default(),
            living: living.map(|stat| stat.pid).collect(),
            older_sessions: older.map(|stat| stat.session).collect(),
        }
    }

    /// Whether a process may be in a PID namespace below ours.
    fn is_nested(&self, pid: i32) -> bool {
        let mut nested = self.nested.borrow_mut();
        let seen = || procfs::is_nested(pid).unwrap_or(true);
        *nested.entry(pid).or_insert_with(seen)
    }
}

impl Judged {
    fn keep(&mut self, id: (i32, u64), has: bool) {
        self.verdicts.insert(id, has);
        if self.verdicts.len() < JUDGED_MIN.max(2 * self.kept) {
            return;
        }
        self.verdicts.retain(|id, _| procfs::may_be_there(*id));
        self.kept = self.verdicts.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::Pid;
    use std::cell::Cell;

    /// Of processes that begin sessions of their own, and are nobody's children. There is
    /// none with such a pid.
    fn made(pid: i32, start: u64) -> Stat {
        Stat {
            pid,
            state: b'S',
            parent: 1,
            group: pid,
            session: pid,
            threads: 1,
            start,
        }
    }

    const PID: i32 = 1 << 23;

    /// Of a root that has started at 100, and whose orphans are anybody's.
    fn marks() -> Marks {
        let root = Identity {
            pid: Pid::new(PID).unwrap(),
            inode: None,
            start: 100,
        };
        let mut marks = Marks::new(root);
        marks.rootless = true;
        marks.strays = true;
        marks.word = Some("w".to_owned());
        marks
    }

    fn is_unknown(look: &io::Result<Look>) -> bool {
        let error = look.as_ref().err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whoever hangs in `execve` takes the time of nobody else.
    #[test]
    fn a_member_is_told_behind_a_stranger_who_hangs() {
        let (stranger, member) = (PID + 1, PID + 2);
        let asked = Cell::new(0);
        let words = |pid| match pid - PID {
            2 if asked.replace(asked.get() + 1) >= 3 => Ok(vec!["w".to_owned()]),
            _ => Err(NoWords::NotYet),
        };
        let marks = marks();
        let table = Table::of(vec![made(stranger, 200), made(member, 200)]);
        let look = marks.among(&table, words).unwrap();
        assert_eq!(look.members, [made(member, 200)]);
    }

    #[test]
    fn who_hangs_is_undecided_and_not_for_ever() {
        let marks = marks();
        let (exec, dying) = (made(PID + 1, 200), made(PID + 2, 200));
        let words = |pid| match pid - PID {
            1 => Err(NoWords::NotYet),
            _ => Err(NoWords::Dying),
        };
        let both = Table::of(vec![exec, dying]);
        let only_exec = Table::of(vec![exec]);
        assert!(is_unknown(&marks.among(&only_exec, words)));
        assert!(is_unknown(&marks.among(&both, words)));
        let earlier = |by: Duration| {
            let mut undecided = marks.undecided.lock().unwrap();
            for since in undecided.values_mut() {
                *since = since.checked_sub(by).unwrap();
            }
        };
        earlier(EXEC_PATIENCE);
        // Who is dying needs longer.
        assert!(is_unknown(&marks.among(&both, words)));
        earlier(DEATH_PATIENCE);
        let look = marks.among(&both, words).unwrap();
        assert!(look.members.is_empty() && !look.any_vanished);
        // And nothing is kept of who is gone.
        marks.among(&Table::of(Vec::new()), words).unwrap();
        assert!(marks.undecided.lock().unwrap().is_empty());
    }

    #[test]
    fn who_is_in_a_session_that_was_there_before_is_a_stranger() {
        let (older, mut stranger) = (made(PID + 1, 99), made(PID + 2, 200));
        stranger.session = older.session;
        let words = |_| Err(NoWords::NotYet);
        let look = marks().among(&Table::of(vec![older, stranger]), words);
        assert!(look.unwrap().members.is_empty());
    }

    #[test]
    fn who_is_gone_before_it_is_told_may_have_been_a_member() {
        let table = Table::of(vec![made(PID + 1, 200)]);
        let look = marks().among(&table, |_| Err(NoWords::Gone)).unwrap();
        assert!(look.any_vanished);
    }

    #[test]
    fn who_cannot_be_looked_at_may_be_a_member() {
        let errno = rustix::io::Errno::MFILE;
        let table = Table::of(vec![made(PID + 1, 200)]);
        let look = marks().among(&table, |_| Err(NoWords::Unknown(errno)));
        assert_eq!(look.unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
    }

    #[test]
    fn what_is_known_of_those_who_are_gone_is_not_kept() {
        let marks = marks();
        let words = |_| Ok(Vec::new());
        let there = procfs::look_at(procfs::own_pid()).unwrap().unwrap();
        marks.judged.lock().unwrap().keep(there.id(), false);
        for pid in 1..10_000 {
            let passed = [made(PID + pid, 200)];
            marks
                .judge(&passed, Duration::ZERO, |_| true, words)
                .unwrap();
            assert!(marks.judged.lock().unwrap().verdicts.len() <= JUDGED_MIN);
        }
        let judged = marks.judged.lock().unwrap();
        assert!(judged.verdicts.contains_key(&there.id()));
    }
}
