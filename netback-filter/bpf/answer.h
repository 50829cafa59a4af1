/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Refusing with an answer: the segment is turned into a RST in place and sent back the way it came, so that the
 * client fails at once instead of after its time-outs.
 *
 * Only TCP is answered. An ICMP error in the place of a UDP datagram would need the skb's mark "checksum still
 * to be computed at the UDP header" taken off, and no helper does that.
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
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
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
		return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
	}
}

/* Sequence numbers as RFC 9293, 3.10.7.1 has them for a connection that does not exist. */
INLINE void fill_reset(const struct packet *p, struct tcphdr *tcp)
{
	if (p->tcp_flags & TCP_ACK) {
		tcp->seq = p->ack;
		return;
	}
	tcp->ack = 1;
	tcp->ack_seq = htonl(ntohl(p->seq) + p->payload + (p->tcp_flags & TCP_SYN ? 1 : 0) +
			     (p->tcp_flags & TCP_FIN ? 1 : 0));
}

/* Turns the segment into its refusal. 0 when done; otherwise the skb is good for nothing but dropping. */
OUTLINE int make_reset(struct __sk_buff *skb, const struct packet *p)
{
	const struct address *source, *dest;
	__u32 l4 = ETH_HLEN + (p->ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	struct tcphdr tcp = {};
	__u8 macs[2 * ETH_ALEN];
	__u32 sum;
	int partial;

	/* Options of the IP header would have to be left out, but the mark for the checksum stays where it is. */
	if (!p->fixed_header || bpf_skb_change_tail(skb, l4 + sizeof(tcp), 0))
		return -1;
	partial = checksum_is_partial(skb, l4 + CHECK_OFFSET);
	if (partial < 0)
		return -1;

	__builtin_memcpy(macs, p->macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, p->macs, ETH_ALEN);
	tcp.doff = sizeof(tcp) / 4;
	tcp.rst = 1;
	fill_reset(p, &tcp);
	if (p->direction == FROM_GUEST) {
		source = &p->key.remote;
		dest = &p->key.local;
		tcp.source = p->key.remote_port;
		tcp.dest = p->key.local_port;
	} else {
		source = &p->key.local;
		dest = &p->key.remote;
		tcp.source = p->key.local_port;
		tcp.dest = p->key.remote_port;
	}
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

INLINE int is_multicast(const __u8 *mac)
{
	return mac[0] & 1;
}

/*
 * A frame that the bridge floods reaches vifs it is not meant for; an answer from there would cut another
 * guest's connection. So towards the guest only what bears the guest's own address is answered.
 */
INLINE int may_answer(const struct packet *p, const struct vif_config *vif)
{
	if (p->key.proto != IPPROTO_TCP || (p->tcp_flags & TCP_RST) || is_multicast(p->macs) ||
	    is_multicast(p->macs + ETH_ALEN))
		return 0;
	if (p->direction == FROM_GUEST)
		return 1;
	return p->macs[0] == vif->mac[0] && p->macs[1] == vif->mac[1] && p->macs[2] == vif->mac[2] &&
	       p->macs[3] == vif->mac[3] && p->macs[4] == vif->mac[4] && p->macs[5] == vif->mac[5];
}

#endif
