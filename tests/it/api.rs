//! What the types promise to the compiler.

use kmonitor::source::{
    Capabilities, Fact, FactKind, Identity, KernelInterest, ProbeError, SourceError, StartError,
};
use kmonitor::{
    ClockAnchor, Comm, Event, EventKind, EventMask, EventSource, Exit, Filter, Hub, HubBuilder,
    HubCapabilities, HubStats, HubWatch, Lost, OpenError, Pid, ProcessKey, ProcessProbe,
    ProcessRef, Status, SubscribeError, Subscription, Target, Tid, Timestamp, Watch, WatchError,
};

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn send_value<T: Send>(_: &T) {}
fn is_static<T: 'static>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

macro_rules! table {
    ($($type:ty: $($property:ident),+;)+) => { $($($property::<$type>();)+)+ };
}

#[test]
fn every_public_type_is_send_sync_and_unpin_as_promised() {
    table! {
        Pid: send, sync, unpin, is_static;
        Tid: send, sync, unpin, is_static;
        ProcessKey: send, sync, unpin, is_static;
        ProcessRef: send, sync, unpin, is_static;
        Event: send, sync, unpin, is_static;
        EventKind: send, sync, unpin, is_static;
        EventMask: send, sync, unpin, is_static;
        Comm: send, sync, unpin, is_static;
        Exit: send, sync, unpin, is_static;
        Lost: send, sync, unpin, is_static;
        Status: send, sync, unpin, is_static;
        Timestamp: send, sync, unpin, is_static;
        ClockAnchor: send, sync, unpin, is_static;
        Target: send, sync, unpin, is_static;
        Fact: send, sync, unpin, is_static;
        FactKind: send, sync, unpin, is_static;
        Identity: send, sync, unpin, is_static;
        Capabilities: send, sync, unpin, is_static;
        KernelInterest: send, sync, unpin, is_static;
        Filter: send, sync, unpin, is_static;
        Hub: send, sync, unpin, is_static;
        HubBuilder: send, unpin, is_static;
        HubCapabilities: send, sync, unpin, is_static;
        HubStats: send, sync, unpin, is_static;
        Subscription: send, sync, unpin, is_static;
        HubWatch: send, sync, unpin, is_static;
        Watch: send, sync, unpin, is_static;
        kmonitor::pidfd::Pidfd: send, sync, unpin, is_static;
        kmonitor::pidfd::LinuxProbe: send, sync, unpin, is_static;
        kmonitor::pidfd::PidfdSource: send, unpin, is_static;
        kmonitor::pidfd::WatchFuture: send, is_static;
        kmonitor_connector::ConnectorSource: send, unpin, is_static;
        kmonitor::source::sim::SimKernel: send, sync, unpin, is_static;
        kmonitor::source::sim::SimSource: send, unpin, is_static;
        kmonitor::source::sim::SimProbe: send, sync, unpin, is_static;
        kmonitor::source::replay::ReplaySource: send, is_static;
        OpenError: is_error;
        SubscribeError: is_error;
        WatchError: is_error;
        StartError: is_error;
        SourceError: is_error;
        ProbeError: is_error;
    }
}

/// Only has to compile: a future that is not `Send` cannot be spawned.
#[expect(dead_code, reason = "compiling it is the test")]
fn every_future_is_send(hub: &Hub, stream: &mut Subscription, watch: &mut HubWatch, pid: Pid) {
    send_value(&Hub::open());
    send_value(&hub.subscribe(Filter::host()));
    send_value(&hub.watch(pid));
    send_value(&hub.stats());
    send_value(&hub.clone().close());
    send_value(&stream.next());
    send_value(&stream.add(pid));
    send_value(&stream.add_tree(pid));
    send_value(&stream.remove(pid));
    send_value(&stream.set_mask(EventMask::EXIT));
    send_value(&watch.exited());
    send_value(&watch.settled());
    send_value(&watch.reaped());
    let mut free = kmonitor::watch(pid);
    send_value(&free.exited());
    send_value(&free.reaped());
    send_value(&free.into_future());
}

#[test]
fn the_traits_are_object_safe() {
    let kernel = kmonitor::source::sim::SimKernel::with_seed(1);
    let source: Box<dyn EventSource> = Box::new(kernel.source());
    let probe: Box<dyn ProcessProbe> = Box::new(kernel.probe());
    let pid = kernel.spawn().unwrap();
    assert!(probe.identify(pid).is_ok());
    assert!(source.capabilities().events.contains(EventMask::EXIT));
}
