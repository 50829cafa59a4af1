// SPDX-License-Identifier: GPL-3.0-only
//! Whether netfilter has a hand in what goes over bridges.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::socket::SockProtocol;

use crate::netlink::{NLM_F_DUMP, Netlink, attribute};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN`.
const GET_CHAINS: u16 = 10 << 8 | 4;
const NFGENMSG: usize = 4;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_BRIDGE: u8 = 7;
const NF_INET_INGRESS: u32 = 5;

/// Of the calling thread's network namespace. Not there without `br_netfilter`. ARP goes by the bridge in any case.
const CALLS: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];
/// The tables of ebtables where it is not nftables.
const EBTABLES: [&str; 3] = ["ebtable_filter", "ebtable_nat", "ebtable_broute"];

/// Whether packets on bridges meet hooks: iptables by `br_netfilter`, ebtables, or chains of nftables. What cannot be found out
/// counts as a hook.
pub(super) fn are_there() -> bool {
    let called = CALLS.iter().any(|path| match fs::read_to_string(path) {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    });
    called
        || EBTABLES
            .iter()
            .any(|module| Path::new("/sys/module").join(module).exists())
        || has_chains()
}

fn has_chains() -> bool {
    let chains = Netlink::open_on(SockProtocol::NetlinkNetFilter)
        .and_then(|mut netlink| netlink.send(GET_CHAINS, NLM_F_DUMP, &[0; NFGENMSG]));
    match chains {
        Ok(chains) => chains.iter().any(|chain| is_in_the_way(chain)),
        // A kernel without nftables.
        Err(error) => !matches!(
            error.raw_os_error(),
            Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
        ),
    }
}

/// A chain on a hook that frames of a bridge pass. Other chains are only called.
fn is_in_the_way(body: &[u8]) -> bool {
    let hook = body
        .get(NFGENMSG..)
        .and_then(|attributes| attribute(attributes, NFTA_CHAIN_HOOK));
    let (Some(family), Some(hook)) = (body.first(), hook) else {
        return false;
    };
    let number = attribute(hook, NFTA_HOOK_HOOKNUM)
        .and_then(|number| number.first_chunk())
        .map(|number| u32::from_be_bytes(*number));
    match *family {
        NFPROTO_BRIDGE | NFPROTO_NETDEV => true,
        NFPROTO_INET => number == Some(NF_INET_INGRESS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::put;
    use proptest::prelude::*;

    fn chain(family: u8, hook: Option<u32>) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        put(&mut body, 1, b"table\0");
        if let Some(number) = hook {
            let mut nested = Vec::new();
            put(&mut nested, NFTA_HOOK_HOOKNUM, &number.to_be_bytes());
            put(&mut body, NFTA_CHAIN_HOOK | 0x8000, &nested);
        }
        body
    }

    #[test]
    fn a_chain_is_in_the_way_by_its_family_and_hook() {
        for (family, hook, wanted) in [
            (NFPROTO_BRIDGE, Some(2), true),
            (NFPROTO_NETDEV, Some(0), true),
            (NFPROTO_INET, Some(NF_INET_INGRESS), true),
            (NFPROTO_INET, Some(2), false),
            (2, Some(2), false),
            (NFPROTO_BRIDGE, None, false),
        ] {
            assert_eq!(is_in_the_way(&chain(family, hook)), wanted, "{family} {hook:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            is_in_the_way(&bytes);
        }
    }
}
