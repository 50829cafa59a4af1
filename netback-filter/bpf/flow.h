/* SPDX-License-Identifier: GPL-3.0-only */
/* The flows: which verdict a packet is under, and what is kept of it. */
#ifndef XMESH_FLOW_H
#define XMESH_FLOW_H

#include "report.h"

/* Without packets for this long, a flow that is not TCP is over. */
#define IDLE_NS (180ull * 1000 * 1000 * 1000)
/* A SYN so long after the last one is another connection's: the first four come 1, 2 and 4 s apart. */
#define OPENING_NS (10ull * 1000 * 1000 * 1000)

INLINE int tcp_closed(const struct flow_value *flow)
{
	__u8 from = flow->seen[FROM_GUEST], to = flow->seen[TO_GUEST];

	return ((from | to) & SEEN_RST) || ((from & to) & SEEN_FIN);
}

INLINE int tcp_established(const struct flow_value *flow)
{
	return flow->seen[FROM_GUEST] & flow->seen[TO_GUEST] & SEEN_ACK;
}

INLINE int has_verdicts(__u32 scope)
{
	__u32 cell = scope % SCOPES;
	__u32 *has = bpf_map_lookup_elem(&with_verdicts, &cell);

	return has && *has;
}

INLINE struct verdict verdict_of(const struct flow_value *flow)
{
	struct verdict verdict;

	verdict.rule = flow->rule;
	verdict.generation = flow->generation;
	verdict.action = flow->action;
	verdict.refuse = flow->refuse;
	verdict.origin = flow->origin;
	verdict.decided_by = flow->decided_by;
	verdict.class = flow->class;
	verdict.dscp = flow->dscp;
	verdict.pad = 0;
	verdict.mirror = flow->mirror;
	verdict.share = flow->share;
	return verdict;
}

/*
 * A new flow in the place of one that was decided earlier. What was decided by the process that owned it must not hold for
 * another process that takes the same port.
 */
INLINE int begins_anew(const struct packet *p, const struct flow_value *flow, __u64 now)
{
	if (p->key.proto != IPPROTO_TCP)
		return (__s64)(now - flow->last_ns) > (__s64)IDLE_NS; /* another CPU may be ahead */
	if (!pure_syn(p))
		return 0;
	if (flow->origin != p->direction || tcp_closed(flow))
		return 1;
	if (flow->decided_by == BY_LOOKUP)
		return tcp_established(flow) || (__s64)(now - flow->last_ns) > (__s64)OPENING_NS;
	return flow->action != ALLOW;
}

INLINE int decide_stray(const struct packet *p, const struct scope_config *scope, const struct rule_set *set,
			__u64 now, struct verdict *verdict)
{
	if (now < scope->adopt_until_ns) {
		/* Nobody saw who opened it: either way round will do. */
		decide_by_tables(&p->key, scope, set, verdict);
		if (verdict->action == ALLOW)
			return 0;
		verdict->origin = !p->direction;
		return decide_by_tables(&p->key, scope, set, verdict);
	}
	verdict->rule = 0;
	verdict->generation = set->generation;
	verdict->action = DENY;
	verdict->refuse = REFUSE_DROP;
	verdict->decided_by = BY_STATE;
	return 0;
}

/* Writes an entry for a flow that the tables decided. Returns it, or NULL when the table took none. */
OUTLINE struct flow_value *write_flow(const struct flow_key *key, const struct verdict *verdict,
				      const struct flow_value *keep)
{
	struct flow_value value;

	if (keep)
		value = *keep;
	else
		__builtin_memset(&value, 0, sizeof(value));
	value.rule = verdict->rule;
	value.generation = verdict->generation;
	value.action = verdict->action;
	value.refuse = verdict->refuse;
	value.origin = verdict->origin;
	value.decided_by = verdict->decided_by;
	value.class = verdict->class;
	value.dscp = verdict->dscp;
	value.mirror = verdict->mirror;
	value.share = verdict->share;
	value.told = 0;
	value.peer_class = 0; /* classes are those of one generation */
	if (bpf_map_update_elem(&flows, key, &value, BPF_ANY))
		return 0;
	return bpf_map_lookup_elem(&flows, key);
}

/* Whole microseconds, and never 0, which means that nothing was measured. */
INLINE __u32 micros_since(__u64 then, __u64 now)
{
	__u64 micros = (now - then) / 1000;

	if (micros >> 32)
		return 0xffffffff;
	return micros ? micros : 1;
}

/* What a packet tells of its flow, beside that there is one more. */
#define NEWS_END 0x1	    /* it ended the flow */
#define NEWS_SETUP 0x2	    /* it ended the handshake, that `setup_us` tells of */
#define NEWS_ROUND_TRIP 0x4 /* it ended a round trip, of `sample_us` of the packet */
/*
 * Of a flow's round trips, one in about a millisecond is measured, or in a tick where that is longer: a flow that has more tells
 * nothing new by them, and each takes two looks at the clock.
 */
#define TICK_SHIFT 20

/* A SYN that comes again is measured from its last coming. */
INLINE void time_handshake(struct flow_value *flow, struct packet *p, __u8 direction)
{
	__u64 now;

	if (!(p->tcp_flags & TCP_SYN))
		return;
	flow->next_seq[direction] = ntohl(p->seq) + 1;
	now = bpf_ktime_get_ns();
	if (pure_syn(p)) {
		if (flow->seen[direction] & SEEN_SYN)
			flow->retransmissions[direction]++;
		flow->asked_ns = now;
	} else if (flow->asked_ns && !flow->setup_us) {
		flow->setup_us = micros_since(flow->asked_ns, now);
		p->news |= NEWS_SETUP;
	}
}

/* The first data of a direction. Of a connection whose handshake was not seen nobody knows which data is its first. */
INLINE void time_answer(struct flow_value *flow, __u8 direction)
{
	__u64 now;

	if (!flow->setup_us)
		return;
	now = bpf_ktime_get_ns();
	if (direction == flow->origin)
		flow->asked_ns = now;
	else
		flow->first_byte_us = micros_since(flow->asked_ns, now);
}

/*
 * One piece of data at a time is timed until its ACK, and none that was sent twice: its ACK may be the first's (Karn). The
 * mean is that of RFC 6298. Both directions may be counted at once, by two CPUs: a sample is then lost, or one is late.
 * `now` is coarse.
 */
INLINE void time_data(struct flow_value *flow, struct packet *p, __u8 direction, __u64 now)
{
	__u8 other = !direction;
	__u32 end = ntohl(p->seq) + p->payload;
	__u64 since = flow->sample_ns[other];

	if (p->payload) {
		if ((flow->seen[direction] & SEEN_DATA) && (__s32)(end - flow->next_seq[direction]) <= 0) {
			flow->retransmissions[direction]++;
			flow->sample_ns[direction] = 0;
		} else {
			if (!(flow->seen[direction] & SEEN_DATA))
				time_answer(flow, direction);
			flow->seen[direction] |= SEEN_DATA;
			flow->next_seq[direction] = end;
			if (!flow->sample_ns[direction] && flow->rtt_tick[direction] != (__u16)(now >> TICK_SHIFT)) {
				flow->rtt_tick[direction] = now >> TICK_SHIFT;
				flow->sample_seq[direction] = end;
				flow->sample_ns[direction] = bpf_ktime_get_ns();
			}
		}
	}
	if ((p->tcp_flags & TCP_ACK) && since && (__s32)(ntohl(p->ack) - flow->sample_seq[other]) >= 0) {
		__u32 took = micros_since(since, bpf_ktime_get_ns()), mean = flow->rtt_us[other];

		flow->rtt_us[other] = mean ? (__u32)((mean * 7ull + took + 7) / 8) : took;
		flow->sample_ns[other] = 0;
		p->sample_us = took;
		p->news |= NEWS_ROUND_TRIP;
	}
	if (p->window_shut)
		flow->zero_windows[direction]++;
}

/*
 * Counts the packet, and notes its news. In the packet, of which the verifier knows nothing: see `scratch`. Without atomic
 * additions, which take as long as half a lookup: see `packets`. The direction is the program's own, so that no offset has to be
 * found out: old verifiers forget what they knew of a number that was on the stack.
 */
INLINE void account(struct flow_value *flow, struct packet *p, const __u8 direction, __u32 bytes, __u32 segments,
		    __u64 now)
{
	__u8 flags = p->tcp_flags;

	/* When a flow began and ended, and that it was answered, is told exactly. */
	if (!flow->packets[direction] || (flags & (TCP_FIN | TCP_RST)))
		now = bpf_ktime_get_ns();
	flow->packets[direction] += segments;
	flow->bytes[direction] += bytes;
	if (!flow->first_ns)
		flow->first_ns = now;
	if ((__s64)(now - flow->last_ns) > 0)
		flow->last_ns = now;
	if (p->key.proto != IPPROTO_TCP)
		return;
	time_handshake(flow, p, direction);
	time_data(flow, p, direction, now);
	flow->seen[direction] |= (flags & TCP_SYN ? SEEN_SYN : 0) | (flags & TCP_ACK ? SEEN_ACK : 0) |
				 (flags & TCP_FIN ? SEEN_FIN : 0) | (flags & TCP_RST ? SEEN_RST : 0);
	if (flow->ended || !tcp_closed(flow))
		return;
	flow->ended = 1;
	p->news |= NEWS_END;
}

#endif
