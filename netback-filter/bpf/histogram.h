/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * How long handshakes and round trips take, how much comes twice: by guest, class of the other end, and rule. Only what was
 * measured anyhow is counted here, and not each packet.
 */
#ifndef XMESH_HISTOGRAM_H
#define XMESH_HISTOGRAM_H

#include "flow.h"

/* Userspace reads it at any time. Full, it loses the least recent history. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	MAP_TYPE(key, struct histogram_key);
	MAP_TYPE(value, struct histograms);
	MAP_INT(max_entries, 512);
} histograms SEC(".maps");

/* All zero: too large for the stack. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct histograms);
	MAP_INT(max_entries, 1);
} no_histograms SEC(".maps");

/*
 * Without a branch: the verifier would follow the rest of the program once for every way through here. The difference has
 * its top bit set where it is below 0, and clang is kept from making a comparison of it.
 */
INLINE __u32 bit_length(__u32 value)
{
	__u64 rest = value, bits = 0;

#pragma clang loop unroll(full)
	for (__u32 step = 16; step; step /= 2) {
		__u64 above = (1ull << step) - 1 - rest;

		asm volatile("" : "+r"(above));
		above = (above >> 63) * step;
		rest >>= above;
		bits += above;
	}
	return bits + rest;
}

INLINE void count(struct histogram *histogram, __u32 value)
{
	__u32 bits = bit_length(value);

	histogram->count[(bits - (bits >> 5)) & (INTERVALS - 1)]++;
	histogram->sum += value;
}

INLINE struct histograms *histograms_of(const struct histogram_key *key)
{
	struct histograms *found = bpf_map_lookup_elem(&histograms, key);
	__u32 cell = 0;
	void *blank;

	if (found)
		return found;
	blank = bpf_map_lookup_elem(&no_histograms, &cell);
	if (!blank)
		return 0;
	/* Another CPU may be the first. */
	bpf_map_update_elem(&histograms, key, blank, BPF_NOEXIST);
	return bpf_map_lookup_elem(&histograms, key);
}

/* Takes in what account() says of this packet. The class is asked for once a flow. */
OUTLINE int measure(const struct packet *p, struct flow_value *flow, __u32 slot)
{
	struct histogram_key key = {
		.scope = p->key.scope,
		.rule = flow->rule,
		.generation = flow->generation,
		.origin = flow->origin,
	};
	struct histograms *all;
	__u32 class = flow->peer_class;

	if (!class) {
		class = class_of(&p->key, slot) + 1;
		flow->peer_class = class;
	}
	key.peer_class = class - 1;
	all = histograms_of(&key);
	if (!all)
		return 0;
	if (p->news & NEWS_SETUP)
		count(&all->setup, flow->setup_us);
	if (p->news & NEWS_ROUND_TRIP)
		count(p->direction == FROM_GUEST ? &all->rtt[TO_GUEST] : &all->rtt[FROM_GUEST], p->sample_us);
	if (p->news & NEWS_END) {
		count(&all->retransmissions[FROM_GUEST], flow->retransmissions[FROM_GUEST]);
		count(&all->retransmissions[TO_GUEST], flow->retransmissions[TO_GUEST]);
		count(&all->zero_windows[FROM_GUEST], flow->zero_windows[FROM_GUEST]);
		count(&all->zero_windows[TO_GUEST], flow->zero_windows[TO_GUEST]);
	}
	return 0;
}

#endif
