use super::*;

fn os(error: Errno) -> io::Error {
    error.into()
}

#[test]
fn a_refused_socket_is_told_apart_by_cause() {
    let cases = [
        (Errno::PROTONOSUPPORT, StartErrorKind::Unsupported),
        (Errno::AFNOSUPPORT, StartErrorKind::Unsupported),
        (Errno::PERM, StartErrorKind::Blocked),
        (Errno::ACCESS, StartErrorKind::Blocked),
        (Errno::NOSYS, StartErrorKind::Blocked),
        (Errno::MFILE, StartErrorKind::Io),
    ];
    for (errno, kind) in cases {
        assert_eq!(no_socket(os(errno)).kind(), kind, "{errno}");
    }
}

#[test]
fn a_refused_listen_is_told_apart_by_cause() {
    use Namespaces::{Initial, Unknown};
    let second = Duration::from_secs(1);
    let cases = [
        (
            ListenError::Send(os(Errno::CONNREFUSED)),
            Initial,
            StartErrorKind::NetworkNamespace,
        ),
        (
            ListenError::Join(os(Errno::PERM)),
            Initial,
            StartErrorKind::Denied,
        ),
        (
            ListenError::Refused(os(Errno::PERM)),
            Initial,
            StartErrorKind::Denied,
        ),
        (
            ListenError::Refused(os(Errno::NOMEM)),
            Initial,
            StartErrorKind::Io,
        ),
        (
            ListenError::NoAnswer(second),
            Initial,
            StartErrorKind::Unsupported,
        ),
        (
            ListenError::NoAnswer(second),
            Unknown,
            StartErrorKind::NoAnswer,
        ),
    ];
    for (error, namespaces, kind) in cases {
        let text = format!("{error:?}");
        let error = cause(error, namespaces);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(!error.message().is_empty());
    }
}

#[test]
fn a_missing_answer_says_how_long_was_waited_and_what_to_look_at() {
    let error = cause(
        ListenError::NoAnswer(Duration::from_millis(200)),
        Namespaces::Initial,
    );
    assert_eq!(
        error.to_string(),
        "the connector source does not work here: the kernel did not confirm LISTEN within \
         200ms: this kernel was built without CONFIG_PROC_EVENTS=y"
    );
}
