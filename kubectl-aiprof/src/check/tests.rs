//! What is checked through the API alone, against a server in memory.

use serde_json::{Value, json};

use super::*;
use crate::{
    check::verdict::Verdict,
    cluster::client::tests::{cluster_that_answers, props, target},
};

async fn admitted(status: u16, message: &'static str) -> Row {
    let cluster = cluster_that_answers(move |asked| {
        assert!(asked.query.contains("dryRun=All"), "{asked:?}");
        let object: Value = match status {
            200 => json!({"metadata": {"name": "vllm-0"}}),
            _ => json!({"kind": "Status", "status": "Failure", "code": status, "message": message}),
        };
        (status, object)
    });
    admission(&cluster, &props(), &target()).await.unwrap()
}

#[tokio::test]
async fn a_dry_run_tells_what_admission_would_say() {
    assert_eq!(admitted(200, "").await.verdict, Verdict::Works);
    let row = admitted(403, "pods \"vllm-0\" is forbidden: violates PodSecurity \"baseline:latest\": x=y").await;
    assert_eq!(row.because, "Pod Security level \"baseline:latest\" refuses x=y");
    assert!(row.fix.contains("enforce=privileged"));
    let row = admitted(403, "pods \"vllm-0\" is forbidden: User \"eve\" cannot patch resource").await;
    assert!(row.because.contains("User \"eve\" cannot patch") && row.fix.contains("Role"), "{row:?}");
    let row = admitted(403, "admission webhook \"p\" denied the request: no").await;
    assert!(row.because.contains("webhook") && row.verdict == Verdict::Refused, "{row:?}");
}
