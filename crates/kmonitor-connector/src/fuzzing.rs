//! What the fuzz targets in `fuzz/` call, and the test at the end with the corpus
//! that lies there.

use bytes::BytesMut;
use kmonitor_event::{EventMask, Pid, ProcessKey};
use kmonitor_source::KernelInterest;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_proto::NetlinkMessageCodec;

use crate::codec::{ConnectorCodec, Payload};
use crate::decode::decode;
use crate::filter::model::{interpret, passes};
use crate::filter::{Selector, compile};
use crate::socket::is_whole_chain;

/// Any bytes as a datagram: nothing panics, nothing goes on for ever, and the codec
/// under `NetlinkFramed` reads what the decoder reads.
pub fn codec(datagram: &[u8]) {
    let decoded: Vec<_> = decode(datagram).collect();
    // A message has a header of 16 bytes at least; what is too short ends it all.
    assert!(decoded.len() <= datagram.len() / 16 + 1);
    if !is_whole_chain(datagram) {
        return;
    }
    let mut buffer = BytesMut::from(datagram);
    for expected in decoded {
        let message: Option<NetlinkMessage<Payload>> =
            ConnectorCodec::decode(&mut buffer).expect("the codec has no errors");
        let payload = message.expect("as many messages").payload;
        let NetlinkPayload::InnerMessage(Payload { message: read, .. }) = payload else {
            panic!("not our payload");
        };
        assert_eq!(read, expected);
    }
    let end = ConnectorCodec::decode::<Payload>(&mut buffer).expect("the codec has no errors");
    assert!(end.is_none() && buffer.is_empty());
}

/// Any bytes as changes of the interest (8 bytes each, a zero ends them) and then as
/// a datagram: the program that is made does what it was made for.
pub fn filter(bytes: &[u8]) {
    let mut interest = KernelInterest::new();
    let mut selector = Selector::default();
    let (mut changes, mut rest) = (0, bytes);
    while let Some((change, behind)) = rest.split_first_chunk::<8>() {
        rest = behind;
        let [what, incarnation, pid @ .., a, b] = *change;
        let [p, q, r, s] = pid;
        let events = EventMask::from_bits_truncate(u32::from_le_bytes([a, b, 0, 0]));
        let pid = Pid::new(i32::from_le_bytes([p, q, r, s]));
        let key = pid.map(|pid| ProcessKey::new(pid, incarnation.into()));
        match (what, key) {
            (0, _) => break,
            (1, _) => interest.set_host(events),
            (2, Some(key)) => interest.forget(key),
            (_, Some(key)) => interest.want(key, events, None),
            (_, None) => {}
        }
        changes += 1;
        if changes % 4 == 0 {
            selector.select(&interest);
            interest.settle();
        }
    }
    let selection = selector.select(&interest);
    let program = compile(&selection);
    assert!(program.len() <= 1024, "{}", program.len());
    let kept = interpret(&program, rest);
    assert_eq!(kept != 0, passes(&selection, rest), "{selection:?}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn each(target: &str, run: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut count = 0;
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            // Cut short, and with single bits changed, it is as good a case.
            let stride = 1 + bytes.len() / 64;
            for end in (0..=bytes.len()).step_by(stride) {
                run(&bytes[..end]);
            }
            for bit in (0..bytes.len() * 8).step_by(stride) {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                run(&changed);
            }
            count += 1;
        }
        assert!(count >= 5, "{count} cases for {target}");
    }

    #[test]
    fn the_codec_takes_the_corpus() {
        each("codec", super::codec);
    }

    #[test]
    fn the_filter_takes_the_corpus() {
        each("filter", super::filter);
    }
}
