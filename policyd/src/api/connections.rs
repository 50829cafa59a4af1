// SPDX-License-Identifier: GPL-3.0-only
//! How many connections callers may have open: one that opens many and says nothing is not to take those of the others, nor the
//! daemon's descriptors.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::limits::Caller;
use super::peer::Peer;
use crate::registry::lock;

/// Of one caller.
const OF_ONE: usize = 64;
/// Of all callers but root; a process has 1024 descriptors unless told otherwise.
const OF_ALL: usize = 256;

/// A stream whose other end is known.
pub trait Known {
    /// Who is there.
    fn peer(&self) -> Peer;
}

/// How many connections each caller has.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<Mutex<HashMap<Caller, usize>>>);

/// A place in the room, until it is dropped.
#[derive(Debug)]
struct Place {
    room: Room,
    /// None: root, who needs none.
    caller: Option<Caller>,
}

impl Room {
    /// A place for this caller; none if it has too many, or all have.
    fn enter(&self, caller: Caller) -> Option<Place> {
        let place = |caller| Place {
            room: self.clone(),
            caller,
        };
        if caller == Caller::User(0) {
            return Some(place(None));
        }
        let mut callers = lock(&self.0);
        let all: usize = callers.values().sum();
        let own = callers.get(&caller).copied().unwrap_or(0);
        if all >= OF_ALL || own >= OF_ONE {
            return None;
        }
        callers.insert(caller.clone(), own + 1);
        Some(place(Some(caller)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(caller) = &self.caller else { return };
        let mut callers = lock(&self.room.0);
        if let Some(own) = callers.get_mut(caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                callers.remove(caller);
            }
        }
    }
}

/// A listener whose connections are counted.
pub struct Bounded<L> {
    listener: L,
    room: Room,
}

impl<L> Bounded<L> {
    /// Those of `listener`, beside all others that are in `room`.
    pub fn new(listener: L, room: &Room) -> Bounded<L> {
        Bounded {
            listener,
            room: room.clone(),
        }
    }
}

/// A connection that has a place.
pub struct Connection<S> {
    stream: S,
    peer: Peer,
    _place: Place,
}

impl<L> Listener for Bounded<L>
where
    L: Listener,
    L::Io: Known,
{
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await;
            let peer = stream.peer();
            match self.room.enter((&peer).into()) {
                Some(place) => {
                    let connection = Connection {
                        stream,
                        peer,
                        _place: place,
                    };
                    return (connection, address);
                }
                None => log::debug!("a connection of {peer:?} is closed: too many are open"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl<L> Connected<IncomingStream<'_, Bounded<L>>> for Peer
where
    L: Listener,
    L::Io: Known,
{
    fn connect_info(stream: IncomingStream<'_, Bounded<L>>) -> Peer {
        stream.io().peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_others() {
        let room = Room::default();
        let enter = |uid| room.enter(Caller::User(uid));
        let mut own: Vec<_> = (0..OF_ONE).map(|_| enter(7).expect("a place")).collect();
        assert!(enter(7).is_none());
        assert!(enter(8).is_some());
        own.pop();
        assert!(enter(7).is_some());
        let mut all = Vec::new();
        for uid in 100.. {
            match enter(uid) {
                Some(place) => all.push(place),
                None => break,
            }
        }
        assert_eq!(own.len() + all.len(), OF_ALL);
        let root: Vec<_> = (0..OF_ALL).map_while(|_| enter(0)).collect();
        assert_eq!(root.len(), OF_ALL, "root is kept out");
        drop((own, all));
        assert!(lock(&room.0).is_empty());
    }
}
