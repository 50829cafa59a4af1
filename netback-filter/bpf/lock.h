/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * The lock: what a guest sends must bear its own addresses, so that it can neither speak for another nor draw
 * another's traffic to itself. What is the guest's own is what dom0 gave it: its vif's MAC address, the addresses in
 * `sources`, and the link-local address that follows from the MAC (RFC 4291, appendix A).
 */
#ifndef XMESH_LOCK_H
#define XMESH_LOCK_H

#include "packet.h"

#define DHCP_SERVER 67
#define DHCP6_SERVER 547

enum icmp_type_of_neighbours {
	ICMP_REDIRECT = 5,
	ICMP6_LISTENER_REPORT = 131,
	ICMP6_LISTENER_DONE = 132,
	ICMP6_ROUTER_SOLICITATION = 133,
	ICMP6_ROUTER_ADVERTISEMENT = 134,
	ICMP6_NEIGHBOUR_SOLICITATION = 135,
	ICMP6_NEIGHBOUR_ADVERTISEMENT = 136,
};

/* ARP for Ethernet and IPv4; the only one that has to be. */
struct arp_packet {
	__be16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4]; /* not aligned */
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
};
_Static_assert(sizeof(struct arp_packet) == 28, "arp_packet");

#define ARP_ETHERNET 1

INLINE int is_none(const struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

/* fe80::/64 and the MAC with ff:fe in its middle and its "universal" bit turned. */
INLINE int is_link_local_of(const struct address *address, const __u8 *mac)
{
	return address->word[0] == htonl(0xfe800000) && address->word[1] == 0 &&
	       address->word[2] == htonl((__u32)(mac[0] ^ 2) << 24 | mac[1] << 16 | mac[2] << 8 | 0xff) &&
	       address->word[3] == htonl(0xfe000000u | mac[3] << 16 | mac[4] << 8 | mac[5]);
}

OUTLINE int is_own(__u32 scope, const struct address *address, const struct vif_config *vif)
{
	struct source_key key = { .scope = scope, .address = *address };

	return bpf_map_lookup_elem(&sources, &key) || (has_mac(vif) && is_link_local_of(address, vif->mac));
}

/* A question who has an address, before it is one's own, comes from 0.0.0.0 (RFC 5227). */
OUTLINE int arp_is_forged(struct __sk_buff *skb, const struct packet *p, const struct vif_config *vif, int addresses)
{
	struct arp_packet arp;
	struct address sender;
	__be32 ip;

	if (read_header(skb, p->l3, &arp, sizeof(arp)) || arp.hardware != htons(ARP_ETHERNET) ||
	    arp.protocol != htons(ETH_P_IP) || arp.hardware_len != ETH_ALEN || arp.protocol_len != sizeof(ip))
		return 1;
	if (has_mac(vif) && !same_mac(arp.sender_mac, vif->mac))
		return 1;
	__builtin_memcpy(&ip, arp.sender_ip, sizeof(ip));
	map_v4(&sender, ip);
	return addresses && ip && !is_own(p->key.scope, &sender, vif);
}

/*
 * What only a router or a DHCP server says, and an answer that is about another's address. The target of an
 * advertisement is behind its 8 bytes of header.
 */
OUTLINE int speaks_for_others(struct __sk_buff *skb, const struct packet *p, const struct vif_config *vif)
{
	__u32 target_at = p->l4 + sizeof(struct icmp_header);
	struct address target;
	__be16 port = p->key.local_port;

	switch (p->key.proto) {
	case IPPROTO_UDP:
		return port == (p->ipv4 ? htons(DHCP_SERVER) : htons(DHCP6_SERVER));
	case IPPROTO_ICMP:
		return p->icmp_type == ICMP_REDIRECT;
	case IPPROTO_ICMPV6:
		if (p->icmp_type == ICMP6_ROUTER_ADVERTISEMENT || p->icmp_type == ICMP6_REDIRECT)
			return 1;
		return p->icmp_type == ICMP6_NEIGHBOUR_ADVERTISEMENT &&
		       (target_at + sizeof(target) > p->l3_end ||
			read_header(skb, target_at, &target, sizeof(target)) ||
			!is_own(p->key.scope, &target, vif));
	default:
		return 0;
	}
}

/* ICMPv6 that a host may send before it has an address: what it needs to get one. */
INLINE int comes_before_an_address(__u8 icmp_type)
{
	return icmp_type == ICMP6_ROUTER_SOLICITATION || icmp_type == ICMP6_NEIGHBOUR_SOLICITATION ||
	       icmp_type == ICMP6_LISTENER_REPORT || icmp_type == ICMP6_LISTENER_DONE ||
	       icmp_type == ICMP6_LISTENER_REPORT_V2;
}

/* Whether a packet from the guest bears what is not its own. */
INLINE int is_forged(struct __sk_buff *skb, const struct packet *p, const struct vif_config *vif, __u8 flags)
{
	const int addresses = !!(flags & SCOPE_LOCK_ADDRESS);

	if (!(flags & (SCOPE_LOCK_MAC | SCOPE_LOCK_ADDRESS)))
		return 0;
	if (has_mac(vif) && !same_mac(p->macs + ETH_ALEN, vif->mac))
		return 1;
	switch (p->kind) {
	case KIND_ARP:
		return arp_is_forged(skb, p, vif, addresses);
	case KIND_MALFORMED: /* dropped anyway */
		return 0;
	case KIND_UNKNOWN_L3: /* what it bears cannot be told */
		return addresses;
	}
	if (!addresses)
		return 0;
	if (!is_own(p->key.scope, &p->key.local, vif)) {
		/* Not yet one of its own: DHCP, and IPv6's questions whether an address is free (RFC 4862). */
		if (p->ipv4)
			return !(p->dhcp && p->key.local.word[3] == 0);
		return !is_none(&p->key.local) || p->kind != KIND_ESSENTIAL || !comes_before_an_address(p->icmp_type);
	}
	return p->kind != KIND_LATER_FRAGMENT && speaks_for_others(skb, p, vif);
}

#endif
