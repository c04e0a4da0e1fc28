//! A tree's events as a stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;

use super::board::Board;
use crate::words::Event;

/// All that happens in a tree after the snapshot that came with it, in order.
///
/// It never holds up the tree. A reader that is so slow that its queue overflows
/// finds, in place of what did not fit, one
/// [`Resync`](crate::EventKind::Resync) with the tree's state. Ends when the tree has.
pub struct Events {
    board: Arc<Board>,
    id: u64,
}

impl Events {
    pub(super) fn new(board: Arc<Board>, id: u64) -> Self {
        Self { board, id }
    }

    /// The next event; `None`: the tree has ended.
    ///
    /// # Cancel safety
    /// Dropped, no event is lost.
    pub async fn recv(&mut self) -> Option<Event> {
        poll_fn(|cx| self.board.poll_next(self.id, cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.board.poll_next(self.id, cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.board.unsubscribe(self.id);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
