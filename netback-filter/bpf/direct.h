/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * The short way between two guests of one bridge: what passed is handed straight to the other's vif, where qdisc and program
 * meet it as they would behind the bridge. Only where the bridge would do no more than that: userspace says which vifs and
 * stations that holds for (src/direct.rs), and for how long; when it dies all go by the bridge again.
 *
 * A bridge forgets who does not speak. So a frame of each vif goes by it from time to time.
 */
#ifndef XMESH_DIRECT_H
#define XMESH_DIRECT_H

#include "packet.h"
#include "tables.h"

/* How long a vif's frames may all go by. Bridges are used that remember three times as long: see src/direct/plan.rs. */
#define BY_BRIDGE_NS (1000ull * 1000 * 1000)

/* `now` is coarse. */
INLINE int direct_is_in_force(__u64 now)
{
	return (now >> LEASE_SHIFT) < control_cell(CONTROL_DIRECT);
}

/* The vif that a frame from the guest can be handed to; 0: none, it goes by the bridge. */
OUTLINE __u32 direct_vif(const struct __sk_buff *skb, struct vif_config *vif, const struct packet *p, __u64 now)
{
	struct station_key key = { .bridge = vif->bridge };
	struct station *to;

	/* Of another's address the bridge would learn nothing. */
	if (p->tags || is_multicast(p->macs) || !same_mac(p->macs + ETH_ALEN, vif->mac) || !direct_is_in_force(now))
		return 0;
	__builtin_memcpy(key.mac, p->macs, ETH_ALEN);
	to = bpf_map_lookup_elem(&stations, &key);
	if (!to || to->ifindex == skb->ifindex || (skb->len > to->frame && skb->gso_segs <= 1))
		return 0;
	/* Two CPUs may see this at once: two frames go by the bridge then. */
	if ((__s64)(now - vif->by_bridge_ns) >= (__s64)BY_BRIDGE_NS) {
		vif->by_bridge_ns = now;
		return 0;
	}
	return to->ifindex;
}

#endif
