//! Awaiting a watch itself, by value and by reference.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use kmonitor_event::Exit;
use kmonitor_source::WatchError;

use super::Watch;

/// The end of a process with its status; what awaiting a [`Watch`] does.
///
/// # Cancel safety
/// Cancel-safe, but dropping it drops the watch.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct WatchFuture(Watch);

/// The same by reference: the watch stays with its owner, as `tokio::select!` in
/// a loop wants it.
///
/// # Cancel safety
/// Cancel-safe.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct WatchRefFuture<'a>(&'a mut Watch);

impl Future for WatchFuture {
    type Output = Result<Exit, WatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_settled(cx)
    }
}

impl Future for WatchRefFuture<'_> {
    type Output = Result<Exit, WatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_settled(cx)
    }
}

impl IntoFuture for Watch {
    type Output = Result<Exit, WatchError>;
    type IntoFuture = WatchFuture;

    fn into_future(self) -> WatchFuture {
        WatchFuture(self)
    }
}

impl<'a> IntoFuture for &'a mut Watch {
    type Output = Result<Exit, WatchError>;
    type IntoFuture = WatchRefFuture<'a>;

    fn into_future(self) -> WatchRefFuture<'a> {
        WatchRefFuture(self)
    }
}

/// What callers rely on.
const _: () = {
    const fn promised<T: Send + Sync + Unpin>() {}
    promised::<Watch>();
    promised::<WatchFuture>();
    promised::<WatchRefFuture<'_>>();
};
