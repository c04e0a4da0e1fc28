use proptest::prelude::*;

use super::*;

/// The kernel's side: a queue in which each event takes the same memory.
struct Kernel {
    queued: u32,
    event_bytes: u32,
    dropped: u32,
}

impl Kernel {
    fn state(&self) -> QueueState {
        QueueState {
            queued_bytes: self.queued * self.event_bytes,
            dropped: self.dropped,
        }
    }
}

/// Reads until the loss is told; new events come as soon as the queue is empty.
/// Returns how many were read before the loss was told.
fn read_to_the_loss(overflow: &mut Overflow, kernel: &mut Kernel, newer: u32) -> u32 {
    let frozen = kernel.queued;
    let mut read = 0;
    let mut newer_came = false;
    for _ in 0..10_000 {
        match overflow.plan(|| Some(kernel.state())) {
            Plan::Tell => return read,
            Plan::Read(limit) => {
                let count = kernel.queued.min(u32::try_from(limit).unwrap());
                if count == 0 {
                    assert!(overflow.found_empty());
                    return read;
                }
                kernel.queued -= count;
                read += count;
                overflow.received(count as usize);
                if kernel.queued == 0 && !newer_came {
                    newer_came = true;
                    kernel.queued = newer;
                }
            }
        }
    }
    panic!("the loss behind {frozen} events is never told");
}

proptest! {
    #[test]
    fn the_loss_is_told_where_it_was(
        queues in prop::collection::vec((0..2_000u32, 0..400u32, 1..1_000u32), 1..6),
        event_bytes in 200..4_000u32,
    ) {
        let mut overflow = Overflow::new(5);
        let mut kernel = Kernel { queued: 0, event_bytes, dropped: 5 };
        for (queued, newer, dropped) in queues {
            kernel.queued = queued;
            kernel.dropped += dropped;
            overflow.reported();
            prop_assert_eq!(read_to_the_loss(&mut overflow, &mut kernel, newer), queued);
            prop_assert_eq!(overflow.settle(Some(kernel.dropped)), Some(Some(dropped.into())));
            prop_assert_eq!(overflow.plan(|| None), Plan::Read(DATAGRAMS_MAX));
        }
    }
}

#[test]
fn without_a_loss_nothing_is_asked_or_told() {
    let mut overflow = Overflow::new(0);
    let plan = overflow.plan(|| panic!("a system call per read"));
    assert_eq!(plan, Plan::Read(DATAGRAMS_MAX));
    overflow.received(DATAGRAMS_MAX);
    assert!(!overflow.found_empty());
}

#[test]
fn drops_that_are_counted_late_are_told_late() {
    let mut overflow = Overflow::new(0);
    overflow.reported();
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(Some(0)), Some(Some(0)), "the place counts");
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(Some(3)), Some(Some(3)));
    assert!(!overflow.found_empty());

    overflow.reported();
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(Some(5)), Some(Some(2)));
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(Some(5)), None);
    assert!(!overflow.found_empty());
}

#[test]
fn a_kernel_that_does_not_count_is_still_heard() {
    let mut overflow = Overflow::new(0);
    overflow.reported();
    assert_eq!(overflow.plan(|| None), Plan::Read(DATAGRAMS_MAX));
    overflow.received(3);
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(None), Some(None));
    assert!(!overflow.found_empty());
}

#[test]
fn the_count_survives_its_wrap_around() {
    let mut overflow = Overflow::new(u32::MAX - 1);
    overflow.reported();
    assert!(overflow.found_empty());
    assert_eq!(overflow.settle(Some(3)), Some(Some(5)));
}
