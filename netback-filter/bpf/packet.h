/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * From frame to flow key.
 *
 * Packets from a guest may still lie in the guest's own granted memory, which it can rewrite at any time. So
 * every header byte is first brought into the kernel's memory, then read once into the stack; what was judged is
 * what goes on.
 */
#ifndef XMESH_PACKET_H
#define XMESH_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "maps.h"

#define VLAN_VID 0x0fff
#define VLAN_VID_BITS 12
/* The service tag and the customer's (IEEE 802.1ad). More than these are looked behind by nobody here. */
#define MAX_TAGS 2
#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1fff
#define IPV6_OFFSET 0xfff8
#define IPV6_MF 0x0001
/* More extension headers than this in one packet are malformed. */
#define IPV6_MAX_EXTENSIONS 6
/* Later fragments of TCP must not reach back into the header (RFC 1858); in units of 8 bytes. */
#define TCP_FIRST_FREE_FRAGMENT 3

/* linux/icmp.h would pull in the C library. The first 8 bytes are alike in ICMP and ICMPv6. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 check;
	__be16 echo_id;
	__be16 echo_sequence;
};

enum icmp_type {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
	ICMP6_FIRST_ERROR = 1, /* to 4 */
	ICMP6_LAST_ERROR = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_LISTENER_QUERY = 130, /* to 132: multicast listeners */
	ICMP6_REDIRECT = 137,       /* from 133: routers and neighbours */
	ICMP6_LISTENER_REPORT_V2 = 143,
};

enum kind {
	KIND_MALFORMED,
	KIND_ARP,
	KIND_ESSENTIAL,	     /* neighbour discovery, multicast listener reports; DHCP if so set */
	KIND_UNKNOWN_L3,
	KIND_LATER_FRAGMENT, /* no L4 header in it */
	KIND_ICMP_ERROR,     /* `inner` names the flow it is about */
	KIND_FLOW,	     /* `key` names its flow */
};

struct packet {
	struct flow_key key;
	__u8 direction;
	__u8 kind;
	__u8 tcp_flags; /* the TCP header's own flag byte; 0 for others */
	__u8 ipv4;
	__u8 more_fragments;
	__u8 fixed_header; /* neither options nor extensions before L4 */
	__u8 icmp_type;	   /* of ICMP and ICMPv6; else 0 */
	__u8 dhcp;
	__u8 window_shut; /* TCP: the sender takes no more */
	__u8 news;	  /* NEWS_...: what it tells of its flow, once it is accounted for */
	__u8 tags;	  /* tags in front of it; one more than MAX_TAGS stands for any number above */
	__u32 vlans;	  /* as in the key; they stay where the key loses them */
	__u32 l3;     /* offset of the L3 header: behind the tags that are in the frame itself */
	__u32 l3_end; /* offset behind the IP packet; Ethernet padding may follow */
	__u32 l4;     /* offset of the L4 header */
	__u32 fragment_id;
	__be32 seq;
	__be32 ack;
	__u32 payload; /* bytes of TCP payload */
	__u32 sample_us; /* of the round trip that it ended */
	__u32 turn;	 /* that its flow had when it was another one */
	__u8 macs[2 * ETH_ALEN];
	__u8 tos;	 /* traffic class: DSCP and ECN */
	__u8 was_held;	 /* it comes back from userspace: see hold.h */
	__u8 translated; /* `key` has the flow as the guest has it; on the wire `backend` is its other end */
	struct endpoint backend;
};

/*
 * Where packets are taken apart; one cell a direction, since a packet that is sent back out of the one program runs
 * the other before the first is done, and behind them one for what an ICMP error quotes. Not on the stack: the verifier knows nothing of a map's contents, and so
 * need not follow the rest of the program once for every way a packet can look.
 */
struct cell {
	struct packet packet;
	/* The clock as it was read last, and in which of the kernel's ticks. */
	__u64 ns;
	__u64 tick;
};

struct {
	MAP_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_TYPE(key, __u32); /* enum direction, and 2 + that */
	MAP_TYPE(value, struct cell);
	MAP_INT(max_entries, 4);
} scratch SEC(".maps");

/*
 * CLOCK_MONOTONIC, read once in one of the kernel's ticks of 1 to 10 ms, so that much behind at most: to read the clock takes as
 * long as three lookups. What is to be exact asks bpf_ktime_get_ns().
 */
INLINE __u64 coarse_ns(struct cell *cell)
{
#ifndef PERF_EVENTS
	__u64 tick = bpf_jiffies64();

	if (tick == cell->tick)
		return cell->ns;
	cell->tick = tick;
#endif
	cell->ns = bpf_ktime_get_ns();
	return cell->ns;
}

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

INLINE int is_multicast(const __u8 *mac)
{
	return mac[0] & 1;
}

INLINE int is_mac(const __u8 *mac)
{
	return mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5];
}

INLINE int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

INLINE int same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

INLINE int has_mac(const struct vif_config *vif)
{
	return is_mac(vif->mac);
}

/* A frame to one other station: a bridge that does not learn floods it to every vif. */
INLINE int is_for_another(const struct packet *p, const struct vif_config *vif)
{
	return has_mac(vif) && !is_multicast(p->macs) && !same_mac(p->macs, vif->mac);
}

/* Services are for frames without a tag, or with one that names a priority and no VLAN. */
INLINE int is_tagged(const struct packet *p)
{
	return p->vlans || p->l3 != ETH_HLEN;
}

INLINE void set_vlans(struct flow_key *key, __u32 vlans)
{
	key->vlan = vlans;
	key->vlan_high = vlans >> 16;
}

INLINE int pure_syn(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Headers that begin behind this are read by a call. The verifier wants a bound. */
#define NEAR 256

/*
 * Copies `len` bytes at `offset`, after making sure that they are the kernel's own. Negative: not there. What lies in the
 * packet's head is the kernel's, and read without a call. Whole words of 4 bytes, as the headers behind Ethernet's are made of,
 * are where the kernel aligns them; else so much any header is aligned is 2 bytes. Fields are then read back in the size
 * that they were stored in, or smaller: a load out of several stores waits until all of them are done.
 */
INLINE long read_header(struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (offset < NEAR) {
		void *from = data + offset;

		if (from + len <= end) {
			if (len % 4)
				__builtin_memcpy(to, __builtin_assume_aligned(from, 2), len);
			else
				__builtin_memcpy(to, __builtin_assume_aligned(from, 4), len);
			return 0;
		}
	}
	if (offset + len > (long)end - (long)data && bpf_skb_pull_data(skb, offset + len))
		return -1;
	return bpf_skb_load_bytes(skb, offset, to, len);
}

INLINE void map_v4(struct address *to, __be32 v4)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = htonl(0xffff);
	to->word[3] = v4;
}

/* `from_guest`: the guest sent the packet with these addresses. */
INLINE void set_v4(struct flow_key *key, const struct iphdr *ip, int from_guest)
{
	map_v4(from_guest ? &key->local : &key->remote, ip->saddr);
	map_v4(from_guest ? &key->remote : &key->local, ip->daddr);
}

INLINE void set_v6(struct flow_key *key, const struct ipv6hdr *ip, int from_guest)
{
	__builtin_memcpy(from_guest ? &key->local : &key->remote, &ip->saddr, sizeof(struct address));
	__builtin_memcpy(from_guest ? &key->remote : &key->local, &ip->daddr, sizeof(struct address));
}

INLINE int bears_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

INLINE void set_ports(struct flow_key *key, __be16 source, __be16 dest, int from_guest)
{
	key->local_port = from_guest ? source : dest;
	key->remote_port = from_guest ? dest : source;
}

/*
 * An echo exchange is keyed like one of TCP: its identifier stands for the port of the end that asks, 0 for the
 * port of the end that answers. So an answer can never be taken for a question.
 */
INLINE void set_echo(struct flow_key *key, __be16 id, int request, int from_guest)
{
	if (request)
		set_ports(key, id, 0, from_guest);
	else
		set_ports(key, 0, id, from_guest);
}

INLINE long read_quoted(struct __sk_buff *skb, const struct packet *p, __u32 offset, void *to, __u32 len)
{
	/* What lies behind the packet is no part of it. */
	return offset + len > p->l3_end ? -1 : read_header(skb, offset, to, len);
}

/*
 * Reads the flow inside an ICMP error: a packet of the opposite direction, so that its addresses are swapped. `l4` is that
 * of the error before, and afterwards that of what it quotes.
 */
INLINE int read_inner(struct __sk_buff *skb, struct packet *p)
{
	const int inner_from_guest = p->direction == TO_GUEST;
	__u32 at = p->l4 + sizeof(struct icmp_header);
	__be16 ports[2];
	__u32 header;
	__u8 proto;

	if (p->ipv4) {
		struct iphdr ip;

		/* A later fragment has no ports to tell by. */
		if (read_quoted(skb, p, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    (ip.frag_off & htons(IPV4_OFFSET)))
			return -1;
		header = ip.ihl * 4;
		proto = ip.protocol;
		set_v4(&p->key, &ip, inner_from_guest);
	} else {
		struct ipv6hdr ip;

		if (read_quoted(skb, p, at, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		header = sizeof(ip);
		proto = ip.nexthdr;
		set_v6(&p->key, &ip, inner_from_guest);
	}
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		struct icmp_header echo;

		if (read_quoted(skb, p, at + header, &echo, sizeof(echo)))
			return -1;
		set_echo(&p->key, echo.echo_id, echo.type == (p->ipv4 ? ICMP_ECHO : ICMP6_ECHO), inner_from_guest);
	} else if (bears_ports(proto)) {
		if (read_quoted(skb, p, at + header, ports, sizeof(ports)))
			return -1;
		set_ports(&p->key, ports[0], ports[1], inner_from_guest);
	} else {
		set_ports(&p->key, 0, 0, inner_from_guest);
	}
	p->key.proto = proto;
	p->l4 = at + header;
	return 0;
}

INLINE int parse_icmp(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct icmp_header icmp;
	int request, reply, error, essential;

	if (p->l4 + sizeof(icmp) > p->l3_end || read_header(skb, p->l4, &icmp, sizeof(icmp)))
		return KIND_MALFORMED;
	if (p->ipv4) {
		request = icmp.type == ICMP_ECHO;
		reply = icmp.type == ICMP_ECHO_REPLY;
		error = icmp.type == ICMP_UNREACHABLE || icmp.type == ICMP_TIME_EXCEEDED ||
			icmp.type == ICMP_PARAMETER_PROBLEM;
		essential = 0;
	} else {
		request = icmp.type == ICMP6_ECHO;
		reply = icmp.type == ICMP6_ECHO_REPLY;
		error = icmp.type >= ICMP6_FIRST_ERROR && icmp.type <= ICMP6_LAST_ERROR;
		/* IPv6 is dead without these. */
		essential = (icmp.type >= ICMP6_LISTENER_QUERY && icmp.type <= ICMP6_REDIRECT) ||
			    icmp.type == ICMP6_LISTENER_REPORT_V2;
	}
	p->icmp_type = icmp.type;
	if (essential)
		return KIND_ESSENTIAL;
	if (request || reply)
		set_echo(&p->key, icmp.echo_id, request, from_guest);
	return error ? KIND_ICMP_ERROR : KIND_FLOW;
}

INLINE int parse_tcp(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct tcphdr tcp;
	__u32 header;

	if (p->l4 + sizeof(tcp) > p->l3_end || read_header(skb, p->l4, &tcp, sizeof(tcp)))
		return KIND_MALFORMED;
	header = tcp.doff * 4;
	if (header < sizeof(tcp) || p->l4 + header > p->l3_end)
		return KIND_MALFORMED;
	/* Segments that no stack sends, and that stacks disagree about. */
	if (!(tcp.syn | tcp.ack | tcp.rst | tcp.fin) || (tcp.syn && (tcp.fin | tcp.rst)))
		return KIND_MALFORMED;
	set_ports(&p->key, tcp.source, tcp.dest, from_guest);
	p->tcp_flags = ((__u8 *)&tcp)[13];
	p->seq = tcp.seq;
	p->ack = tcp.ack_seq;
	p->payload = p->l3_end - p->l4 - header;
	p->window_shut = !tcp.window && !tcp.syn && !tcp.rst;
	return KIND_FLOW;
}

INLINE int parse_udp(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct udphdr udp;
	__be16 client, server;

	if (p->l4 + sizeof(udp) > p->l3_end || read_header(skb, p->l4, &udp, sizeof(udp)))
		return KIND_MALFORMED;
	/* The first fragment's length field is that of the whole datagram. */
	if (ntohs(udp.len) < sizeof(udp) || (!p->more_fragments && p->l4 + ntohs(udp.len) > p->l3_end))
		return KIND_MALFORMED;
	set_ports(&p->key, udp.source, udp.dest, from_guest);
	client = p->ipv4 ? htons(68) : htons(546);
	server = p->ipv4 ? htons(67) : htons(547);
	p->dhcp = p->key.local_port == client && p->key.remote_port == server;
	return KIND_FLOW;
}

INLINE int parse_sctp(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct {
		__be16 source, dest;
		__be32 tag, checksum;
	} sctp; /* RFC 9260, 3.1 */

	if (p->l4 + sizeof(sctp) > p->l3_end || read_header(skb, p->l4, &sctp, sizeof(sctp)))
		return KIND_MALFORMED;
	set_ports(&p->key, sctp.source, sctp.dest, from_guest);
	return KIND_FLOW;
}

INLINE int parse_l4(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	switch (p->key.proto) {
	case IPPROTO_TCP:
		return parse_tcp(skb, p, from_guest);
	case IPPROTO_UDP:
		return parse_udp(skb, p, from_guest);
	case IPPROTO_SCTP:
		return parse_sctp(skb, p, from_guest);
	case IPPROTO_ICMP:
		return p->ipv4 ? parse_icmp(skb, p, from_guest) : KIND_MALFORMED;
	case IPPROTO_ICMPV6:
		return p->ipv4 ? KIND_MALFORMED : parse_icmp(skb, p, from_guest);
	default:
		return KIND_FLOW; /* the protocol alone is its flow */
	}
}

/* `offset` in bytes. */
INLINE int later_fragment(struct packet *p, __u32 offset)
{
	if (p->key.proto == IPPROTO_TCP && offset < TCP_FIRST_FREE_FRAGMENT * 8)
		return KIND_MALFORMED;
	return KIND_LATER_FRAGMENT;
}

INLINE int parse_ipv4(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct iphdr ip;
	__u32 header, total, fragment;

	if (read_header(skb, p->l3, &ip, sizeof(ip)))
		return KIND_MALFORMED;
	header = ip.ihl * 4;
	total = ntohs(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || total < header || p->l3 + total > skb->len)
		return KIND_MALFORMED;
	p->ipv4 = 1;
	p->fixed_header = header == sizeof(ip);
	p->tos = ip.tos;
	p->l3_end = p->l3 + total;
	p->l4 = p->l3 + header;
	p->key.proto = ip.protocol;
	set_v4(&p->key, &ip, from_guest);
	fragment = ntohs(ip.frag_off);
	p->fragment_id = ip.id;
	p->more_fragments = !!(fragment & IPV4_MF);
	if (fragment & IPV4_OFFSET)
		return later_fragment(p, (fragment & IPV4_OFFSET) * 8);
	return parse_l4(skb, p, from_guest);
}

INLINE int parse_ipv6(struct __sk_buff *skb, struct packet *p, const int from_guest)
{
	struct ipv6hdr ip;
	__u32 offset = 0; /* of a fragment */
	__u8 next;

	if (read_header(skb, p->l3, &ip, sizeof(ip)))
		return KIND_MALFORMED;
	if (ip.version != 6 || p->l3 + sizeof(ip) + ntohs(ip.payload_len) > skb->len)
		return KIND_MALFORMED;
	p->l3_end = p->l3 + sizeof(ip) + ntohs(ip.payload_len);
	p->l4 = p->l3 + sizeof(ip);
	p->tos = (__u8)(ip.priority << 4) | (ip.flow_lbl[0] >> 4);
	set_v6(&p->key, &ip, from_guest);
	next = ip.nexthdr;
#pragma clang loop unroll(full)
	for (int i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		struct {
			__u8 next;
			__u8 length;
			__be16 fragment;
			__be32 id;
		} extension;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (next == IPPROTO_HOPOPTS && i) /* only the first may be (RFC 8200, 4.1) */
			return KIND_MALFORMED;
		if (p->l4 + sizeof(extension) > p->l3_end || read_header(skb, p->l4, &extension, sizeof(extension)))
			return KIND_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			p->fragment_id = extension.id;
			p->more_fragments = !!(ntohs(extension.fragment) & IPV6_MF);
			offset = ntohs(extension.fragment) & IPV6_OFFSET;
			p->l4 += sizeof(extension);
		} else if (next == IPPROTO_AH) {
			p->l4 += (extension.length + 2) * 4;
		} else {
			p->l4 += (extension.length + 1) * 8;
		}
		next = extension.next;
		if (offset) /* what follows is data */
			break;
	}
	p->fixed_header = p->l4 == p->l3 + sizeof(ip);
	p->key.proto = next;
	if (p->l4 > p->l3_end)
		return KIND_MALFORMED;
	if (offset)
		return later_fragment(p, offset);
	if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	    next == IPPROTO_FRAGMENT || next == IPPROTO_AH)
		return KIND_MALFORMED;
	return parse_l4(skb, p, from_guest);
}

INLINE int is_tag(__be16 proto)
{
	return proto == htons(ETH_P_8021Q) || proto == htons(ETH_P_8021AD);
}

/*
 * Reads the tags: one that the kernel took off the frame, and those in it. The `proto` is that before them and returned is the one
 * behind; negative: cut short. A VID of 0 is none.
 */
OUTLINE int read_tags(struct __sk_buff *skb, struct packet *p, __be16 proto)
{
	__u32 vlans = 0, at = ETH_HLEN;

	if (skb->vlan_present) {
		vlans = skb->vlan_tci & VLAN_VID;
		p->tags = 1;
	}
#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_TAGS; i++) {
		struct {
			__be16 control, proto;
		} tag;
		__u32 vid;

		if (!is_tag(proto) || p->tags >= MAX_TAGS)
			break;
		if (read_header(skb, at, &tag, sizeof(tag)))
			return -1;
		vid = ntohs(tag.control) & VLAN_VID;
		vlans = vlans ? vlans | vid << VLAN_VID_BITS : vid;
		proto = tag.proto;
		at += sizeof(tag);
		p->tags++;
	}
	if (is_tag(proto))
		p->tags = MAX_TAGS + 1;
	p->l3 = at;
	p->vlans = vlans;
	set_vlans(&p->key, vlans);
	return proto;
}

/* Fills `p` of a packet that goes in `direction`. For an ICMP error the key stays its own: see read_inner(). */
INLINE void parse(struct __sk_buff *skb, __u32 scope, const __u8 direction, struct packet *p)
{
	const int from_guest = direction == FROM_GUEST;
	struct ethhdr eth __attribute__((aligned(4)));
	int proto;

	__builtin_memset(p, 0, sizeof(*p));
	p->key.scope = scope;
	p->direction = direction;
	p->l3 = ETH_HLEN;
	if (read_header(skb, 0, &eth, sizeof(eth))) {
		p->kind = KIND_MALFORMED;
		return;
	}
	__builtin_memcpy(p->macs, &eth, sizeof(p->macs));
	proto = eth.h_proto;
	if (unlikely(skb->vlan_present || is_tag(eth.h_proto)))
		proto = read_tags(skb, p, eth.h_proto);
	if (proto < 0)
		p->kind = KIND_MALFORMED;
	else if (proto == htons(ETH_P_IP))
		p->kind = parse_ipv4(skb, p, from_guest);
	else if (proto == htons(ETH_P_IPV6))
		p->kind = parse_ipv6(skb, p, from_guest);
	else if (proto == htons(ETH_P_ARP))
		p->kind = KIND_ARP;
	else
		p->kind = KIND_UNKNOWN_L3;
}

#endif
