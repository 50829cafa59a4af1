// SPDX-License-Identifier: GPL-3.0-only
// A host with 500 services in 100 VMs, always the same.

const SERVICES = 500;
const VMS = 100;

/** Numbers that look like chance. */
function chance(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const quantiles = (count, p50) => ({ count, mean: p50 * 1.2, p50, p90: p50 * 2, p99: p50 * 4, max: p50 * 6 });

/** @param {number} now seconds since 1970 */
export function large(now) {
  const next = chance(7);
  const vm = (service) => `vm${String(Math.floor((service * VMS) / SERVICES)).padStart(3, '0')}`;
  const name = (service) => `team${Math.floor(service / 25)}/service-${String(service).padStart(3, '0')}`;
  const party = (service) => ({ kind: 'service', name: name(service) });
  const pairs = [];
  for (let service = 1; service < SERVICES; service += 1) {
    // Each is called by one to three of those before it: tiers, as services have.
    for (let n = 1 + Math.floor(next() * 3); n > 0; n -= 1) {
      const caller = Math.floor(Math.sqrt(next()) * Math.min(service, Math.ceil(service / 3) + 5));
      const connections = Math.ceil(next() ** 3 * 3000);
      const denied = next() < 0.05 ? connections : next() < 0.05 ? Math.ceil(connections / 5) : 0;
      const counts = {
        connections,
        denied,
        failed: 0,
        packets_out: connections * 9,
        packets_in: connections * 12,
        bytes_out: connections * 900,
        bytes_in: connections * 8000,
        retransmissions_out: 0,
        retransmissions_in: 0,
        zero_windows_out: 0,
        zero_windows_in: 0,
      };
      const time = quantiles(connections - denied, 500 + next() * 20000);
      const window = { ...counts, setup_us: time, server_rtt_us: time, client_rtt_us: time, first_byte_us: time };
      pairs.push({
        from: party(caller),
        to: party(service),
        protocol: 'tcp',
        port: 8000 + (service % 50),
        open: 2,
        total: counts,
        window,
      });
    }
  }
  const findings = pairs
    .filter((_, i) => i % 97 === 5)
    .map((p) => ({
      from: p.from,
      to: p.to,
      port: p.port,
      culprit: 'server',
      evidence: 'the server takes most of the time',
      factor: 2.5,
    }));
  const flows = Array.from({ length: SERVICES }, (_, service) => ({
    domain: vm(service),
    protocol: 'tcp',
    local: `10.1.${service >> 8}.${service & 255}:8000`,
    remote: '10.2.0.1:40000',
    outgoing: false,
    who: {
      domain: vm(service),
      exe: '/usr/bin/service',
      pid: 100 + service,
      uid: 1000,
      services: [name(service)],
      id: `spiffe://dom0/${vm(service)}`,
    },
    decision: { verdict: 'allow', rule: 'team/all', generation: 14 },
    packets_out: 10,
    bytes_out: 1000,
    packets_in: 10,
    bytes_in: 1000,
    age_ms: 1000,
    idle_ms: 10,
    state: 'established',
    timing: {
      setup_us: 300,
      rtt_out_us: 200,
      rtt_in_us: 100,
      retransmissions_out: 0,
      retransmissions_in: 0,
      zero_windows_out: 0,
      zero_windows_in: 0,
    },
  }));
  const domains = Array.from({ length: VMS }, (_, index) => ({
    id: index + 1,
    name: `vm${String(index).padStart(3, '0')}`,
    uuid: '0e7c3c1a-0001-4f6e-9a1c-3a5b7c9d1e2f',
    state: 'running',
    mode: 'altp2m',
    problems: [],
    kernel: '6.1.0-50-cloud-amd64',
    vcpus: 2,
    processes: 20,
    connections: 10,
    flows: 10,
    vifs: [],
    addresses: [`10.1.0.${index}`],
    probes: [],
    traps: 1,
  }));
  const all = { since: now - 300, until: now, pairs, findings, folded: 0 };
  return {
    '/v1/signals': () => all,
    '/v1/flows': () => flows,
    '/v1/domains': () => domains,
    '/v1/threats': () => ({ threats: [], forgotten: 0, missed: 0 }),
  };
}
