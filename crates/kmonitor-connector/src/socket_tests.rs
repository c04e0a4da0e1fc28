use super::*;

#[test]
fn only_whole_chains_are_put_one_behind_the_other() {
    let message = |length: u32, bytes: usize| {
        let mut datagram = vec![0; bytes];
        datagram[..4].copy_from_slice(&length.to_ne_bytes());
        datagram
    };
    let two = [message(16, 16), message(40, 40)].concat();
    assert!(is_whole_chain(&two));
    assert!(is_whole_chain(&message(17, 20)));
    assert!(
        !is_whole_chain(&message(17, 17)),
        "the next would start odd"
    );
    for length in [0, 15, 16, 21, 24, u32::MAX] {
        assert!(!is_whole_chain(&message(length, 20)), "{length}");
    }
    assert!(!is_whole_chain(&[]));
    assert!(!is_whole_chain(&two[..54]));
}

#[tokio::test]
async fn an_empty_queue_is_pending_and_no_error() {
    let socket = <BatchSocket as AsyncSocket>::new(crate::wire::PROTOCOL).unwrap();
    socket.set_waiting(false);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut buffer = Vec::new();
    assert!(socket.poll_recv(&mut cx, &mut buffer).is_pending());
    assert!(buffer.is_empty() && socket.take_error().is_none());
}
