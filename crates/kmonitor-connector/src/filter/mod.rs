//! Filtering in the kernel: what nobody wants is not queued to us.
//!
//! The interest is brought down to a [`Selection`] (`select.rs`), that to a classic
//! BPF program (`compile.rs`), and that is attached to the socket
//! (`SO_ATTACH_FILTER`, `socket(7)`; no privilege, any kernel). The kernel runs it
//! on each datagram before it queues it (`sk_filter()` in `do_one_broadcast()`,
//! `net/netlink/af_netlink.c`), so a datagram that does not pass costs us no
//! wake-up, no copy and no room, and does not count as dropped.
//!
//! Rules kept here:
//! * it lets pass at least what the interest asks for, from before that interest is
//!   confirmed: replacing a program is atomic for the kernel (`__sk_attach_prog()`,
//!   `net/core/filter.c`), so nothing is lost at a change;
//! * it becomes narrower only where that is worth an attachment;
//! * where the kernel does not take it, a simpler one does, in the end none: what is
//!   delivered then is more, never less.

mod compile;
mod kinds;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
mod releases;
mod select;

use std::io;

use kmonitor_source::{KernelInterest, Narrowing};
use libc::sock_filter;

pub(crate) use compile::compile;
pub(crate) use kinds::Kinds;
pub(crate) use releases::forgets_its_listeners;
pub(crate) use select::{Selection, Selector};

/// The filter of one socket.
#[derive(Debug)]
pub(crate) struct Filter {
    selector: Selector,
    /// What the kernel lets pass now.
    installed: Selection,
    /// Whether this kernel takes programs at all.
    usable: bool,
}

impl Filter {
    /// Lets everything pass, as a new socket does. `usable` is whether it may
    /// ever do anything else.
    pub(crate) fn new(usable: bool) -> Self {
        Self {
            selector: Selector::default(),
            installed: Selection::everything(),
            usable,
        }
    }

    /// What it can hold back.
    pub(crate) fn narrowing(&self) -> Narrowing {
        match self.selector.named_max() {
            _ if !self.usable => Narrowing::None,
            0 => Narrowing::Kinds,
            max => Narrowing::Processes { max },
        }
    }

    /// Whether the kernel holds nothing back.
    pub(crate) fn passes_all(&self) -> bool {
        self.installed == Selection::everything()
    }

    /// Lets pass what `interest` asks for, through `install`: a program, or `None`
    /// for all to pass.
    ///
    /// # Errors
    /// What is installed is too narrow, and could not be replaced.
    pub(crate) fn follow(
        &mut self,
        interest: &KernelInterest,
        mut install: impl FnMut(Option<&[sock_filter]>) -> io::Result<()>,
    ) -> io::Result<()> {
        while self.usable {
            let wanted = self.selector.select(interest);
            if self.installed.serves(&wanted) {
                return Ok(());
            }
            let program = (wanted != Selection::everything()).then(|| compile(&wanted));
            let Err(error) = install(program.as_deref()) else {
                tracing::debug!(
                    processes = wanted.pids.len(),
                    instructions = program.map_or(0, |program| program.len()),
                    "attached a filter to the proc connector"
                );
                self.installed = wanted;
                return Ok(());
            };
            if wanted.pids.is_empty() {
                tracing::warn!(%error, "no filter in the kernel: the whole host will be read");
                self.usable = false;
            } else {
                // Programs count against net.core.optmem_max (`sk_filter_charge()`,
                // `net/core/filter.c`), which was 20 480 bytes for a long time.
                tracing::warn!(
                    %error,
                    processes = wanted.pids.len(),
                    "the kernel takes no filter for so many processes"
                );
                self.selector.limit(wanted.pids.len() / 2);
            }
        }
        if !self.passes_all() {
            install(None)?;
            self.installed = Selection::everything();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
