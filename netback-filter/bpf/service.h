/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Which backend a flow of the guest goes to: the one that userspace chose for it, else the one that its service's table
 * says. Decided once, when the flow begins; a flow that was sent where it is addressed stays there likewise.
 *
 * Only the guest's own vif translates, in both directions; the backend's sees a flow between guest and backend.
 */
#ifndef XMESH_SERVICE_H
#define XMESH_SERVICE_H

#include "flow.h"

enum route {
	ROUTE_PLAIN,   /* where it is addressed */
	ROUTE_BACKEND, /* to `backend` of the packet */
	ROUTE_REFUSED,
};

INLINE struct service *find_service(__u32 slot, const struct address *address, __u8 proto, __be16 port)
{
	struct service_key key = { .slot = slot, .proto = proto, .port = port, .address = *address };

	return bpf_map_lookup_elem(&services, &key);
}

INLINE __u32 service_slot(void)
{
	return control_cell(CONTROL_SERVICES) & 1;
}

/* Whether the address is one of services. */
OUTLINE int is_virtual(const struct address *address)
{
	return find_service(service_slot(), address, PROTO_ANY, PORT_ANY) != 0;
}

INLINE __u32 mix(__u32 hash, __u32 word)
{
	hash ^= word;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* The table's cell for this client; with affinity, for all that comes from its address. */
INLINE __u32 client_cell(const struct flow_key *key, int affinity)
{
	__u32 hash = 0;

	for (int i = 0; i < 4; i++)
		hash = mix(hash, key->local.word[i]);
	hash = mix(hash, affinity ? 0 : key->local_port);
	return hash % SPREAD_CELLS; /* a power of two: the verifier sees its bound */
}

OUTLINE int is_live(const struct flow_key *key, __u64 now)
{
	struct flow_value *flow = bpf_map_lookup_elem(&verdicts, key);

	if (!flow)
		flow = bpf_map_lookup_elem(&flows, key);
	if (!flow || flow->action != ALLOW || !flow->first_ns)
		return 0;
	if (key->proto == IPPROTO_TCP)
		return !tcp_closed(flow);
	/* Another CPU may have stamped it a moment after `now`. */
	return (__s64)(now - flow->last_ns) <= (__s64)IDLE_NS;
}

INLINE int is_dead(__u8 proto, const struct endpoint *backend)
{
	struct dead_key key = { .address = backend->address, .port = backend->port, .proto = proto };

	return bpf_map_lookup_elem(&dead, &key) != 0;
}

INLINE int is_remote_of(const struct endpoint *end, const struct flow_key *key)
{
	return end->port == key->remote_port && same_address(&end->address, &key->remote);
}

/* The same flow with another end. */
INLINE void set_remote(struct flow_key *key, const struct endpoint *end)
{
	key->remote = end->address;
	key->remote_port = end->port;
}

/*
 * Makes what the backend sends to the guest's port be of this flow. The backend cannot tell two flows of one port
 * of the guest apart, so the second is not let begin: not 0.
 */
OUTLINE int claim_return(const struct flow_key *key, const struct endpoint *backend, __u64 now)
{
	struct flow_key other = *key;
	struct endpoint facade = { .address = key->remote, .port = key->remote_port };
	struct endpoint *holder;
	__u32 cell = CONTROL_RETURNS, one = 1;

	set_remote(&other, backend);
	holder = bpf_map_lookup_elem(&returns, &other);
	if (holder) {
		if (is_remote_of(holder, key))
			return 0;
		set_remote(&other, holder);
		if (is_live(&other, now))
			return -1;
		set_remote(&other, backend);
	}
	/* To the backend itself. */
	if (is_live(&other, now))
		return -1;
	if (!control_cell(CONTROL_RETURNS))
		bpf_map_update_elem(&control, &cell, &one, BPF_ANY);
	return bpf_map_update_elem(&returns, &other, &facade, BPF_ANY);
}

/* Whether a flow that goes where it is addressed would be taken for one that is redirected there. */
OUTLINE int return_is_taken(const struct flow_key *key, __u64 now)
{
	struct endpoint *holder = bpf_map_lookup_elem(&returns, key);
	struct flow_key other = *key;

	if (!holder)
		return 0;
	set_remote(&other, holder);
	if (is_live(&other, now))
		return 1;
	bpf_map_delete_elem(&returns, key);
	return 0;
}

/* `refuse`: how, where it is refused. */
OUTLINE int choose_backend(const struct flow_key *key, __u64 now, struct endpoint *backend, __u8 *refuse)
{
	struct choice *choice = bpf_map_lookup_elem(&choices, key);
	__u32 slot = service_slot();
	struct spread *spread;
	struct service *service;
	struct endpoint *found;
	__u32 index;

	if (choice) {
		/* One that nobody used in time was for a flow that did not come. */
		int fresh = (__s64)(now - choice->ns) < (__s64)OPENING_NS;

		*backend = choice->backend;
		bpf_map_delete_elem(&choices, key);
		if (fresh)
			return is_remote_of(backend, key) ? ROUTE_PLAIN : ROUTE_BACKEND;
	}
	service = find_service(slot, &key->remote, key->proto, key->remote_port);
	if (!service)
		return ROUTE_PLAIN;
	*refuse = service->refuse;
	index = service->spread;
	spread = bpf_map_lookup_elem(&spreads, &index);
	if (!spread)
		return ROUTE_REFUSED;
	index = spread->cell[client_cell(key, service->affinity)];
	if (index == NO_BACKEND)
		return ROUTE_REFUSED;
	index += slot * BACKENDS;
	found = bpf_map_lookup_elem(&backends, &index);
	if (!found)
		return ROUTE_REFUSED;
	*backend = *found;
	return is_remote_of(backend, key) ? ROUTE_PLAIN : ROUTE_BACKEND;
}

/* The flow had a backend, or none yet, and is to have one. */
OUTLINE int choose_anew(struct packet *p, const struct endpoint *earlier, __u64 now, __u8 *refuse)
{
	struct flow_key other = p->key;
	int route;

	if (earlier) {
		set_remote(&other, earlier);
		bpf_map_delete_elem(&returns, &other);
		bpf_map_delete_elem(&redirects, &p->key);
	}
	route = choose_backend(&p->key, now, &p->backend, refuse);
	if (route == ROUTE_PLAIN && return_is_taken(&p->key, now))
		return ROUTE_REFUSED;
	if (route == ROUTE_BACKEND && (claim_return(&p->key, &p->backend, now) ||
				       bpf_map_update_elem(&redirects, &p->key, &p->backend, BPF_ANY)))
		return ROUTE_REFUSED;
	return route;
}

/*
 * Where an allowed packet of the guest goes, if it is not known to go where it is addressed. `begins`: it is the first of
 * its flow, or the first after long. Of TCP only a SYN can be given a backend: no other would know of the connection.
 */
OUTLINE int route(struct packet *p, int begins, __u64 now, __u8 *refuse)
{
	int chooses = p->key.proto == IPPROTO_UDP || pure_syn(p), route;
	struct endpoint *redirect;

	*refuse = REFUSE_RESET;
	redirect = bpf_map_lookup_elem(&redirects, &p->key);
	if (redirect && !(begins && chooses)) {
		if (!is_dead(p->key.proto, redirect)) {
			p->backend = *redirect;
			route = claim_return(&p->key, &p->backend, now) ? ROUTE_REFUSED : ROUTE_BACKEND;
			goto out;
		}
		if (!chooses)
			return ROUTE_REFUSED;
	} else if (!redirect && !chooses) {
		/* Nobody knows the connection's backend any more. */
		return find_service(service_slot(), &p->key.remote, p->key.proto, p->key.remote_port) ?
			       ROUTE_REFUSED :
			       ROUTE_PLAIN;
	}
	route = choose_anew(p, redirect, now, refuse);
out:
	p->translated = route == ROUTE_BACKEND;
	return route;
}

/*
 * Whether a flow from the guest would be given another end if it were not tagged: it is for a service, or userspace said so. Tagged
 * ones are not translated, and must not go out to an address that stands for something else.
 */
OUTLINE int needs_translation(struct packet *p)
{
	/* Not those of the packet, where userspace decided the flow. */
	__u16 vlan = p->key.vlan;
	__u8 vlan_high = p->key.vlan_high;
	int found;

	set_vlans(&p->key, 0);
	found = is_virtual(&p->key.remote) || bpf_map_lookup_elem(&redirects, &p->key) ||
		bpf_map_lookup_elem(&choices, &p->key);
	p->key.vlan = vlan;
	p->key.vlan_high = vlan_high;
	return found;
}

INLINE int has_ports(const struct packet *p)
{
	return p->kind == KIND_FLOW && (p->key.proto == IPPROTO_TCP || p->key.proto == IPPROTO_UDP);
}

/* The backend of a packet from the guest whose flow had one. */
INLINE void find_backend(struct packet *p)
{
	struct endpoint *redirect = bpf_map_lookup_elem(&redirects, &p->key);

	if (!redirect)
		return;
	p->backend = *redirect;
	p->translated = 1;
}

/*
 * A packet from a backend gets the key of the flow as the guest has it. A SYN is none of the flow's: the guest opened
 * it.
 */
INLINE void name_as_guest(struct packet *p, __u64 now)
{
	struct endpoint *facade;

	/* Where there are no services, this is a lookup for nothing. */
	if (!control_cell(CONTROL_RETURNS))
		return;
	facade = bpf_map_lookup_elem(&returns, &p->key);
	if (!facade || pure_syn(p))
		return;
	p->backend.address = p->key.remote;
	p->backend.port = p->key.remote_port;
	set_remote(&p->key, facade);
	if (p->key.proto == IPPROTO_UDP && !is_live(&p->key, now))
		set_remote(&p->key, &p->backend);
	else
		p->translated = 1;
}

#endif
