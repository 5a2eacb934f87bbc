//! Which connections are served at once, and which wait.
//!
//! Clients may fill every place there is with uploads that do not move. Whoever asks then whether the process is alive (a
//! container's health check) must still be answered, or a healthy process is killed: so a few places more are for this
//! machine. Who a connection comes from shows only once it is accepted, so those that wait are accepted, too.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Peer;

/// Places for connections from this machine that find no other.
const RESERVED: usize = 8;

/// A connection is served while it has one.
pub(super) type Place = OwnedSemaphorePermit;

#[derive(Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    /// Connections that may wait for a place.
    may_wait: usize,
}

impl Places {
    pub(super) fn new(places: usize, may_wait: usize) -> Self {
        Places { all: Arc::new(Semaphore::new(places)), reserved: Arc::new(Semaphore::new(RESERVED)), may_wait }
    }

    /// Whether `peer` may wait where `waiting` do. However many others wait, this machine may.
    pub(super) fn has_room(&self, peer: Peer, waiting: usize) -> bool {
        waiting < self.may_wait + if peer.is_loopback() { RESERVED } else { 0 }
    }

    /// A place for `peer`, once there is one: first come, first served.
    pub(super) async fn take(self, peer: Peer) -> Option<Place> {
        if !peer.is_loopback() {
            return self.all.acquire_owned().await.ok();
        }
        tokio::select! {
            biased;
            place = self.all.acquire_owned() => place.ok(),
            place = self.reserved.acquire_owned() => place.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::net::{IpAddr, Ipv4Addr};

    const HERE: Peer = Peer(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const ELSEWHERE: Peer = Peer(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));

    fn at_once(places: &Places, peer: Peer) -> Option<Place> {
        places.clone().take(peer).now_or_never().flatten()
    }

    #[test]
    fn a_few_more_places_are_for_this_machine_alone() {
        let places = Places::new(2, 0);
        let mut taken: Vec<Place> = (0..2).map(|_| at_once(&places, ELSEWHERE).unwrap()).collect();
        assert!(at_once(&places, ELSEWHERE).is_none());
        taken.extend((0..RESERVED).map(|_| at_once(&places, HERE).unwrap()));
        assert!(at_once(&places, HERE).is_none());
        drop(taken.pop());
        assert!(at_once(&places, ELSEWHERE).is_none(), "it was a reserved one");
        assert!(at_once(&places, HERE).is_some());
    }

    #[test]
    fn while_there_are_others_no_reserved_one_is_taken() {
        let places = Places::new(1, 0);
        let first = at_once(&places, HERE).unwrap();
        assert_eq!(places.reserved.available_permits(), RESERVED);
        drop(first);
        assert!(at_once(&places, ELSEWHERE).is_some());
    }

    #[test]
    fn who_came_first_is_served_first() {
        let places = Places::new(1, 2);
        let held = at_once(&places, ELSEWHERE);
        let (mut first, mut second) =
            (Box::pin(places.clone().take(ELSEWHERE)), Box::pin(places.clone().take(ELSEWHERE)));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(held);
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut first).now_or_never().flatten().is_some());
        assert!((&mut second).now_or_never().flatten().is_some());
    }

    #[test]
    fn those_who_wait_are_bounded_and_leave_room_for_this_machine() {
        let places = Places::new(1, 3);
        assert!(places.has_room(ELSEWHERE, 2) && !places.has_room(ELSEWHERE, 3));
        assert!(places.has_room(HERE, 2 + RESERVED) && !places.has_room(HERE, 3 + RESERVED));
    }
}
