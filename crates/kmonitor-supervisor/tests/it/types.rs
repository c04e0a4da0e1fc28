//! What can be sent and shared between threads.

use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::{
    ChildHandle, ChildSpec, ChildStatus, ControlError, Event, Events, Handle, Report, Requested,
    Schedule, Service, Snapshot, StartTreeError, Supervisor, SupervisorBuilder, Task, Tree,
};

fn both<T: Send + Sync>() {}
fn sent<T: Send>(_: T) {}

#[test]
fn types_go_between_threads() {
    both::<Tree>();
    both::<Handle>();
    both::<ChildHandle>();
    both::<Events>();
    both::<Event>();
    both::<Requested>();
    both::<Report>();
    both::<Snapshot>();
    both::<ChildStatus>();
    both::<Schedule>();
    both::<SupervisorBuilder>();
    both::<ChildSpec>();
    both::<Service>();
    both::<Task>();
    both::<ControlError>();
    both::<StartTreeError>();
    both::<Sim>();
    both::<Program>();
}

#[test]
fn futures_go_between_threads() {
    fn of_tree(tree: &Tree) {
        sent(tree.wait());
        sent(tree.ready());
        sent(tree.shutdown());
        sent(tree.shutdown_now());
        #[cfg(feature = "signals")]
        sent(tree.run_until_signal());
    }
    fn of_child(child: &ChildHandle) {
        sent(child.ready());
        sent(child.exited());
        sent(child.stop());
    }
    fn of_events(events: &mut Events) {
        sent(events.recv());
    }
    let _ = (of_tree, of_child, of_events);
    sent(Supervisor::builder("app").start_on(std::sync::Arc::new(Sim::new())));
}
