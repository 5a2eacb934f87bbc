//! The proxies whose forwarding headers are trusted.

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// The networks of proxies whose `Forwarded` and `X-Forwarded-*` headers are trusted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    pub fn new(networks: &[IpNet]) -> Self {
        TrustedProxies(networks.into())
    }

    /// Returns whether `address` is a trusted proxy's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }
}
