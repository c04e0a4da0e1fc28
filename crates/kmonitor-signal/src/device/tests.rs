//! The device with a registry that only takes notes, and callers that are other
//! processes. Real mounts: these need root.

#[path = "../../tests/hand/mod.rs"]
mod hand;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use kmonitor_event::{EventMask, Pid};
use rustix::io::Errno;
use std::sync::Mutex;

use self::hand::{DEREGISTER, Hand, REGISTER};
use super::registry::{self, Refused, Registry};
use super::*;

/// Commands about this target are never done.
const NEVER: i32 = 3_999_999;
const EXIT: u32 = 0x40;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    session: usize,
    monitor: i32,
    target: i32,
    mask: EventMask,
    /// Zero: taken back.
    signal: i32,
}

#[derive(Debug, Default)]
struct Book {
    notes: Vec<Note>,
    sessions: usize,
    /// Futures that were dropped before they were done.
    given_up: usize,
    dropped: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Book>>);

#[derive(Debug)]
struct NotesOf {
    number: usize,
    book: Notes,
}

impl Notes {
    fn with<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn last(&self) -> Note {
        self.with(|book| *book.notes.last().unwrap())
    }
}

impl Registry for Notes {
    type Session = NotesOf;

    fn session(&self) -> NotesOf {
        let number = self.with(|book| {
            book.sessions += 1;
            book.sessions
        });
        NotesOf {
            number,
            book: self.clone(),
        }
    }
}

struct GivenUp<'a>(&'a Notes);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.with(|book| book.given_up += 1);
    }
}

impl NotesOf {
    async fn note(&self, monitor: Pid, target: Pid, mask: EventMask, signal: i32) {
        if target.as_raw() == NEVER {
            let _given_up = GivenUp(&self.book);
            std::future::pending::<()>().await;
        }
        self.book.with(|book| {
            book.notes.push(Note {
                session: self.number,
                monitor: monitor.as_raw(),
                target: target.as_raw(),
                mask,
                signal,
            });
        });
    }
}

impl registry::Session for NotesOf {
    async fn register(
        &self,
        monitor: Pid,
        target: Pid,
        mask: EventMask,
        signal: i32,
    ) -> Result<(), Refused> {
        self.note(monitor, target, mask, signal).await;
        Ok(())
    }

    async fn deregister(&self, monitor: Pid, target: Pid, mask: EventMask) -> Result<(), Refused> {
        self.note(monitor, target, mask, 0).await;
        Err(Refused {
            errno: Errno::INVAL,
            reason: "nothing is".into(),
        })
    }
}

impl Drop for NotesOf {
    fn drop(&mut self) {
        self.book.with(|book| book.dropped.push(self.number));
    }
}

/// A device in a directory of its own.
struct Stage {
    device: Option<Device>,
    path: PathBuf,
    notes: Notes,
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new(options: &DeviceOptions, answer_within: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let notes = Notes::default();
        let path = directory.path().join("kmonitor");
        let device = {
            let _inside = runtime.enter();
            options
                .clone()
                .path(&path)
                .mount_on(notes.clone(), answer_within)
                .unwrap()
        };
        Self {
            path,
            device: Some(device),
            notes,
            runtime,
            directory,
        }
    }

    fn usual() -> Self {
        Self::new(&DeviceOptions::new(), ANSWER_WITHIN)
    }

    fn stats(&self) -> DeviceStats {
        self.device.as_ref().unwrap().stats()
    }

    fn mount_another(&self) -> Result<Device, DeviceError> {
        let _inside = self.runtime.enter();
        DeviceOptions::new()
            .path(&self.path)
            .mount_on(self.notes.clone(), ANSWER_WITHIN)
    }
}

impl Drop for Stage {
    /// A failed test leaves no mounts behind.
    fn drop(&mut self) {
        drop(self.device.take());
        while rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH).is_ok() {}
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs root, to mount"]
fn the_monitor_is_the_process_that_calls_by_whichever_thread() {
    let stage = Stage::usual();
    let mut hand = Hand::start();
    let fd = hand.open(&stage.path).unwrap();
    hand.register(fd, 7, EXIT, 40).unwrap();
    let note = stage.notes.last();
    assert_eq!(
        (note.monitor, note.target, note.signal),
        (hand.pid(), 7, 40)
    );
    assert_eq!(note.mask, EventMask::EXIT);

    hand.call(&format!("threadioctl {fd} {REGISTER} 8 0x48 41"))
        .unwrap();
    let note = stage.notes.last();
    assert_eq!((note.monitor, note.target), (hand.pid(), 8), "a thread");

    // A child has the same file, and registers itself.
    let failed = hand.call(&format!("childioctl {fd} {REGISTER} 9 0x40 42"));
    assert_eq!(failed, Ok(0));
    let child = stage.notes.last();
    assert_eq!(child.target, 9);
    assert_ne!(child.monitor, hand.pid(), "a child");
    assert_eq!(child.session, note.session, "one open file");

    let other = hand.open(&stage.path).unwrap();
    hand.register(other, 10, EXIT, 40).unwrap();
    assert_ne!(stage.notes.last().session, note.session, "another file");
    assert_eq!(stage.stats().done, 4);
}

#[test]
#[ignore = "needs root, to mount"]
fn a_file_ends_with_its_last_descriptor() {
    let stage = Stage::usual();
    let mut hand = Hand::start();
    let dropped = || stage.notes.with(|book| book.dropped.clone());
    let fd = hand.open(&stage.path).unwrap();
    hand.register(fd, 7, EXIT, 40).unwrap();
    let second = hand.call(&format!("dup {fd}")).unwrap();
    hand.call("fork").unwrap();

    hand.call(&format!("close {fd}")).unwrap();
    hand.register(second, 8, EXIT, 40).unwrap();
    hand.call(&format!("close {second}")).unwrap();
    // The release would have come before this answer: one thread reads all.
    let other = hand.open(&stage.path).unwrap();
    hand.register(other, 9, EXIT, 40).unwrap();
    assert!(dropped().is_empty(), "the child still has it");

    hand.call("endfork").unwrap();
    until("the child's end closes it", || dropped() == [1]);
    // A killed process closes its files too.
    hand.kill();
    until("all are closed", || dropped() == [1, 2]);
    until("none is open", || stage.stats().open_files == 0);
}

#[test]
#[ignore = "needs root, to mount"]
fn errors_are_those_of_2004() {
    let stage = Stage::usual();
    let mut hand = Hand::start();
    let fd = hand.open(&stage.path).unwrap();
    let errno = |errno: Errno| Err(errno.raw_os_error());
    let (inval, fault) = (errno(Errno::INVAL), errno(Errno::FAULT));

    for number in [
        0x400C_DE00_u32,
        0x400C_DE03,
        0x800C_DE01,
        0x4010_DE01,
        0xDE01,
        0x5601,
    ] {
        assert_eq!(
            hand.call(&format!("ioctl {fd} {number} 7 64 40")),
            inval,
            "{number:#x}"
        );
    }
    for (target, mask, signal) in [(0, EXIT, 40), (-1, EXIT, 40), (7, EXIT, 65), (7, EXIT, 0)] {
        assert_eq!(hand.register(fd, target, mask, signal), inval);
    }
    assert_eq!(
        hand.deregister(fd, 7, EXIT),
        inval,
        "what the registry says"
    );
    for pointer in [0, 8, -1, 0x7fff_ffff_f000_i64] {
        for number in [REGISTER, DEREGISTER] {
            assert_eq!(
                hand.call(&format!("pointer {fd} {number} {pointer}")),
                fault
            );
        }
    }
    // FIONREAD: Linux answers that of any regular file itself.
    assert_eq!(hand.call(&format!("ioctl {fd} 0x541B 7 64 40")), Ok(0));
    // Not open for anything, as the kernel has it for every file: O_PATH.
    let path_only = hand.call(&format!("open {} 010000000", stage.path.display()));
    assert_eq!(
        hand.register(path_only.unwrap(), 7, EXIT, 40),
        errno(Errno::BADF)
    );
    assert_eq!(hand.register(77, 7, EXIT, 40), errno(Errno::BADF));
    assert_eq!(hand.call(&format!("write {fd}")), inval);
    let both = hand.call(&format!("open {} 01002", stage.path.display()));
    assert_eq!(hand.call(&format!("read {}", both.unwrap())), inval);
    assert!(
        stage
            .notes
            .with(|book| book.notes.iter().all(|note| note.signal == 0))
    );

    hand.register(fd, 7, 0xffff_ffff_u32 >> 1, 40).unwrap();
    assert_eq!(
        stage.notes.last().mask.bits(),
        0x7f,
        "all bits are the seven"
    );
}

#[test]
#[ignore = "needs root, to mount"]
fn who_takes_too_long_is_told_and_holds_up_nobody() {
    let within = Duration::from_millis(400);
    let stage = Stage::new(&DeviceOptions::new(), within);
    let (mut slow, mut quick) = (Hand::start(), Hand::start());
    let fd = slow.open(&stage.path).unwrap();
    let other = quick.open(&stage.path).unwrap();
    let started = Instant::now();
    slow.say(&format!("ioctl {fd} {REGISTER} {NEVER} 64 40"));
    let mut rounds = 0;
    while stage.stats().timed_out == 0 {
        quick.register(other, 7, EXIT, 40).unwrap();
        rounds += 1;
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(slow.answer(), Err(Errno::TIMEDOUT.raw_os_error()));
    assert!(started.elapsed() >= within);
    assert!(rounds > 100, "only {rounds} were answered meanwhile");
    assert_eq!(stage.notes.with(|book| book.given_up), 1);
    slow.register(fd, 7, EXIT, 40).unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn a_caller_killed_while_it_waits_goes_when_it_is_answered() {
    let stage = Stage::new(&DeviceOptions::new(), Duration::from_millis(300));
    let mut hand = Hand::start();
    let fd = hand.open(&stage.path).unwrap();
    hand.say(&format!("ioctl {fd} {REGISTER} {NEVER} 64 40"));
    let asked = format!("/proc/{}/wchan", hand.pid());
    until("it waits for the answer", || {
        std::fs::read_to_string(&asked).is_ok_and(|place| place.contains("request_wait"))
    });
    hand.kill();
    hand.end();
    until("its file is closed", || stage.stats().open_files == 0);
    assert_eq!(stage.stats().timed_out, 1);
    assert_eq!(
        stage.notes.with(|book| (book.given_up, book.dropped.len())),
        (1, 1)
    );

    // A signal that is caught does not spoil the call.
    let mut hand = Hand::start();
    let fd = hand.open(&stage.path).unwrap();
    hand.call("handle 10").unwrap();
    hand.say(&format!("ioctl {fd} {REGISTER} {NEVER} 64 40"));
    let pid = hand.pid().to_string();
    Command::new("kill").args(["-USR1", &pid]).status().unwrap();
    assert_eq!(hand.answer(), Err(Errno::TIMEDOUT.raw_os_error()));
    hand.register(fd, 7, EXIT, 40).unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn open_files_are_bounded() {
    let options = DeviceOptions::new().files_max(30).files_per_user_max(20);
    let stage = Stage::new(&options, ANSWER_WITHIN);
    let mut hand = Hand::start();
    let opens = format!("opens {} 50", stage.path.display());
    let (nfile, mfile) = (Errno::NFILE.raw_os_error(), Errno::MFILE.raw_os_error());
    assert_eq!(hand.ask(&opens), format!("errno {mfile} after 20"));
    // Another user.
    hand.call(&format!("chmod {} 0666", stage.path.display()))
        .unwrap();
    let copy = stage.directory.path().join("hand");
    std::fs::copy(hand::program(), &copy).unwrap();
    open_to_all(stage.directory.path());
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    nobody.arg(&copy);
    let mut other = Hand::start_by(nobody);
    assert_eq!(other.ask(&opens), format!("errno {nfile} after 10"));
    assert_eq!(stage.stats().open_refused, 2);
    hand.call("closeall 3").unwrap();
    until("they are closed", || stage.stats().open_files == 10);
    assert_eq!(other.ask(&opens), format!("errno {mfile} after 10"));
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn mode_and_group_are_what_was_asked_for() {
    use std::os::unix::fs::MetadataExt as _;
    let stage = Stage::new(&DeviceOptions::new().mode(0o7640).group(7), ANSWER_WITHIN);
    let found = std::fs::metadata(&stage.path).unwrap();
    assert_eq!((found.mode(), found.gid(), found.len()), (0o100_640, 7, 0));
    std::os::unix::fs::chown(&stage.path, None, Some(8)).unwrap();
    assert_eq!(std::fs::metadata(&stage.path).unwrap().gid(), 8);
    // As on any device.
    std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&stage.path)
        .unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn a_place_is_served_by_one_only() {
    let mut stage = Stage::usual();
    let error = stage.mount_another().unwrap_err();
    assert!(matches!(error, DeviceError::InUse { .. }), "{error}");
    stage.device = None;
    assert!(!stage.path.exists(), "it was made, and is removed");
    stage.device = Some(stage.mount_another().unwrap());
    assert!(stage.path.exists());
}

#[test]
#[ignore = "needs root, to mount"]
fn what_others_mounted_is_left_alone() {
    let mut stage = Stage::usual();
    stage.device = None;
    let precious = stage.directory.path().join("precious");
    std::fs::write(&precious, "").unwrap();
    std::fs::write(&stage.path, "").unwrap();
    rustix::mount::mount_bind(&precious, &stage.path).unwrap();
    let error = stage.mount_another().unwrap_err().to_string();
    assert!(error.contains("a mount of"), "{error}");

    // And so is what was mounted over the device itself.
    rustix::mount::unmount(&stage.path, rustix::mount::UnmountFlags::empty()).unwrap();
    stage.device = Some(stage.mount_another().unwrap());
    rustix::mount::mount_bind(&precious, &stage.path).unwrap();
    stage.device = None;
    let top = mountinfo::topmost_at(&stage.path).unwrap().unwrap();
    assert!(!mountpoint::is_ours(&top));
    rustix::mount::unmount(&stage.path, rustix::mount::UnmountFlags::empty()).unwrap();
    let top = mountinfo::topmost_at(&stage.path).unwrap().unwrap();
    assert!(mountpoint::is_ours(&top), "what lay below is there still");
    rustix::mount::unmount(&stage.path, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn callers_do_not_hang_when_the_device_goes() {
    let mut stage = Stage::new(&DeviceOptions::new(), PATIENCE);
    let mut hand = Hand::start();
    let fd = hand.open(&stage.path).unwrap();
    hand.say(&format!("ioctl {fd} {REGISTER} {NEVER} 64 40"));
    let pending = format!("/proc/{}/wchan", hand.pid());
    until("it waits for the answer", || {
        std::fs::read_to_string(&pending).is_ok_and(|place| place.contains("request_wait"))
    });
    let started = Instant::now();
    stage.device = None;
    assert_eq!(hand.answer(), Err(Errno::CONNABORTED.raw_os_error()));
    assert_eq!(
        hand.register(fd, 7, EXIT, 40),
        Err(Errno::NOTCONN.raw_os_error())
    );
    assert!(started.elapsed() < PATIENCE / 2);
}

#[test]
#[ignore = "needs root, to mount"]
fn being_unmounted_by_somebody_is_noticed() {
    let mut stage = Stage::usual();
    rustix::mount::unmount(&stage.path, rustix::mount::UnmountFlags::empty()).unwrap();
    let device = stage.device.as_mut().unwrap();
    let ended = stage
        .runtime
        .block_on(async { tokio::time::timeout(PATIENCE, device.ended()).await });
    assert!(
        matches!(ended, Ok(Err(DeviceError::Unmounted))),
        "{ended:?}"
    );
}
