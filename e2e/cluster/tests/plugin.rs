//! The promises of the plugin in a cluster, one test each. They run the binary that `AIPROF` names.

mod harness;

use harness::{Namespace, stderr, stdout};

#[test]
fn the_plugin_runs_beside_a_cluster() {
    if std::env::var_os("AIPROF").is_none() {
        println!("left out: AIPROF names no plugin");
        return;
    }
    let namespace = Namespace::new();
    let output = namespace.aiprof_command([]).arg("--help").output().expect("the plugin runs");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("record"), "{}", stdout(&output));
}
