// SPDX-License-Identifier: GPL-3.0-only
//! Events by one buffer a CPU, for kernels without a BPF ring buffer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use aya::util::online_cpus;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::events::Report;

/// The smallest page that Linux has: where they are larger, so are the buffers.
const PAGE: usize = 4096;

/// The buffers of all CPUs that were online when it was opened, and one descriptor for all.
pub(crate) struct PerfReader {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    epoll: Epoll,
    ready: VecDeque<Report>,
}

impl PerfReader {
    /// `bytes`: of all buffers together, about.
    pub(crate) fn open(mut array: PerfEventArray<MapData>, bytes: u32) -> io::Result<Self> {
        let cpus = online_cpus().map_err(|(file, e)| io::Error::new(e.kind(), format!("{file}: {e}")))?;
        let pages = (bytes as usize / PAGE / cpus.len().max(1))
            .max(1)
            .next_power_of_two();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut buffers = Vec::new();
        for cpu in cpus {
            let buffer = array.open(cpu, Some(pages)).map_err(io::Error::other)?;
            epoll.add(&buffer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            buffers.push(buffer);
        }
        Ok(Self {
            buffers,
            epoll,
            ready: VecDeque::new(),
        })
    }

    /// The next one; `None`: none now.
    pub(crate) fn next(&mut self) -> Option<Report> {
        if self.ready.is_empty() {
            let mut found = Vec::new();
            for buffer in &mut self.buffers {
                buffer.for_each(|event| found.extend(read(&event)));
            }
            // Stable: a frame comes before the report that it is of.
            found.sort_by_key(Report::ns);
            self.ready = found.into();
        }
        self.ready.pop_front()
    }
}

impl AsFd for PerfReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// `None` for a word of the kernel on lost ones: the programs count those themselves.
fn read(event: &PerfEvent<'_>) -> Option<Report> {
    match event {
        PerfEvent::Sample { head, tail: [] } => Report::from_record(head),
        PerfEvent::Sample { head, tail } => Report::from_record(&[*head, *tail].concat()),
        PerfEvent::Lost { .. } => None,
    }
}
