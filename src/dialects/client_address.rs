//! The address a request comes from, when there are proxies before the broker.

use std::net::{IpAddr, SocketAddr};

use super::Access;
use crate::config::TrustedProxy;
use crate::core::survey::ClientAddress;
use crate::http::Head;

/// Returns the client's address: the peer's, or, when the peer is a trusted proxy, the right-most in `X-Forwarded-For`
/// that is not a trusted proxy. Entries left of that one, or of one that is no address, may be forged and are ignored.
pub(crate) fn client_address(peer: ClientAddress, head: &Head, access: &Access) -> ClientAddress {
    let is_trusted = |address: &ClientAddress| match address {
        ClientAddress::Ip(ip) => access.trusted_proxies.iter().any(|proxy| proxy.has(*ip)),
        ClientAddress::Unix => access.trusted_proxies.contains(&TrustedProxy::Unix),
    };
    let forwarded = head.forwarded_for.as_deref().unwrap_or_default();
    // Empty elements of a list are ignored (RFC 9110, section 5.6.1).
    let mut entries =
        forwarded.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty());
    let mut address = peer.to_canonical();
    while is_trusted(&address)
        && let Some(before) = entries.next().and_then(parse)
    {
        address = ClientAddress::Ip(before);
    }
    address
}

/// Parses an address as proxies write it: alone, in brackets, or with the port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?,
    };
    Some(address.to_canonical())
}
