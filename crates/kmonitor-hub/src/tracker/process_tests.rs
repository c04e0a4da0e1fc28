//! What reports do to what is known of a process.

use super::*;

pub(in super::super) fn process() -> Process {
    Process::born(ProcessKey::new(Pid::new(10).unwrap(), 0), None)
}

pub(in super::super) fn tid(raw: i32) -> Tid {
    Tid::new(raw).unwrap()
}

pub(in super::super) fn exit(process: &mut Process, task: i32, code: i32) -> bool {
    process.task_exited(tid(task), code, None, Timestamp::default())
}

#[test]
fn what_names_a_parent_after_the_next_birth_is_the_next_owners() {
    let at = Timestamp::from_nanos;
    let mut process = process();
    let parent = Pid::new(1);
    assert!(process.may_have_told(tid(10), parent, at(9)));
    process.replaced_at = Some(at(5));
    assert!(process.may_have_told(tid(10), None, at(9)));
    assert!(process.may_have_told(tid(10), parent, at(4)));
    assert!(!process.may_have_told(tid(10), parent, at(9)));
    // Of other threads no parent is ever named, and none tells anything.
    process.thread_created(tid(11));
    assert!(process.may_have_told(tid(11), None, at(9)));
}

#[test]
fn last_words_count_if_it_had_been_replaced_when_it_was_looked_at() {
    let at = |ms: u64| Timestamp::from_nanos(ms * 1_000_000);
    for (born, expected) in [
        (None, Some(Codes::All(0x500))),
        (Some(999), Some(Codes::All(0x500))),
        // Seen before it was stamped, perhaps.
        (Some(1020), Some(Codes::None)),
        (Some(1200), None),
    ] {
        let mut process = process();
        exit(&mut process, 10, 0x500);
        process.lives_on_or_was_replaced(at(1000));
        let words = process.take_last_words(born.map(at));
        assert_eq!(words, expected, "{born:?}");
    }
}

#[test]
fn who_lives_on_after_all_its_reports_is_asked_about_at_the_next() {
    let mut process = process();
    process.thread_created(tid(11));
    exit(&mut process, 10, 0);
    exit(&mut process, 11, 0);
    process.lives_on_or_was_replaced(Timestamp::default());
    assert!(!process.threads.complete);
}

#[test]
fn codes_that_agree_settle_the_status() {
    let mut process = process();
    process.thread_created(tid(11));
    exit(&mut process, 10, 0x500);
    assert_eq!(process.agreed_status(), None);
    exit(&mut process, 11, 0x500);
    assert_eq!(process.agreed_status().unwrap().raw(), Some(0x500));
}

#[test]
fn codes_that_differ_settle_nothing() {
    let mut process = process();
    process.thread_created(tid(11));
    exit(&mut process, 10, 0x300);
    exit(&mut process, 11, 0x900);
    assert!(process.is_told_out());
    assert_eq!(process.agreed_status(), None);
}

#[test]
fn an_exec_forgets_codes_and_late_siblings() {
    let mut process = process();
    process.thread_created(tid(11));
    exit(&mut process, 10, 0);
    process.execed();
    exit(&mut process, 11, 9);
    exit(&mut process, 10, 0x700);
    assert_eq!(process.agreed_status().unwrap().raw(), Some(0x700));
}

#[test]
fn the_old_leaders_exit_after_an_exec_is_not_the_new_ones() {
    let mut process = process();
    process.thread_created(tid(11));
    process.execed();
    assert!(exit(&mut process, 10, 0));
    assert!(!process.is_told_out());
    assert!(!exit(&mut process, 10, 0x700));
    assert_eq!(process.agreed_status().unwrap().raw(), Some(0x700));
}

#[test]
fn after_an_exec_by_the_leader_its_next_exit_is_its_own() {
    let mut process = process();
    process.thread_created(tid(11));
    process.execed();
    assert!(!exit(&mut process, 11, 0));
    assert!(!exit(&mut process, 10, 0x700));
    assert_eq!(process.agreed_status().unwrap().raw(), Some(0x700));
}
