/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Which class of the vif's shaper a packet is in, and its DSCP.
 *
 * The class is told by skb->priority, which HTB compares with its classes before any filter. (tc_classid is no way: it
 * counts only where the program's return value ends the search for filters.) A packet of a shaped vif always gets one: it may
 * still bear that of the vif that it came in by.
 */
#ifndef XMESH_SHAPE_H
#define XMESH_SHAPE_H

#include "flow.h"

#define IPV4_TOS_CHECK_OFFSET 10
/* What DSCP leaves of the traffic class is ECN. */
#define ECN_MASK 0x03

INLINE void set_class(struct __sk_buff *skb, const struct vif_config *vif, __u16 class)
{
	if (vif->shaped)
		skb->priority = (SHAPE_MAJOR << 16) | (class ? class : SHAPE_DEFAULT);
}

/*
 * The first 16 bits of either header hold the traffic class. Only IPv4 has a sum over it, its own; so a sum over the whole packet
 * stays as it is there, and must be changed for IPv6.
 */
OUTLINE int set_dscp(struct __sk_buff *skb, struct packet *p, __u8 dscp)
{
	__u8 wanted = (__u8)(dscp << 2) | (p->tos & ECN_MASK);
	__be16 before, after;
	__u64 flags = 0;

	if (wanted == p->tos || read_header(skb, p->l3, &before, sizeof(before)))
		return 0;
	if (p->ipv4) {
		after = (before & htons(0xff00)) | htons(wanted);
	} else {
		after = (before & htons(0xf00f)) | htons((__u16)(wanted << 4));
		flags = BPF_F_RECOMPUTE_CSUM;
	}
	if (bpf_skb_store_bytes(skb, p->l3, &after, sizeof(after), flags))
		return -1;
	if (p->ipv4 && bpf_l3_csum_replace(skb, p->l3 + IPV4_TOS_CHECK_OFFSET, before, after, sizeof(after)))
		return -1;
	p->tos = wanted;
	return 0;
}

/* Not 0: the packet is half changed and must not go on. */
INLINE int set_mark(struct __sk_buff *skb, const struct vif_config *vif, struct packet *p, __u16 class, __u8 dscp)
{
	if (class)
		set_class(skb, vif, class);
	return dscp & MARK_DSCP ? set_dscp(skb, p, dscp & ~MARK_DSCP) : 0;
}

#endif
