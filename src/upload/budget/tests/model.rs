//! Simulates many uploads at once in virtual time.

use super::*;
use proptest::prelude::*;

/// One simulated upload. All times are in virtual milliseconds.
#[derive(Clone, Debug)]
struct Client {
    parts: u8,
    start: u64,
    /// Time in which the client fills a part.
    fill_time: u64,
    /// Time in which the store stores a part.
    store_time: u64,
    /// Index of the part after which the client disconnects.
    disconnect_after: Option<u8>,
}

impl Client {
    /// Runs the upload to its end. Returns false if it was rejected.
    async fn upload(self, budget: Arc<Budget>) -> bool {
        sleep(self.start).await;
        let Some(mut reservation) = budget.admit(None).await.unwrap() else { return false };
        let mut sending = tokio::task::JoinSet::new();
        for part in 0..self.parts {
            let mut buffer = reservation.next().await;
            sleep(self.fill_time).await;
            buffer.append(Bytes::from_static(&[7; PART])).await.unwrap();
            reservation.filled();
            if self.disconnect_after == Some(part) {
                return true;
            }
            let part = buffer.freeze();
            sending.spawn(async move {
                sleep(self.store_time).await;
                assert_eq!(bytes(&part).await.len(), PART);
            });
        }
        drop(reservation);
        sending.join_all().await;
        true
    }

    /// The time at which the upload would end with one slot and without other uploads.
    fn end_if_alone(&self) -> u64 {
        self.start + u64::from(self.parts) * (self.fill_time + self.store_time)
    }
}

fn client() -> impl Strategy<Value = Client> {
    let slow = prop_oneof![3 => 0..50_u64, 1 => 10_000..1_000_000_u64];
    (1..6_u8, 0..100_u64, slow.clone(), slow, prop::option::weighted(0.2, 0..6_u8)).prop_map(
        |(parts, start, fill_time, store_time, disconnect_after)| Client {
            parts,
            start,
            fill_time,
            store_time,
            disconnect_after,
        },
    )
}

proptest! {
    /// An upload waits only for its client and its own calls. Alongside any number of other uploads it takes no longer
    /// than with one slot and alone, and the whole budget is free when all uploads have ended.
    #[test]
    fn uploads_never_wait_for_each_other(
        clients in prop::collection::vec(client(), 1..20),
        memory in 1..6_u64,
        max_parts in 1..5_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let budget = budget(memory, max_parts);
            let began = tokio::time::Instant::now();
            let mut running = tokio::task::JoinSet::new();
            for client in clients {
                let budget = Arc::clone(&budget);
                running.spawn(async move {
                    // Each timer has a resolution of one millisecond.
                    let bound = Duration::from_millis(client.end_if_alone() + 2 * u64::from(client.parts) + 2);
                    let admitted = client.upload(budget).await;
                    assert!(!admitted || began.elapsed() <= bound, "{:?} of {bound:?}", began.elapsed());
                });
            }
            let ended = tokio::time::timeout(Duration::from_secs(1 << 20), running.join_all()).await;
            assert!(ended.is_ok(), "deadlock");
            assert_eq!(budget.used().0, 0);
        });
    }
}
