/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * What the maps hold. src/layout.rs mirrors every struct here byte for byte.
 *
 * The maps outlive the daemon (they are pinned), so a new daemon may meet maps of an older layout. Raise
 * LAYOUT_VERSION, here alone, whenever a struct or the meaning of a field changes: the loader then replaces the
 * maps instead of misreading them.
 */
#ifndef XMESH_LAYOUT_H
#define XMESH_LAYOUT_H

#include <linux/types.h>

#define LAYOUT_VERSION 11

enum direction {
	FROM_GUEST = 0,
	TO_GUEST = 1,
};

enum action {
	DENY = 0,
	ALLOW = 1,
};

/* How a denied packet is answered. Here only TCP can be, by a RST: see answer.h. */
enum refuse {
	REFUSE_DROP = 0,
	REFUSE_RESET = 1,
	REFUSE_HOLD = 2, /* first given to userspace, which may send it again: see hold.h */
	REFUSE_PROHIBIT = 3, /* by ICMP, which userspace sends; TCP that is established or in a VLAN by a RST */
};

/* Who a verdict comes from. */
enum decided_by {
	BY_USERSPACE = 0, /* written through FlowWriter */
	BY_RULE = 1,      /* a rule of the active slot */
	BY_DEFAULT = 2,   /* the scope's default: no rule matched */
	BY_STATE = 3,     /* a TCP segment of no known flow */
	BY_LOCK = 4,      /* the scope's lock: not the guest's own address */
	BY_LOOKUP = 5,    /* userspace, of a flow that had begun: it holds for that flow alone */
	BY_SERVICE = 6,   /* the service it is for has no backend for it */
};

/* IPv4 addresses are kept v4-mapped (::ffff:a.b.c.d), in network order. */
struct address {
	__u32 word[4];
};

/*
 * One flow of one scope. The guest's end is always `local`, whichever way a packet goes. The VLAN is 0 where there is no tag;
 * of two tags the outer one's VID is in the lowest 12 of 24 bits, the inner one's above. Keys of `verdicts`, `choices`,
 * `redirects` and `returns` have no VLAN.
 */
struct flow_key {
	__u32 scope;
	__u8 proto;
	__u8 vlan_high;
	__be16 local_port;
	__be16 remote_port;
	__u16 vlan;
	struct address local;
	struct address remote;
};
_Static_assert(sizeof(struct flow_key) == 44, "flow_key");

/*
 * Classes of a shaped vif are HTB classes MAJOR:MINOR. The lowest 4 bits of a minor are the packet's TC_PRIO: where it goes on
 * over a device that is not ours, that is what is left of it.
 */
#define SHAPE_MAJOR 0x786du
#define SHAPE_DEFAULT 0x0010 /* of what is in no class */
#define MARK_DSCP 0x80

/* TCP flags seen, one byte a direction: a direction is served by one queue, so by one CPU at a time. */
#define SEEN_SYN 0x01
#define SEEN_ACK 0x02
#define SEEN_FIN 0x04
#define SEEN_RST 0x08
#define SEEN_DATA 0x10 /* `next_seq` is of data, else of a SYN if one was seen */

struct flow_value {
	/* The verdict: written when the entry is, and never in place. */
	__u32 rule;
	__u32 generation;
	__u8 action;
	__u8 refuse;
	__u8 origin; /* direction of the packet that opens the flow */
	__u8 decided_by;
	/* What the packets said: changed in place. */
	__u8 seen[2];
	__u8 told;  /* the refusal was reported */
	__u8 ended; /* the end was reported */
	__u64 packets[2]; /* by direction, see SEEN_...: should two CPUs serve one at once, a packet may be missed */
	__u64 bytes[2];
	__u64 first_ns; /* CLOCK_MONOTONIC; 0 before the first packet */
	__u64 last_ns; /* up to one of the kernel's ticks before its last packet */
	/* TCP as the vif sees it, by direction of the data. */
	__u64 asked_ns;	     /* when the last SYN passed, then when the opener's first data did */
	__u64 sample_ns[2];  /* when the data passed whose ACK is awaited; 0: none is */
	__u32 sample_seq[2]; /* the ACK that is awaited */
	__u32 next_seq[2];   /* behind the last byte or SYN seen; of what is reported as refused, where its packet begins */
	__u32 rtt_us[2];     /* smoothed time from data to its ACK; 0 before the first */
	__u32 retransmissions[2];
	__u32 zero_windows[2]; /* said by the sender of this direction: it takes no more */
	__u32 setup_us;	       /* from SYN to SYN-ACK; 0 before that */
	__u8 plain;	       /* 1: it goes where it is addressed; 0: that was not asked yet, or it has a backend */
	__u8 dscp;	       /* part of the verdict: MARK_DSCP and the value, or 0 */
	__u16 class;	       /* part of the verdict: see SHAPE_DEFAULT; or 0 */
	__u32 peer_class;      /* of the other end, and 1; 0: not asked yet */
	__u16 rtt_tick[2];     /* when a round trip was last begun to be measured, in units of TICK_SHIFT */
	__u16 mirror;	       /* part of the verdict: the guest (its scope) that gets copies, or 0 */
	__u16 share;	       /* part of the verdict: of how many flows of SHARE_ALL */
	__u32 turn;	       /* which of its scope's; 0: none. See turn_key */
	__u32 first_byte_us;   /* from the opener's first data, else its SYN, to the other's first; 0 before that */
	__u32 pad;
};
_Static_assert(sizeof(struct flow_value) == 160, "flow_value");

#define SHARE_ALL 10000

/* Where copies for a guest go: one of its vifs. */
struct mirror {
	__u32 ifindex;
	__u32 pad;
	__u64 packets; /* handed to it; its queue may drop some */
	__u64 bytes;
};
_Static_assert(sizeof(struct mirror) == 24, "mirror");

struct vif_config {
	__u32 scope;
	__u8 mac[6]; /* the guest's; all zero when not known */
	__u8 shaped; /* 1: its packets are to tell their class */
	__u8 moving; /* 1: these programs may be on hooks of both kinds, so that a packet meets them twice */
	__u32 slot;  /* the scope's cell of `scopes` */
	__u32 bridge; /* ifindex of the bridge that frames may go past; 0: none */
	__u32 pad;
	__u64 by_bridge_ns; /* when one last went by it that could have gone past; CLOCK_MONOTONIC; changed in place */
};
_Static_assert(sizeof(struct vif_config) == 32, "vif_config");

/* A guest behind a bridge. */
struct station_key {
	__u32 bridge; /* ifindex */
	__u8 mac[6];
	__u16 pad;
};
_Static_assert(sizeof(struct station_key) == 12, "station_key");

struct station {
	__u32 ifindex; /* of its vif */
	__u32 frame;   /* bytes of the largest frame that the bridge would forward to it */
};
_Static_assert(sizeof(struct station) == 8, "station");

#define SCOPES 4096 /* a power of two */

#define SCOPE_MONITOR_ONLY 0x01 /* decide and count, never alter or drop */
#define SCOPE_PASS_DHCP 0x02    /* the guest's DHCP passes before any rule */
#define SCOPE_LOCK_MAC 0x04     /* the guest sends by its vif's MAC address only */
#define SCOPE_LOCK_ADDRESS 0x08 /* and by its own IP addresses only */

/* Beside enum action: what becomes of tagged frames. */
#define TAGGED_JUDGE 2 /* what becomes of untagged ones like them */

struct scope_config {
	__u8 default_action[2]; /* by direction */
	__u8 default_refuse[2];
	__u8 foreign; /* action for frames to another MAC */
	__u8 flags;
	__u8 other;  /* action for frames that are neither IP nor ARP */
	__u8 tagged; /* an action or TAGGED_JUDGE */
	__u64 adopt_until_ns; /* CLOCK_MONOTONIC: until then TCP flows may be met in their middle */
	__u32 scope;
	__u32 in_use; /* 0: the cell is no scope's */
};
_Static_assert(sizeof(struct scope_config) == 24, "scope_config");

/* Peers: longest prefix of the remote address -> class. Both slots share the trie, so the slot leads the key. */
struct peer_key {
	__u32 prefix_bits; /* 32 for the slot, then 0 to 128 for the address */
	__u32 slot;
	struct address address;
};
_Static_assert(sizeof(struct peer_key) == 24, "peer_key");

#define CLASS_WORLD 0u
#define CLASS_ANY 0xffffffffu
#define PROTO_ANY 0
#define PORT_ANY 0
#define PORT_OF_PROTO_0 1

struct rule_key {
	__u32 scope;
	__u32 peer_class;
	__be16 port; /* of the end that did not open the flow */
	__u8 proto;
	__u8 direction; /* of the packet that opens the flow */
	__u32 slot;
};
_Static_assert(sizeof(struct rule_key) == 16, "rule_key");

/* The generation is the slot's: see enum control_cell. */
struct rule_value {
	__u32 rule;
	__u8 action;
	__u8 refuse;
	__u16 class; /* as in flow_value */
	__u8 dscp;
	__u8 pad;
	__u16 mirror;
	__u16 share;
	__u16 pad1;
};
_Static_assert(sizeof(struct rule_value) == 16, "rule_value");

/* One of the flows that a scope may have at once, numbered from 1. */
struct turn_key {
	__u32 scope;
	__u32 turn;
};
_Static_assert(sizeof(struct turn_key) == 8, "turn_key");

struct fragment_key {
	__u32 scope;
	__u32 id;
	__u8 direction;
	__u8 proto;
	__u16 pad;
	__u32 vlans; /* as in flow_key */
	struct address local;
	struct address remote;
};
_Static_assert(sizeof(struct fragment_key) == 48, "fragment_key");

/* An address that a locked scope may send from. */
struct source_key {
	__u32 scope;
	struct address address;
};
_Static_assert(sizeof(struct source_key) == 20, "source_key");

/*
 * What a datagram's later fragments are sent on with: its first one was, and they do not bear the ports that tell
 * their flow.
 */
struct fragment_value {
	__u64 ns; /* CLOCK_MONOTONIC */
	struct address other; /* in place of the other end's address */
	__u8 mac[6];
	__u8 translated;
	__u8 dscp;
	__u16 class;
	__u16 mirror; /* 0 also where the flow is not in the share */
	__u8 pad[4];
};
_Static_assert(sizeof(struct fragment_value) == 40, "fragment_value");

/* Services and backends of one generation. */
#define SERVICES 256
#define BACKENDS 4096
#define SPREAD_CELLS 4096
#define NO_BACKEND 0xffff

/* Protocol and port are 0 in the entry that says that the address is one of services. */
struct service_key {
	__u32 slot;
	__u8 proto;
	__u8 pad;
	__be16 port;
	struct address address;
};
_Static_assert(sizeof(struct service_key) == 24, "service_key");

struct service {
	__u32 spread; /* cell of `spreads` */
	__u8 affinity;
	__u8 refuse;
	__u16 pad;
};
_Static_assert(sizeof(struct service) == 8, "service");

/* Cells of `backends`. */
struct spread {
	__u16 cell[SPREAD_CELLS];
};
_Static_assert(sizeof(struct spread) == 8192, "spread");

/* An end that stands for another. */
struct endpoint {
	struct address address;
	__be16 port;
	__u8 mac[6]; /* all zero: the frame's own stays */
};
_Static_assert(sizeof(struct endpoint) == 24, "endpoint");

/* The backend that userspace chose for a flow that is about to begin. */
struct choice {
	__u64 ns; /* when, CLOCK_MONOTONIC */
	struct endpoint backend;
};
_Static_assert(sizeof(struct choice) == 32, "choice");

/* A backend that serves nobody any more, whatever service it is of. */
struct dead_key {
	struct address address;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct dead_key) == 20, "dead_key");

/* Every packet is counted in exactly one of passed, denied and held; the rest say why. */
struct counters {
	__u64 passed;
	__u64 passed_bytes;
	__u64 denied;
	__u64 resets;      /* of denied: answered with a RST */
	__u64 malformed;   /* headers cut short or contradicting themselves */
	__u64 unknown_l3;  /* neither IP nor ARP, or tagged and not to be judged */
	__u64 foreign;     /* towards the guest, but addressed to another MAC */
	__u64 stray;       /* TCP without a flow and without SYN */
	__u64 fragments;   /* later fragments of nothing that passed */
	__u64 flow_errors; /* the flow table took no entry */
	__u64 events_lost; /* the ring was full */
	__u64 forged;      /* sent from what is not the guest's own address */
	__u64 unserved;    /* for a service, and there was no backend */
	__u64 unrouted;    /* to the MAC address of services, and for none of them */
	__u64 held;	   /* given to userspace; in neither of passed and denied */
	__u64 released;    /* held before, and sent again */
	__u64 unheld;      /* of denied: could not be given to userspace */
	__u64 direct;	   /* of passed: handed straight to another vif */
};
_Static_assert(sizeof(struct counters) == 144, "counters");

/* Whose connections are counted together. */
struct histogram_key {
	__u32 scope;
	__u32 peer_class; /* as the rules had it when the flow was first measured */
	__u32 rule;
	__u32 generation; /* of the rule */
	__u32 origin;
};
_Static_assert(sizeof(struct histogram_key) == 20, "histogram_key");

/* Interval 0 is for 0, interval N for what has N bits, the last one for all above too. A power of two. */
#define INTERVALS 32

struct histogram {
	__u64 sum;
	__u32 count[INTERVALS];
};
_Static_assert(sizeof(struct histogram) == 136, "histogram");

/* Of TCP connections. Times are in microseconds. */
struct histograms {
	struct histogram setup;		     /* one value a connection */
	struct histogram rtt[2];	     /* one in a tick that had one, by direction of the data */
	struct histogram retransmissions[2]; /* one a connection that ended, as below */
	struct histogram zero_windows[2];
};
_Static_assert(sizeof(struct histograms) == 952, "histograms");

/*
 * Cells of the `control` array. The slot is a cell of its own: its flip is the instant a rule set takes force. Of services
 * there is a count of exchanges, whose lowest bit is the slot.
 */
enum control_cell {
	CONTROL_SLOT = 0,
	CONTROL_GENERATION = 1, /* two cells, one a slot */
	CONTROL_LAYOUT = 3,
	CONTROL_SERVICES = 4,
	CONTROL_RETURNS = 5, /* not 0 from the first flow on that was redirected: before, `returns` is empty */
	CONTROL_SHARE = 6, /* how many turns each scope has */
	CONTROL_DIRECT = 7, /* until when frames may go past bridges: CLOCK_MONOTONIC in units of LEASE_SHIFT; 0: never */
	CONTROL_CELLS = 8,
};

#define LEASE_SHIFT 30 /* about a second */

enum event_kind {
	EVENT_FLOW_START = 1,
	EVENT_REFUSED = 2,
	EVENT_FLOW_END = 3,
	EVENT_HELD = 4, /* a struct held, not a struct event */
};

struct event {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u8 kind;
	__u8 direction; /* of the packet that caused it */
	__u8 enforced;  /* 0: the scope only monitors */
	__u8 tagged;    /* that packet was, whatever the key says */
	struct flow_key key;
	struct flow_value value;
	struct endpoint backend; /* all zero: none */
	__u8 sender[6]; /* MAC address that the packet came from */
	__u8 pad1[2];
};
_Static_assert(sizeof(struct event) == 248, "event");

/* The largest frame that is held: an Ethernet frame of the usual MTU. */
#define HELD_BYTES 1514
/* The verifier takes a bound that is a power of two without a comparison. */
#define HELD_ROOM 2048

/* A frame that userspace is to hold. Up to `kind` as struct event. As much as `length` says of `frame` is there. */
struct held {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u8 kind;
	__u8 direction;
	__u16 length;
	__u32 ifindex;
	struct flow_key key;
	__u16 l4;     /* offset of the L4 header */
	__u16 l3_end; /* offset behind the IP packet */
	__u8 frame[HELD_ROOM];
};
_Static_assert(sizeof(struct held) == 2112, "held");
_Static_assert(__builtin_offsetof(struct held, kind) == __builtin_offsetof(struct event, kind), "kind");

/* Frames of one scope that were given to userspace, and since when that is counted. */
struct hold_window {
	__u64 since_ns;
	__u32 frames;
	__u32 pad;
};
_Static_assert(sizeof(struct hold_window) == 16, "hold_window");

#endif
