// SPDX-License-Identifier: GPL-3.0-only
//! Addresses of a guest's network interfaces: how the mesh knows a guest's
//! addresses without an agent in it.

use std::net::{IpAddr, Ipv6Addr};

use super::{Budget, Linux, LinuxError, group};
use crate::kernel::layout::NetOffsets;
use crate::memory::{MemoryError, PhysicalMemory};

/// Network namespaces, devices of one, addresses of one device.
const MAX_NAMESPACES: usize = 4096;
const MAX_DEVICES: usize = 4096;
const MAX_ADDRESSES: usize = 1024;
/// Addresses told in all; a guest that claims more is lying or beyond us.
const MAX_TOTAL: usize = 1 << 16;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Name of the interface, at most 15 bytes.
    pub ifname: String,
    /// The address.
    pub addr: IpAddr,
    /// Length of the network's prefix, at most 32 or 128 bits.
    pub prefix_len: u8,
}

impl<M: PhysicalMemory> Linux<M> {
    /// Every address of every interface in every network namespace of the
    /// guest, loopback and link-local ones included.
    ///
    /// # Errors
    /// If this kernel's network namespaces are not understood or their list has
    /// no readable start.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>, LinuxError> {
        let offsets = group(&self.kernel.layout.net)?;
        let mut found = Vec::new();
        let walk = || -> Result<(), LinuxError> {
            for net in self.network_namespaces()? {
                // A namespace on its way out may be half gone.
                let _ = self.addresses_of_namespace(&offsets, net, &mut found);
            }
            Ok(())
        };
        self.within(Budget::SWEEP, walk).0?;
        Ok(found)
    }

    /// Addresses of every `struct net`.
    pub(super) fn network_namespaces(&self) -> Result<Vec<u64>, LinuxError> {
        let offsets = group(&self.kernel.layout.net)?;
        let head = self
            .landmarks
            .net_namespace_list
            .ok_or(LinuxError::NoSymbol("net_namespace_list"))?;
        let mut namespaces = Vec::new();
        self.each_in_list(head, offsets.list, MAX_NAMESPACES, |net| namespaces.push(net))?;
        Ok(namespaces)
    }

    fn addresses_of_namespace(
        &self,
        offsets: &NetOffsets,
        net: u64,
        found: &mut Vec<InterfaceAddress>,
    ) -> Result<(), LinuxError> {
        let netns = self.u32(net.wrapping_add(offsets.inum))?;
        self.each_in_list(
            net.wrapping_add(offsets.dev_base_head),
            offsets.dev_list,
            MAX_DEVICES,
            |device| {
                let Ok(ifname) = self.text::<16>(device.wrapping_add(offsets.dev_name)) else {
                    return;
                };
                let mut add = |addr: IpAddr, prefix_len: u8| {
                    if found.len() < MAX_TOTAL {
                        found.push(InterfaceAddress {
                            netns,
                            ifname: ifname.clone(),
                            addr,
                            prefix_len,
                        });
                    }
                };
                let _ = self.ipv4_addresses(offsets, device, &mut add);
                let _ = self.ipv6_addresses(device, &mut add);
            },
        )
    }

    fn ipv4_addresses(
        &self,
        offsets: &NetOffsets,
        device: u64,
        add: &mut dyn FnMut(IpAddr, u8),
    ) -> Result<(), MemoryError> {
        let Some(in_device) = self.pointer(device.wrapping_add(offsets.ip_ptr))? else {
            return Ok(());
        };
        let mut next = self.pointer(in_device.wrapping_add(offsets.ifa_list))?;
        for _ in 0..MAX_ADDRESSES {
            let Some(address) = next else { break };
            let prefix_len = self.u8(address.wrapping_add(offsets.ifa_prefixlen))?;
            add(
                self.ipv4(address.wrapping_add(offsets.ifa_local))?,
                prefix_len.min(32),
            );
            next = self.pointer(address.wrapping_add(offsets.ifa_next))?;
        }
        Ok(())
    }

    fn ipv6_addresses(&self, device: u64, add: &mut dyn FnMut(IpAddr, u8)) -> Result<(), LinuxError> {
        let offsets = group(&self.kernel.layout.net6)?;
        let Some(inet6_dev) = self.pointer(device.wrapping_add(offsets.ip6_ptr))? else {
            return Ok(());
        };
        self.each_in_list(
            inet6_dev.wrapping_add(offsets.addr_list),
            offsets.if_list,
            MAX_ADDRESSES,
            |address| {
                let mut octets = [0; 16];
                let read = self
                    .read(address.wrapping_add(offsets.addr), &mut octets)
                    .and_then(|()| self.u32(address.wrapping_add(offsets.prefix_len)));
                if let Ok(prefix_len) = read {
                    add(Ipv6Addr::from(octets).into(), prefix_len.min(128) as u8);
                }
            },
        )
    }
}
