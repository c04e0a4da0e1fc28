//! Children that are tokio tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmonitor_supervisor::backend::sim::Sim;
use kmonitor_supervisor::spec::{Backoff, Restart};
use kmonitor_supervisor::{Ending, Supervisor, Task, TaskEnd};

use crate::{secs, start};

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_restarted() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let task = Task::new("t", move |stop| {
        let run = count.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(secs(1)).await;
            match run {
                0 => panic!("the first is a bad one"),
                1 => Err("so is the second".into()),
                _ => {
                    stop.cancelled().await;
                    Ok(())
                }
            }
        }
    });
    let builder = Supervisor::builder("app").child(task.backoff(Backoff::constant(secs(5))));
    let tree = start(builder, &Sim::new()).await;
    let t = tree.handle().child("t").expect("it is declared");
    let ending = t.exited().await.expect("it panics");
    assert!(
        matches!(&ending, Ending::Task(TaskEnd::Panicked(why)) if &**why == "the first is a bad one")
    );
    t.ready().await.expect("it is restarted");
    let ending = t.exited().await.expect("it fails");
    assert!(matches!(ending, Ending::Task(TaskEnd::Failed(_))));
    t.ready().await.expect("it is restarted");
    tokio::time::sleep(secs(60)).await;
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let report = tree.shutdown().await;
    assert!(matches!(
        report.children[0].ending,
        Some(Ending::Task(TaskEnd::Done))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_panics_before_there_is_a_future_is_no_different() {
    let task = Task::new("t", |_| -> std::future::Ready<_> { panic!("at once") });
    let builder = Supervisor::builder("app").child(task.restart(Restart::Never));
    let tree = start(builder, &Sim::new()).await;
    let t = tree.handle().child("t").expect("it is declared");
    let ending = t.exited().await.expect("it panics");
    assert!(matches!(ending, Ending::Task(TaskEnd::Panicked(_))));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_heed_the_token_is_aborted() {
    let task = Task::new("t", |_| async move {
        std::future::pending::<()>().await;
        Ok(())
    });
    let builder = Supervisor::builder("app").child(task.grace(secs(3)));
    let tree = start(builder, &Sim::new()).await;
    let report = tree.shutdown().await;
    assert_eq!(report.took, secs(3));
    let t = &report.children[0];
    assert!(matches!(t.ending, Some(Ending::Task(TaskEnd::Aborted))));
    assert!(t.killed && report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_done_stays_so() {
    let builder = Supervisor::builder("app").task("t", |_| async { Ok(()) });
    let tree = start(builder, &Sim::new()).await;
    let t = tree.handle().child("t").expect("it is declared");
    assert!(t.exited().await.expect("it is done").success());
    tokio::time::sleep(secs(60)).await;
    assert_eq!(t.status().generation, 1);
}
