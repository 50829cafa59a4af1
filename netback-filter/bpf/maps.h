/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * The maps, each with one writer:
 *   userspace writes   vifs, stations, scopes, sources, mirrors, control, peers, rules, with_verdicts, verdicts, services, spreads,
 *                      backends, dead, choices
 *   these programs     flows, turns, hands, fragments, refusals, holds, events, redirects, returns, histograms (in
 *                      histogram.h)
 * and `counters` is set to 0 by userspace and gets its numbers from here.
 *
 * Verdicts of userspace and flows decided by the tables are two maps so that neither side can overwrite the
 * other's decision, and so that a guest that opens flows without end pushes out no verdict of userspace. What
 * these programs change inside a verdict is only what they saw of its packets; they take it out when its connection has
 * ended and another one begins. A verdict on a flow that had begun under the rules is put among the flows, so that it ends
 * with it. An LRU map may reuse an entry
 * while a packet still holds it: that packet is then counted in the wrong flow, and nothing else happens, since
 * the decision is read at once and never written in place.
 */
#ifndef XMESH_MAPS_H
#define XMESH_MAPS_H

#include "helpers.h"
#include "layout.h"

/* Sizes of verdicts, flows, turns, redirects, returns, peers, rules, histograms and events are set by the loader. */

struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, __u32); /* ifindex */
	MAP_TYPE(value, struct vif_config);
	MAP_INT(max_entries, 4096);
} vifs SEC(".maps");

/* Whom frames may go straight to: see direct.h. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct station_key);
	MAP_TYPE(value, struct station);
	MAP_INT(max_entries, 4096);
} stations SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32); /* slot, from vif_config */
	MAP_TYPE(value, struct scope_config);
	MAP_INT(max_entries, SCOPES);
} scopes SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct source_key);
	MAP_TYPE(value, __u8); /* 1 */
	MAP_INT(max_entries, 65536);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} sources SEC(".maps");

/* Its numbers are counted here. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, __u32); /* scope */
	MAP_TYPE(value, struct mirror);
	MAP_INT(max_entries, 4096);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} mirrors SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32); /* enum control_cell */
	MAP_TYPE(value, __u32);
	MAP_INT(max_entries, CONTROL_CELLS);
} control SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_TYPE(key, struct peer_key);
	MAP_TYPE(value, __u32); /* class */
	MAP_INT(max_entries, 65536);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} peers SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct rule_key);
	MAP_TYPE(value, struct rule_value);
	MAP_INT(max_entries, 262144);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} rules SEC(".maps");

/* By the scope's number, of its lowest bits: not 0 from before its first verdict of userspace on. No lookup for nothing until then. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
	MAP_INT(max_entries, SCOPES);
} with_verdicts SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct flow_value);
	MAP_INT(max_entries, 131072);
} verdicts SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct flow_value);
	MAP_INT(max_entries, 131072);
} flows SEC(".maps");

/* The flows that have a turn of their scope: see share.h. Userspace takes out those that a scope has no more. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct turn_key);
	MAP_TYPE(value, struct flow_key);
	MAP_INT(max_entries, 262144);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} turns SEC(".maps");

/* Where the next flow looks for a turn. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32); /* slot, from vif_config */
	MAP_TYPE(value, __u32);
	MAP_INT(max_entries, SCOPES);
} hands SEC(".maps");

/* Datagrams whose first fragment passed. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct fragment_key);
	MAP_TYPE(value, struct fragment_value);
	MAP_INT(max_entries, 8192);
} fragments SEC(".maps");

/* When the refusal of a flow was last reported. Apart from `flows`, so that a scan evicts no flow. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, __u64); /* CLOCK_MONOTONIC ns */
	MAP_INT(max_entries, 16384);
} refusals SEC(".maps");

/* How many frames each scope had held of late. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, __u32); /* scope */
	MAP_TYPE(value, struct hold_window);
	MAP_INT(max_entries, 4096);
} holds SEC(".maps");

/* Two generations of services, as of rules: a packet reads those of one slot. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct service_key);
	MAP_TYPE(value, struct service);
	MAP_INT(max_entries, 4 * SERVICES); /* each with the entry of its address */
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} services SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct spread);
	MAP_INT(max_entries, 2 * SERVICES);
} spreads SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_ARRAY);
	MAP_TYPE(key, __u32); /* BACKENDS of the one slot, then of the other */
	MAP_TYPE(value, struct endpoint);
	MAP_INT(max_entries, 2 * BACKENDS);
} backends SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, struct dead_key);
	MAP_TYPE(value, __u8); /* 1 */
	MAP_INT(max_entries, BACKENDS);
	MAP_INT(map_flags, BPF_F_NO_PREALLOC);
} dead SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct choice);
	MAP_INT(max_entries, 16384);
} choices SEC(".maps");

/* By the flow as the guest has it: the backend. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct endpoint);
	MAP_INT(max_entries, 65536);
} redirects SEC(".maps");

/* By the flow as the backend has it: whom the guest takes the backend for. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_TYPE(key, struct flow_key);
	MAP_TYPE(value, struct endpoint);
	MAP_INT(max_entries, 65536);
} returns SEC(".maps");

struct {
	MAP_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_TYPE(key, __u32); /* two cells a slot of `scopes`, by direction */
	MAP_TYPE(value, struct counters);
	MAP_INT(max_entries, 2 * SCOPES);
} counters SEC(".maps");

#ifdef PERF_EVENTS
/* One buffer a CPU, while somebody reads. */
struct {
	MAP_INT(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
} events SEC(".maps");
#else
struct {
	MAP_INT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_INT(max_entries, 1 << 20);
} events SEC(".maps");
#endif

#endif
