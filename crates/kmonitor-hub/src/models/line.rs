//! Questions to a dispatcher that answers, or ends meanwhile.

use std::sync::{Arc, PoisonError};

use loom::future::block_on;

use super::{line, model};
use crate::command::{Command, Line};
use crate::stats::HubStats;

#[test]
fn two_who_ask_at_once_are_both_answered_and_then_the_line_ends() {
    model(|| {
        let (line, mut receiver) = line();
        let asking = || {
            let line = line.clone();
            loom::thread::spawn(move || {
                let asked = line.ask(|reply| Command::Stats { reply });
                assert!(block_on(asked).is_ok());
            })
        };
        let askers = [asking(), asking()];
        drop(line);
        let mut answered = 0;
        let mut commands = Vec::new();
        while block_on(receiver.recv_many(&mut commands, 8)) > 0 {
            for command in commands.drain(..) {
                let Command::Stats { reply } = command else {
                    panic!("nobody asked for that");
                };
                reply.send(HubStats::default()).unwrap();
                answered += 1;
            }
        }
        assert_eq!(answered, 2);
        for asker in askers {
            asker.join().unwrap();
        }
    });
}

/// In the order in which `Dispatcher::run` ends.
#[test]
fn who_asks_a_dispatcher_that_ends_is_told_why() {
    model(|| {
        let (line, mut receiver) = line();
        let ended = Arc::clone(&line.ended);
        let dispatcher = loom::thread::spawn(move || {
            let mut commands = Vec::new();
            block_on(receiver.recv_many(&mut commands, 8));
            // What it was about to carry out goes unanswered.
            drop(commands);
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some("it broke".to_owned());
            drop(receiver);
        });
        let ask = |line: Line| {
            let asked = line.ask(|reply| Command::Stats { reply });
            assert_eq!(block_on(asked).unwrap_err().reason, "it broke");
        };
        let asker = line.clone();
        let asker = loom::thread::spawn(move || ask(asker));
        ask(line);
        asker.join().unwrap();
        dispatcher.join().unwrap();
    });
}
