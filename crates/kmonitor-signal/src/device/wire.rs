//! What a caller says by `ioctl`: two commands, one structure. Pure.

use kmonitor_event::{EventMask, Pid};

/// `_IOW(0xDE, 1, struct kmonitor_cmd)`.
pub(crate) const REGISTER: u32 = 0x400C_DE01;
/// `_IOW(0xDE, 2, struct kmonitor_cmd)`.
pub(crate) const DEREGISTER: u32 = 0x400C_DE02;

/// The size of `struct kmonitor_cmd`: three words.
const COMMAND_BYTES: usize = 12;

/// The seven events of 2004. The interface has no others.
const KNOWN: EventMask = EventMask::from_bits_truncate(0x7f);

/// The highest signal number of Linux (`_NSIG`).
const SIGNAL_MAX: i32 = 64;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Tell me of these events of that process by this signal.
    Register {
        target: Pid,
        mask: EventMask,
        signal: i32,
    },
    /// Tell me of these events no longer.
    Deregister { target: Pid, mask: EventMask },
}

impl Command {
    /// Reads a command, or finds that it is none (`EINVAL`).
    ///
    /// Bits above the seven are ignored, so that a program that asks for all
    /// bits (`~0`) gets all there are. What no process and what no signal can be
    /// is refused.
    pub(crate) fn decode(number: u32, bytes: &[u8]) -> Option<Self> {
        if number != REGISTER && number != DEREGISTER {
            return None;
        }
        let bytes: &[u8; COMMAND_BYTES] = bytes.try_into().ok()?;
        let [target, bits, signal] = words(bytes);
        let target = Pid::new(target)?;
        let mask = EventMask::from_bits_truncate(bits.cast_unsigned()) & KNOWN;
        if number == DEREGISTER {
            return Some(Self::Deregister { target, mask });
        }
        (1..=SIGNAL_MAX)
            .contains(&signal)
            .then_some(Self::Register {
                target,
                mask,
                signal,
            })
    }
}

/// `pid`, `type` and `signal`, in the byte order of this machine, as the caller
/// wrote them.
fn words(bytes: &[u8; COMMAND_BYTES]) -> [i32; 3] {
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        i32::from_ne_bytes(word)
    };
    [word(0), word(4), word(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: [i32; 3]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn register(words: [i32; 3]) -> Option<Command> {
        Command::decode(REGISTER, &bytes(words))
    }

    #[test]
    fn the_two_commands_are_read() {
        let target = Pid::new(7).unwrap();
        assert_eq!(
            register([7, 0x48, 35]),
            Some(Command::Register {
                target,
                mask: EventMask::FORK | EventMask::EXIT,
                signal: 35
            })
        );
        assert_eq!(
            Command::decode(DEREGISTER, &bytes([7, 0x40, -9])),
            Some(Command::Deregister {
                target,
                mask: EventMask::EXIT
            })
        );
    }

    #[test]
    fn all_bits_are_the_seven() {
        for bits in [0x7f, -1, i32::MAX] {
            let Some(Command::Register { mask, .. }) = register([1, bits, 10]) else {
                panic!("{bits:#x}");
            };
            assert_eq!(mask.bits(), 0x7f);
        }
    }

    #[test]
    fn what_no_process_and_no_signal_can_be_is_refused() {
        for words in [
            [0, 0x40, 35],
            [-1, 0x40, 35],
            [i32::MIN, 0x40, 35],
            [7, 0x40, 0],
            [7, 0x40, -1],
            [7, 0x40, 65],
            [7, 0x40, i32::MAX],
        ] {
            assert_eq!(register(words), None, "{words:?}");
        }
    }

    #[test]
    fn no_other_number_and_no_other_size_is_a_command() {
        let good = bytes([7, 0x40, 35]);
        for bit in 0..32 {
            assert_eq!(Command::decode(REGISTER ^ (1 << bit), &good).is_some(), {
                REGISTER ^ (1 << bit) == DEREGISTER
            });
        }
        for size in (0..64).filter(|size| *size != COMMAND_BYTES) {
            assert_eq!(Command::decode(REGISTER, &vec![1; size]), None, "{size}");
        }
    }
}
