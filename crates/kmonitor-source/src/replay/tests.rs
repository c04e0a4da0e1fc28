//! Recordings: good, strange and broken.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use kmonitor_event::{
    Comm, Event, EventKind, EventMask, LossOrigin, Lost, Pid, ProcessKey, Resync, Status,
    StatusSource, Tid, Timestamp, UnknownReason,
};

use super::{LINE_BYTES_MAX, ReplaySource};
use crate::{
    EventSource, Fact, FactKind, KernelInterest, ProcessProbe, ProcessState, SourceError,
    StartErrorKind,
};

fn everything() -> KernelInterest {
    let mut interest = KernelInterest::new();
    interest.set_host(EventMask::all());
    interest
}

fn playing(recording: impl Into<Vec<u8>>) -> ReplaySource {
    let mut source = ReplaySource::new(Cursor::new(recording.into()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(source.poll_interest(&mut cx, &everything()).is_ready());
    source
}

/// All its facts, and how it ended.
fn play(mut source: ReplaySource) -> (Vec<Fact>, SourceError) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut facts = Vec::new();
    loop {
        match source.poll_batch(&mut cx, &mut facts) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                let again = source.poll_batch(&mut cx, &mut facts);
                assert!(matches!(again, Poll::Ready(Err(SourceError::Ended))));
                return (facts, error);
            }
            Poll::Pending => panic!("a recording that plays is never pending"),
        }
    }
}

fn malformed(recording: impl Into<Vec<u8>>) -> (usize, u64, String) {
    match play(playing(recording)) {
        (facts, SourceError::Malformed { line, message }) => (facts.len(), line, message),
        (_, other) => panic!("{other}"),
    }
}

fn pid(raw: i32) -> Pid {
    Pid::new(raw).unwrap()
}

#[test]
fn every_kind_of_event_becomes_its_fact() {
    let process = pid(7);
    let tid = Tid::new(8).unwrap();
    let child = ProcessKey::new(pid(9), 4);
    let status = Status::from_raw(0x300, StatusSource::Waited);
    let comm = Comm::new(b"worker");
    let (real, effective) = (1, 2);
    let tracer = Some(pid(3));
    let parent = Some(pid(2));
    let kinds = [
        (
            EventKind::Fork { child },
            Some(FactKind::Forked {
                parent: Some(process),
                child: pid(9),
            }),
        ),
        (
            EventKind::ThreadCreate { tid },
            Some(FactKind::ThreadCreated { process, tid }),
        ),
        (EventKind::Exec, Some(FactKind::Execed { process })),
        (
            EventKind::ThreadExit {
                tid,
                status: std::os::unix::process::ExitStatusExt::from_raw(0x8b),
            },
            Some(FactKind::TaskExited {
                process,
                tid,
                code: 0x8b,
                parent,
            }),
        ),
        (
            EventKind::Exit(status),
            Some(FactKind::GroupDead {
                process,
                key: None,
                status,
            }),
        ),
        (
            EventKind::Uid {
                tid,
                real,
                effective,
            },
            Some(FactKind::Uid {
                process,
                tid,
                real,
                effective,
            }),
        ),
        (
            EventKind::Gid {
                tid,
                real,
                effective,
            },
            Some(FactKind::Gid {
                process,
                tid,
                real,
                effective,
            }),
        ),
        (EventKind::Sid, Some(FactKind::Sid { process })),
        (
            EventKind::Ptrace { tid, tracer },
            Some(FactKind::Ptrace {
                process,
                tid,
                tracer,
            }),
        ),
        (
            EventKind::Comm { tid, comm },
            Some(FactKind::Comm { process, tid, comm }),
        ),
        (
            EventKind::Coredump { tid },
            Some(FactKind::Coredump {
                process,
                tid,
                parent,
            }),
        ),
        (
            EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(5))),
            Some(FactKind::Lost { count: Some(5) }),
        ),
        (
            EventKind::Lost(Lost::new(LossOrigin::Subscription, None)),
            Some(FactKind::Lost { count: None }),
        ),
        (EventKind::TrackIncomplete, None),
        (EventKind::Resync(Resync::Begin), None),
        (EventKind::Resync(Resync::End { complete: true }), None),
        (
            EventKind::Other { what: 8 },
            Some(FactKind::Other {
                what: 8,
                process: Some(process),
            }),
        ),
    ];
    let time = Timestamp::from_nanos(12);
    let mut recording = String::new();
    let mut expected = Vec::new();
    for (kind, fact) in kinds {
        let mut event = Event::new(time, Some(ProcessKey::new(process, 1)), kind);
        event.parent = parent;
        recording.push_str(&serde_json::to_string(&event).unwrap());
        recording.push('\n');
        expected.extend(fact.map(|kind| Fact::new(time, kind)));
    }
    let (facts, ended) = play(playing(recording));
    assert_eq!(facts, expected);
    assert!(matches!(ended, SourceError::Ended));
}

#[test]
fn unknown_fields_blank_lines_and_foreign_line_ends_are_tolerated() {
    let recording = concat!(
        "\n  \r\n",
        r#"{"type":"exec","time_ns":1,"pid":7,"comm":"x","exe":"/x","args":["a",["b"]],"new":{}}"#,
        "\r\n\n",
        r#"{"type":"sid","time_ns":2,"pid":7}"#,
    );
    let (facts, ended) = play(playing(recording));
    assert_eq!(facts.len(), 2);
    assert!(matches!(ended, SourceError::Ended));
}

#[test]
fn a_malformed_line_is_named_and_comes_after_the_facts_before_it() {
    let good = r#"{"type":"sid","time_ns":2,"pid":7}"#;
    let (facts, line, message) = malformed(format!("{good}\n\n{{\"type\":\n{good}\n"));
    assert_eq!((facts, line), (1, 3));
    assert!(message.contains("column"), "{message}");
    assert!(!message.contains("line"), "{message}");
    let (_, line, message) = malformed(r#"{"type":"boom","time_ns":2,"pid":7}"#);
    assert_eq!(line, 1);
    assert!(message.contains("boom"), "{message}");
    let (.., message) = malformed(r#"{"type":"exec","time_ns":2}"#);
    assert!(message.contains("pid"), "{message}");
    malformed(b"\xff\xfe\n".to_vec());
}

#[test]
fn a_line_without_end_is_refused_and_not_kept() {
    let long = vec![b' '; LINE_BYTES_MAX + 1];
    let (_, line, message) = malformed(long);
    assert_eq!(line, 1);
    assert!(message.contains("65536"), "{message}");
    // One that just fits is read.
    let mut fits = br#"{"type":"sid","time_ns":2,"pid":7}"#.to_vec();
    fits.resize(LINE_BYTES_MAX, b' ');
    fits.push(b'\n');
    assert_eq!(play(playing(fits)).0.len(), 1);
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nothing_is_played_before_something_is_wanted_and_then_the_reader_is_woken() {
    let recording = r#"{"type":"sid","time_ns":2,"pid":7}"#;
    let mut source = ReplaySource::new(recording.as_bytes());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut facts = Vec::new();
    let nothing = KernelInterest::new();
    assert!(source.poll_interest(&mut cx, &nothing).is_ready());
    assert!(source.poll_batch(&mut cx, &mut facts).is_pending());
    assert_eq!(source.line(), 0);
    assert!(!woken.0.load(Ordering::SeqCst));
    assert!(source.poll_interest(&mut cx, &everything()).is_ready());
    assert!(woken.0.load(Ordering::SeqCst));
    assert!(source.poll_batch(&mut cx, &mut facts).is_ready());
    assert_eq!(facts.len(), 1);
    assert_eq!(source.stats().received, 1);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = ReplaySource::open("/nonexistent/recording.jsonl").unwrap_err();
    assert_eq!(error.kind(), StartErrorKind::Io);
    assert!(error.to_string().contains("/nonexistent/recording.jsonl"));
}

#[test]
fn reader_errors_end_the_recording() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("disk"))
        }
    }
    let mut source = ReplaySource::new(std::io::BufReader::new(Broken));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(source.poll_interest(&mut cx, &everything()).is_ready());
    let (facts, error) = play(source);
    assert!(facts.is_empty());
    assert!(matches!(error, SourceError::Io { .. }));
}

#[tokio::test]
async fn the_probe_leaves_every_decision_to_the_recording() {
    let probe = ReplaySource::new(&b""[..]).probe();
    let identity = probe.identify(pid(5)).unwrap();
    assert_eq!(
        probe.state(pid(5), Some(identity)).unwrap(),
        ProcessState::Alive
    );
    let mut threads = Vec::new();
    probe.threads(pid(5), &mut threads).unwrap();
    assert_eq!(threads.len(), 1);
    let mut processes = Vec::new();
    probe.processes(&mut processes).unwrap();
    assert!(processes.is_empty());
    assert_eq!(
        probe.reaped(pid(5), identity).await.unwrap(),
        Status::Unknown(UnknownReason::NotObservable)
    );
}

proptest::proptest! {
    /// No bytes make it panic, or go on for ever.
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        play(playing(bytes));
    }

    /// Nor do bytes that look like events.
    #[test]
    fn almost_events_come_to_an_end(lines in proptest::collection::vec(
        r#"\{"type":"(exit|fork|lost|comm)","time_ns":-?[0-9]{0,3},("pid":-?[0-9]{1,12},)?("key":"[0-9:]{0,5}",)?"(status|child|comm|origin)":(\{"code":[0-9]{1,12}\}|"[a-z]{0,6}"|[0-9]{1,3})\}"#,
        0..6,
    )) {
        play(playing(lines.join("\n")));
    }
}
