use super::*;

const VERSION: &str = "1.2.3";

fn samples(text: &str, prefix: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
}

#[track_caller]
fn assert_sample(text: &str, sample: &str) {
    assert!(text.lines().any(|line| line == sample), "no line {sample:?} in\n{text}");
}

#[test]
fn every_metric_has_its_name() {
    let metrics = Metrics::new(VERSION);
    metrics.probe_done("tcp", &Outcome::Success, Duration::from_millis(1));
    metrics.reconcile_failed("apply");
    metrics.api_write("endpointslice");
    metrics.repair("service");
    let text = metrics.encode();
    for sample in [
        "endpoints_operator_build_info{version=\"1.2.3\"} 1",
        "endpoints_operator_probes_total{kind=\"tcp\",outcome=\"success\"} 1",
        "endpoints_operator_probes_total{kind=\"tcp\",outcome=\"failure\"} 0",
        "endpoints_operator_probe_failures_total{kind=\"tcp\",reason=\"ConnectionRefused\"} 0",
        "endpoints_operator_probe_duration_seconds_count{kind=\"tcp\"} 1",
        "endpoints_operator_transitions_total{to=\"Unhealthy\"} 0",
        "endpoints_operator_targets{verdict=\"Unknown\"} 0",
        "endpoints_operator_schedule_lag_seconds_count 0",
        "endpoints_operator_probes_in_flight 0",
        "endpoints_operator_evictions_held_total{reason=\"OperatorBlind\"} 0",
        "endpoints_operator_blind 0",
        "endpoints_operator_dns_lookups_total{outcome=\"no_records\"} 0",
        "endpoints_operator_reconciles_total{result=\"refused\"} 0",
        "endpoints_operator_reconcile_errors_total{step=\"apply\"} 1",
        "endpoints_operator_reconcile_duration_seconds_count 0",
        "endpoints_operator_api_writes_total{object=\"endpointslice\"} 1",
        "endpoints_operator_write_delay_seconds_count 0",
        "endpoints_operator_leader 0",
        "endpoints_operator_lease_transitions_total 0",
        "endpoints_operator_repairs_total{object=\"service\"} 1",
        "endpoints_operator_events_dropped_total 0",
        "endpoints_operator_log_lines_dropped_total 0",
        "# UNIT endpoints_operator_probe_duration_seconds seconds",
    ] {
        assert_sample(&text, sample);
    }
    for process in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"]
    {
        assert_eq!(samples(&text, &format!("process_{process} ")).len(), 1, "{process} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
    assert!(!text.contains(".."), "a help text has two full stops:\n{text}");
}

#[test]
fn buckets_span_what_they_should() {
    let metrics = Metrics::new(VERSION);
    metrics.probe_done("tcp", &Outcome::Success, Duration::from_micros(700));
    metrics.lag(Duration::from_millis(3));
    metrics.write_delay(Duration::from_secs(20));
    let text = metrics.encode();
    assert_sample(&text, "endpoints_operator_probe_duration_seconds_bucket{le=\"0.0005\",kind=\"tcp\"} 0");
    assert_sample(&text, "endpoints_operator_probe_duration_seconds_bucket{le=\"0.001\",kind=\"tcp\"} 1");
    assert_sample(&text, "endpoints_operator_schedule_lag_seconds_bucket{le=\"0.0001\"} 0");
    assert_sample(&text, "endpoints_operator_schedule_lag_seconds_bucket{le=\"0.005\"} 1");
    assert_sample(&text, "endpoints_operator_write_delay_seconds_bucket{le=\"10.0\"} 0");
    assert_sample(&text, "endpoints_operator_write_delay_seconds_bucket{le=\"30.0\"} 1");
}

#[test]
fn outcomes_are_counted_by_reason() {
    let metrics = Metrics::new(VERSION);
    let took = Duration::from_millis(5);
    metrics.probe_done("https", &Outcome::failure(Reason::TlsFailed, "expired"), took);
    metrics.probe_done("https", &Outcome::failure(Reason::TlsFailed, "expired"), took);
    metrics.probe_done("https", &Outcome::unknown(Reason::SchedulerLate, "late"), took);
    metrics.probe_done("https", &Outcome::Success, took);
    let text = metrics.encode();
    assert_sample(&text, "endpoints_operator_probes_total{kind=\"https\",outcome=\"failure\"} 2");
    assert_sample(&text, "endpoints_operator_probes_total{kind=\"https\",outcome=\"unknown\"} 1");
    assert_sample(&text, "endpoints_operator_probes_total{kind=\"https\",outcome=\"success\"} 1");
    assert_sample(&text, "endpoints_operator_probe_failures_total{kind=\"https\",reason=\"TlsFailed\"} 2");
    assert_sample(
        &text,
        "endpoints_operator_probe_failures_total{kind=\"https\",reason=\"SchedulerLate\"} 1",
    );
    assert_eq!(samples(&text, "endpoints_operator_probes_total").len(), 3, "one kind is in use");
}

#[test]
fn reasons_and_verdicts_stand_at_their_index() {
    for (index, reason) in REASONS.iter().enumerate() {
        assert_eq!(*reason as usize, index);
    }
    for (index, verdict) in VERDICTS.iter().enumerate() {
        assert_eq!(*verdict as usize, index);
    }
    let metrics = Metrics::new(VERSION);
    metrics.transition(Verdict::Unhealthy);
    metrics.targets(5, 2, 1);
    let text = metrics.encode();
    assert_sample(&text, "endpoints_operator_transitions_total{to=\"Unhealthy\"} 1");
    assert_sample(&text, "endpoints_operator_targets{verdict=\"Healthy\"} 5");
    assert_sample(&text, "endpoints_operator_targets{verdict=\"Unhealthy\"} 2");
    assert_sample(&text, "endpoints_operator_targets{verdict=\"Unknown\"} 1");
}

#[test]
fn a_probe_is_in_flight_until_its_guard_goes() {
    let metrics = Metrics::new(VERSION);
    let first = metrics.probe_started();
    let second = metrics.probe_started();
    assert_sample(&metrics.encode(), "endpoints_operator_probes_in_flight 2");
    drop(first);
    assert_sample(&metrics.encode(), "endpoints_operator_probes_in_flight 1");
    drop(second);
    assert_sample(&metrics.encode(), "endpoints_operator_probes_in_flight 0");
}

#[test]
fn each_change_of_the_lease_counts_once() {
    let metrics = Metrics::new(VERSION);
    for leader in [false, true, true, false] {
        metrics.leader(leader);
    }
    assert_sample(&metrics.encode(), "endpoints_operator_lease_transitions_total 2");
    assert_sample(&metrics.encode(), "endpoints_operator_leader 0");
}

#[test]
fn label_values_are_bounded() {
    let metrics = Metrics::new(VERSION);
    for n in 0..500 {
        let word: &'static str = Box::leak(format!("w{n}").into_boxed_str());
        metrics.probe_done(word, &Outcome::Success, Duration::ZERO);
        metrics.reconcile_failed(word);
        metrics.api_write(word);
        metrics.repair(word);
    }
    let text = metrics.encode();
    assert_sample(&text, "endpoints_operator_probes_total{kind=\"other\",outcome=\"success\"} 500");
    assert_eq!(samples(&text, "endpoints_operator_probes_total").len(), 3);
    for name in ["reconcile_errors", "api_writes", "repairs"] {
        let series = samples(&text, &format!("endpoints_operator_{name}_total"));
        assert_eq!(series.len(), MOST_SERIES + 1, "{name}");
    }
    assert_sample(&text, "endpoints_operator_repairs_total{object=\"other\"} 468");
}

#[test]
fn what_is_expected_stands_at_zero() {
    let metrics = Metrics::new(VERSION);
    metrics.reconcile_failed("apply");
    metrics.expect(&["apply", "status"], &["service"]);
    let text = metrics.encode();
    for sample in [
        "endpoints_operator_reconcile_errors_total{step=\"apply\"} 1",
        "endpoints_operator_reconcile_errors_total{step=\"status\"} 0",
        "endpoints_operator_api_writes_total{object=\"service\"} 0",
        "endpoints_operator_repairs_total{object=\"service\"} 0",
    ] {
        assert_sample(&text, sample);
    }
}

#[test]
fn the_rest_counts() {
    let metrics = Metrics::new(VERSION);
    metrics.blind(true);
    metrics.eviction_held(Reason::OperatorBlind);
    metrics.dns_lookup(DnsOutcome::NoRecords);
    metrics.reconcile_done(ReconcileResult::Refused, Duration::from_millis(20));
    metrics.event_dropped();
    let text = metrics.encode();
    assert_sample(&text, "endpoints_operator_blind 1");
    assert_sample(&text, "endpoints_operator_evictions_held_total{reason=\"OperatorBlind\"} 1");
    assert_sample(&text, "endpoints_operator_dns_lookups_total{outcome=\"no_records\"} 1");
    assert_sample(&text, "endpoints_operator_reconciles_total{result=\"refused\"} 1");
    assert_sample(&text, "endpoints_operator_reconcile_duration_seconds_count 1");
    assert_sample(&text, "endpoints_operator_events_dropped_total 1");
}
