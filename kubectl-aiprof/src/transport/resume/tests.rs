//! Sessions that break at every moment, told by the clock.

use aiprof_capture::frame::Encoder;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn request() -> Request {
    Request {
        protocol: PROTOCOL_VERSION,
        pids: vec![],
        container_id: None,
        processes: vec![],
        duration_ms: Some(1_000),
        frequency_hz: 99,
        collect: vec![],
        syscall_min_ns: 0,
    }
}

/// A line that only a capture says.
const STARTED: &[u8] = b"{\"event\":\"started\",\"duration_ms\":null,\"processes\":1,\"threads\":1}\n";

fn broken() -> Break {
    Break::Broken("reset".to_owned())
}

/// A capture whose first session is open since time 0.
fn open() -> Resume {
    let mut resume = Resume::new("c1".to_owned());
    resume.request(request(), ms(0));
    let Step::Open(attach) = resume.step(ms(0)) else { panic!("{resume:?}") };
    assert_eq!((attach.from, attach.capture.as_str()), (0, "c1"));
    assert_eq!(attach.request, Some(request()));
    resume.opened(ms(0));
    resume
}

/// Waits until a session is to be opened, the pod being alive; gives its first line and the time.
fn reopened(resume: &mut Resume, mut now: Duration) -> (Attach, Duration) {
    loop {
        match resume.step(now) {
            Step::Look => resume.looked(Look::Alive),
            Step::Wait(until) => {
                assert!(until > now, "{resume:?}");
                now = until;
            }
            Step::Open(attach) => return (*attach, now),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_session_goes_on_where_the_last_one_broke() {
    let mut resume = open();
    resume.capture_bytes(&[0; 10], ms(100));
    for (received, at) in [(10, 200), (17, 2_000), (24, 9_000)] {
        resume.broken(broken(), ms(at));
        let (attach, now) = reopened(&mut resume, ms(at));
        assert_eq!((attach.from, attach.request), (received, None));
        assert!(now <= ms(at + 400), "{now:?}");
        resume.opened(now);
        resume.capture_bytes(&[0; 7], now);
    }
}

#[test]
fn a_capture_that_never_showed_itself_is_asked_for_again() {
    let mut resume = open();
    resume.broken(broken(), ms(10));
    let (attach, _) = reopened(&mut resume, ms(10));
    assert_eq!((attach.from, attach.request), (0, Some(request())));
}

#[test]
fn whoever_waits_for_another_capture_asks_again_and_is_not_impatient() {
    let mut resume = open();
    // Each second something arrives, in pieces, but nothing of a capture of its own.
    let note = b"{\"event\":\"note\",\"message\":\"waiting 15 s for a capture whose plugin has gone\"}\n";
    resume.progress_bytes(&note[..20], ms(10));
    resume.progress_bytes(&note[20..], ms(20));
    for second in 1..60 {
        let now = ms(second * 1_000);
        resume.progress_bytes(b"\n", now);
        while matches!(resume.step(now), Step::Send(AttachControl::Held { bytes: 0 })) {}
        assert!(matches!(resume.step(now), Step::Wait(until) if until > now), "{resume:?}");
    }
    resume.broken(broken(), ms(60_000));
    let (attach, now) = reopened(&mut resume, ms(60_000));
    assert_eq!((attach.from, attach.request), (0, Some(request())));
    resume.opened(now);
    let (first, rest) = STARTED.split_at(30);
    resume.progress_bytes(&[note, first].concat(), now);
    resume.progress_bytes(rest, now);
    resume.broken(broken(), now);
    let (attach, _) = reopened(&mut resume, now);
    assert_eq!((attach.from, attach.request), (0, None));
}

#[test]
fn what_arrived_is_told_at_most_each_second_and_at_least_each_five() {
    let mut resume = open();
    resume.capture_bytes(&[0; 10], ms(100));
    assert_eq!(resume.step(ms(100)), Step::Wait(ms(1_000)));
    assert_eq!(resume.step(ms(1_000)), Step::Send(AttachControl::Held { bytes: 10 }));
    assert_eq!(resume.step(ms(1_000)), Step::Wait(ms(6_000)));
    resume.progress_bytes(STARTED, ms(5_000));
    assert_eq!(resume.step(ms(6_000)), Step::Send(AttachControl::Held { bytes: 10 }));
}

#[test]
fn pauses_grow_and_then_it_is_given_up_in_one_sentence() {
    let mut resume = open();
    resume.capture_bytes(&[0; 1], ms(0));
    let (mut now, mut pauses) = (ms(0), vec![]);
    let ended = loop {
        resume.broken(broken(), now);
        let begun = now;
        let ended = loop {
            match resume.step(now) {
                Step::Look => resume.looked(Look::Unknown("no route".to_owned())),
                Step::Wait(until) => now = until,
                Step::Open(_) => break None,
                Step::Done(ended) => break Some(ended),
                other => panic!("{other:?}"),
            }
        };
        pauses.push(now.saturating_sub(begun));
        if let Some(ended) = ended {
            break ended;
        }
    };
    assert_eq!(ended, Ended::Lost("nothing arrived from the pod for 60 s (no route)".to_owned()));
    assert!(pauses[0] >= ms(200) && pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
    assert!(now >= GIVE_UP && now <= GIVE_UP + LONGEST_PAUSE, "{now:?}");
}

#[test]
fn a_pod_that_is_gone_ends_it_at_once() {
    let mut resume = open();
    resume.broken(broken(), ms(10));
    assert_eq!(resume.step(ms(10)), Step::Look);
    resume.looked(Look::Gone("pod a was deleted".to_owned()));
    assert_eq!(resume.step(ms(20)), Step::Done(Ended::Lost("pod a was deleted".to_owned())));
}

#[test]
fn a_silent_session_is_opened_anew() {
    let mut resume = open();
    resume.progress_bytes(STARTED, ms(100));
    let mut now = ms(100);
    while now < ms(20_100) {
        match resume.step(now) {
            Step::Wait(until) => now = until,
            Step::Send(AttachControl::Held { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(resume.step(now), Step::Close);
    assert_eq!(reopened(&mut resume, now).0.from, 0);
}

#[test]
fn the_end_is_answered_with_leave_and_needs_no_status() {
    let end = Encoder::new().frame(FrameKind::End, b"");
    let mut resume = open();
    resume.capture_bytes(&end, ms(10));
    assert_eq!(resume.step(ms(10)), Step::Send(AttachControl::Leave));
    assert_eq!(resume.step(ms(10)), Step::Wait(ms(1_510)));
    resume.broken(broken(), ms(20));
    assert_eq!(resume.step(ms(20)), Step::Done(Ended::Exited(0)));

    let mut resume = open();
    resume.capture_bytes(&end, ms(10));
    resume.step(ms(10));
    assert_eq!(resume.step(ms(1_510)), Step::Done(Ended::Exited(0)));
}

#[test]
fn a_profiler_that_failed_is_not_asked_again() {
    let mut resume = open();
    resume.progress_bytes(STARTED, ms(5));
    resume.broken(Break::Exited(1), ms(10));
    assert_eq!(resume.step(ms(10)), Step::Done(Ended::Exited(1)));

    let mut resume = open();
    resume.broken(Break::Exited(137), ms(10));
    assert_eq!(resume.step(ms(10)), Step::Look);

    let mut resume = open();
    resume.broken(Break::Refused("cannot run x".to_owned()), ms(10));
    assert_eq!(resume.step(ms(10)), Step::Done(Ended::Lost("cannot run x".to_owned())));
}

#[test]
fn a_stop_is_said_on_each_session() {
    let mut resume = open();
    resume.progress_bytes(STARTED, ms(5));
    resume.stop();
    assert_eq!(resume.step(ms(10)), Step::Send(AttachControl::Stop));
    assert!(matches!(resume.step(ms(10)), Step::Wait(_)));
    resume.broken(broken(), ms(20));
    let (_, now) = reopened(&mut resume, ms(20));
    resume.opened(now);
    assert_eq!(resume.step(now), Step::Send(AttachControl::Stop));
}

#[test]
fn giving_up_is_said_if_it_can_be() {
    let mut resume = open();
    resume.leave();
    assert_eq!(resume.step(ms(10)), Step::Send(AttachControl::Leave));
    resume.broken(broken(), ms(20));
    assert!(matches!(resume.step(ms(20)), Step::Done(Ended::Unknown(_))));

    let mut resume = open();
    resume.broken(broken(), ms(10));
    resume.leave();
    assert!(matches!(resume.step(ms(20)), Step::Done(Ended::Unknown(_))));
}
