//! The connector sockets of this process.

/// `NETLINK_CONNECTOR`.
pub(crate) const CONNECTOR: u32 = 11;

/// One connector socket, as `/proc/net/netlink` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectorSocket {
    pub(crate) port: u32,
    /// The multicast groups it is in: bit 0 is that of process events.
    pub(crate) groups: u32,
    /// How many messages the kernel could not queue to it.
    pub(crate) drops: u64,
}

/// All of this process, whichever hub's they are.
pub(crate) fn own_connector_sockets() -> Vec<ConnectorSocket> {
    let mine = own_sockets();
    let table = std::fs::read_to_string("/proc/self/net/netlink").unwrap();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, protocol, port, groups, .., drops, inode] = fields[..] else {
            panic!("a line of /proc/net/netlink: {line:?}");
        };
        let ours = protocol.parse() == Ok(CONNECTOR) && mine.contains(&inode.to_owned());
        ours.then(|| ConnectorSocket {
            port: port.parse().unwrap(),
            groups: u32::from_str_radix(groups, 16).unwrap(),
            drops: drops.parse().unwrap(),
        })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

fn own_sockets() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    let inode = |target: std::path::PathBuf| {
        let text = target.to_str()?.to_owned();
        Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    targets.filter_map(inode).collect()
}
