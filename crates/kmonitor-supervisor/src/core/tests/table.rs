//! Every strategy × restart type × kind of end, against a table written by hand.

use super::rig::{Rig, Start, child, exit, killed, name, secs};
use crate::Signal;
use crate::core::{Request, Rules};
use crate::spec::{Intensity, Restart, Strategy};

/// Who is started anew when `x`, of a, x and b, ends in this way. `.`: nobody. a and
/// b are always restarted on failure.
///
/// Columns: exit 0; exit 7, listed as a success; exit 1; SIGSEGV; a restart that cannot
/// be spawned; a restart that is not ready in time; a stop that was asked for; exit 8,
/// forbidden; exit 9, forced; exit 10, both.
const TABLE: &str = "
one-for-one   always       x    x    x    x    x    x    .    .    x    .
one-for-one   on-failure   .    .    x    x    x    x    .    .    x    .
one-for-one   on-abnormal  .    .    .    x    x    x    .    .    x    .
one-for-one   never        .    .    .    .    x    x    .    .    x    .
one-for-all   always       axb  axb  axb  axb  axb  axb  .    .    axb  .
one-for-all   on-failure   .    .    axb  axb  axb  axb  .    .    axb  .
one-for-all   on-abnormal  .    .    .    axb  axb  axb  .    .    axb  .
one-for-all   never        .    .    .    .    axb  axb  .    .    axb  .
rest-for-one  always       xb   xb   xb   xb   xb   xb   .    .    xb   .
rest-for-one  on-failure   .    .    xb   xb   xb   xb   .    .    xb   .
rest-for-one  on-abnormal  .    .    .    xb   xb   xb   .    .    xb   .
rest-for-one  never        .    .    .    .    xb   xb   .    .    xb   .
";

fn rig(strategy: &str, restart: &str) -> Rig {
    let strategy = match strategy {
        "one-for-one" => Strategy::OneForOne,
        "one-for-all" => Strategy::OneForAll,
        "rest-for-one" => Strategy::RestForOne,
        other => panic!("{other}"),
    };
    let restart = match restart {
        "always" => Restart::Always,
        "on-failure" => Restart::OnFailure,
        "on-abnormal" => Restart::OnAbnormal,
        "never" => Restart::Never,
        other => panic!("{other}"),
    };
    let mut x = child("x", restart);
    x.policy.codes.success.insert(7);
    x.policy.codes.forbid.extend([8, 10]);
    x.policy.codes.force.extend([9, 10]);
    let rules = Rules {
        strategy,
        intensity: Intensity::new(9, secs(60)),
        ..Rules::default()
    };
    let sibling = |name| child(name, Restart::OnFailure);
    Rig::up(rules, vec![sibling("a"), x, sibling("b")])
}

fn happen(rig: &mut Rig, column: usize) {
    match column {
        0 => rig.ends("x", exit(0)),
        1 => rig.ends("x", exit(7)),
        2 => rig.ends("x", exit(1)),
        3 => rig.ends("x", killed(Signal::SEGV)),
        // A restart that is forced, whatever the type, and fails.
        4 => {
            rig.next_start("x", Start::SpawnError);
            rig.ends("x", exit(9));
        }
        5 => {
            rig.next_start("x", Start::NotReady);
            rig.ends("x", exit(9));
            rig.log.clear();
            rig.pass(secs(60));
        }
        6 => {
            rig.request(Request::Stop(name("x")));
        }
        7 => rig.ends("x", exit(8)),
        8 => rig.ends("x", exit(9)),
        9 => rig.ends("x", exit(10)),
        _ => panic!("{column}"),
    }
}

/// Who was started in the last round of starts, in order.
fn last_round(rig: &Rig) -> String {
    let mut round = String::new();
    for entry in &rig.log {
        if let Some(name) = entry.strip_prefix('+') {
            if round.contains(name) {
                round.clear();
            }
            round.push_str(name);
        }
    }
    if round.is_empty() { ".".into() } else { round }
}

#[test]
fn who_is_restarted() {
    for row in TABLE.lines().filter(|row| !row.is_empty()) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells.len(), 12, "{row}");
        for (column, expected) in cells[2..].iter().enumerate() {
            let mut rig = rig(cells[0], cells[1]);
            happen(&mut rig, column);
            let what = format!("{} {} column {column}: {:?}", cells[0], cells[1], rig.log);
            assert_eq!(last_round(&rig), *expected, "{what}");
            let x_is_down = *expected == ".";
            let running = if x_is_down { "a b" } else { "a x b" };
            assert_eq!(rig.running(), running, "{what}");
            assert!(rig.end.is_none(), "{what}");
        }
    }
}

/// What a failed restart of x does first: the round before the one in the table.
#[test]
fn a_failing_restart_is_one_more_restart() {
    for (strategy, log) in [
        ("one-for-one", "+x +x"),
        ("one-for-all", "-b -a +a +x -a +a +x +b"),
        ("rest-for-one", "-b +x +x +b"),
    ] {
        let mut rig = rig(strategy, "on-failure");
        happen(&mut rig, 4);
        assert_eq!(rig.take_log(), log, "{strategy}");
        assert_eq!(rig.core.children()[1].restarts, 2);
    }
}

#[test]
fn a_temporary_child_goes_with_its_siblings_but_does_not_come_back() {
    let rules = Rules {
        strategy: Strategy::OneForAll,
        ..Rules::default()
    };
    let children = vec![child("a", Restart::Always), child("t", Restart::Never)];
    let mut rig = Rig::up(rules, children);
    rig.ends("a", exit(1));
    assert_eq!(rig.take_log(), "-t +a");
    assert_eq!(rig.running(), "a");
}

/// As OTP has it: who is down because it was done is a sibling like the others; who was
/// stopped by request is not.
#[test]
fn a_sibling_that_was_done_is_run_again() {
    let rules = Rules {
        strategy: Strategy::RestForOne,
        ..Rules::default()
    };
    let children = ["db", "migrate", "other", "api"];
    let children = children.map(|name| child(name, Restart::OnFailure)).into();
    let mut rig = Rig::up(rules, children);
    rig.ends("migrate", exit(0));
    rig.request(Request::Stop(name("other")));
    rig.log.clear();
    rig.ends("db", exit(1));
    assert_eq!(rig.take_log(), "-api +db +migrate +api");
}
