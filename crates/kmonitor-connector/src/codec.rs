//! The connector's messages for `netlink-proto`.
//!
//! The kernel sends every connector message as `NLMSG_DONE`, which
//! `netlink-packet-core` takes for the end of a dump and never hands to a typed
//! payload. This codec does.

use std::convert::Infallible;
use std::fmt::Debug;
use std::io;

use bytes::{Buf, BytesMut};
use netlink_packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_proto::NetlinkMessageCodec;

use crate::decode::{DecodeError, Frame, Message, decode_payload};
use crate::sequence::Number;
use crate::wire;

/// What a netlink message of the connector's holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload {
    /// That it makes no sense is data too: the codec has no other way to tell.
    pub(crate) message: Result<Message, DecodeError>,
    pub(crate) number: Option<Number>,
}

impl NetlinkDeserializable for Payload {
    type Error = Infallible;

    #[inline]
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            message: decode_payload(header.message_type, payload),
            number: Number::of(payload),
        })
    }
}

/// Splits datagrams that lie one behind the other into their messages.
pub(crate) enum ConnectorCodec {}

impl NetlinkMessageCodec for ConnectorCodec {
    fn decode<T>(source: &mut BytesMut) -> io::Result<Option<NetlinkMessage<T>>>
    where
        T: NetlinkDeserializable + Debug,
    {
        while !source.is_empty() {
            let mut header = NetlinkHeader::default();
            // The socket passes on whole chains only, so no length is wrong here.
            let Ok(frame) = Frame::first_of(source) else {
                source.clear();
                break;
            };
            header.message_type = frame.kind;
            let parsed = T::deserialize(&header, frame.payload).map_err(io::Error::other);
            let (kind, whole_bytes) = (frame.kind, frame.whole_bytes);
            source.advance(whole_bytes);
            if kind != wire::NLMSG_NOOP {
                let payload = NetlinkPayload::InnerMessage(parsed?);
                return Ok(Some(NetlinkMessage::new(header, payload)));
            }
        }
        Ok(None)
    }

    fn encode<T>(message: NetlinkMessage<T>, buffer: &mut BytesMut) -> io::Result<()>
    where
        T: NetlinkSerializable + Debug,
    {
        let start = buffer.len();
        buffer.resize(start + message.buffer_len(), 0);
        message.serialize(&mut buffer[start..]);
        Ok(())
    }
}
