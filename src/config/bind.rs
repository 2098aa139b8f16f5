//! Addresses to listen on, who may connect to a socket in the file system, and the proxies that are trusted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// The most bytes of the path of a socket: the kernel's limit (unix(7)), without the byte that ends it.
const PATH_BYTES_MAX: usize = 107;
/// The bits of an IPv6 address before the IPv4 address that it maps (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// An address to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BindAddress {
    /// This IP address, at the port of [`Config::port`](super::Config::port).
    Ip(IpAddr),
    /// This IP address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// A socket at this path of the file system, for programs of this machine.
    Unix(PathBuf),
}

impl BindAddress {
    /// Returns the address with this port, if it has none of its own.
    pub(crate) fn at(&self, port: u16) -> Self {
        match self {
            Self::Ip(ip) => Self::Tcp(SocketAddr::new(*ip, port)),
            other => other.clone(),
        }
    }

    /// Returns the port of its own, if it has one.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Ip(_) | Self::Unix(_) => None,
        }
    }

    /// Returns the address without a port of its own.
    pub(super) fn without_port(&self) -> Self {
        match self {
            Self::Tcp(address) => Self::Ip(address.ip()),
            other => other.clone(),
        }
    }

    /// Returns the IP address and the port, if both are known.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Ip(_) | Self::Unix(_) => None,
        }
    }

    /// Returns whether other machines may reach it.
    pub fn is_exposed(&self) -> bool {
        let ip = match self {
            Self::Ip(ip) => *ip,
            Self::Tcp(address) => address.ip(),
            Self::Unix(_) => return false,
        };
        !ip.to_canonical().is_loopback()
    }

    /// Returns whether two addresses share a place, at all addresses included: a client of one would be served by the
    /// other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(ours), Self::Tcp(theirs)) => {
                let ips = [ours, theirs].map(|address| address.ip().to_canonical());
                let same = ips[0] == ips[1] || ips.iter().any(IpAddr::is_unspecified);
                same && ours.port() == theirs.port() && ours.port() != 0
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Returns why nothing can be listened on here, if that is so.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let Self::Unix(path) = self else { return None };
        let bytes = path.as_os_str().as_encoded_bytes();
        if !path.is_absolute() {
            return Some("not a path from the root; write unix:/run/esper.sock");
        }
        if bytes.iter().any(u8::is_ascii_control) {
            return Some("a control character in the path; write one without");
        }
        let is_too_long = bytes.len() > PATH_BYTES_MAX;
        is_too_long.then_some("a socket's path has at most 107 bytes; write a shorter one")
    }
}

impl FromStr for BindAddress {
    type Err = &'static str;

    /// Reads `127.0.0.1`, `127.0.0.1:8000`, `::1`, `[::1]:8000`, `:8000` for all addresses, or `unix:/run/esper.sock`.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            let address = Self::Unix(Path::new(path).to_owned());
            return address.fault().map_or(Ok(address), Err);
        }
        // As in Go: a port without an address is at all of them.
        let port = text.strip_prefix(':').and_then(super::values::number);
        let alone = port.map(|port| Self::Tcp((Ipv6Addr::UNSPECIFIED, port).into()));
        let alone = alone.or_else(|| text.parse().ok().map(Self::Ip));
        alone.or_else(|| text.parse().ok().map(Self::Tcp)).ok_or(
            "not an address; write 127.0.0.1 or ::1 for this machine alone, 0.0.0.0 or :: for all, \
             with a port 127.0.0.1:8000, [::1]:8000 or :8000, or a socket unix:/run/esper.sock",
        )
    }
}

impl fmt::Display for BindAddress {
    /// Writes the form that [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<IpAddr> for BindAddress {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl From<SocketAddr> for BindAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// A proxy whose `X-Forwarded-For` says where a client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrustedProxy {
    /// Clients with an address of this network. An IPv4 address and the IPv6 address that maps it are the same.
    Network(IpNet),
    /// Clients that connect through a socket in the file system.
    Unix,
}

impl TrustedProxy {
    /// Returns whether it has this address, mapped or not.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let Self::Network(network) = self else { return false };
        match (canonical(*network), address.to_canonical()) {
            // Of the IPv6 networks only one with fewer bits than a mapped address begins with has IPv4 addresses.
            (IpNet::V6(network), IpAddr::V4(address)) => network.contains(&address.to_ipv6_mapped()),
            (network, address) => network.contains(&address),
        }
    }
}

impl From<IpNet> for TrustedProxy {
    fn from(network: IpNet) -> Self {
        Self::Network(network)
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Returns a network of mapped addresses as the IPv4 network that it is: `10.0.0.0/8` of `::ffff:10.0.0.0/104`.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let bits = mapped.prefix_len().checked_sub(MAPPED_BITS);
    let ipv4 = |bits| Some(IpNet::V4(Ipv4Net::new(mapped.addr().to_ipv4_mapped()?, bits).ok()?));
    bits.and_then(ipv4).unwrap_or(network)
}

/// Parses a network in CIDR notation, one address as a network of its own, or `unix`.
pub(super) fn trusted_proxy(text: &str) -> Result<TrustedProxy, String> {
    let text = text.trim();
    if text == "unix" {
        return Ok(TrustedProxy::Unix);
    }
    let network = text.parse::<IpNet>().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
    network.map(|network| TrustedProxy::Network(canonical(network.trunc()).trunc())).ok_or_else(|| {
        "not an address or a network; write 10.0.0.1, 10.0.0.0/8 or fd00::/8, or unix for sockets".to_owned()
    })
}

/// Parses the mode of a file, in octal as chmod has it.
pub(super) fn file_mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
    // Without a bit for its owner nobody could tell later whether somebody listens.
    mode.filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600).ok_or_else(|| {
        "not a mode; write 600 for this user alone, 660 for a group too, 666 for all of this machine"
            .to_owned()
    })
}

/// Returns an address for all of IPv4, where the machine has no IPv6 but is asked for all addresses.
pub(crate) fn all_of_ipv4(address: SocketAddr) -> Option<SocketAddr> {
    (address.ip() == Ipv6Addr::UNSPECIFIED).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_printed_as_it_can_be_given_back() {
        for (text, port) in [
            ("127.0.0.1", None),
            ("::1", None),
            ("127.0.0.1:0", Some(0)),
            ("[::1]:8000", Some(8000)),
            ("unix:/run/esper.sock", None),
        ] {
            let address: BindAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.port()), (text, port));
        }
        assert_eq!(":8000".parse(), Ok(BindAddress::Tcp("[::]:8000".parse().unwrap())));
        assert_eq!(" ::1 ".parse(), Ok(BindAddress::Ip("::1".parse().unwrap())));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        for text in [
            "localhost",
            "",
            ":",
            ":x",
            ":65536",
            ":+1",
            "unix:",
            "unix:esper.sock",
            "/run/esper.sock",
            &long,
        ] {
            assert!(text.parse::<BindAddress>().is_err(), "{text}");
        }
        let refused = "[::1]".parse::<BindAddress>().unwrap_err();
        for right in
            ["127.0.0.1 or ::1", "0.0.0.0 or :: for all", "127.0.0.1:8000, [::1]:8000 or :8000", "unix:/run"]
        {
            assert!(refused.contains(right), "{refused}");
        }
        assert!(long[..long.len() - 1].parse::<BindAddress>().is_ok());
    }

    #[test]
    fn two_listeners_are_never_at_one_place() {
        for (one, other, overlap) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "10.0.0.1:80", true),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "10.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:0", "0.0.0.0:0", false),
            ("unix:/run/a", "unix:/run/a", true),
            ("unix:/run/a", "unix:/run/b", false),
            ("unix:/run/a", "127.0.0.1:80", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse::<BindAddress>().unwrap());
            assert_eq!(one.overlaps(&other), overlap, "{one} {other}");
            assert_eq!(other.overlaps(&one), overlap, "{other} {one}");
        }
    }

    #[test]
    fn other_machines_reach_any_address_but_loopback() {
        for (address, exposed) in [
            ("127.0.0.1:80", false),
            ("127.1.2.3:80", false),
            ("::1", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("unix:/run/esper.sock", false),
            ("0.0.0.0", true),
            (":80", true),
            ("10.0.0.1:80", true),
            ("[::ffff:10.0.0.1]:80", true),
        ] {
            assert_eq!(address.parse::<BindAddress>().unwrap().is_exposed(), exposed, "{address}");
        }
    }

    #[test]
    fn a_network_is_one_address_or_all_that_share_a_prefix() {
        for (text, network) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            (" 10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1/128"),
            ("fd00::1/8", "fd00::/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("unix", "unix"),
        ] {
            assert_eq!(trusted_proxy(text).unwrap().to_string(), network, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0", "proxy.example", "10.0.0.1:80", "unix:", "unix:/run/x"] {
            assert!(trusted_proxy(text).unwrap_err().ends_with("or unix for sockets"), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_and_the_one_that_maps_it_are_the_same_proxy() {
        for (proxy, address, trusted) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:0.0.0.0/96", "192.0.2.1", true),
            ("::/0", "192.0.2.1", true),
            ("::/0", "2001:db8::1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("0.0.0.0/0", "::ffff:192.0.2.1", true),
            ("fd00::/8", "10.1.2.3", false),
            ("unix", "10.1.2.3", false),
        ] {
            let parsed = trusted_proxy(proxy).unwrap();
            assert_eq!(parsed.has(address.parse().unwrap()), trusted, "{proxy} {address}");
        }
        // As a program sets it.
        let mapped = TrustedProxy::Network("::ffff:10.0.0.0/104".parse().unwrap());
        assert!(mapped.has("10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn the_mode_of_a_file_is_octal_and_lets_its_owner_connect() {
        for (text, mode) in [("660", 0o660), ("0660", 0o660), ("600", 0o600), ("666", 0o666), ("777", 0o777)]
        {
            assert_eq!(file_mode(text), Ok(mode));
        }
        for text in ["", "8", "rw-rw----", "1777", "-660", "066", "0x1b0", "+660", "77777777777"] {
            assert!(file_mode(text).unwrap_err().starts_with("not a mode; write 600"), "{text}");
        }
    }
}
