//! Command lines and what they mean.

use super::*;
use crate::{cluster::ImageSource, format::OutputFormat};

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
    assert!(text(&["svc/server"]).contains("\"svc\" has no pods"));
    assert!(text(&["pod/server", "-l", "a=b"]).contains("not both"));
    assert!(text(&["pod/server", "--", "x"]).contains("only with --local"));
    assert!(text(&["-n", "prod"]).contains("no pod: give a TARGET"));
    assert!(text(&["--local", "--pid", "1", "-n", "prod"]).contains("--namespace is for pods"));
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
    let props = record(&["--local", "--pid", "1", "--collect", "syscalls"]).unwrap();
    assert_eq!(props.collect, [Dimension::Syscalls]);
}

#[test]
fn the_length_of_a_long_system_call_is_the_requests_unless_given() {
    let props = record(&["--local", "--pid", "1"]).unwrap();
    assert_eq!(props.syscall_min.as_nanos(), u128::from(aiprof_capture::request::DEFAULT_SYSCALL_MIN_NS));
    let props = record(&["pod/x", "--syscall-min", "0s"]).unwrap();
    assert!(props.syscall_min.is_zero());
    assert!(record(&["pod/x", "--syscall-min", "2m"]).is_err());
}

#[test]
fn a_pod_is_recorded_for_half_a_minute_with_its_own_image() {
    let props = record(&["deploy/vllm", "-n", "prod", "-c", "server", "--process", "Engine"]).unwrap();
    assert_eq!(props.duration, Some(DEFAULT_DURATION));
    let Target::Pod { cluster, pids, processes } = props.target else { panic!("{:?}", props.target) };
    assert_eq!((cluster.target.to_string().as_str(), cluster.image), ("deploy/vllm", ImageSource::Auto));
    assert_eq!((cluster.namespace.as_deref(), cluster.container.as_deref()), (Some("prod"), Some("server")));
    assert_eq!((pids.len(), processes), (0, vec!["Engine".to_owned()]));
    let props = record(&["-l", "app=vllm", "--image", "r/p:1", "--privileged"]).unwrap();
    let Target::Pod { cluster, .. } = props.target else { panic!("{:?}", props.target) };
    assert_eq!((cluster.image, cluster.privileged), (ImageSource::Image("r/p:1".to_owned()), true));
}

#[test]
fn check_and_ps_take_a_pod_and_a_form() {
    let parse = |words: &[&str]| try_parse(["kubectl-aiprof"].iter().chain(words).map(OsString::from));
    let Ok(Invocation::Check(props)) = parse(&["check", "vllm-0", "-o", "json"]) else { panic!() };
    assert_eq!((props.cluster.target.to_string().as_str(), props.format), ("pod/vllm-0", OutputFormat::Json));
    let Ok(Invocation::Ps(props)) = parse(&["ps", "vllm-0"]) else { panic!() };
    assert_eq!(props.format, OutputFormat::Text);
    assert!(parse(&["check"]).unwrap_err().to_string().contains("no pod"));
}
