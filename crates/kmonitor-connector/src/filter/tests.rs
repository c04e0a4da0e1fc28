//! The filter against a plain model: in an interpreter, and in the kernel.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use kmonitor_event::{EventMask, Pid, ProcessKey};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::kinds::NAMED;
use super::model::{interpret, passes};
use super::*;
use crate::{sys, wire};

fn kinds() -> impl Strategy<Value = Kinds> {
    (0..1u32 << 14).prop_map(|bits| Kinds::of(EventMask::from_bits_truncate(bits)))
}

fn selections() -> impl Strategy<Value = Selection> {
    let pids = vec(pids(), 0..200);
    (kinds(), kinds(), pids, any::<u64>()).prop_map(|(host, named, pids, chosen)| {
        let pids: BTreeSet<u32> = pids.into_iter().collect();
        let parents = pids.iter().enumerate();
        let parents = parents.filter(|(at, _)| chosen >> (at % 64) & 1 == 1);
        Selection {
            host,
            named,
            parents: parents.map(|(_, pid)| *pid).collect(),
            pids: pids.into_iter().collect(),
        }
    })
}

/// Few enough to meet again, with bytes that differ in each place.
fn pids() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..40u32,
        select(vec![0x0102_0304, 0x0403_0201, 0x0003_0000, 1 << 22])
    ]
}

fn whats() -> impl Strategy<Value = u32> {
    let mut known: Vec<u32> = NAMED.iter().map(|(what, _)| *what).collect();
    known.extend([wire::NONE, 0x8, 0x2000_0000, 0x0100_0000, 0x80, u32::MAX]);
    prop_oneof![8 => select(known), 1 => any::<u32>()]
}

fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let event = (
        whats(),
        vec(pids(), 6),
        prop_oneof![9 => Just(76usize), 1 => 0..80usize],
    );
    let event = event.prop_map(|(what, words, length)| {
        let mut bytes = vec![0u8; 52];
        bytes[36..40].copy_from_slice(&what.to_ne_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.resize(length, 0);
        bytes
    });
    prop_oneof![9 => event, 1 => vec(any::<u8>(), 0..100)]
}

proptest! {
    #[test]
    fn a_program_does_what_its_selection_says(
        selection in selections(),
        datagrams in vec(datagrams(), 1..40),
    ) {
        let program = compile(&selection);
        prop_assert!(program.len() <= 4096);
        for datagram in &datagrams {
            let kept = interpret(&program, datagram);
            prop_assert!(kept == 0 || kept == u32::MAX);
            prop_assert_eq!(kept != 0, passes(&selection, datagram), "{:?}", datagram);
        }
    }

    #[test]
    fn the_kernel_runs_it_as_we_do(
        selection in selections(),
        datagrams in vec(datagrams(), 1..20),
    ) {
        let program = compile(&selection);
        let (ours, theirs) = pair();
        sys::set_filter(ours.as_fd(), Some(&program)).unwrap();
        for datagram in datagrams.iter().filter(|datagram| !datagram.is_empty()) {
            let expected = interpret(&program, datagram) != 0;
            prop_assert_eq!(arrives(&ours, &theirs, datagram), expected, "{:?}", datagram);
        }
    }

    /// Whatever the interest was before, what it asks for now passes.
    #[test]
    fn what_is_wanted_passes(
        steps in vec(vec(interests(), 1..4), 1..6),
        limit in select(vec![0, 2, 5, 128]),
        refuse in select(vec![usize::MAX, usize::MAX, 0, 12, 30]),
        datagrams in vec(datagrams(), 1..30),
    ) {
        let mut filter = Filter::new(true);
        filter.selector.limit(limit);
        let mut interest = KernelInterest::new();
        let mut installed: Option<Vec<sock_filter>> = None;
        for step in steps {
            step.iter().for_each(|change| change.make(&mut interest));
            filter
                .follow(&interest, |program| {
                    if program.is_some_and(|program| program.len() > refuse) {
                        return Err(Errno::NOMEM.into());
                    }
                    installed = program.map(<[_]>::to_vec);
                    Ok(())
                })
                .unwrap();
            interest.settle();
            for datagram in &datagrams {
                if wanted(&interest, datagram) {
                    let kept = installed
                        .as_ref()
                        .is_none_or(|program| interpret(program, datagram) != 0);
                    prop_assert!(kept, "{:?} held back", datagram);
                }
            }
        }
    }
}

/// A change of interest.
#[derive(Debug, Clone)]
enum Change {
    Host(EventMask),
    Want(ProcessKey, EventMask),
    Forget(ProcessKey),
}

impl Change {
    fn make(&self, interest: &mut KernelInterest) {
        match *self {
            Self::Host(events) => interest.set_host(events),
            Self::Want(key, events) => interest.want(key, events, None),
            Self::Forget(key) => interest.forget(key),
        }
    }
}

fn interests() -> impl Strategy<Value = Change> {
    let events = || (0..1u32 << 14).prop_map(EventMask::from_bits_truncate);
    let events = move || prop_oneof![Just(EventMask::EXIT), Just(EventMask::FORK), events()];
    let keys = || (1..40, 1..3u64).prop_map(|(pid, times)| key(pid, times));
    prop_oneof![
        1 => events().prop_map(Change::Host),
        1 => Just(Change::Host(EventMask::empty())),
        8 => (keys(), events()).prop_map(|(key, events)| Change::Want(key, events)),
        4 => keys().prop_map(Change::Forget),
    ]
}

fn key(pid: i32, incarnation: u64) -> ProcessKey {
    ProcessKey::new(Pid::new(pid).unwrap(), incarnation)
}

/// Whether an interest asks for what a datagram tells: by what it means, not by how
/// the filter goes about it.
fn wanted(interest: &KernelInterest, datagram: &[u8]) -> bool {
    use EventMask as E;
    if datagram.len() < 76 {
        return false;
    }
    let [what, pid, tgid, child, child_tgid] =
        [36, 52, 56, 60, 64].map(|at| wire::word(datagram, at).unwrap());
    let asks = |pid: u32, events: EventMask| {
        interest.host().intersects(events)
            || interest.iter_named().any(|(key, wanted)| {
                key.pid().as_raw().cast_unsigned() == pid && wanted.events.intersects(events)
            })
    };
    match what {
        wire::NONE => true,
        wire::FORK if child == child_tgid => asks(tgid, E::FORK),
        wire::FORK => asks(child_tgid, E::THREAD_CREATE),
        wire::EXIT if pid == tgid => asks(tgid, E::EXIT | E::ABORT | E::THREAD_EXIT),
        wire::EXIT => asks(tgid, E::EXIT | E::ABORT | E::THREAD_EXIT | E::THREAD_ABORT),
        wire::EXEC => asks(tgid, E::EXEC),
        wire::UID => asks(tgid, E::UID),
        wire::GID => asks(tgid, E::GID),
        wire::SID => asks(tgid, E::SID),
        wire::PTRACE => asks(tgid, E::PTRACE),
        wire::COMM => asks(tgid, E::COMM),
        wire::COREDUMP => asks(tgid, E::COREDUMP),
        _ => asks(tgid, E::OTHER),
    }
}

/// Two sockets that hear each other. Those of this family take filters too.
fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn arrives(ours: &OwnedFd, theirs: &OwnedFd, datagram: &[u8]) -> bool {
    rustix::net::send(theirs, datagram, SendFlags::DONTWAIT).unwrap();
    let mut bytes = [0; 128];
    match rustix::net::recv(ours, &mut bytes, RecvFlags::DONTWAIT) {
        Ok((length, _)) => {
            assert_eq!(&bytes[..length], datagram, "cut short");
            true
        }
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Counts attachments, and takes every program.
fn count(filter: &mut Filter, interest: &mut KernelInterest) -> usize {
    let mut count = 0;
    let install = |_: Option<&[sock_filter]>| {
        count += 1;
        Ok(())
    };
    filter.follow(interest, install).unwrap();
    interest.settle();
    count
}

#[test]
fn it_is_attached_once_for_many_changes_and_seldom_to_become_narrower() {
    let mut filter = Filter::new(true);
    let mut interest = KernelInterest::new();
    for pid in 1..=100 {
        interest.want(key(pid, 1), EventMask::EXIT, None);
    }
    assert_eq!(count(&mut filter, &mut interest), 1);
    assert_eq!(filter.installed.pids.len(), 100);
    assert_eq!(count(&mut filter, &mut interest), 0, "nothing has changed");
    let mut attached = 0;
    for pid in 1..=90 {
        interest.forget(key(pid, 1));
        attached += count(&mut filter, &mut interest);
    }
    assert!((1..=6).contains(&attached), "{attached}");
    assert!(filter.installed.pids.len() <= 26);
}

/// Whoever subscribes ten thousand times does not attach ten thousand programs, nor
/// do so many that go: beyond what a program can tell apart nothing is changed.
#[test]
fn ten_thousand_one_by_one_attach_no_more_than_a_program_has_room_for() {
    let mut filter = Filter::new(true);
    let mut interest = KernelInterest::new();
    let mut attached = 0;
    for pid in 1..=10_000 {
        interest.want(key(pid, 1), EventMask::EXIT, None);
        attached += count(&mut filter, &mut interest);
    }
    assert!(attached <= 130, "{attached} while they came");
    let mut attached = 0;
    for pid in 1..=10_000 {
        interest.forget(key(pid, 1));
        attached += count(&mut filter, &mut interest);
    }
    assert!((1..=20).contains(&attached), "{attached} while they went");
}

#[test]
fn a_crowd_is_not_told_apart_until_it_has_gone() {
    let mut filter = Filter::new(true);
    let mut interest = KernelInterest::new();
    for pid in 1..=129 {
        interest.want(key(pid, 1), EventMask::EXIT, None);
    }
    assert_eq!(count(&mut filter, &mut interest), 1);
    let exits = Selection {
        host: Kinds::of(EventMask::EXIT),
        ..Selection::default()
    };
    assert_eq!(filter.installed, exits);
    for pid in 130..=1000 {
        interest.want(key(pid, 1), EventMask::EXIT, None);
        assert_eq!(count(&mut filter, &mut interest), 0);
    }
    interest.want(key(2000, 1), EventMask::UID, None);
    assert_eq!(count(&mut filter, &mut interest), 1);
    for pid in 4..=1000 {
        interest.forget(key(pid, 1));
    }
    assert_eq!(count(&mut filter, &mut interest), 1);
    assert_eq!(filter.installed.pids, [1, 2, 3, 2000]);
    assert_eq!(filter.installed.host, Kinds::NONE);
}

#[test]
fn a_tree_or_the_whole_host_passes_by_kind() {
    let mut selector = Selector::default();
    let mut interest = KernelInterest::new();
    let host = EventMask::FORK | EventMask::EXIT;
    interest.set_host(host);
    interest.want(key(7, 1), EventMask::EXIT | EventMask::UID, None);
    interest.want(key(8, 1), EventMask::EXIT, None);
    let selection = selector.select(&interest);
    assert_eq!(selection.host, Kinds::of(host));
    assert_eq!(selection.named, Kinds::of(EventMask::UID));
    assert_eq!(selection.pids, [7]);
    interest.set_host(EventMask::all());
    assert_eq!(selector.select(&interest), Selection::everything());
}

#[test]
fn refused_programs_become_simpler_and_then_none() {
    let mut filter = Filter::new(true);
    let mut interest = KernelInterest::new();
    for pid in 1..=100 {
        interest.want(key(pid, 1), EventMask::EXIT, None);
    }
    let mut asked = Vec::new();
    let mut follow = |filter: &mut Filter, interest: &KernelInterest, max: usize| {
        asked.clear();
        filter.follow(interest, |program| {
            asked.push(program.map(<[_]>::len));
            match program {
                Some(program) if program.len() > max => Err(Errno::NOMEM.into()),
                _ => Ok(()),
            }
        })?;
        Ok::<_, io::Error>(asked.len())
    };
    // As net.core.optmem_max would: small ones only.
    assert_eq!(follow(&mut filter, &interest, 150).unwrap(), 2);
    assert_eq!(filter.narrowing(), Narrowing::Processes { max: 50 });
    assert_eq!(filter.installed.host, Kinds::of(EventMask::EXIT));

    for pid in 4..=100 {
        interest.forget(key(pid, 1));
    }
    assert_eq!(follow(&mut filter, &interest, 150).unwrap(), 1);
    assert_eq!(filter.installed.pids, [1, 2, 3]);

    interest.want(key(5, 1), EventMask::FORK, None);
    assert_eq!(
        follow(&mut filter, &interest, 0).unwrap(),
        3,
        "the last: none"
    );
    assert_eq!(filter.narrowing(), Narrowing::None);
    assert_eq!(filter.installed, Selection::everything());
    assert_eq!(follow(&mut filter, &interest, 0).unwrap(), 0);
}

/// A filter that is too narrow and cannot be replaced must not pass for good.
#[test]
fn what_cannot_be_widened_is_an_error() {
    let mut filter = Filter::new(true);
    let mut interest = KernelInterest::new();
    interest.want(key(1, 1), EventMask::EXIT, None);
    filter.follow(&interest, |_| Ok(())).unwrap();
    interest.want(key(2, 1), EventMask::EXIT, None);
    for _ in 0..2 {
        let locked = filter.follow(&interest, |_| Err(Errno::PERM.into()));
        assert_eq!(
            Errno::from_io_error(&locked.unwrap_err()),
            Some(Errno::PERM)
        );
    }
    filter.follow(&interest, |_| Ok(())).unwrap();
    assert_eq!(filter.installed, Selection::everything());
}

#[test]
fn where_it_would_silence_the_kernel_none_is_attached() {
    let mut filter = Filter::new(false);
    let mut interest = KernelInterest::new();
    interest.want(key(1, 1), EventMask::EXIT, None);
    assert_eq!(count(&mut filter, &mut interest), 0);
    assert_eq!(filter.narrowing(), Narrowing::None);
}

/// The largest program that is ever attached is one that the kernel takes.
#[test]
fn the_kernel_takes_the_largest_program() {
    let pids: Vec<u32> = (1..=128).collect();
    let selection = Selection {
        host: Kinds::NONE,
        named: Kinds::ALL,
        parents: pids.clone(),
        pids,
    };
    let program = compile(&selection);
    // 8 bytes each, and twice that while one replaces another, of 20 480.
    assert!(program.len() * 8 * 2 < 10_000);
    let (ours, theirs) = pair();
    sys::set_filter(ours.as_fd(), Some(&program)).unwrap();
    sys::set_filter(ours.as_fd(), Some(&program)).unwrap();
    let mut datagram = [0; 76];
    datagram[36..40].copy_from_slice(&wire::EXIT.to_ne_bytes());
    assert!(!arrives(&ours, &theirs, &datagram));
    sys::set_filter(ours.as_fd(), None).unwrap();
    sys::set_filter(ours.as_fd(), None).unwrap();
    assert!(arrives(&ours, &theirs, &datagram));
}
