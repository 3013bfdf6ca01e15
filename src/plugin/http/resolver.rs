//! Where the hosts that plugins ask are.
//!
//! Whoever answers for a name may answer with an address of the node's own machine, or with one behind which a cloud
//! hands out credentials. So what a name leads to is checked, and what was checked is connected to. An address that
//! the operator lists is meant as it stands.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use wasmtime_wasi_http::Error;

use super::Permit;
use super::exchange::Target;

/// Where clouds tell a machine its secrets, beside 169.254.0.0/16: on AWS, Google Cloud, Azure, Alibaba Cloud, Oracle
/// Cloud.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];
/// The prefix of IPv4 addresses that a NAT translates (RFC 6052, section 2.1).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What looks names up.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Lookup>);

impl Default for Resolver {
    /// As the machine does.
    fn default() -> Self {
        Self::new(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }
}

impl Resolver {
    pub(super) fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(lookup))
    }

    /// The addresses of a target, at least one. Those of a name may be local only where that is allowed.
    ///
    /// Cancelled, a lookup goes on, since nothing ends one. It holds the request's permit meanwhile, so that a tenant
    /// has no more of them than requests.
    pub(super) async fn addresses(
        &self,
        target: &Target,
        allow_local: bool,
        permit: Permit,
    ) -> Result<Vec<SocketAddr>, Error> {
        let (name, port) = (target.name(), target.port);
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let (lookup, name) = (Arc::clone(&self.0), name.to_owned());
        let looked_up = tokio::task::spawn_blocking(move || {
            let found = lookup(&name, port);
            drop(permit);
            found
        });
        let mut found = looked_up.await.ok().and_then(Result::ok).unwrap_or_default();
        if found.is_empty() {
            return Err(unknown());
        }
        found.retain(|address| allow_local || !is_local(address.ip()));
        if found.is_empty() { Err(Error::DestinationIpProhibited) } else { Ok(found) }
    }
}

fn unknown() -> Error {
    Error::DnsError { rcode: Some("the name has no address".into()), info_code: None }
}

/// Whether an address is the machine itself, on its link, of a group, or where clouds tell secrets.
fn is_local(address: IpAddr) -> bool {
    let address = match address.to_canonical() {
        IpAddr::V6(address) if address.segments()[..6] == NAT64 => {
            let [.., a, b, c, d] = address.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        address => address,
    };
    let is_special = match address {
        // Of 0.0.0.0/8 each is this host (RFC 1122, section 3.2.1.3).
        IpAddr::V4(address) => address.octets()[0] == 0 || address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_general = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    is_special || is_general || METADATA.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_known_in_every_form() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "fe80::1",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["192.0.2.1", "10.0.0.7", "2001:db8::1", "fd00::1", "64:ff9b::c000:201", "169.253.0.1"] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }
}
