// SPDX-License-Identifier: GPL-3.0-only
//! By what the programs of a rule are known: by their executable, and by user and container where these make a difference.
//!
//! Who runs it is asked where that was one user, as of services, or several who did not go to the same places. That it runs in a
//! container, or in none, is asked in guests that have containers, unless it did the same in both. A container's id is never asked:
//! it is another after each start.

use std::collections::{BTreeMap, BTreeSet};

use policy::Protocol;

use super::seen::{Process, Sorted, Taken};
use super::{Container, Groups, Options, Place, Program, Sample, Who};

/// More groups of users than this do not differ by what they are for.
const USERS: usize = 4;

/// A flow between ends as rules will know them.
#[derive(Debug, Clone)]
pub struct Edge<'f> {
    pub sample: Sample<'f>,
    pub from: Place<'f>,
    pub client: Who<'f>,
    pub to: Place<'f>,
    pub server: Who<'f>,
    pub protocol: Protocol,
    pub port: Option<u16>,
}

/// What it went to, as far as that tells users apart: addresses outside do not.
type Target<'f> = (Option<&'f str>, Protocol, Option<u16>);

/// The flows, with their programs.
pub fn edges<'f>(sorted: &Sorted<'f>, barred: &BTreeSet<&'f str>, options: &Options) -> Vec<Edge<'f>> {
    let clients = Clients::new(sorted, barred, options);
    let servers = Servers::new(sorted);
    let edge = |taken: &Taken<'f>| Edge {
        sample: taken.sample,
        from: taken.from,
        client: guest(taken.from)
            .zip(taken.client)
            .map(|(guest, process)| clients.program(guest, process)),
        to: taken.to,
        server: guest(taken.to)
            .zip(taken.server)
            .map(|(guest, process)| servers.program(guest, process)),
        protocol: taken.protocol,
        port: taken.port,
    };
    sorted.taken.iter().map(edge).collect()
}

fn guest<'f>(place: Place<'f>) -> Option<&'f str> {
    match place {
        Place::Guest(guest) => Some(guest),
        Place::Outside(_) => None,
    }
}

/// Where one process of a guest went.
type Went<'f> = BTreeMap<Process<'f>, BTreeSet<Target<'f>>>;

/// Programs that open flows.
struct Clients<'f>(BTreeMap<(&'f str, Process<'f>), Program<'f>>);

impl<'f> Clients<'f> {
    fn new(sorted: &Sorted<'f>, barred: &BTreeSet<&'f str>, options: &Options) -> Clients<'f> {
        let mut went: BTreeMap<(&'f str, Option<&'f str>), Went<'f>> = BTreeMap::new();
        for taken in &sorted.taken {
            let (Some(guest_of), Some(process)) = (guest(taken.from), taken.client) else {
                continue;
            };
            let target = (guest(taken.to), taken.protocol, taken.port);
            let of = went.entry((guest_of, process.exe)).or_default();
            of.entry(process).or_default().insert(target);
        }
        let mut programs = BTreeMap::new();
        for ((guest, exe), went) in went {
            let exact = options.exact || barred.contains(guest);
            let has_containers = sorted.contained.contains(guest);
            for (processes, container) in by_container(went, has_containers, exact) {
                for (processes, uids) in by_user(processes, exact || exe.is_none()) {
                    for process in processes {
                        let program = Program {
                            exe,
                            uids: uids.clone(),
                            container,
                        };
                        programs.insert((guest, process), program);
                    }
                }
            }
        }
        Clients(programs)
    }

    fn program(&self, guest: &'f str, process: Process<'f>) -> Program<'f> {
        // Every process that was taken has one.
        self.0.get(&(guest, process)).cloned().unwrap_or(Program {
            exe: process.exe,
            uids: vec![process.uid],
            container: Container::Either,
        })
    }
}

/// Apart by whether they run in a container, where that makes a difference.
fn by_container<'f>(went: Went<'f>, has_containers: bool, exact: bool) -> Vec<(Went<'f>, Container)> {
    if !has_containers {
        return vec![(went, Container::Either)];
    }
    let (inside, outside): (Went<'f>, Went<'f>) =
        went.into_iter().partition(|(process, _)| process.contained);
    if !exact && !inside.is_empty() && !outside.is_empty() && places(&inside) == places(&outside) {
        return vec![(inside.into_iter().chain(outside).collect(), Container::Either)];
    }
    let all = [(outside, Container::Outside), (inside, Container::Inside)];
    all.into_iter().filter(|(went, _)| !went.is_empty()).collect()
}

/// Apart by user, where that makes a difference; with `exact` always. Gives the users that are to be asked for: none means any.
/// A program of one user, as services are, is that user's; one that several run to go to the same places is anyone's.
fn by_user<'f>(went: Went<'f>, exact: bool) -> Vec<(Vec<Process<'f>>, Vec<u32>)> {
    let mut of_user: BTreeMap<u32, Went<'f>> = BTreeMap::new();
    for (process, targets) in went {
        of_user.entry(process.uid).or_default().insert(process, targets);
    }
    let of_one = of_user.len() == 1;
    let mut alike: Groups<BTreeSet<Target<'f>>, (u32, Vec<Process<'f>>)> = Groups::new();
    for (uid, went) in of_user {
        let processes = went.keys().copied().collect();
        alike.entry(places(&went)).or_default().push((uid, processes));
    }
    let differ = exact || of_one || (alike.len() > 1 && alike.len() <= USERS);
    let groups = alike.into_values().map(|users| {
        let (uids, processes): (Vec<u32>, Vec<Vec<Process<'f>>>) = users.into_iter().unzip();
        (processes.concat(), if differ { uids } else { Vec::new() })
    });
    groups.collect()
}

fn places<'f>(went: &Went<'f>) -> BTreeSet<Target<'f>> {
    went.values().flatten().copied().collect()
}

/// Programs that flows go to, by whether they were seen inside and outside of containers.
struct Servers<'f>(BTreeMap<(&'f str, Option<&'f str>), (bool, bool)>);

impl<'f> Servers<'f> {
    fn new(sorted: &Sorted<'f>) -> Servers<'f> {
        let mut servers: BTreeMap<_, (bool, bool)> = BTreeMap::new();
        for taken in &sorted.taken {
            if let (Some(guest), Some(process)) = (guest(taken.to), taken.server)
                && sorted.contained.contains(guest)
            {
                let seen = servers.entry((guest, process.exe)).or_default();
                seen.0 |= process.contained;
                seen.1 |= !process.contained;
            }
        }
        Servers(servers)
    }

    fn program(&self, guest: &'f str, process: Process<'f>) -> Program<'f> {
        let container = match self.0.get(&(guest, process.exe)) {
            Some((true, false)) => Container::Inside,
            Some((false, true)) => Container::Outside,
            _ => Container::Either,
        };
        Program {
            exe: process.exe,
            // A server is known by its program and port; what has no executable, such as the kernel, by its user at least.
            uids: match process.exe {
                Some(_) => Vec::new(),
                None => vec![process.uid],
            },
            container,
        }
    }
}
