//! Promotions that take longer than the request deadline.

use super::*;
use crate::support::app::png;
use crate::support::faults::{Action, Operation};

#[tokio::test]
async fn complete_answers_202_before_the_deadline() {
    let app = TestApp::behind_faults(&["--request-timeout=2s", "--complete-wait=1h", "--s3-timeout=30s"]).await;
    let plan = plan(&app, 100_000).await;
    put(&app, &plan, &png(100_000)).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    assert_eq!(answer(complete(&app, &plan).await, 202).await["state"], "verifying");
    app.faults().release();
    completed(&app, &plan).await;
    app.end(&[plan.key()]).await;
}
