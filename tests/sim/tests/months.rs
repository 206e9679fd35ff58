//! A fortnight of a made trace, and traces from files.

use sim::months::{Policy, play};
use sim::trace::{Trace, busy_slots, made, nightly_sweep};

const GB: u64 = 1_000_000_000;

#[test]
fn a_fortnight_on_a_tight_disk_fails_no_run_and_pulls_no_more_than_others() {
    let trace = made(14, 12, 3);
    let of = |policy| play(&trace, 20 * GB, policy);
    let (ours, nothing, all) = (of(Policy::Ours), of(Policy::Nothing), of(Policy::SystemPruneAll));
    assert!(nothing.failed > 0, "the disk is tight: {nothing:?}");
    assert_eq!(ours.failed, 0, "{ours:?}");
    assert!(ours.pulled_again * 4 < all.pulled_again, "{ours:?} {all:?}");
    assert!(ours.pulled >= of(Policy::Bound).pulled && ours.peak < 100, "{ours:?}");
}

/// The image that was used longest ago is the next to be used.
#[test]
fn a_nightly_sweep_keeps_what_it_is_about_to_use() {
    let trace = nightly_sweep(40, 8, 5);
    let of = |policy| play(&trace, 10 * GB, policy);
    let (ours, kubelet, bound) = (of(Policy::Ours), of(Policy::Kubelet), of(Policy::Bound));
    assert_eq!((ours.failed, kubelet.failed, bound.failed), (0, 0, 0));
    assert!(
        ours.pulled * 10 < kubelet.pulled * 6 && ours.pulled >= bound.pulled,
        "{ours:?} {kubelet:?} {bound:?}"
    );
}

/// No gap is left between the runs of two slots: without `inhibit`, or consent to evictions beside runs, there is never a
/// moment for a prune. A prune that runs let go first for as long as they last always has its turn.
#[test]
fn on_a_host_that_is_never_idle_runs_that_queue_behind_prunes_do_not_fail() {
    let trace = busy_slots(2, 36, 7);
    let of = |policy| play(&trace, 16 * GB, policy);
    let (alone, queued, beside) =
        (of(Policy::Ours), of(Policy::OursInhibited(20)), of(Policy::OursDuringRuns));
    assert!(alone.failed > 0 && alone.waited == 0, "{alone:?}");
    assert_eq!((queued.failed, beside.failed), (0, 0), "{queued:?} {beside:?}");
    // Nobody waits for longer than the longest run, and few wait at all.
    assert!(queued.longest_wait <= 1_200_100 && queued.waited < queued.runs as u64 * 180_000, "{queued:?}");
}

#[test]
fn a_trace_is_read_from_lines_and_a_wrong_line_is_named() {
    let line = |time: &str, digest: &str| {
        format!(
            r#"{{"time": "{time}", "run": "a", "minutes": 5, "images": [{{"name": "db:1", "digest": "{digest}", "layers": [{{"id": "x", "bytes": 1000}}]}}]}}"#
        )
    };
    let text =
        [line("2026-11-20T09:00:00Z", "sha256:a"), line("2026-11-20T10:00:00Z", "sha256:b")].join("\n");
    let trace = Trace::read(&text).unwrap();
    assert_eq!(trace.runs.len(), 2);
    assert_eq!(trace.runs[1].at, 3_600_000);
    assert_eq!(trace.images["a"].reference, "db:1@sha256:a");
    let tally = play(&trace, GB, Policy::Ours);
    // The second image has the same layer.
    assert_eq!((tally.runs, tally.pulls, tally.pulled), (2, 2, 1000));
    for wrong in ["{", &line("yesterday", "sha256:a"), &format!("{text}\n{{}}")] {
        let error = format!("{:#}", Trace::read(wrong).unwrap_err());
        assert!(error.starts_with("line "), "{error}");
    }
    let back =
        [line("2026-11-20T09:00:00Z", "sha256:a"), line("2026-11-20T08:00:00Z", "sha256:b")].join("\n");
    assert!(format!("{:#}", Trace::read(&back).unwrap_err()).contains("time goes back"));
}
