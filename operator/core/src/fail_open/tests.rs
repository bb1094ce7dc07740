use proptest::prelude::*;

use super::*;
use crate::samples::{definition, snapshot, snapshots};

fn four(panic_threshold: u32, verdicts: &str) -> String {
    let hosts = "[10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]";
    let yaml = format!(
        "{{hosts: {hosts}, panicThreshold: {panic_threshold}, ports: [{{port: 80, tcpSocket: {{}}}}]}}"
    );
    let letter = |serving: Serving| match serving {
        Serving::Ready => 'r',
        Serving::Out => 'o',
        Serving::Unlisted => '-',
    };
    serve(&snapshot(&definition(&yaml), verdicts)).into_iter().map(letter).collect()
}

#[test]
fn verdicts_decide_until_too_few_are_healthy() {
    for (threshold, verdicts, expected) in [
        (0, "HHHH", "rrrr"),
        (0, "HUU?", "roo-"),
        (0, "UUUU", "oooo"),
        // The words of the API: with 50 and four hosts the third that fails brings all back.
        (50, "HHHU", "rrro"),
        (50, "HHUU", "rroo"),
        (50, "HUUU", "rrrr"),
        (50, "UUUU", "rrrr"),
        // As soon as one fails.
        (100, "HHHU", "rrrr"),
        (100, "HHHH", "rrrr"),
        // A percentage of those that have been judged.
        (50, "HU??", "ro--"),
        (50, "UU??", "rrrr"),
        (50, "????", "----"),
        (100, "H???", "r---"),
        (1, "UUUU", "rrrr"),
    ] {
        assert_eq!(four(threshold, verdicts), expected, "panicThreshold {threshold}, {verdicts}");
    }
}

#[test]
fn each_port_panics_for_itself() {
    let two = definition(
        "{hosts: [10.0.0.1, 10.0.0.2], panicThreshold: 60, ports: [{name: a, port: 1}, {name: b, port: 2}]}",
    );
    let state = snapshot(&two, "HUHH");
    assert_eq!(panicking_ports(&state), [true, false]);
    assert_eq!(serve(&state), [Serving::Ready; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Panic only ever adds; nothing without an address is listed; what is healthy is served.
    #[test]
    fn panic_only_adds(state in snapshots()) {
        let served = serve(&state);
        prop_assert_eq!(served.len(), state.endpoints.len());
        let mut calm = (*state.definition).clone();
        calm.panic_threshold = 0;
        let calm = serve(&Snapshot { definition: calm.into(), ..state.clone() });
        for ((endpoint, served), calm) in state.endpoints.iter().zip(served).zip(calm) {
            prop_assert_eq!(endpoint.address.is_none(), served == Serving::Unlisted && endpoint.address.is_none());
            prop_assert!(calm != Serving::Ready || served == Serving::Ready);
            if endpoint.address.is_some() && endpoint.verdict == Verdict::Healthy {
                prop_assert_eq!(served, Serving::Ready);
            }
        }
    }
}
