//! The system calls that neither std nor rustix offers.

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::process::{Pid, Signal};

use crate::listener::Told;

/// On which side of a fork we are.
pub(crate) enum Forked {
    Child,
    Parent(Pid),
}

/// `fork`. Only for a process with one thread: in another, the child could
/// find any lock (the allocator's, say) held for ever.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: no arguments; the child gets a copy of this memory.
    let pid = unsafe { libc::fork() };
    forked(c_long::from(pid))
}

/// A fork whose child gets exactly this pid (in our pid namespace). As it
/// goes behind libc's back, the child must not create threads.
pub(crate) fn fork_with_pid(pid: Pid) -> io::Result<Forked> {
    let set_tid: libc::pid_t = pid.as_raw_nonzero().get();
    let args = libc::clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: ptr::from_ref(&set_tid) as u64,
        set_tid_size: 1,
        cgroup: 0,
    };
    // SAFETY: `args` and the `set_tid` it points to outlive the call; without
    // CLONE_VM the child runs on copies of this memory and this stack, as
    // after `fork`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    forked(pid)
}

fn forked(pid: c_long) -> io::Result<Forked> {
    if pid == 0 {
        return Ok(Forked::Child);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid as c_int).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Forked::Parent(pid))
}

/// A child with exactly this pid that waits for one byte on `gate` and exits
/// with it as its code; with 255 if the gate closes first.
///
/// Unlike the forks above this may be called with other threads around: the
/// child makes nothing but system calls.
pub(crate) fn spawn_gated(pid: Pid, gate: BorrowedFd<'_>) -> io::Result<()> {
    let gate = gate.as_raw_fd();
    match fork_with_pid(pid)? {
        Forked::Parent(_) => Ok(()),
        Forked::Child => {
            // Other pipes' ends must not stay open because we live; above
            // all not the writing end of our own gate.
            close_range(0, gate - 1);
            close_range(gate + 1, c_int::MAX);
            exit_group(read_byte(gate).map_or(255, i32::from))
        }
    }
}

fn read_byte(descriptor: c_int) -> Option<u8> {
    let mut byte = 0_u8;
    let buffer = ptr::from_mut(&mut byte).cast::<c_void>();
    loop {
        // SAFETY: `buffer` points to one writable byte.
        match unsafe { libc::read(descriptor, buffer, 1) } {
            1 => return Some(byte),
            // The handlers of the process we were copied from are ours too.
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

fn close_range(first: c_int, last: c_int) {
    if first > last {
        return;
    }
    // SAFETY: called only in a forked child that uses none of these
    // descriptors any more. Failure (a kernel before 5.9) leaves them open.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// The stack on which children of [`vfork_exit`] run.
pub(crate) struct VforkStack(Box<[u128]>);

impl VforkStack {
    pub(crate) fn new() -> Self {
        // One call deep plus what libc and the sanitizers of the day need.
        Self(vec![0; 16 * 1024 / size_of::<u128>()].into_boxed_slice())
    }
}

extern "C" fn exit_with_zero(_argument: *mut c_void) -> c_int {
    exit_group(0)
}

/// A child that exits 0 at once, in the cheapest way there is: it borrows our
/// memory, and we resume when it has gone.
pub(crate) fn vfork_exit(stack: &mut VforkStack) -> io::Result<Pid> {
    let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on `stack`, which it alone uses until it exits,
    // because CLONE_VFORK suspends us that long; it touches nothing else.
    let pid = unsafe { libc::clone(exit_with_zero, top, flags, ptr::null_mut()) };
    match forked(c_long::from(pid))? {
        Forked::Parent(pid) => Ok(pid),
        // The child of `clone` starts in the function, never here.
        Forked::Child => exit_group(0),
    }
}

/// Ends this thread only, with no destructor or handler run.
pub(crate) fn exit_thread(code: i32) -> ! {
    loop {
        // SAFETY: the thread ends here; its stack stays mapped, so whoever
        // still refers to it does not dangle.
        unsafe { libc::syscall(libc::SYS_exit, code) };
    }
}

/// Ends the whole process, with no destructor or handler run.
pub(crate) fn exit_group(code: i32) -> ! {
    loop {
        // SAFETY: takes an integer, does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Gives a signal its default action back: std handles SIGSEGV, and a parent
/// may have had us ignore SIGCHLD.
pub(crate) fn default_action(signal: Signal) {
    // SAFETY: installs no handler, so no code of ours runs in one.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
}

/// SIGALRM, which kills by default, after so many seconds.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: takes an integer.
    unsafe { libc::alarm(seconds) };
}

/// A seccomp filter for the calling thread, and for what it starts from now on,
/// by which `pidfd_open` fails with `errno`. It stays.
pub(crate) fn forbid_pidfd_open(errno: c_int) -> io::Result<()> {
    // Or else only a privileged user may install a filter.
    rustix::thread::set_no_new_privs(true)?;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut filter = [
        // The number of the system call is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::SYS_pidfd_open as u32,
            )
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to as many valid instructions as it says, and the
    // kernel copies them before it returns.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn monitor_signals() -> libc::sigset_t {
    // SAFETY: all zeroes are a valid set: the empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in (libc::SIGRTMIN()..=libc::SIGRTMAX()).chain([libc::SIGUSR1]) {
        // SAFETY: the set is initialized, and the signal exists.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Blocks SIGUSR1 and all real-time signals in the calling thread.
pub(crate) fn block_monitor_signals() -> io::Result<()> {
    let set = monitor_signals();
    // SAFETY: the set is valid, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The next of those signals, if one comes within this time.
pub(crate) fn take_signal(patience: std::time::Duration) -> io::Result<Option<Told>> {
    let set = monitor_signals();
    let timeout = libc::timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    loop {
        // SAFETY: all zeroes are a valid siginfo, which is plain integers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: set and timeout are valid, and `info` is writable.
        let signal =
            unsafe { libc::sigtimedwait(&raw const set, &raw mut info, &raw const timeout) };
        if signal < 0 {
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            }
        }
        // SAFETY: a signal of `kill` or `sigqueue` has a pid; zero otherwise.
        let pid = unsafe { info.si_pid() };
        // SAFETY: as above.
        let uid = unsafe { info.si_uid() };
        // SAFETY: as above.
        let value = unsafe { info.si_value() };
        // The int is at the beginning of the union.
        let bytes = value.sival_ptr.addr().to_ne_bytes();
        let int = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        return Ok(Some(Told {
            signal,
            code: info.si_code,
            pid,
            uid,
            int,
        }));
    }
}
