/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * The address of a service has no host: who asks for its MAC address, or whether it is there, is answered here, by the
 * packet itself turned round. The MAC address is the same for all, and no frame bears it beyond this vif.
 */
#ifndef XMESH_VIRTUAL_H
#define XMESH_VIRTUAL_H

#include "lock.h"
#include "service.h"
#include "translate.h"

#define ARP_REQUEST 1
#define ARP_REPLY 2

/* Locally administered: 02:78:6d:65:73:68. Byte by byte, since a constant array would become a map of its own. */
INLINE void set_service_mac(__u8 *mac)
{
	mac[0] = 0x02;
	mac[1] = 0x78;
	mac[2] = 0x6d;
	mac[3] = 0x65;
	mac[4] = 0x73;
	mac[5] = 0x68;
}

INLINE int is_to_services(const struct packet *p)
{
	__u8 mac[ETH_ALEN];

	set_service_mac(mac);
	return same_mac(p->macs, mac);
}

/* Makes a reply to a guest that asks for the MAC address of a service. 0 when it is one. */
OUTLINE int answer_arp(struct __sk_buff *skb, const struct packet *p)
{
	struct {
		struct ethhdr eth;
		struct arp_packet arp;
	} __attribute__((packed)) frame;
	struct address target;
	__u8 asker[ETH_ALEN], asker_ip[4];
	__be32 ip;

	if (read_header(skb, 0, &frame, sizeof(frame)) || frame.arp.hardware != htons(ARP_ETHERNET) ||
	    frame.arp.protocol != htons(ETH_P_IP) || frame.arp.hardware_len != ETH_ALEN ||
	    frame.arp.protocol_len != sizeof(ip) || frame.arp.operation != htons(ARP_REQUEST))
		return -1;
	__builtin_memcpy(&ip, frame.arp.target_ip, sizeof(ip));
	map_v4(&target, ip);
	if (!is_virtual(&target))
		return -1;
	__builtin_memcpy(asker, frame.arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(asker_ip, frame.arp.sender_ip, sizeof(ip));
	__builtin_memcpy(frame.eth.h_dest, p->macs + ETH_ALEN, ETH_ALEN);
	set_service_mac(frame.eth.h_source);
	frame.arp.operation = htons(ARP_REPLY);
	set_service_mac(frame.arp.sender_mac);
	__builtin_memcpy(frame.arp.sender_ip, &ip, sizeof(ip));
	__builtin_memcpy(frame.arp.target_mac, asker, ETH_ALEN);
	__builtin_memcpy(frame.arp.target_ip, asker_ip, sizeof(ip));
	return bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0) ? -1 : 0;
}

#define NEIGHBOUR_SOLICITED 0x40
#define NEIGHBOUR_OVERRIDE 0x20
#define OPTION_TARGET_MAC 2

struct advertisement {
	__u8 type, code;
	__be16 check;
	__u8 flags, zero[3];
	struct address target;
	__u8 option, option_len; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
};
_Static_assert(sizeof(struct advertisement) == 32, "advertisement");

/* The same by neighbour discovery. 0: a reply; 1: no such question; negative: good for nothing but dropping. */
OUTLINE int answer_solicitation(struct __sk_buff *skb, const struct packet *p)
{
	struct advertisement reply = {};
	struct pseudo_v6 pseudo = {};
	struct ipv6hdr ip = {};
	struct ethhdr eth;
	__u32 at = p->l4 + sizeof(struct icmp_header);

	if (p->icmp_type != ICMP6_NEIGHBOUR_SOLICITATION || !p->fixed_header ||
	    at + sizeof(reply.target) > p->l3_end ||
	    read_header(skb, at, &reply.target, sizeof(reply.target)) || !is_virtual(&reply.target))
		return 1;
	reply.type = ICMP6_NEIGHBOUR_ADVERTISEMENT;
	reply.flags = NEIGHBOUR_SOLICITED | NEIGHBOUR_OVERRIDE;
	reply.option = OPTION_TARGET_MAC;
	reply.option_len = 1;
	set_service_mac(reply.mac);
	pseudo.source = reply.target;
	pseudo.dest = p->key.local;
	if (is_none(&p->key.local)) {
		/* A guest that would have the address itself is told so at the address of all nodes. */
		reply.flags = NEIGHBOUR_OVERRIDE;
		pseudo.dest.word[0] = htonl(0xff020000);
		pseudo.dest.word[3] = htonl(1);
	}
	pseudo.length = htonl(sizeof(reply));
	pseudo.proto = IPPROTO_ICMPV6;
	ip.version = 6;
	ip.payload_len = htons(sizeof(reply));
	ip.nexthdr = IPPROTO_ICMPV6;
	ip.hop_limit = 255;
	__builtin_memcpy(&ip.saddr, &pseudo.source, sizeof(pseudo.source));
	__builtin_memcpy(&ip.daddr, &pseudo.dest, sizeof(pseudo.dest));
	__builtin_memcpy(eth.h_dest, p->macs + ETH_ALEN, ETH_ALEN);
	set_service_mac(eth.h_source);
	eth.h_proto = htons(ETH_P_IPV6);
	reply.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&reply, sizeof(reply),
					  bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0)));
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(ip) + sizeof(reply), 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &reply, sizeof(reply), 0))
		return -1;
	return 0;
}

INLINE int is_echo_request(const struct packet *p)
{
	return p->kind == KIND_FLOW && !p->more_fragments &&
	       ((p->key.proto == IPPROTO_ICMP && p->icmp_type == ICMP_ECHO) ||
		(p->key.proto == IPPROTO_ICMPV6 && p->icmp_type == ICMP6_ECHO));
}

/* Turns an echo request into its reply. Addresses that change places leave all sums as they are. 0 when done. */
OUTLINE int answer_echo(struct __sk_buff *skb, const struct packet *p)
{
	struct change source = { .to = p->key.remote }, dest = { .to = p->key.local };
	__u8 reply = p->ipv4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY;
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, p->macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, p->macs, ETH_ALEN);
	if (bpf_l4_csum_replace(skb, p->l4 + ICMP_CHECK_OFFSET, htons(p->icmp_type << 8), htons(reply << 8),
				sizeof(__be16)) ||
	    bpf_skb_store_bytes(skb, p->l4, &reply, sizeof(reply), 0) ||
	    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) ||
	    store_address(skb, ETH_HLEN, p->ipv4, 0, &source) || store_address(skb, ETH_HLEN, p->ipv4, 1, &dest))
		return -1;
	return 0;
}

#endif
