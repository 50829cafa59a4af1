/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * What one scope may take of the tables of flows. They are LRU maps: without this, a guest that opens flows without end pushes out
 * those of all others, and a TCP connection that is not known is refused.
 *
 * So each flow, once it has a packet, takes a turn: one of so many numbers that its scope has (CONTROL_SHARE). When all
 * are taken, one of the scope's own flows has to go. Of the next few the one goes that is over, else one that was never
 * answered, else the one that was idle for longest: a guest's flood of what nobody answers does not even end its own connections.
 */
#ifndef XMESH_SHARE_H
#define XMESH_SHARE_H

#include "service.h"

/* So many flows are compared. */
#define LOOKS 4

/* Of a turn that is about to change hands. */
#define TURN_CLAIM 0x80000000u

#define WORTH_ENDED 1
#define WORTH_ANSWERED (1ull << 63)

INLINE struct flow_value *find_any(const struct flow_key *key)
{
	struct flow_value *flow = bpf_map_lookup_elem(&verdicts, key);

	return flow ? flow : bpf_map_lookup_elem(&flows, key);
}

/* The least goes first. 0: whoever had the turn has it no more. */
INLINE __u64 worth(const struct flow_value *flow, __u32 turn)
{
	if (!flow || flow->turn != turn)
		return 0;
	if (flow->ended)
		return WORTH_ENDED;
	/* Its first packet is about to be counted, on another CPU. */
	if (!flow->last_ns)
		return WORTH_ANSWERED - 1;
	return flow->last_ns | (flow->packets[FROM_GUEST] && flow->packets[TO_GUEST] ? WORTH_ANSWERED : 0);
}

/* All that is known of a flow. What still comes of it is decided by the rules. */
OUTLINE int forget(struct flow_key *key)
{
	struct endpoint *redirect = bpf_map_lookup_elem(&redirects, key), backend;

	bpf_map_delete_elem(&verdicts, key);
	bpf_map_delete_elem(&flows, key);
	if (!redirect)
		return 0;
	/* First: once it is taken out, the entry may be another's. */
	backend = *redirect;
	bpf_map_delete_elem(&redirects, key);
	set_remote(key, &backend);
	bpf_map_delete_elem(&returns, key);
	return 0;
}

/* Whose turn this was has it no more, and is forgotten; the turn is the flow's of this key. Returns 0 if not. */
INLINE int replace(struct turn_key *at, const struct flow_key *key, __u32 *hand)
{
	const struct flow_key *held = bpf_map_lookup_elem(&turns, at);
	struct flow_key earlier;

	if (!held)
		return 0;
	earlier = *held;
	if (bpf_map_delete_elem(&turns, at))
		return 0;
	/* A barrier: the turn is gone before the note is looked for. That the hand moves does no harm; by 0 it would be no barrier. */
	__sync_fetch_and_add(hand, 1);
	if (earlier.scope == key->scope && worth(find_any(&earlier), at->turn))
		forget(&earlier);
	return !bpf_map_update_elem(&turns, at, key, BPF_NOEXIST);
}

/*
 * A turn for the flow of the packet in this cell of `scratch`, which has none; 0: there is none to be had. Several CPUs may ask at
 * once for one scope: who puts the key in has the turn. Where another has it, a claim comes first: it is an entry, too, and only who
 * has put it in looks who that other is and takes it out. Else a third could have come between, and would be forgotten by nobody.
 *
 * Who has a turn says so in its flow (take_note()) a moment later, and may lose the turn before that. So the one looks for the
 * other's note after it has taken the turn, and the other looks whether it still has the turn after its note: one of them sees it.
 */
GLOBAL __u32 take_turn(__u32 cell, __u32 slot)
{
	__u32 share = control_cell(CONTROL_SHARE), best = 0, from;
	struct cell *room = bpf_map_lookup_elem(&scratch, &cell);
	__u32 *hand = bpf_map_lookup_elem(&hands, &slot);
	struct turn_key at = {}, claim = {};
	struct flow_key *held, *key;
	int replaced;
	__u64 least = ~0ull;

	if (!hand || !share || !room)
		return 0;
	key = &room->packet.key;
	at.scope = key->scope;
	from = *hand;
	*hand = from + LOOKS;
#pragma clang loop unroll(full)
	for (int i = 0; i < LOOKS; i++) {
		__u64 its;

		at.turn = (from + i) % share + 1;
		held = bpf_map_lookup_elem(&turns, &at);
		if (!held) {
			if (!bpf_map_update_elem(&turns, &at, key, BPF_NOEXIST))
				return at.turn;
			continue;
		}
		its = worth(find_any(held), at.turn);
		if (its < least) {
			least = its;
			best = at.turn;
		}
	}
	at.turn = best;
	claim.scope = key->scope;
	claim.turn = best | TURN_CLAIM;
	if (bpf_map_update_elem(&turns, &claim, key, BPF_NOEXIST))
		return 0;
	replaced = replace(&at, key, hand);
	bpf_map_delete_elem(&turns, &claim);
	return replaced ? best : 0;
}

/* Of one scope. */
INLINE int same_flow(const struct flow_key *a, const struct flow_key *b)
{
	return a->proto == b->proto && a->local_port == b->local_port && a->remote_port == b->remote_port &&
	       a->vlan == b->vlan && a->vlan_high == b->vlan_high && same_address(&a->local, &b->local) &&
	       same_address(&a->remote, &b->remote);
}

/* Notes in a flow that has no turn which one it has. Returns 0 if that was lost meanwhile: then it has none. */
OUTLINE int take_note(struct flow_value *flow, const struct flow_key *key, __u32 turn)
{
	struct turn_key at = { .scope = key->scope, .turn = turn };
	const struct flow_key *held;

	/* A barrier, too: the note is there before the turn is looked at. */
	__sync_fetch_and_add(&flow->turn, turn);
	held = bpf_map_lookup_elem(&turns, &at);
	if (held && same_flow(held, key))
		return 1;
	flow->turn = 0;
	return 0;
}

/* The entry of a flow that begins under the rules; NULL: there is no room for it. */
OUTLINE struct flow_value *begin_flow(const struct packet *p, const struct verdict *verdict, __u32 slot)
{
	__u32 turn = p->turn ? p->turn : take_turn(p->direction, slot);
	struct flow_value *flow;

	/* Another CPU may be at the same ones; those that come next are others. */
	if (!turn)
		turn = take_turn(p->direction, slot);
	if (!turn)
		return 0;
	flow = write_flow(&p->key, verdict, 0);
	if (!flow || take_note(flow, &p->key, turn))
		return flow;
	/* It was lost before it was noted. */
	turn = take_turn(p->direction, slot);
	if (turn && take_note(flow, &p->key, turn))
		return flow;
	bpf_map_delete_elem(&flows, &p->key);
	return 0;
}

#endif
