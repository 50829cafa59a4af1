/* SPDX-License-Identifier: GPL-3.0-only */
/* Events to userspace. A full ring loses events, never packets, and the loss is counted. */
#ifndef XMESH_REPORT_H
#define XMESH_REPORT_H

#include "tables.h"

/* One refused flow is reported once in this time, however often the client tries. */
#define REFUSAL_QUIET_NS (10ull * 1000 * 1000 * 1000)

struct report {
	__u64 ns;
	__u8 kind;
	__u8 direction;
	__u8 enforced;
	const struct endpoint *backend; /* or NULL */
};

OUTLINE int report(const struct flow_key *key, const struct flow_value *value, const struct report *what,
		   struct counters *counters)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		counters->events_lost++;
		return 0;
	}
	event->ns = what->ns;
	event->kind = what->kind;
	event->direction = what->direction;
	event->enforced = what->enforced;
	event->pad = 0;
	event->key = *key;
	event->value = *value;
	if (what->backend)
		event->backend = *what->backend;
	else
		__builtin_memset(&event->backend, 0, sizeof(event->backend));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Whether the refusal of a flow that has no entry is news. */
INLINE int refusal_is_news(const struct flow_key *key, __u64 now)
{
	__u64 *last = bpf_map_lookup_elem(&refusals, key);

	if (last && now - *last < REFUSAL_QUIET_NS)
		return 0;
	bpf_map_update_elem(&refusals, key, &now, BPF_ANY);
	return 1;
}

#endif
