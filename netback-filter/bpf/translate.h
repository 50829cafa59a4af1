/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Packets of redirected flows, changed in place: towards the backend the flow's other end becomes the backend, towards
 * the guest it becomes what the guest knows.
 *
 * Sums are only ever changed by the difference, through the helpers: they know of packets whose sum is left for the device
 * to compute. No packet at a vif has its sum computed by a device already (CHECKSUM_COMPLETE): bridges take that off, netback
 * never sets it. That matters to IPv6 alone, where the helper would need a flag that old kernels do not know.
 */
#ifndef XMESH_TRANSLATE_H
#define XMESH_TRANSLATE_H

#include <linux/if_packet.h>

#include "answer.h"

#define UDP_CHECK_OFFSET 6
#define IPV4_CHECK_OFFSET 10
#define ICMP_CHECK_OFFSET 2

/* Not 0, here as everywhere below: the packet may be half translated and must not go on. */
INLINE long store_mac(struct __sk_buff *skb, struct packet *p)
{
	if (p->direction != FROM_GUEST || !is_mac(p->backend.mac))
		return 0;
	__builtin_memcpy(p->macs, p->backend.mac, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, p->macs, ETH_ALEN, 0))
		return -1;
	/* It came for the MAC address of services, so for another host: where dom0 routes, it is now for dom0. */
	return bpf_skb_change_type(skb, PACKET_HOST);
}

/* Offset of source or destination in the IP header. */
INLINE __u32 address_offset(int ipv4, int dest)
{
	if (ipv4)
		return dest ? offsetof(struct iphdr, daddr) : offsetof(struct iphdr, saddr);
	return dest ? offsetof(struct ipv6hdr, daddr) : offsetof(struct ipv6hdr, saddr);
}

/* An address and the port that belongs to it, before and after. */
struct change {
	struct address from, to;
	__be16 from_port, to_port;
};

INLINE void set_change(const struct packet *p, struct change *change)
{
	if (p->direction == FROM_GUEST) {
		change->from = p->key.remote;
		change->from_port = p->key.remote_port;
		change->to = p->backend.address;
		change->to_port = p->backend.port;
	} else {
		change->from = p->backend.address;
		change->from_port = p->backend.port;
		change->to = p->key.remote;
		change->to_port = p->key.remote_port;
	}
}

INLINE long store_address(struct __sk_buff *skb, __u32 l3, int ipv4, int dest, const struct change *change)
{
	__u32 at = l3 + address_offset(ipv4, dest);

	if (!ipv4)
		return bpf_skb_store_bytes(skb, at, &change->to, sizeof(change->to), 0);
	return bpf_skb_store_bytes(skb, at, &change->to.word[3], sizeof(__be32), 0);
}

/* Changes an address in the IP header at `l3`, and the header's own sum. */
INLINE long change_address(struct __sk_buff *skb, __u32 l3, int ipv4, int dest, const struct change *change)
{
	if (ipv4 && bpf_l3_csum_replace(skb, l3 + IPV4_CHECK_OFFSET, change->from.word[3], change->to.word[3],
					sizeof(__be32)))
		return -1;
	return store_address(skb, l3, ipv4, dest, change);
}

/* Changes a sum whose pseudo header has the address in it. */
INLINE long change_pseudo(struct __sk_buff *skb, __u32 check_at, int ipv4, struct change *change, __u64 flags)
{
	if (ipv4)
		return bpf_l4_csum_replace(skb, check_at, change->from.word[3], change->to.word[3],
					   BPF_F_PSEUDO_HDR | flags | sizeof(__be32));
	return bpf_l4_csum_replace(skb, check_at, 0,
				   bpf_csum_diff(change->from.word, sizeof(change->from), change->to.word,
						 sizeof(change->to), 0),
				   BPF_F_PSEUDO_HDR | flags);
}

/* A UDP sum of 0 is none, and stays none. */
INLINE __u64 check_flags(__u8 proto)
{
	return proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

INLINE __u32 check_offset(__u8 proto)
{
	return proto == IPPROTO_UDP ? UDP_CHECK_OFFSET : CHECK_OFFSET;
}

/* A packet of a flow, or a later fragment of one. 0 when done. */
OUTLINE int translate(struct __sk_buff *skb, struct packet *p)
{
	const int dest = p->direction == FROM_GUEST;
	struct change change;

	set_change(p, &change);
	if (store_mac(skb, p))
		return -1;
	if (p->kind != KIND_LATER_FRAGMENT) {
		__u32 check_at = p->l4 + check_offset(p->key.proto);
		__u64 flags = check_flags(p->key.proto);

		if (change_pseudo(skb, check_at, p->ipv4, &change, flags) ||
		    bpf_l4_csum_replace(skb, check_at, change.from_port, change.to_port,
					flags | sizeof(__be16)) ||
		    bpf_skb_store_bytes(skb, p->l4 + (dest ? 2 : 0), &change.to_port, sizeof(change.to_port), 0))
			return -1;
	}
	return change_address(skb, ETH_HLEN, p->ipv4, dest, &change) ? -1 : 0;
}

/*
 * Changes the L4 sum in what an error quotes, if it was quoted, and makes up for it in the error's own sum. So that a
 * receiver that looks finds a sound header; nothing depends on it.
 */
INLINE long change_quoted_check(struct __sk_buff *skb, const struct packet *p, const struct packet *inner,
				struct change *change)
{
	__u32 check_at = inner->l4 + check_offset(inner->key.proto);
	__u64 flags = check_flags(inner->key.proto);
	__be16 before, after;

	if (check_at + sizeof(before) > p->l3_end)
		return 0;
	if (read_header(skb, check_at, &before, sizeof(before)) ||
	    change_pseudo(skb, check_at, p->ipv4, change, flags) ||
	    bpf_l4_csum_replace(skb, check_at, change->from_port, change->to_port, flags | sizeof(__be16)) ||
	    bpf_skb_load_bytes(skb, check_at, &after, sizeof(after)))
		return -1;
	return bpf_l4_csum_replace(skb, p->l4 + ICMP_CHECK_OFFSET, before, after, sizeof(before));
}

/*
 * An ICMP error about a redirected flow: what it quotes went the other way, so that the end to be changed is the
 * opposite one there. The outer address changes where it is the same end's: a router on the way speaks for itself.
 */
OUTLINE int translate_error(struct __sk_buff *skb, struct packet *p, const struct packet *inner)
{
	const __u32 check_at = p->l4 + ICMP_CHECK_OFFSET;
	const int dest = p->direction == FROM_GUEST;
	struct change change;

	set_change(inner, &change);
	if (change_quoted_check(skb, p, inner, &change))
		return -1;
	/* In IPv4 the quoted address and the sum of its own header change to one effect on the error's sum: none. */
	if (!p->ipv4 && change_pseudo(skb, check_at, 0, &change, 0))
		return -1;
	if (change_address(skb, p->l4 + sizeof(struct icmp_header), p->ipv4, !dest, &change) ||
	    bpf_l4_csum_replace(skb, check_at, change.from_port, change.to_port, sizeof(__be16)) ||
	    bpf_skb_store_bytes(skb, inner->l4 + (dest ? 0 : 2), &change.to_port, sizeof(change.to_port), 0))
		return -1;
	if (!same_address(&p->key.remote, &change.from))
		return 0;
	__builtin_memcpy(p->backend.mac, inner->backend.mac, ETH_ALEN);
	if (store_mac(skb, p) || (!p->ipv4 && change_pseudo(skb, check_at, 0, &change, 0)))
		return -1;
	return change_address(skb, ETH_HLEN, p->ipv4, dest, &change) ? -1 : 0;
}

#endif
