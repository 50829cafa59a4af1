/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Refusing with an answer: the segment is turned into a RST in place and sent back the way it came, so that the
 * client fails at once instead of after its time-outs.
 *
 * Only TCP is answered here. An ICMP error in the place of a UDP datagram would need the skb's mark "checksum still
 * to be computed at the UDP header" taken off, and no helper does that: see src/prohibited.rs.
 */
#ifndef XMESH_ANSWER_H
#define XMESH_ANSWER_H

#include "packet.h"

/* On skb->mark: made here, to be let through at the other hook. No guest can set a mark. */
#define ANSWER_MARK 0x786d5253

#define CHECK_OFFSET 16 /* of the checksum in the TCP header */

INLINE __be16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * Whether the TCP checksum is left for the device to compute (CHECKSUM_PARTIAL), which no field tells: a change
 * of data is then no business of the field, and bpf_l4_csum_replace() leaves it alone; else the field changes,
 * since adding 1 never keeps a one's complement sum. The field is rewritten afterwards anyhow.
 */
INLINE int checksum_is_partial(struct __sk_buff *skb, __u32 check_at)
{
	__be16 before, after;

	if (bpf_skb_load_bytes(skb, check_at, &before, sizeof(before)) ||
	    bpf_l4_csum_replace(skb, check_at, 0, htons(1), sizeof(before)) ||
	    bpf_skb_load_bytes(skb, check_at, &after, sizeof(after)))
		return -1;
	return before == after;
}

struct pseudo_v4 {
	__be32 source, dest;
	__u8 zero, proto;
	__be16 length;
};

struct pseudo_v6 {
	struct address source, dest;
	__be32 length;
	__u8 zero[3], proto;
};

INLINE long store_ip(struct __sk_buff *skb, const struct packet *p, const struct address *source,
		     const struct address *dest, __u32 *pseudo_sum)
{
	if (p->ipv4) {
		struct pseudo_v4 pseudo = {
			.source = source->word[3],
			.dest = dest->word[3],
			.proto = IPPROTO_TCP,
			.length = htons(sizeof(struct tcphdr)),
		};
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = htons(sizeof(struct iphdr) + sizeof(struct tcphdr)),
			.frag_off = htons(IPV4_DF),
			.ttl = 64,
			.protocol = IPPROTO_TCP,
			.saddr = source->word[3],
			.daddr = dest->word[3],
		};

		*pseudo_sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
		ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
		return bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct pseudo_v6 pseudo = {
			.source = *source,
			.dest = *dest,
			.length = htonl(sizeof(struct tcphdr)),
			.proto = IPPROTO_TCP,
		};
		struct ipv6hdr ip = {
			.version = 6,
			.payload_len = htons(sizeof(struct tcphdr)),
			.nexthdr = IPPROTO_TCP,
			.hop_limit = 64,
		};

		*pseudo_sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
		__builtin_memcpy(&ip.saddr, source, sizeof(*source));
		__builtin_memcpy(&ip.daddr, dest, sizeof(*dest));
		return bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
}

/*
 * Which end of the connection a RST goes to: back to the sender of the segment, or on to where it was bound. Sequence
 * numbers are those that the receiver accepts (RFC 9293, 3.10.7).
 */
INLINE void fill_reset(const struct packet *p, struct tcphdr *tcp, int onward)
{
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (onward) {
		tcp->seq = p->seq;
		tcp->ack = 1;
		tcp->ack_seq = p->ack;
	} else if (p->tcp_flags & TCP_ACK) {
		tcp->seq = p->ack;
	} else {
		tcp->ack = 1;
		tcp->ack_seq = htonl(ntohl(p->seq) + p->payload + (p->tcp_flags & TCP_SYN ? 1 : 0) +
				     (p->tcp_flags & TCP_FIN ? 1 : 0));
	}
}

/*
 * Cuts the segment down to its headers. Returns what checksum_is_partial() says; negative: the skb is good for
 * nothing but dropping.
 */
OUTLINE int cut_segment(struct __sk_buff *skb, const struct packet *p)
{
	/* Options of the IP header would have to be left out, but the mark for the checksum stays where it is. */
	if (!p->fixed_header || bpf_skb_change_tail(skb, p->l4 + sizeof(struct tcphdr), 0))
		return -1;
	return checksum_is_partial(skb, p->l4 + CHECK_OFFSET);
}

/* Overwrites a cut segment with a RST; its tags stay. 0 when done. */
OUTLINE int write_reset(struct __sk_buff *skb, const struct packet *p, int partial, int onward)
{
	__u32 l4 = p->l3 + (p->ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	const int to_peer = (p->direction == FROM_GUEST) == !!onward;
	const int to_backend = to_peer && p->translated;
	const struct address *peer = to_backend ? &p->backend.address : &p->key.remote;
	const __be16 peer_port = to_backend ? p->backend.port : p->key.remote_port;
	const struct address *source = to_peer ? &p->key.local : peer;
	const struct address *dest = to_peer ? peer : &p->key.local;
	struct tcphdr tcp = {
		.source = to_peer ? p->key.local_port : peer_port,
		.dest = to_peer ? peer_port : p->key.local_port,
	};
	__u8 macs[2 * ETH_ALEN];
	__u32 sum;

	if (onward && to_backend && is_mac(p->backend.mac))
		__builtin_memcpy(macs, p->backend.mac, ETH_ALEN);
	else
		__builtin_memcpy(macs, onward ? p->macs : p->macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, onward ? p->macs + ETH_ALEN : p->macs, ETH_ALEN);
	fill_reset(p, &tcp, onward);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), BPF_F_RECOMPUTE_CSUM) ||
	    store_ip(skb, p, source, dest, &sum))
		return -1;
	if (partial)
		tcp.check = fold(sum);
	else
		tcp.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&tcp, sizeof(tcp), sum));
	if (bpf_skb_store_bytes(skb, l4, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM))
		return -1;
	return 0;
}

/*
 * Without the guest's address, a packet towards it may be one that the bridge floods to every vif: an answer from
 * here would cut another guest's connection.
 */
INLINE int may_answer(const struct packet *p, const struct vif_config *vif)
{
	return p->key.proto == IPPROTO_TCP && !(p->tcp_flags & TCP_RST) && !is_multicast(p->macs) &&
	       !is_multicast(p->macs + ETH_ALEN) && (p->direction == FROM_GUEST || has_mac(vif));
}

#endif
