/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Events to userspace. What is full loses events, never packets, and the loss is counted.
 *
 * Linux 5.8 and newer have one ring for all CPUs, in order. For older kernels the same source is compiled a second time, with
 * PERF_EVENTS: a kernel takes no object in which there is a kind of map that it does not know.
 */
#ifndef XMESH_REPORT_H
#define XMESH_REPORT_H

#include "tables.h"

/* One refused flow is reported once in this time, however often the client tries. */
#define REFUSAL_QUIET_NS (10ull * 1000 * 1000 * 1000)

struct report {
	struct __sk_buff *skb;
	__u64 ns;
	__u8 kind;
	__u8 direction;
	__u8 enforced;
	__u8 tagged;
	const struct endpoint *backend; /* or NULL */
	const __u8 *sender;
};

#ifdef PERF_EVENTS
/* One cell a direction, as for packets: an event is too large for the stack. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct event);
	MAP_INT(max_entries, 2);
} event_scratch SEC(".maps");

INLINE struct event *begin_event(__u8 direction)
{
	__u32 cell = direction & 1;

	return bpf_map_lookup_elem(&event_scratch, &cell);
}

/* Not 0: it is lost, since the buffer is full or nobody reads. */
INLINE long end_event(struct __sk_buff *skb, struct event *event)
{
	return bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, event, sizeof(*event));
}
#else
INLINE struct event *begin_event(__u8 direction)
{
	return bpf_ringbuf_reserve(&events, sizeof(struct event), 0);
}

INLINE long end_event(struct __sk_buff *skb, struct event *event)
{
	bpf_ringbuf_submit(event, 0);
	return 0;
}
#endif

OUTLINE int report(const struct flow_key *key, const struct flow_value *value, const struct report *what,
		   struct counters *counters)
{
	struct event *event = begin_event(what->direction);

	if (!event) {
		counters->events_lost++;
		return 0;
	}
	event->ns = what->ns;
	event->kind = what->kind;
	event->direction = what->direction;
	event->enforced = what->enforced;
	event->tagged = what->tagged;
	event->key = *key;
	event->value = *value;
	if (what->backend)
		event->backend = *what->backend;
	else
		__builtin_memset(&event->backend, 0, sizeof(event->backend));
	__builtin_memcpy(event->sender, what->sender, sizeof(event->sender));
	event->pad1[0] = 0;
	event->pad1[1] = 0;
	if (end_event(what->skb, event))
		counters->events_lost++;
	return 0;
}

/* When the report was made that stands for this refusal of a flow; `is_news`: it is to be made now. */
INLINE __u64 refused_since(const struct flow_key *key, __u64 now, int *is_news)
{
	__u64 *last = bpf_map_lookup_elem(&refusals, key);

	if (last && (__s64)(now - *last) < (__s64)REFUSAL_QUIET_NS) {
		*is_news = 0;
		return *last;
	}
	*is_news = 1;
	bpf_map_update_elem(&refusals, key, &now, BPF_ANY);
	return now;
}

/* Whether the refusal of a flow that has no entry is news. */
INLINE int refusal_is_news(const struct flow_key *key, __u64 now)
{
	int is_news;

	refused_since(key, now, &is_news);
	return is_news;
}

#endif
