//! Crowds of uploads in virtual time.

use super::*;
use proptest::prelude::*;

/// One upload of the model: its client's pace and the store's, in virtual milliseconds.
#[derive(Clone, Debug)]
struct Client {
    parts: u8,
    starts: u64,
    /// To fill a part.
    fills: u64,
    /// For the store to take one.
    takes: u64,
    /// Goes away after so many parts.
    leaves: Option<u8>,
}

impl Client {
    /// Resolves when it is over; false where it was refused.
    async fn upload(self, budget: Arc<Budget>) -> bool {
        sleep(self.starts).await;
        let Some(mut share) = budget.admit(None).await.unwrap() else { return false };
        let mut sending = tokio::task::JoinSet::new();
        for part in 0..self.parts {
            let mut buffer = share.next().await;
            sleep(self.fills).await;
            buffer.append(Bytes::from_static(&[7; PART])).await.unwrap();
            share.filled();
            if self.leaves == Some(part) {
                return true;
            }
            let part = buffer.freeze();
            sending.spawn(async move {
                sleep(self.takes).await;
                assert_eq!(bytes(&part).len(), PART);
            });
        }
        drop(share);
        sending.join_all().await;
        true
    }

    /// What it takes by itself, with one room and nobody beside it.
    fn alone(&self) -> u64 {
        self.starts + u64::from(self.parts) * (self.fills + self.takes)
    }
}

fn client() -> impl Strategy<Value = Client> {
    let slow = prop_oneof![3 => 0..50_u64, 1 => 10_000..1_000_000_u64];
    (1..6_u8, 0..100_u64, slow.clone(), slow, prop::option::weighted(0.2, 0..6_u8))
        .prop_map(|(parts, starts, fills, takes, leaves)| Client { parts, starts, fills, takes, leaves })
}

proptest! {
    /// An upload waits for its client and its own calls only: beside any crowd it takes no longer than with one room and
    /// nobody else, and nothing is held when all are over.
    #[test]
    fn nobody_waits_for_the_others(
        clients in prop::collection::vec(client(), 1..20),
        memory in 1..6_u64,
        at_once in 1..5_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let budget = budget(memory, at_once);
            let began = tokio::time::Instant::now();
            let mut running = tokio::task::JoinSet::new();
            for client in clients {
                let budget = Arc::clone(&budget);
                running.spawn(async move {
                    // Timers are a millisecond coarse, each of them.
                    let bound = Duration::from_millis(client.alone() + 2 * u64::from(client.parts) + 2);
                    let admitted = client.upload(budget).await;
                    assert!(!admitted || began.elapsed() <= bound, "{:?} of {bound:?}", began.elapsed());
                });
            }
            let over = tokio::time::timeout(Duration::from_secs(1 << 20), running.join_all()).await;
            assert!(over.is_ok(), "a deadlock");
            assert_eq!(budget.used().0, 0);
        });
    }
}
