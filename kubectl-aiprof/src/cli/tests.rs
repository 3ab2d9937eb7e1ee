//! Command lines and what they mean.

use super::*;

fn record(arguments: &[&str]) -> Result<RecordProps, String> {
    let all = ["kubectl-aiprof", "record"].iter().chain(arguments).map(OsString::from);
    match try_parse(all) {
        Ok(Invocation::Record(props)) => Ok(props),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn clap_finds_no_fault_in_the_definitions() {
    Cli::command().debug_assert();
}

#[test]
fn durations_are_read_and_bounded() {
    for (text, milliseconds) in [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("24h", 86_400_000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "30", "-5s", "10ms", "25h", "99999999999999999999y"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn a_command_lasts_until_it_ends_and_a_process_half_a_minute() {
    assert_eq!(record(&["--local", "--", "python3", "a.py"]).unwrap().duration, None);
    assert_eq!(record(&["--local", "--pid", "7"]).unwrap().duration, Some(DEFAULT_DURATION));
    let props = record(&["--local", "-d", "10s", "--", "python3", "-c", "pass"]).unwrap();
    assert_eq!(props.duration, Some(Duration::from_secs(10)));
    let Target::Command { arguments, .. } = props.target else { panic!("{:?}", props.target) };
    assert_eq!(arguments, ["-c", "pass"]);
}

#[test]
fn what_cannot_be_recorded_is_said() {
    let text = |arguments: &[&str]| record(arguments).unwrap_err();
    assert!(text(&["pod/server"]).contains("records with --local only"));
    assert!(text(&["--local", "pod/server"]).contains("takes no TARGET"));
    assert!(text(&["--local"]).contains("nothing to record"));
    assert!(text(&[]).contains("nothing to record"));
    assert!(text(&["--local", "--pid", "1", "--", "x"]).contains("not together"));
    assert!(text(&["--local", "--pid", "0"]).contains("--pid"));
    assert!(text(&["--local", "--pid", "1", "--collect", "cuda"]).contains("cuda"));
    assert!(text(&[]).contains("Usage: kubectl aiprof record"), "{}", text(&[]));
}

#[test]
fn each_dimension_is_wanted_once() {
    let props = record(&["--local", "--pid", "1", "--collect", "cpu,python,cpu"]).unwrap();
    assert_eq!(props.collect, [Dimension::Python, Dimension::Cpu]);
}
