/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Two programs for the clsact hooks of a vif. Ingress of the vif is what the guest sends, egress what it gets.
 *
 * A packet is decided by the first of: it bears addresses that are not its guest's, where those are locked; its
 * headers are malformed; it is one that always passes; userspace's
 * verdict on its flow; the flow's own entry; the rules. What passes returns TC_ACT_UNSPEC, so that others'
 * filters on the vif still run.
 */
#include <linux/pkt_cls.h>

#include "answer.h"
#include "flow.h"
#include "lock.h"

struct context {
	const struct vif_config *vif;
	const struct scope_config *scope;
	struct counters *counters;
	__u64 now;
};

INLINE int pass(struct __sk_buff *skb, const struct context *c)
{
	c->counters->passed++;
	c->counters->passed_bytes += skb->len;
	return TC_ACT_UNSPEC;
}

INLINE int drop(struct __sk_buff *skb, const struct context *c)
{
	c->counters->denied++;
	if (c->scope->flags & SCOPE_MONITOR_ONLY)
		return TC_ACT_UNSPEC;
	return TC_ACT_SHOT;
}

/*
 * `established`: both ends know of the connection, so both are told that it is over: the sender by a copy that goes
 * back, the receiver by what was its segment.
 */
INLINE int refuse(struct __sk_buff *skb, const struct context *c, const struct packet *p, __u8 how, int established)
{
	__u64 back = p->direction == FROM_GUEST ? 0 : BPF_F_INGRESS;
	int partial;

	if (how != REFUSE_RESET || (c->scope->flags & SCOPE_MONITOR_ONLY) || !may_answer(p, c->vif))
		return drop(skb, c);
	partial = cut_segment(skb, p);
	if (partial < 0 || write_reset(skb, p, partial, 0))
		return drop(skb, c);
	c->counters->denied++;
	c->counters->resets++;
	skb->mark = ANSWER_MARK;
	if (!established || !(p->tcp_flags & TCP_ACK))
		return bpf_redirect(skb->ifindex, back);
	bpf_clone_redirect(skb, skb->ifindex, back);
	if (write_reset(skb, p, partial, 1))
		return TC_ACT_SHOT;
	skb->mark = 0;
	return TC_ACT_UNSPEC;
}

INLINE void set_fragment_key(const struct packet *p, struct fragment_key *key)
{
	key->scope = p->key.scope;
	key->id = p->fragment_id;
	key->direction = p->direction;
	key->proto = p->key.proto;
	key->pad = 0;
	key->local = p->key.local;
	key->remote = p->key.remote;
}

OUTLINE int remember_fragment(const struct packet *p, __u64 now)
{
	struct fragment_key key;

	set_fragment_key(p, &key);
	bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
	return 0;
}

OUTLINE int first_fragment_passed(const struct packet *p)
{
	struct fragment_key key;

	set_fragment_key(p, &key);
	return bpf_map_lookup_elem(&fragments, &key) != 0;
}

INLINE int tell(const struct context *c, const struct packet *p, const struct flow_value *value, __u8 kind)
{
	struct report what = {
		.ns = c->now,
		.kind = kind,
		.direction = p->direction,
		.enforced = !(c->scope->flags & SCOPE_MONITOR_ONLY),
	};

	return report(&p->key, value, &what, c->counters);
}

INLINE void tell_refusal(const struct context *c, const struct packet *p, const struct verdict *verdict)
{
	struct flow_value value = {
		.rule = verdict->rule,
		.generation = verdict->generation,
		.action = verdict->action,
		.refuse = verdict->refuse,
		.origin = verdict->origin,
		.decided_by = verdict->decided_by,
	};

	tell(c, p, &value, EVENT_REFUSED);
}

/* Not told apart by flow: a guest that forges could make up any number of them. */
INLINE int refuse_forged(struct __sk_buff *skb, const struct context *c, const struct packet *p)
{
	struct verdict verdict = {
		.action = DENY,
		.refuse = REFUSE_DROP,
		.origin = p->direction,
		.decided_by = BY_LOCK,
	};
	struct flow_key once = { .scope = p->key.scope };

	c->counters->forged++;
	if (refusal_is_news(&once, c->now))
		tell_refusal(c, p, &verdict);
	return drop(skb, c);
}

INLINE int filter_flow(struct __sk_buff *skb, const struct context *c, const struct packet *p)
{
	struct rule_set set = active_rule_set();
	struct verdict verdict = { .origin = p->direction };
	struct flow_value *flow;
	__u32 segments;

	flow = bpf_map_lookup_elem(&verdicts, &p->key);
	if (flow && pure_syn(p) && tcp_closed(flow)) {
		/* Of a connection that is over: for one that was seen to begin there would be another. */
		bpf_map_delete_elem(&verdicts, &p->key);
		flow = 0;
	}
	if (flow) {
		verdict = verdict_of(flow);
	} else {
		flow = bpf_map_lookup_elem(&flows, &p->key);
		if (flow && begins_anew(p, flow, c->now))
			flow = 0;
		if (flow && flow->generation == set.generation) {
			verdict = verdict_of(flow);
		} else if (flow) {
			/* Decided under rules that are no longer in force. */
			verdict.origin = flow->origin;
			decide_by_tables(&p->key, c->scope, &set, &verdict);
			flow = write_flow(&p->key, &verdict, flow);
		} else {
			if (p->key.proto == IPPROTO_TCP && !pure_syn(p)) {
				c->counters->stray++;
				decide_stray(p, c->scope, &set, c->now, &verdict);
			} else {
				decide_by_tables(&p->key, c->scope, &set, &verdict);
			}
			if (verdict.action == ALLOW) {
				flow = write_flow(&p->key, &verdict, 0);
				if (flow)
					tell(c, p, flow, EVENT_FLOW_START);
				else
					c->counters->flow_errors++;
			}
		}
	}

	segments = skb->gso_segs;
	if (!segments)
		segments = 1;
	if (flow && account(flow, p, skb->len, segments, c->now))
		tell(c, p, flow, EVENT_FLOW_END);
	if (verdict.action == ALLOW) {
		if (p->more_fragments)
			remember_fragment(p, c->now);
		return pass(skb, c);
	}
	if (flow ? !flow->told : refusal_is_news(&p->key, c->now)) {
		if (flow)
			flow->told = 1;
		tell_refusal(c, p, &verdict);
	}
	return refuse(skb, c, p, verdict.refuse, flow && tcp_established(flow));
}

/* An error about a flow that is allowed belongs to it; any other is a flow like any. */
OUTLINE int error_is_related(struct __sk_buff *skb, const struct packet *p)
{
	struct packet inner;
	struct flow_value *flow;

	__builtin_memset(&inner, 0, sizeof(inner));
	inner.key.scope = p->key.scope;
	inner.direction = p->direction;
	inner.ipv4 = p->ipv4;
	inner.l4 = p->l4;
	if (read_inner(skb, &inner))
		return 0;
	flow = bpf_map_lookup_elem(&verdicts, &inner.key);
	if (!flow)
		flow = bpf_map_lookup_elem(&flows, &inner.key);
	return flow && flow->action == ALLOW;
}

INLINE int filter(struct __sk_buff *skb, const __u8 direction)
{
	__u32 ifindex = skb->ifindex;
	struct counter_key counter_key = { .direction = direction };
	__u32 cell = direction;
	struct context c;
	struct packet *p;

	c.vif = bpf_map_lookup_elem(&vifs, &ifindex);
	if (!c.vif) /* detached a moment ago */
		return TC_ACT_UNSPEC;
	if (skb->mark == ANSWER_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	counter_key.scope = c.vif->scope;
	c.scope = bpf_map_lookup_elem(&scopes, &counter_key.scope);
	c.counters = bpf_map_lookup_elem(&counters, &counter_key);
	p = bpf_map_lookup_elem(&scratch, &cell);
	if (!c.scope || !c.counters || !p) /* the loader attaches no vif before its scope is set */
		return TC_ACT_SHOT;
	c.now = bpf_ktime_get_ns();

	parse(skb, counter_key.scope, direction, p);
	if (direction == TO_GUEST && is_for_another(p, c.vif)) {
		c.counters->foreign++;
		return c.scope->unjudged == ALLOW ? pass(skb, &c) : drop(skb, &c);
	}
	if (direction == FROM_GUEST && is_forged(skb, p, c.vif, c.scope->flags))
		return refuse_forged(skb, &c, p);
	if (p->dhcp && (c.scope->flags & SCOPE_PASS_DHCP))
		return pass(skb, &c);
	switch (p->kind) {
	case KIND_ARP:
	case KIND_ESSENTIAL:
		return pass(skb, &c);
	case KIND_UNKNOWN_L3:
		c.counters->unknown_l3++;
		return c.scope->unjudged == ALLOW ? pass(skb, &c) : drop(skb, &c);
	case KIND_LATER_FRAGMENT:
		if (first_fragment_passed(p))
			return pass(skb, &c);
		c.counters->fragments++;
		return drop(skb, &c);
	case KIND_ICMP_ERROR:
		if (error_is_related(skb, p))
			return pass(skb, &c);
		return filter_flow(skb, &c, p);
	case KIND_FLOW:
		return filter_flow(skb, &c, p);
	default:
		c.counters->malformed++;
		return drop(skb, &c);
	}
}

SEC("classifier") int from_guest(struct __sk_buff *skb)
{
	return filter(skb, FROM_GUEST);
}

SEC("classifier") int to_guest(struct __sk_buff *skb)
{
	return filter(skb, TO_GUEST);
}

SEC("license") char LICENSE[] = "GPL";
