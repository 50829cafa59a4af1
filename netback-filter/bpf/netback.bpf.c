/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Two programs for the hooks of a vif, TCX or clsact. Ingress of the vif is what the guest sends, egress what it gets.
 *
 * A packet is decided by the first of: it bears addresses that are not its guest's, where those are locked; its
 * headers are malformed; it is one that always passes; userspace's
 * verdict on its flow; the flow's own entry; the rules. What passes returns TC_ACT_UNSPEC, so that others'
 * filters on the vif still run.
 *
 * All of that is about the flow as the guest has it. Where it has a backend, a packet from the guest is translated after it
 * is decided, and one to the guest takes the flow's name before it is.
 */
#include <linux/pkt_cls.h>

#include "answer.h"
#include "direct.h"
#include "flow.h"
#include "histogram.h"
#include "hold.h"
#include "lock.h"
#include "mirror.h"
#include "service.h"
#include "share.h"
#include "shape.h"
#include "translate.h"
#include "virtual.h"

/* In a packet's control block, while its vif moves from one kind of hook to the other. */
#define NOTE_MARK 0x786d4e54

struct context {
	struct __sk_buff *skb;
	struct vif_config *vif;
	const struct scope_config *scope;
	struct counters *counters;
	__u64 now; /* coarse_ns() */
};

INLINE int alters(const struct context *c)
{
	return !(c->scope->flags & SCOPE_MONITOR_ONLY);
}

INLINE int drop(struct __sk_buff *skb, const struct context *c)
{
	c->counters->denied++;
	return alters(c) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Not 0: the packet must not go on. */
INLINE int mark(struct __sk_buff *skb, const struct context *c, struct packet *p, const struct verdict *verdict)
{
	return alters(c) ? set_mark(skb, c->vif, p, verdict->class, verdict->dscp) : 0;
}

INLINE int pass(struct __sk_buff *skb, const struct context *c, const struct packet *p)
{
	if (p->direction == FROM_GUEST && unlikely(is_to_services(p))) {
		c->counters->unrouted++;
		return drop(skb, c);
	}
	c->counters->passed++;
	c->counters->passed_bytes += skb->len;
	return TC_ACT_UNSPEC;
}

/* Hands what passes straight to its receiver's vif where that may be, else lets it go on. */
INLINE int send_on(struct __sk_buff *skb, const struct context *c, const struct packet *p)
{
	int action = pass(skb, c, p);
	__u32 vif;

	if (p->direction != FROM_GUEST || !c->vif->bridge || !alters(c) || action == TC_ACT_SHOT)
		return action;
	vif = direct_vif(skb, c->vif, p, c->now);
	if (!vif)
		return action;
	c->counters->direct++;
	return bpf_redirect(vif, 0);
}

/* With a copy to the guest `mirror`, or none where that is 0. A copy bears the names that this guest knows, either way. */
INLINE int pass_allowed(struct __sk_buff *skb, const struct context *c, struct packet *p, __u16 mirror)
{
	if (mirror && p->direction == FROM_GUEST && (p->translated || !is_to_services(p)))
		send_copy(skb, p, mirror);
	if (p->translated && translate(skb, p)) {
		c->counters->denied++;
		return TC_ACT_SHOT;
	}
	if (mirror && p->direction == TO_GUEST)
		send_copy(skb, p, mirror);
	return send_on(skb, c, p);
}

/* Sends a packet of the guest that was made its own answer back to it. */
INLINE int pass_back(struct __sk_buff *skb, const struct context *c)
{
	c->counters->passed++;
	c->counters->passed_bytes += skb->len;
	skb->mark = ANSWER_MARK;
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * `established`: both ends know of the connection, so both are told that it is over: the sender by a copy that goes
 * back, the receiver by what was its segment.
 */
INLINE int refuse(struct __sk_buff *skb, const struct context *c, const struct packet *p, __u8 how, int established)
{
	__u64 back = p->direction == FROM_GUEST ? 0 : BPF_F_INGRESS;
	int partial;

	/* An ICMP error would not end an established connection, and none is sent in a VLAN. */
	if (how == REFUSE_PROHIBIT && (established || is_tagged(p)))
		how = REFUSE_RESET;
	if (how != REFUSE_RESET || !alters(c) || !may_answer(p, c->vif))
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

/* By the addresses on the wire: they are all that later fragments bear. */
INLINE void set_fragment_key(const struct packet *p, struct fragment_key *key)
{
	key->scope = p->key.scope;
	key->id = p->fragment_id;
	key->direction = p->direction;
	key->proto = p->key.proto;
	key->pad = 0;
	key->vlans = p->vlans;
	key->local = p->key.local;
	key->remote = p->translated && p->direction == TO_GUEST ? p->backend.address : p->key.remote;
}

OUTLINE int remember_fragment(const struct packet *p, const struct verdict *verdict, __u64 now)
{
	struct fragment_value value = {
		.ns = now,
		.translated = p->translated,
		.class = verdict->class,
		.dscp = verdict->dscp,
		.mirror = verdict->mirror,
	};
	struct fragment_key key;

	set_fragment_key(p, &key);
	value.other = p->direction == FROM_GUEST ? p->backend.address : p->key.remote;
	__builtin_memcpy(value.mac, p->backend.mac, sizeof(value.mac));
	bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
	return 0;
}

/* Whether the first fragment passed; translated or marked, then this one is to be as well. */
OUTLINE int first_fragment_passed(struct packet *p, struct verdict *verdict)
{
	struct fragment_key key;
	struct fragment_value *first;

	set_fragment_key(p, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return 0;
	verdict->class = first->class;
	verdict->dscp = first->dscp;
	verdict->mirror = first->mirror;
	p->translated = first->translated;
	if (!p->translated)
		return 1;
	if (p->direction == FROM_GUEST) {
		p->backend.address = first->other;
	} else {
		p->backend.address = p->key.remote;
		p->key.remote = first->other;
	}
	__builtin_memcpy(p->backend.mac, first->mac, sizeof(first->mac));
	return 1;
}

INLINE int tell(const struct context *c, const struct packet *p, const struct flow_value *value, __u8 kind)
{
	struct report what = {
		.skb = c->skb,
		.ns = bpf_ktime_get_ns(),
		.kind = kind,
		.direction = p->direction,
		.enforced = alters(c),
		.tagged = is_tagged(p),
		.backend = p->translated ? &p->backend : 0,
		.sender = p->macs + ETH_ALEN,
	};

	return report(&p->key, value, &what, c->counters);
}

/* Has room on the stack for a whole value, which its callers have not. */
OUTLINE int tell_refusal(const struct context *c, const struct packet *p, const struct verdict *verdict)
{
	struct flow_value value = {
		.rule = verdict->rule,
		.generation = verdict->generation,
		.action = verdict->action,
		.refuse = verdict->refuse,
		.origin = verdict->origin,
		.decided_by = verdict->decided_by,
	};

	/* On the stack nothing is to be found by a direction: it is in both. */
	if (p->key.proto == IPPROTO_TCP) {
		value.next_seq[FROM_GUEST] = ntohl(p->seq);
		value.next_seq[TO_GUEST] = value.next_seq[FROM_GUEST];
	}
	return tell(c, p, &value, EVENT_REFUSED);
}

/*
 * The frame goes before its report, so that it is there when the report leads to a verdict. Frames of a flow that was reported
 * some time ago are for nobody to hold: what was to be found out was, or nobody knows.
 */
OUTLINE int hold_or_drop(struct __sk_buff *skb, const struct context *c, const struct packet *p,
			 const struct verdict *verdict)
{
	int is_news;
	__u64 since = refused_since(&p->key, c->now, &is_news);
	int held = (__s64)(c->now - since) < (__s64)HOLD_NS && !hold(skb, p, c->now);

	if (is_news)
		tell_refusal(c, p, verdict);
	if (held) {
		c->counters->held++;
		return TC_ACT_SHOT;
	}
	c->counters->unheld++;
	return drop(skb, c);
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

/* No packet of it for so long that the next is another's. */
INLINE int is_idle(const struct packet *p, const struct flow_value *flow, __u64 now)
{
	return p->key.proto != IPPROTO_TCP && (__s64)(now - flow->last_ns) > (__s64)IDLE_NS;
}

/*
 * Userspace's verdict on the flow. It decides by sockets, and a socket does not tell over which of the guest's interfaces it
 * sends, nor an interface its VLAN. So a verdict is on the flow in any VLAN, and the flow that has one has no VLAN in its
 * key: what userspace revises or takes back is what packets find.
 */
INLINE struct flow_value *find_verdict(struct packet *p)
{
	struct flow_value *flow;

	set_vlans(&p->key, 0);
	flow = bpf_map_lookup_elem(&verdicts, &p->key);
	if (!flow)
		set_vlans(&p->key, p->vlans);
	return flow;
}

INLINE int filter_flow(struct __sk_buff *skb, const struct context *c, struct packet *p, const __u8 direction)
{
	struct rule_set set = active_rule_set();
	struct verdict verdict = { .origin = p->direction };
	struct flow_value *flow;
	int begins, is_new = 0, where = ROUTE_BACKEND;
	__u32 segments;
	__u8 how;

	flow = has_verdicts(p->key.scope) ? find_verdict(p) : 0;
	if (flow && pure_syn(p) && tcp_closed(flow)) {
		/* Of a connection that is over: for one that was seen to begin there would be another. */
		bpf_map_delete_elem(&verdicts, &p->key);
		set_vlans(&p->key, p->vlans);
		flow = 0;
	}
	if (flow) {
		verdict = verdict_of(flow);
		begins = !flow->first_ns || is_idle(p, flow, c->now);
	} else {
		flow = bpf_map_lookup_elem(&flows, &p->key);
		if (flow && begins_anew(p, flow, c->now)) {
			p->turn = flow->turn;
			flow = 0;
		}
		begins = !flow || !flow->first_ns;
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
			is_new = verdict.action == ALLOW;
		}
	}
	if (p->direction == FROM_GUEST && verdict.origin == FROM_GUEST && verdict.action == ALLOW && alters(c)) {
		if (unlikely(is_tagged(p))) {
			how = REFUSE_RESET;
			where = needs_translation(p) ? ROUTE_REFUSED : ROUTE_BACKEND;
		} else if (!(flow && flow->plain && !begins) && has_ports(p)) {
			where = route(p, begins, c->now, &how);
		}
		if (where == ROUTE_REFUSED) {
			c->counters->unserved++;
			verdict.action = DENY;
			verdict.refuse = how;
			verdict.decided_by = BY_SERVICE;
			is_new = 0;
		}
	}
	if (is_new) {
		flow = begin_flow(p, &verdict, c->vif->slot);
		if (flow) {
			/* The report says by it which connection this is, whatever the guest made of its addresses. */
			if (pure_syn(p))
				flow->next_seq[direction] = ntohl(p->seq) + 1;
			tell(c, p, flow, EVENT_FLOW_START);
		} else {
			c->counters->flow_errors++;
		}
	} else if (flow && begins && !flow->turn) {
		/* Userspace decided it before it had a packet. */
		__u32 turn = take_turn(p->direction, c->vif->slot);

		/* Without one, the next packet asks again. */
		if (turn)
			take_note(flow, &p->key, turn);
	}
	if (flow && where == ROUTE_PLAIN)
		flow->plain = 1;

	segments = skb->gso_segs;
	if (!segments)
		segments = 1;
	if (flow) {
		account(flow, p, direction, skb->len, segments, c->now);
		if (p->news)
			measure(p, flow, set.slot);
		if (p->news & NEWS_END)
			tell(c, p, flow, EVENT_FLOW_END);
	}
	if (verdict.action == ALLOW) {
		if (verdict.mirror && !(alters(c) && is_mirrored(&p->key, &verdict)))
			verdict.mirror = 0;
		if (p->more_fragments)
			remember_fragment(p, &verdict, c->now);
		if (mark(skb, c, p, &verdict))
			return drop(skb, c);
		if (p->direction == FROM_GUEST && is_echo_request(p) && !is_tagged(p) && alters(c) && is_virtual(&p->key.remote))
			return answer_echo(skb, p) ? TC_ACT_SHOT : pass_back(skb, c);
		return pass_allowed(skb, c, p, verdict.mirror);
	}
	if (verdict.refuse == REFUSE_HOLD && alters(c)) {
		if (!p->was_held)
			return hold_or_drop(skb, c, p, &verdict);
		verdict.refuse = REFUSE_DROP;
	}
	/* One that was held counted as neither so far: what became of it is news. */
	if (flow && verdict.decided_by != BY_SERVICE ? !flow->told :
						       p->was_held || refusal_is_news(&p->key, c->now)) {
		if (flow && verdict.decided_by != BY_SERVICE)
			flow->told = 1;
		tell_refusal(c, p, &verdict);
	}
	if (where == ROUTE_REFUSED)
		return refuse(skb, c, p, verdict.refuse, 0);
	if (flow && p->direction == FROM_GUEST && !flow->plain && !is_tagged(p))
		find_backend(p);
	return refuse(skb, c, p, verdict.refuse, flow && tcp_established(flow));
}

/*
 * An error about a flow that is allowed belongs to it; any other is a flow like any. 1: it does, and tells it by
 * the names that its receiver knows; 0: it does not; negative: good for nothing but dropping.
 */
OUTLINE int relate_error(struct __sk_buff *skb, struct packet *p, __u64 now, int may_alter)
{
	__u32 cell = 2 + (p->direction & 1);
	struct cell *room = bpf_map_lookup_elem(&scratch, &cell);
	struct packet *inner;
	struct flow_value *flow;

	if (!room)
		return 0;
	inner = &room->packet;
	__builtin_memset(inner, 0, sizeof(*inner));
	inner->key.scope = p->key.scope;
	inner->direction = p->direction;
	inner->ipv4 = p->ipv4;
	inner->l3_end = p->l3_end;
	inner->l3 = p->l3;
	inner->l4 = p->l4;
	inner->vlans = p->vlans;
	inner->kind = KIND_FLOW;
	if (read_inner(skb, inner))
		return 0;
	if (has_ports(inner) && may_alter && !is_tagged(p)) {
		if (p->direction == TO_GUEST)
			name_as_guest(inner, now);
		else
			find_backend(inner);
	}
	flow = find_verdict(inner);
	if (!flow)
		flow = bpf_map_lookup_elem(&flows, &inner->key);
	if (!flow || flow->action != ALLOW)
		return 0;
	if (inner->translated && translate_error(skb, p, inner))
		return -1;
	return 1;
}

/*
 * Whether the program on the vif's other kind of hook has had this packet. Between the two hooks nobody touches the packet's
 * control block; elsewhere it is overwritten, and the note is of this vif and direction alone.
 */
INLINE int was_had(struct __sk_buff *skb, const __u8 direction)
{
	const __u32 note = skb->ifindex << 1 | direction;

	if (skb->cb[3] == NOTE_MARK && skb->cb[4] == note) {
		skb->cb[3] = 0;
		return 1;
	}
	skb->cb[3] = NOTE_MARK;
	skb->cb[4] = note;
	return 0;
}

INLINE int filter(struct __sk_buff *skb, const __u8 direction)
{
	__u32 ifindex = skb->ifindex;
	__u32 slot, cell = direction;
	struct context c;
	struct cell *room;
	struct packet *p;
	int again;

	if (direction == TO_GUEST && is_for_ingress(skb))
		return bpf_redirect(ifindex, BPF_F_INGRESS);
	c.skb = skb;
	c.vif = bpf_map_lookup_elem(&vifs, &ifindex);
	if (!c.vif) /* detached a moment ago */
		return TC_ACT_UNSPEC;
	if (unlikely(c.vif->moving) && was_had(skb, direction))
		return TC_ACT_UNSPEC;
	again = was_held(skb, direction);
	if (skb->mark == ANSWER_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (direction == TO_GUEST && skb->mark == MIRROR_MARK) {
		skb->mark = 0;
		/* Not that of the vif that it comes from. */
		set_class(skb, c.vif, 0);
		return TC_ACT_UNSPEC;
	}
	room = bpf_map_lookup_elem(&scratch, &cell);
	slot = c.vif->slot;
	c.scope = bpf_map_lookup_elem(&scopes, &slot);
	cell = 2 * slot + direction;
	c.counters = bpf_map_lookup_elem(&counters, &cell);
	if (!c.scope || !c.counters || !room) /* the loader attaches no vif before its scope is set */
		return TC_ACT_SHOT;
	p = &room->packet;
	c.now = coarse_ns(room);
	set_class(skb, c.vif, 0);

	parse(skb, c.vif->scope, direction, p);
	if (unlikely(again)) {
		p->was_held = 1;
		c.counters->released++;
	}
	if (direction == TO_GUEST && is_for_another(p, c.vif)) {
		c.counters->foreign++;
		return c.scope->foreign == ALLOW ? pass(skb, &c, p) : drop(skb, &c);
	}
	if (direction == FROM_GUEST && is_forged(skb, p, c.vif, c.scope->flags))
		return refuse_forged(skb, &c, p);
	if (unlikely(p->tags) && c.scope->tagged != TAGGED_JUDGE) {
		c.counters->unknown_l3++;
		return c.scope->tagged == ALLOW ? pass(skb, &c, p) : drop(skb, &c);
	}
	if (p->dhcp && (c.scope->flags & SCOPE_PASS_DHCP))
		return pass(skb, &c, p);
	switch (p->kind) {
	case KIND_ARP:
		if (direction == FROM_GUEST && alters(&c) && !is_tagged(p) && !answer_arp(skb, p))
			return pass_back(skb, &c);
		return pass(skb, &c, p);
	case KIND_ESSENTIAL:
		if (direction == FROM_GUEST && alters(&c) && !is_tagged(p)) {
			int answer = answer_solicitation(skb, p);

			if (answer <= 0)
				return answer ? TC_ACT_SHOT : pass_back(skb, &c);
		}
		return pass(skb, &c, p);
	case KIND_UNKNOWN_L3:
		c.counters->unknown_l3++;
		/* Behind so many tags there may be what a rule denies. */
		return c.scope->other == ALLOW && p->tags <= MAX_TAGS ? pass(skb, &c, p) : drop(skb, &c);
	case KIND_LATER_FRAGMENT: {
		struct verdict first = {};

		if (!first_fragment_passed(p, &first)) {
			c.counters->fragments++;
			return drop(skb, &c);
		}
		if (mark(skb, &c, p, &first))
			return drop(skb, &c);
		return pass_allowed(skb, &c, p, first.mirror);
	}
	case KIND_ICMP_ERROR: {
		int related = relate_error(skb, p, c.now, alters(&c));

		if (related > 0)
			return pass(skb, &c, p);
		if (related < 0) {
			c.counters->denied++;
			return TC_ACT_SHOT;
		}
		return filter_flow(skb, &c, p, direction);
	}
	case KIND_FLOW:
		if (direction == TO_GUEST && has_ports(p) && !is_tagged(p) && alters(&c))
			name_as_guest(p, c.now);
		return filter_flow(skb, &c, p, direction);
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
