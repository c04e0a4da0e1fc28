//! Telling the service manager how far the server is (`sd_notify(3)`): one
//! datagram to the socket that it names.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// A manager that waits to be told, or nobody.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<OsString>,
}

impl Manager {
    /// The one that started this program, if it wants to know.
    pub(crate) fn from_environment() -> Self {
        let socket = env::var_os(VARIABLE).filter(|name| !name.is_empty());
        Self { socket }
    }

    /// The device is there.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The device is going.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// A manager that does not listen is no reason not to serve.
    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, message.as_bytes()) {
            tracing::warn!(?socket, %error, "the service manager cannot be told");
        }
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => SocketAddr::from_pathname(socket)?,
        // Of a virtual machine's host (vsock:), which no service of a guest needs.
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the server.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 100];
        let size = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("kmonitor-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, named) in [
            (by_path, path.into_os_string()),
            (by_name, format!("@{name}").into()),
        ] {
            let manager = Manager {
                socket: Some(named),
            };
            manager.ready("serving");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving\n");
            manager.stopping();
            assert_eq!(heard(&socket), "STOPPING=1\n");
        }
    }

    #[test]
    fn nobody_to_tell_is_no_error() {
        for socket in [
            None,
            Some("/no/such/socket".into()),
            Some("vsock:2:1".into()),
        ] {
            Manager { socket }.stopping();
        }
    }
}
