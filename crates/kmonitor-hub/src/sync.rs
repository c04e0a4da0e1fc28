//! What the hub and its handles share between threads is made of this.
//!
//! With `--cfg kmonitor_loom` the tests get the model checker's locks and wakers
//! instead, so that `models/` can try every order in which two threads can come.

#[cfg(not(all(test, kmonitor_loom)))]
pub(crate) use self::real::{AtomicWaker, Mutex, MutexGuard, touch};

#[cfg(all(test, kmonitor_loom))]
pub(crate) use self::model::{AtomicWaker, Mutex, MutexGuard, touch};

#[cfg(not(all(test, kmonitor_loom)))]
mod real {
    pub(crate) use futures::task::AtomicWaker;
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Reads something of a mutex, without the lock.
    pub(crate) fn touch<T>(mutex: &Mutex<T>) -> bool {
        mutex.is_poisoned()
    }
}

#[cfg(all(test, kmonitor_loom))]
mod model {
    use std::task::Waker;

    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// The checker's waker, called as that of `futures`.
    #[derive(Default)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }

    /// To the checker this would be one more place to switch threads.
    pub(crate) fn touch<T>(_mutex: &Mutex<T>) -> bool {
        false
    }
}
