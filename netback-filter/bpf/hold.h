/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Holding: where only not knowing the process denies a packet, userspace gets the whole frame beside the report, finds out whose
 * it is, and sends the frame again. It is then judged like any other, from the first step on, but not held a second time.
 *
 * What comes back is put on the vif with a mark that no guest can set, from guest and to guest alike: the program at the vif's
 * egress hands what is from the guest on to its ingress. So that takes no device of its own.
 *
 * Bounded by flow (a moment from its report on), by scope (HOLD_FRAMES in HOLD_NS), and by the channel, of which reports keep
 * half where that can be asked. Beyond that a packet is dropped, as it would be without this, and counted.
 */
#ifndef XMESH_HOLD_H
#define XMESH_HOLD_H

#include "report.h"

/* On skb->mark. */
#define HELD_FROM_GUEST_MARK 0x786d4846
#define HELD_TO_GUEST_MARK 0x786d4854

/* As long as userspace holds a frame, and as many as it keeps of one guest. */
#define HOLD_NS (100ull * 1000 * 1000)
#define HOLD_FRAMES 64

/* One cell a direction, as for packets: a frame is too large for the stack. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct held);
	MAP_INT(max_entries, 2);
} held_scratch SEC(".maps");

/* Whether it is one from the guest on its way back. What another vif let in bears that vif's index. */
INLINE int is_for_ingress(const struct __sk_buff *skb)
{
	return skb->mark == HELD_FROM_GUEST_MARK && !skb->ingress_ifindex;
}

/* Whether it was held before. From here on it bears no mark: other vifs would take it for theirs. */
INLINE int was_held(struct __sk_buff *skb, const __u8 direction)
{
	if (skb->mark != (direction == FROM_GUEST ? HELD_FROM_GUEST_MARK : HELD_TO_GUEST_MARK))
		return 0;
	skb->mark = 0;
	return 1;
}

/* Two CPUs may begin a window at once: a few frames more are then given away, and userspace has bounds of its own. */
INLINE int scope_may_hold(__u32 scope, __u64 now)
{
	struct hold_window *window = bpf_map_lookup_elem(&holds, &scope);

	if (!window) {
		struct hold_window first = { .since_ns = now, .frames = 1 };

		return !bpf_map_update_elem(&holds, &scope, &first, BPF_ANY);
	}
	if ((__s64)(now - window->since_ns) >= (__s64)HOLD_NS) {
		window->since_ns = now;
		window->frames = 0;
	}
	if (window->frames >= HOLD_FRAMES)
		return 0;
	__sync_fetch_and_add(&window->frames, 1);
	return 1;
}

#define SEEN_ANEW(value) asm volatile("" : "+r"(value))

#ifdef PERF_EVENTS
INLINE int channel_is_busy(void)
{
	return 0; /* it cannot be asked */
}

INLINE long give_held(struct __sk_buff *skb, struct held *held, __u64 size)
{
	return bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, held, size);
}
#else
INLINE int channel_is_busy(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / 2;
}

INLINE long give_held(struct __sk_buff *skb, struct held *held, __u64 size)
{
	return bpf_ringbuf_output(&events, held, size, 0);
}
#endif

/*
 * Gives the frame to userspace. 0: it is held. Not held are super-packets and tagged frames, which userspace could not send as
 * they were, and fragments: no sum can be completed over one, and the others are not under this verdict.
 */
OUTLINE int hold(struct __sk_buff *skb, const struct packet *p, __u64 now)
{
	__u32 cell = p->direction & 1;
	__u64 length = skb->len;
	struct held *held = bpf_map_lookup_elem(&held_scratch, &cell);

	if (channel_is_busy() || !held || skb->gso_segs > 1 || p->more_fragments || is_tagged(p) || length > HELD_BYTES ||
	    !scope_may_hold(p->key.scope, now))
		return -1;
	held->ns = now;
	held->kind = EVENT_HELD;
	held->direction = p->direction;
	held->length = length;
	held->ifindex = skb->ifindex;
	held->key = p->key;
	held->l4 = p->l4;
	held->l3_end = p->l3_end;
	/*
	 * For the verifier, which is to see both bounds, 1 and HELD_ROOM. Without a comparison: old ones learn from it only of the
	 * register that was compared, and clang is free to have copied it before.
	 */
	length--;
	SEEN_ANEW(length);
	length = (length & (HELD_ROOM - 1)) + 1;
	if (bpf_skb_load_bytes(skb, 0, held->frame, length))
		return -1;
	length += offsetof(struct held, frame);
	return give_held(skb, held, length) ? -1 : 0;
}

#endif
