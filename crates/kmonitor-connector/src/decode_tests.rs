use kmonitor_event::{Comm, Pid, Tid, Timestamp};
use kmonitor_source::{Fact, FactKind};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What the kernel would send for a fact.
fn encode(message: Message) -> Vec<u8> {
    let (ack, time, what, data) = match message {
        Message::Ack(Ack { ack, error }) => (ack, 0, wire::NONE, vec![error]),
        Message::Fact(Fact { time, kind }) => {
            let (what, data) = encode_kind(kind);
            (0, time.as_nanos(), what, data)
        }
    };
    let mut bytes = Vec::new();
    let mut put = |word: u32| bytes.extend(word.to_ne_bytes());
    put(76);
    bytes.extend(wire::NLMSG_DONE.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(99u32.to_ne_bytes());
    bytes.extend(ack.to_ne_bytes());
    bytes.extend(40u16.to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend(what.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(time.to_ne_bytes());
    for word in data {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.resize(76, 0);
    bytes
}

fn encode_kind(kind: FactKind) -> (u32, Vec<u32>) {
    let pid = |pid: Pid| pid.as_raw().cast_unsigned();
    let tid = |tid: Tid| tid.as_raw().cast_unsigned();
    let any = |pid: Option<Pid>| pid.map_or(0, |pid| pid.as_raw().cast_unsigned());
    match kind {
        FactKind::Forked { parent, child } => (
            wire::FORK,
            vec![any(parent), any(parent), pid(child), pid(child)],
        ),
        FactKind::ThreadCreated { process, tid: task } => {
            (wire::FORK, vec![1, 1, tid(task), pid(process)])
        }
        FactKind::Execed { process } => (wire::EXEC, vec![pid(process), pid(process)]),
        FactKind::TaskExited {
            process,
            tid: task,
            code,
            parent,
        } => {
            let code = code.cast_unsigned();
            let parent = any(parent);
            let data = vec![tid(task), pid(process), code, 17, parent, parent];
            (wire::EXIT, data)
        }
        FactKind::Uid {
            process,
            tid: task,
            real,
            effective,
        } => (wire::UID, vec![tid(task), pid(process), real, effective]),
        FactKind::Gid {
            process,
            tid: task,
            real,
            effective,
        } => (wire::GID, vec![tid(task), pid(process), real, effective]),
        FactKind::Sid { process } => (wire::SID, vec![pid(process), pid(process)]),
        FactKind::Ptrace {
            process,
            tid: task,
            tracer,
        } => {
            let data = vec![tid(task), pid(process), any(tracer), any(tracer)];
            (wire::PTRACE, data)
        }
        FactKind::Comm {
            process,
            tid: task,
            comm,
        } => {
            let mut name = [0; 16];
            name[..comm.as_bytes().len()].copy_from_slice(comm.as_bytes());
            let words = name
                .chunks(4)
                .map(|chunk| wire::word(chunk, 0).unwrap_or_default());
            let data = [tid(task), pid(process)].into_iter().chain(words).collect();
            (wire::COMM, data)
        }
        FactKind::Coredump {
            process,
            tid: task,
            parent,
        } => {
            let data = vec![tid(task), pid(process), any(parent), any(parent)];
            (wire::COREDUMP, data)
        }
        FactKind::Other { what, process } => (what, vec![0, any(process)]),
        other => panic!("the connector never tells {other:?}"),
    }
}

fn pids() -> impl Strategy<Value = Pid> {
    (1..=i32::MAX).prop_map(|raw| Pid::new(raw).unwrap())
}

fn tids() -> impl Strategy<Value = Tid> {
    pids().prop_map(Pid::leader)
}

fn maybe_pids() -> impl Strategy<Value = Option<Pid>> {
    proptest::option::of(pids())
}

fn kinds() -> impl Strategy<Value = FactKind> {
    let task = || (pids(), tids());
    let unknown = any::<u32>().prop_filter("known", |what| {
        !matches!(
            *what,
            wire::NONE
                | wire::FORK
                | wire::EXEC
                | wire::UID
                | wire::GID
                | wire::SID
                | wire::PTRACE
                | wire::COMM
                | wire::COREDUMP
                | wire::EXIT
        )
    });
    prop_oneof![
        (maybe_pids(), pids()).prop_map(|(parent, child)| FactKind::Forked { parent, child }),
        task()
            .prop_filter("leader", |(process, tid)| !tid.is_leader_of(*process))
            .prop_map(|(process, tid)| FactKind::ThreadCreated { process, tid }),
        pids().prop_map(|process| FactKind::Execed { process }),
        (task(), any::<i32>(), maybe_pids()).prop_map(|((process, tid), code, parent)| {
            FactKind::TaskExited {
                process,
                tid,
                code,
                parent,
            }
        }),
        (task(), any::<u32>(), any::<u32>()).prop_map(|((process, tid), real, effective)| {
            FactKind::Uid {
                process,
                tid,
                real,
                effective,
            }
        }),
        (task(), any::<u32>(), any::<u32>()).prop_map(|((process, tid), real, effective)| {
            FactKind::Gid {
                process,
                tid,
                real,
                effective,
            }
        }),
        pids().prop_map(|process| FactKind::Sid { process }),
        (task(), maybe_pids()).prop_map(|((process, tid), tracer)| FactKind::Ptrace {
            process,
            tid,
            tracer
        }),
        (task(), vec(any::<u8>(), 0..20)).prop_map(|((process, tid), name)| FactKind::Comm {
            process,
            tid,
            comm: Comm::new(&name)
        }),
        (task(), maybe_pids()).prop_map(|((process, tid), parent)| FactKind::Coredump {
            process,
            tid,
            parent
        }),
        (unknown, maybe_pids()).prop_map(|(what, process)| FactKind::Other { what, process }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        9 => (any::<u64>(), kinds())
            .prop_map(|(time, kind)| Message::Fact(Fact::new(Timestamp::from_nanos(time), kind))),
        1 => (any::<u32>(), any::<u32>())
            .prop_map(|(ack, error)| Message::Ack(Ack { ack, error })),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(messages in vec(messages(), 0..8)) {
        let datagram: Vec<u8> = messages.iter().flat_map(|message| encode(*message)).collect();
        let decoded: Result<Vec<Message>, _> = decode(&datagram).collect();
        prop_assert_eq!(decoded, Ok(messages));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        // A message takes 4 bytes at least, so this also says that it ends.
        prop_assert!(decode(&bytes).count() <= bytes.len() / 4 + 1);
    }

    #[test]
    fn any_words_are_survived(words in vec(prop_oneof![Just(0), Just(1), Just(3), 0..200u32, any::<u32>()], 0..60)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        prop_assert!(decode(&bytes).count() <= bytes.len());
    }

    #[test]
    fn a_truncated_message_is_an_error(message in messages(), length in 1..76usize) {
        let datagram = encode(message);
        let results: Vec<_> = decode(&datagram[..length]).collect();
        prop_assert_eq!(results.len(), 1);
        prop_assert!(results[0].is_err());
    }

    #[test]
    fn a_changed_message_is_survived(
        message in messages(),
        changes in vec((0..76usize, any::<u8>()), 1..6),
    ) {
        let mut datagram = encode(message);
        for (at, byte) in changes {
            datagram[at] = byte;
        }
        datagram.extend(encode(message));
        prop_assert!((1..=40).contains(&decode(&datagram).count()));
    }
}

fn exit() -> Message {
    let process = Pid::new(7).unwrap();
    let kind = FactKind::TaskExited {
        process,
        tid: process.leader(),
        code: 0x500,
        parent: None,
    };
    Message::Fact(Fact::new(Timestamp::from_nanos(3), kind))
}

fn set(datagram: &mut [u8], at: usize, word: u32) {
    datagram[at..at + 4].copy_from_slice(&word.to_ne_bytes());
}

#[test]
fn hostile_lengths_end_the_datagram() {
    for length in [0, 1, 15, 77, 1 << 20, u32::MAX - 2, u32::MAX] {
        let mut datagram = encode(exit());
        set(&mut datagram, 0, length);
        let results: Vec<_> = decode(&datagram).collect();
        let available = 76;
        assert_eq!(results, [Err(DecodeError::Length { length, available })]);
    }
}

#[test]
fn a_hostile_inner_length_costs_only_its_message() {
    for length in [41u16, 0xffff, 0, 15] {
        let mut datagram = encode(exit());
        datagram[32..34].copy_from_slice(&length.to_ne_bytes());
        datagram.extend(encode(exit()));
        let results: Vec<_> = decode(&datagram).collect();
        assert!(results[0].is_err(), "{length}");
        assert_eq!(results[1..], [Ok(exit())]);
    }
}

#[test]
fn no_event_is_about_a_task_that_cannot_be() {
    for id in [0, -1i32, i32::MIN] {
        for at in [52, 56] {
            let mut datagram = encode(exit());
            set(&mut datagram, at, id.cast_unsigned());
            let results: Vec<_> = decode(&datagram).collect();
            assert_eq!(results, [Err(DecodeError::Task(id))]);
        }
    }
}

#[test]
fn other_connectors_and_types_are_told_apart() {
    let mut other = encode(exit());
    set(&mut other, 16, 9);
    let error = DecodeError::Connector { idx: 9, val: 1 };
    assert_eq!(decode(&other).collect::<Vec<_>>(), [Err(error)]);

    let mut error = encode(exit());
    error[4..6].copy_from_slice(&2u16.to_ne_bytes());
    error.extend(encode(exit()));
    let results: Vec<_> = decode(&error).collect();
    assert_eq!(results, [Err(DecodeError::Type(2)), Ok(exit())]);

    let mut noop = encode(exit());
    noop[4..6].copy_from_slice(&wire::NLMSG_NOOP.to_ne_bytes());
    noop.extend(encode(exit()));
    assert_eq!(decode(&noop).collect::<Vec<_>>(), [Ok(exit())]);
}

/// Before Linux 4.18 EXIT had four words; before 3.2 `event_data` had 16 bytes.
#[test]
fn events_of_old_kernels_are_understood() {
    let mut old = encode(exit());
    old.truncate(68);
    set(&mut old, 0, 68);
    old[32..34].copy_from_slice(&32u16.to_ne_bytes());
    assert_eq!(decode(&old).collect::<Vec<_>>(), [Ok(exit())]);
}
