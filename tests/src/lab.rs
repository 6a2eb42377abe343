//! The topology.

use crate::cleanup;
use crate::netns::{Namespace, next_number};
use crate::offload;
use crate::relay::{PathSpec, Relay, Tags};
use anyhow::Result;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use tempfile::TempDir;

/// The interface between client and proxy, on both sides.
pub const INTERFACE: &str = "eth0";
/// The watched port, where HAProxy or a test's sink listens.
pub const PORT: u16 = 8080;
/// Watched too, for a test that needs both a sink and a source.
pub const SOURCE_PORT: u16 = 8081;
/// The proxy's address.
pub const PROXY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The proxy's address.
pub const PROXY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
pub(crate) const CLIENT_MAC: &str = "02:00:00:00:00:0c";
pub(crate) const PROXY_MAC: &str = "02:00:00:00:00:01";

/// The address of client `n`: 10.77.0.10 and up.
#[must_use]
pub fn client_v4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, 10 + n).into()
}

/// The address of client `n`, each in a /64 of its own.
#[must_use]
pub fn client_v6(n: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, 0x10 + u16::from(n), 0, 0, 0, 0x10).into()
}

/// What a lab is like.
#[derive(Clone, Copy, Debug)]
pub struct LabSpec {
    /// The path; `None`: client and proxy are joined directly.
    pub path: Option<PathSpec>,
    /// Segmentation and checksum offloads of client and proxy. Only without a
    /// path: that needs real frames.
    pub offloads: bool,
    /// Addresses of the client namespace, per family.
    pub clients: u8,
    /// Namespaces behind the proxy.
    pub backends: u8,
    /// Nothing on the wire but what is sent on purpose: no IPv6, and
    /// neighbours known. Only without a path.
    pub quiet: bool,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            path: Some(PathSpec::default()),
            offloads: false,
            clients: 4,
            backends: 0,
            quiet: false,
        }
    }
}

impl LabSpec {
    /// Client and proxy joined directly, no delay.
    #[must_use]
    pub fn direct(offloads: bool) -> Self {
        Self {
            path: None,
            offloads,
            ..Self::default()
        }
    }
}

/// A running lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    // Stopped before the namespaces go.
    relay: Option<Relay>,
    /// Where clients are.
    pub client: Namespace,
    /// Where HAProxy and shaper are.
    pub proxy: Namespace,
    /// Where servers are.
    pub backends: Vec<Namespace>,
    /// Where the relay is.
    pub path: Option<Namespace>,
    directory: TempDir,
}

impl Lab {
    /// Builds it.
    ///
    /// # Errors
    /// When not root, or `ip` is missing.
    pub fn new(spec: LabSpec) -> Result<Self> {
        cleanup::install()?;
        let number = next_number();
        let directory = tempfile::Builder::new()
            .prefix(&cleanup::directory_prefix(std::process::id()))
            .tempdir()?;
        cleanup::remember_directory(directory.path().to_owned());
        let client = Namespace::create(number, "client")?;
        let proxy = Namespace::create(number, "proxy")?;
        for namespace in [&client, &proxy] {
            // Nothing learnt on one connection may help the next. The congestion
            // control is named per socket: the kernel lets no namespace but the
            // first choose any.
            namespace.sysctl("ipv4/tcp_no_metrics_save", "1")?;
        }
        let (path, relay) = match spec.path {
            Some(path) => {
                let (namespace, relay) = join_by_relay(number, &client, &proxy, path)?;
                (Some(namespace), Some(relay))
            }
            None => {
                if spec.quiet {
                    for namespace in [&client, &proxy] {
                        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
                    }
                }
                client.ip(&format!(
                    "link add {INTERFACE} address {CLIENT_MAC} type veth \
                     peer name {INTERFACE} address {PROXY_MAC} netns {}",
                    proxy.name()
                ))?;
                (None, None)
            }
        };
        let offloads = spec.offloads && spec.path.is_none();
        for namespace in [&client, &proxy] {
            namespace.enter(|| offload::set(INTERFACE, offloads))?;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for n in 0..spec.clients {
            addresses.push(client_v4(n));
            if !spec.quiet {
                addresses.push(client_v6(n));
            }
        }
        if spec.path.is_some_and(|path| path.tags != Tags::None) {
            // Two tags and a frame of 1514 bytes are more than a veth takes.
            client.ip(&format!("link set {INTERFACE} mtu 1492"))?;
        }
        address(&client, INTERFACE, &addresses)?;
        if spec.quiet {
            address(&proxy, INTERFACE, &[PROXY_V4])?;
            know(&client, &[PROXY_V4], PROXY_MAC)?;
            know(&proxy, &addresses, CLIENT_MAC)?;
        } else {
            address(&proxy, INTERFACE, &[PROXY_V4, PROXY_V6])?;
        }
        let backends = (1..=spec.backends)
            .map(|n| backend(number, n, &proxy))
            .collect::<Result<_>>()?;
        Ok(Self {
            relay,
            client,
            proxy,
            backends,
            path,
            directory,
        })
    }

    /// For files of this lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path.
    ///
    /// # Errors
    /// When client and proxy are joined directly.
    pub fn relay(&self) -> Result<&Relay> {
        self.relay
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("this lab has no path"))
    }
}

/// The address of backend `n` (from 1), as the proxy reaches it.
#[must_use]
pub fn backend_v4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 78, n, 2).into()
}

fn join_by_relay(
    number: u32,
    client: &Namespace,
    proxy: &Namespace,
    spec: PathSpec,
) -> Result<(Namespace, Relay)> {
    let path = Namespace::create(number, "path")?;
    // Nothing of its own may go out: no neighbour discovery, no router
    // solicitation.
    path.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    for (end, other) in [("c", client), ("p", proxy)] {
        path.ip(&format!(
            "link add {end} type veth peer name {INTERFACE} netns {}\n\
             link set {end} promisc on up",
            other.name()
        ))?;
        path.enter(|| offload::set(end, false))?;
    }
    let relay = Relay::start(&path, "c", "p", spec)?;
    Ok((path, relay))
}

fn address(namespace: &Namespace, interface: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut lines = format!("link set {interface} up\n");
    for address in addresses {
        let (bits, flags) = match address {
            IpAddr::V4(_) => (24, ""),
            IpAddr::V6(_) => (48, "nodad"),
        };
        writeln!(lines, "addr add {address}/{bits} dev {interface} {flags}")?;
    }
    namespace.ip(&lines)
}

/// Neighbours that are asked for nothing.
pub(crate) fn know(namespace: &Namespace, addresses: &[IpAddr], mac: &str) -> Result<()> {
    let mut lines = String::new();
    for address in addresses {
        writeln!(
            lines,
            "neigh add {address} lladdr {mac} dev {INTERFACE} nud permanent"
        )?;
    }
    namespace.ip(&lines)
}

fn backend(number: u32, n: u8, proxy: &Namespace) -> Result<Namespace> {
    let namespace = Namespace::create(number, &format!("backend{n}"))?;
    namespace.ip(&format!(
        "link add {INTERFACE} type veth peer name be{n} netns {}\n\
         addr add {}/24 dev {INTERFACE}\n\
         link set {INTERFACE} up",
        proxy.name(),
        backend_v4(n)
    ))?;
    proxy.ip(&format!(
        "addr add 10.78.{n}.1/24 dev be{n}\nlink set be{n} up"
    ))?;
    Ok(namespace)
}
