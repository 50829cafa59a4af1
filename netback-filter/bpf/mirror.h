/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Copies of what passes, for a guest of this host that looks at it. A share is one of flows: by its ends a flow is in it with all its
 * packets, both ways, or with none.
 *
 * A copy goes to the other guest's vif as it is, addressed to another. So the program there must tell it from what the bridge
 * floods: by a mark, as it does an answer. It goes no further from there: whatever leaves a guest has no mark.
 */
#ifndef XMESH_MIRROR_H
#define XMESH_MIRROR_H

#include "service.h"
#include "shape.h"

/* On skb->mark: a copy. No guest can set a mark. */
#define MIRROR_MARK 0x786d4d43

INLINE __u32 flow_hash(const struct flow_key *key)
{
	__u32 hash = 0;

	for (int i = 0; i < 4; i++)
		hash = mix(mix(hash, key->local.word[i]), key->remote.word[i]);
	hash = mix(hash, (__u32)key->local_port << 16 | key->remote_port);
	return mix(hash, key->proto);
}

/* Of the flow whose verdict this is: whether it is in the share. */
INLINE int is_mirrored(const struct flow_key *key, const struct verdict *verdict)
{
	return verdict->mirror && ((__u64)flow_hash(key) * SHARE_ALL >> 32) < verdict->share;
}

/* Sends a copy to the guest `to`, if it is there and another one. Nothing of it shows in the packet, whether it comes off or not. */
OUTLINE int send_copy(struct __sk_buff *skb, const struct packet *p, __u32 to)
{
	struct mirror *mirror = bpf_map_lookup_elem(&mirrors, &to);
	__u32 mark = skb->mark, bytes = skb->len;
	long failed;

	if (!mirror || to == p->key.scope)
		return 0;
	skb->mark = MIRROR_MARK;
	failed = bpf_clone_redirect(skb, mirror->ifindex, 0);
	skb->mark = mark;
	if (failed)
		return 0;
	__sync_fetch_and_add(&mirror->packets, 1);
	__sync_fetch_and_add(&mirror->bytes, bytes);
	return 0;
}

#endif
