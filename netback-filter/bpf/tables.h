/* SPDX-License-Identifier: GPL-3.0-only */
/* What the rules say of a flow nobody has decided yet. */
#ifndef XMESH_TABLES_H
#define XMESH_TABLES_H

#include "packet.h"

struct verdict {
	__u32 rule;
	__u32 generation;
	__u8 action;
	__u8 refuse;
	__u8 origin;
	__u8 decided_by;
	__u16 class;
	__u8 dscp;
	__u8 pad;
	__u16 mirror;
	__u16 share;
};

/* Which rule set this packet is under. Read once a packet: both lookups and the verdict name the same one. */
struct rule_set {
	__u32 slot;
	__u32 generation;
};

INLINE __u32 control_cell(__u32 cell)
{
	__u32 *value = bpf_map_lookup_elem(&control, &cell);

	return value ? *value : 0;
}

INLINE struct rule_set active_rule_set(void)
{
	struct rule_set set;

	set.slot = control_cell(CONTROL_SLOT) & 1;
	set.generation = control_cell(CONTROL_GENERATION + set.slot);
	return set;
}

/*
 * First match wins: the peer's own class before any class, and within each the port, then the protocol, then
 * anything. One key holds one verdict, so there are no ties.
 */
INLINE struct rule_value *find_rule(struct rule_key *rule, __u32 class, __u8 proto, __be16 port)
{
	struct rule_value *found;

#pragma clang loop unroll(full)
	for (int any = 0; any < 2; any++) {
		rule->peer_class = any ? CLASS_ANY : class;
		rule->proto = proto;
		rule->port = port;
		found = bpf_map_lookup_elem(&rules, rule);
		if (found)
			return found;
		if (port != PORT_ANY) {
			rule->port = PORT_ANY;
			found = bpf_map_lookup_elem(&rules, rule);
			if (found)
				return found;
		}
		rule->port = PORT_ANY;
		rule->proto = PROTO_ANY;
		found = bpf_map_lookup_elem(&rules, rule);
		if (found)
			return found;
	}
	return 0;
}

/* The class of the flow's other end. */
INLINE __u32 class_of(const struct flow_key *key, __u32 slot)
{
	struct peer_key peer = {
		.prefix_bits = 32 + 128,
		.slot = slot,
		.address = key->remote,
	};
	__u32 *class = bpf_map_lookup_elem(&peers, &peer);

	return class ? *class : CLASS_WORLD;
}

/* Decides a flow opened in direction `origin`. */
OUTLINE int decide_by_tables(const struct flow_key *key, const struct scope_config *scope, const struct rule_set *set,
			     struct verdict *verdict)
{
	__u8 origin = verdict->origin & 1;
	__be16 port = origin == FROM_GUEST ? key->remote_port : key->local_port;
	struct rule_key rule = {
		.scope = key->scope,
		.direction = origin,
		.slot = set->slot,
	};
	struct rule_value *found;

	/* The number 0 is PROTO_ANY in a key. As it has no ports, one says that a rule is for it alone. */
	if (!key->proto)
		port = htons(PORT_OF_PROTO_0);
	found = find_rule(&rule, class_of(key, set->slot), key->proto, port);
	verdict->generation = set->generation;
	if (found) {
		verdict->rule = found->rule;
		verdict->action = found->action;
		verdict->refuse = found->refuse;
		verdict->class = found->class;
		verdict->dscp = found->dscp;
		verdict->mirror = found->mirror;
		verdict->share = found->share;
		verdict->decided_by = BY_RULE;
	} else {
		verdict->rule = 0;
		verdict->class = 0;
		verdict->dscp = 0;
		verdict->mirror = 0;
		verdict->action = origin == FROM_GUEST ? scope->default_action[FROM_GUEST] :
							 scope->default_action[TO_GUEST];
		verdict->refuse = origin == FROM_GUEST ? scope->default_refuse[FROM_GUEST] :
							 scope->default_refuse[TO_GUEST];
		verdict->decided_by = BY_DEFAULT;
	}
	return 0;
}

#endif
