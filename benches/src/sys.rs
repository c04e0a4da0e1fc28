//! What the compiler cannot check: an allocator that counts, and forking.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Pid;

/// The system's allocator, which counts what is in use.
///
/// ```
/// use kmonitor_benches::sys::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator::new();
///
/// let before = ALLOCATOR.bytes();
/// let buffer = vec![0_u8; 1000];
/// assert!(ALLOCATOR.bytes() - before >= 1000);
/// # drop(buffer);
/// ```
#[derive(Debug)]
pub struct CountingAllocator {
    bytes: AtomicUsize,
}

impl CountingAllocator {
    /// Nothing is in use yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
        }
    }

    /// How many bytes are in use, as they were asked for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Default for CountingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments, and what it
// returns is returned; the counter touches no memory but itself.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.bytes.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `memory` came from `System`, because all methods here allocate
        // there, with the layout that the caller must give again.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for `dealloc`, and the caller keeps this method's contract.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// On which side of a fork we are.
#[derive(Debug, Clone, Copy)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the old one.
    Parent(Pid),
}

/// `fork(2)`. Only for a process with one thread: in another, the child could
/// find any lock (the allocator's, say) held for ever.
///
/// # Errors
/// No memory, or no room for another process.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: no arguments; the child gets a copy of this memory.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Waits for a signal that this thread blocks.
///
/// # Errors
/// The system refused.
pub fn wait_for_signal(signal: i32) -> io::Result<()> {
    // SAFETY: all zeroes are a valid set: the empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialized; a bad number would only be refused.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: the set is valid, and what the signal carries is not asked for.
    match unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
