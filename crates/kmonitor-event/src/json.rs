//! The JSON contract: one flat object per event, one vocabulary with
//! [`EventKind`](crate::EventKind) and [`EventMask`](crate::EventMask).
//!
//! | field | in | what |
//! |---|---|---|
//! | `type` | all | the kind's name |
//! | `seq`, `time_ns` | all | number in the stream; monotonic clock, ns |
//! | `pid`, `key`, `incarnation` | all that concern a process | its pid; `PID:INODE` where the inode is known; which process of that pid |
//! | `tid` | a thread's | the thread |
//! | `child`, `child_key`, `child_incarnation` | `fork` | the same three of the new process |
//! | `parent` | where known | the parent's pid |
//! | `status` | `exit`, `thread_exit` | `{"code":3}`, `{"signal":9,"core":false}`, `{"unknown":"reason"}` or `{"pending":true}` |
//! | `status_source` | `exit` with a known status | who told |
//! | `real`, `effective` | `uid`, `gid` | the ids |
//! | `tracer` | `ptrace` | the tracing process; absent when it left |
//! | `comm` | `comm` | the name |
//! | `phase`, `complete` | `resync` | `begin` or `end`; at the end, whether surely nobody was missed |
//! | `count`, `origin` | `lost` | how many (absent if nobody counted), and whose queue |
//! | `what` | `other` | the kernel's number |
//! | `inferred` | where true | concluded after a loss |

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Comm, Event, EventKind, Exit, LossOrigin, Lost, Pid, ProcessKey, ProcessRef, Resync, Status,
    StatusSource, Tid, Timestamp, UnknownReason,
};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StatusJson {
    Code { code: i32 },
    Signal { signal: i32, core: bool },
    Unknown { unknown: String },
    Pending { pending: bool },
    Raw { raw: i32 },
}

impl From<ExitStatus> for StatusJson {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code { code },
            (None, Some(signal)) => Self::Signal {
                signal,
                core: status.core_dumped(),
            },
            (None, None) => Self::Raw {
                raw: status.into_raw(),
            },
        }
    }
}

impl StatusJson {
    fn of(status: Status) -> (Self, Option<&'static str>) {
        match status {
            Status::Known { status, source } => (status.into(), Some(source.name())),
            Status::Pending => (Self::Pending { pending: true }, None),
            Status::Unknown(reason) => (
                Self::Unknown {
                    unknown: reason.name().to_owned(),
                },
                None,
            ),
        }
    }

    fn raw(&self) -> Option<i32> {
        match self {
            Self::Code { code } => Some((code & 0xff) << 8),
            Self::Signal { signal, core } => Some((signal & 0x7f) | if *core { 0x80 } else { 0 }),
            Self::Raw { raw } => Some(*raw),
            Self::Unknown { .. } | Self::Pending { .. } => None,
        }
    }

    fn status(&self, source: Option<&str>) -> Result<Status, String> {
        match self {
            Self::Pending { .. } => Ok(Status::Pending),
            Self::Unknown { unknown } => UnknownReason::from_name(unknown)
                .map(Status::Unknown)
                .ok_or_else(|| format!("unknown reason {unknown:?}")),
            known => {
                let name = source.unwrap_or(StatusSource::Event.name());
                let source = StatusSource::from_name(name)
                    .ok_or_else(|| format!("unknown status source {name:?}"))?;
                Ok(Status::from_raw(known.raw().unwrap_or_default(), source))
            }
        }
    }
}

#[derive(Serialize, Deserialize, Default)]
struct EventJson<'a> {
    r#type: std::borrow::Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    time_ns: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<Pid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<Tid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child: Option<Pid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child_incarnation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Pid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_source: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    real: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracer: Option<Pid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inferred: bool,
}

fn inode_key(key: ProcessKey) -> Option<String> {
    key.inode().map(|_| key.to_string())
}

fn key_of(
    pid: Pid,
    key: Option<&str>,
    incarnation: Option<u64>,
) -> Result<ProcessKey, crate::ParsePidError> {
    let inode = match key {
        Some(text) => text.parse::<ProcessRef>()?.inode,
        None => None,
    };
    Ok(ProcessKey::new(pid, incarnation.unwrap_or_default()).with_inode(inode))
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = EventJson {
            r#type: self.kind.name().into(),
            seq: self.seq,
            time_ns: self.time,
            pid: self.pid(),
            tid: self.kind.tid(),
            key: self.process.and_then(inode_key),
            incarnation: self.process.map(|key| key.incarnation()),
            parent: self.parent,
            inferred: self.inferred,
            ..EventJson::default()
        };
        match self.kind {
            EventKind::Fork { child } => {
                json.child = Some(child.pid());
                json.child_key = inode_key(child);
                json.child_incarnation = Some(child.incarnation());
            }
            EventKind::ThreadExit { status, .. } => json.status = Some(status.into()),
            EventKind::Exit(status) => {
                let (status, source) = StatusJson::of(status);
                json.status = Some(status);
                json.status_source = source.map(Into::into);
            }
            EventKind::Uid {
                real, effective, ..
            }
            | EventKind::Gid {
                real, effective, ..
            } => {
                json.real = Some(real);
                json.effective = Some(effective);
            }
            EventKind::Ptrace { tracer, .. } => json.tracer = tracer,
            EventKind::Comm { comm, .. } => {
                json.comm = Some(String::from_utf8_lossy(comm.as_bytes()).into_owned());
            }
            EventKind::Lost(lost) => {
                json.count = lost.count;
                json.origin = Some(lost.origin.name().into());
            }
            EventKind::Resync(resync) => {
                json.phase = Some(resync.name().into());
                if let Resync::End { complete } = resync {
                    json.complete = Some(complete);
                }
            }
            EventKind::Other { what } => json.what = Some(what),
            EventKind::Exec
            | EventKind::Sid
            | EventKind::ThreadCreate { .. }
            | EventKind::Coredump { .. }
            | EventKind::TrackIncomplete => {}
        }
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = EventJson::deserialize(deserializer)?;
        json.into_event().map_err(D::Error::custom)
    }
}

impl EventJson<'_> {
    fn into_event(self) -> Result<Event, String> {
        fn need<T>(value: Option<T>, field: &str, kind: &str) -> Result<T, String> {
            value.ok_or_else(|| format!("a {kind:?} event needs the field {field:?}"))
        }
        let kind = self.r#type.as_ref();
        let process = match self.pid {
            Some(pid) => Some(
                key_of(pid, self.key.as_deref(), self.incarnation)
                    .map_err(|error| error.to_string())?,
            ),
            None => None,
        };
        let tid = || need(self.tid, "tid", kind);
        let event_kind = match kind {
            "fork" => {
                let child = need(self.child, "child", kind)?;
                EventKind::Fork {
                    child: key_of(child, self.child_key.as_deref(), self.child_incarnation)
                        .map_err(|error| error.to_string())?,
                }
            }
            "thread_create" => EventKind::ThreadCreate { tid: tid()? },
            "exec" => EventKind::Exec,
            "thread_exit" => {
                let status = need(self.status.as_ref(), "status", kind)?;
                let raw = need(status.raw(), "status", kind)?;
                EventKind::ThreadExit {
                    tid: tid()?,
                    status: ExitStatus::from_raw(raw),
                }
            }
            "exit" => {
                let status = need(self.status.as_ref(), "status", kind)?;
                EventKind::Exit(status.status(self.status_source.as_deref())?)
            }
            "uid" => EventKind::Uid {
                tid: tid()?,
                real: need(self.real, "real", kind)?,
                effective: need(self.effective, "effective", kind)?,
            },
            "gid" => EventKind::Gid {
                tid: tid()?,
                real: need(self.real, "real", kind)?,
                effective: need(self.effective, "effective", kind)?,
            },
            "sid" => EventKind::Sid,
            "ptrace" => EventKind::Ptrace {
                tid: tid()?,
                tracer: self.tracer,
            },
            "comm" => EventKind::Comm {
                tid: tid()?,
                comm: Comm::new(need(self.comm.as_ref(), "comm", kind)?.as_bytes()),
            },
            "coredump" => EventKind::Coredump { tid: tid()? },
            "lost" => EventKind::Lost(Lost {
                origin: match need(self.origin.as_deref(), "origin", kind)? {
                    "kernel" => LossOrigin::Kernel,
                    "subscription" => LossOrigin::Subscription,
                    other => return Err(format!("unknown loss origin {other:?}")),
                },
                count: self.count,
            }),
            "track_incomplete" => EventKind::TrackIncomplete,
            "resync" => EventKind::Resync(match need(self.phase.as_deref(), "phase", kind)? {
                "begin" => Resync::Begin,
                "end" => Resync::End {
                    complete: need(self.complete, "complete", kind)?,
                },
                other => return Err(format!("unknown phase of a resync {other:?}")),
            }),
            "other" => EventKind::Other {
                what: need(self.what, "what", kind)?,
            },
            unknown => return Err(format!("unknown event type {unknown:?}")),
        };
        if process.is_none() && !matches!(kind, "lost" | "resync" | "other") {
            return Err(format!("a {kind:?} event needs the field \"pid\""));
        }
        Ok(Event {
            seq: self.seq,
            time: self.time_ns,
            process,
            parent: self.parent,
            kind: event_kind,
            inferred: self.inferred,
        })
    }
}

/// As the `exit` event of the same process.
impl Serialize for Exit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut event = Event::new(self.time, Some(self.process), EventKind::Exit(self.status));
        event.inferred = self.inferred;
        event.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(event: &Event) -> String {
        serde_json::to_string(event).unwrap()
    }

    #[test]
    fn field_names_are_those_of_the_contract() {
        let key =
            ProcessKey::new(Pid::new(7).unwrap(), 2).with_inode(std::num::NonZeroU64::new(99));
        let at = Timestamp::from_nanos(5);
        let mut exit = Event::new(
            at,
            Some(key),
            EventKind::Exit(Status::from_raw(0x300, StatusSource::Event)),
        );
        exit.parent = Pid::new(3);
        exit.seq = 4;
        assert_eq!(
            line(&exit),
            r#"{"type":"exit","seq":4,"time_ns":5,"pid":7,"key":"7:99","incarnation":2,"parent":3,"status":{"code":3},"status_source":"event"}"#
        );
        let killed = EventKind::Exit(Status::from_raw(9, StatusSource::PidfdInfo));
        assert!(
            line(&Event::new(at, Some(key), killed))
                .contains(r#""status":{"signal":9,"core":false}"#)
        );
        let unknown = EventKind::Exit(Status::Unknown(UnknownReason::NotReaped));
        assert!(
            line(&Event::new(at, Some(key), unknown))
                .contains(r#""status":{"unknown":"not_reaped"}"#)
        );
        let lost = EventKind::Lost(Lost::new(LossOrigin::Subscription, Some(3)));
        assert_eq!(
            line(&Event::new(at, None, lost)),
            r#"{"type":"lost","seq":0,"time_ns":5,"count":3,"origin":"subscription"}"#
        );
        let resync = |resync| line(&Event::new(at, None, EventKind::Resync(resync)));
        assert_eq!(
            resync(Resync::Begin),
            r#"{"type":"resync","seq":0,"time_ns":5,"phase":"begin"}"#
        );
        assert_eq!(
            resync(Resync::End { complete: false }),
            r#"{"type":"resync","seq":0,"time_ns":5,"phase":"end","complete":false}"#
        );
    }

    #[test]
    fn incomplete_or_unknown_objects_are_refused_with_the_field() {
        let refused = |text| serde_json::from_str::<Event>(text).unwrap_err().to_string();
        assert!(refused(r#"{"type":"fork","time_ns":1,"pid":2}"#).contains("\"child\""));
        assert!(refused(r#"{"type":"exec","time_ns":1}"#).contains("\"pid\""));
        assert!(refused(r#"{"type":"boom","time_ns":1,"pid":2}"#).contains("boom"));
        assert!(refused(r#"{"type":"exec","time_ns":1,"pid":-2}"#).contains("positive"));
    }

    fn any_kind() -> impl Strategy<Value = EventKind> {
        let tid = (1..i32::MAX).prop_map(|raw| Tid::new(raw).unwrap());
        let key = (1..i32::MAX, any::<u64>(), any::<u64>()).prop_map(|(pid, n, inode)| {
            ProcessKey::new(Pid::new(pid).unwrap(), n).with_inode(std::num::NonZeroU64::new(inode))
        });
        let raw = prop_oneof![
            (0..256i32).prop_map(|code| code << 8),
            (1..65i32),
            (1..65i32).prop_map(|signal| signal | 0x80),
        ];
        prop_oneof![
            key.prop_map(|child| EventKind::Fork { child }),
            tid.clone().prop_map(|tid| EventKind::ThreadCreate { tid }),
            Just(EventKind::Exec),
            Just(EventKind::Resync(Resync::Begin)),
            any::<bool>().prop_map(|complete| EventKind::Resync(Resync::End { complete })),
            (tid.clone(), raw.clone()).prop_map(|(tid, raw)| EventKind::ThreadExit {
                tid,
                status: ExitStatus::from_raw(raw)
            }),
            raw.prop_map(|raw| EventKind::Exit(Status::from_raw(raw, StatusSource::ZombieStat))),
            Just(EventKind::Exit(Status::Pending)),
            Just(EventKind::Exit(Status::Unknown(UnknownReason::CodesDiffer))),
            (tid.clone(), any::<u32>(), any::<u32>()).prop_map(|(tid, real, effective)| {
                EventKind::Uid {
                    tid,
                    real,
                    effective,
                }
            }),
            (tid.clone(), proptest::option::of(1..i32::MAX)).prop_map(|(tid, tracer)| {
                EventKind::Ptrace {
                    tid,
                    tracer: tracer.and_then(Pid::new),
                }
            }),
            (tid, "[a-z]{0,15}").prop_map(|(tid, name)| EventKind::Comm {
                tid,
                comm: Comm::new(name.as_bytes())
            }),
            proptest::option::of(any::<u64>())
                .prop_map(|count| EventKind::Lost(Lost::new(LossOrigin::Kernel, count))),
            any::<u32>().prop_map(|what| EventKind::Other { what }),
        ]
    }

    proptest! {
        #[test]
        fn every_event_round_trips(
            kind in any_kind(), seq: u64, nanos: u64, pid in 1..i32::MAX, n: u64, inferred: bool
        ) {
            let key = ProcessKey::new(Pid::new(pid).unwrap(), n);
            let mut event = Event::new(Timestamp::from_nanos(nanos), Some(key), kind);
            event.seq = seq;
            event.inferred = inferred;
            let text = line(&event);
            prop_assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{}", text);
        }
    }
}
