use proptest::prelude::*;

use super::*;
use crate::check::Host;
use crate::fail_open::serve;
use crate::health::Verdict;
use crate::samples::{definition, endpoint, ip, snapshot, snapshots};

fn of(snapshot: &Snapshot) -> Vec<Slice> {
    slices("db", snapshot, &serve(snapshot))
}

fn many(count: usize) -> Snapshot {
    let hosts: Vec<String> = (0..count).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let yaml =
        format!("{{hosts: [{}], ports: [{{name: web, port: 80, tcpSocket: {{}}}}]}}", hosts.join(", "));
    snapshot(&definition(&yaml), "H")
}

#[test]
fn a_slice_a_port_and_family_and_thousand() {
    let shop = definition(
        "{hosts: [10.0.0.1, fd00::1, 10.0.0.2], ports: [{name: a, port: 1, targetPort: 8080},
          {name: b, port: 2, protocol: UDP, hosts: [10.0.0.9]}]}",
    );
    let slices = of(&snapshot(&shop, "HHU"));
    let names: Vec<&str> = slices.iter().map(|slice| slice.name.as_str()).collect();
    assert_eq!(names, ["db.a-ipv4-0", "db.a-ipv6-0", "db.b-ipv4-0"]);
    assert_eq!(slices[0].endpoints, [(ip("10.0.0.1"), true), (ip("10.0.0.2"), false)]);
    assert_eq!((slices[0].port.number, slices[2].port.protocol), (8080, Protocol::Udp));
    assert_eq!(of(&many(1000)).len(), 1);
    let sizes: Vec<usize> = of(&many(2001)).iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [1000, 1000, 1]);
}

#[test]
fn a_verdict_moves_no_other_host_to_another_slice() {
    let before = many(2500);
    let mut after = before.clone();
    for n in [0, 999, 1000, 2499] {
        after.endpoints[n].verdict = Verdict::Unknown;
        after.endpoints[n + usize::from(n == 0)].verdict = Verdict::Unknown;
    }
    after.endpoints[1500].verdict = Verdict::Unhealthy;
    let place = |slices: &[Slice], address: IpAddr| {
        slices.iter().position(|slice| slice.endpoints.iter().any(|(a, _)| *a == address))
    };
    let (before, after) = (of(&before), of(&after));
    for (address, _) in after.iter().flat_map(|slice| &slice.endpoints) {
        assert_eq!(place(&before, *address), place(&after, *address), "{address}");
    }
    assert_eq!(after.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [997, 999, 499]);
}

#[test]
fn an_address_under_two_names_is_listed_once_and_served_if_either_says_so() {
    let two = definition("{hosts: [a.example, b.example], ports: [{port: 80, httpGet: {}}]}");
    let host = |n: usize| two.ports[0].hosts[n].clone();
    for (first, second, expected) in [
        (Verdict::Unhealthy, Verdict::Healthy, vec![true]),
        (Verdict::Healthy, Verdict::Unhealthy, vec![true]),
        (Verdict::Unhealthy, Verdict::Unknown, vec![false]),
        (Verdict::Unknown, Verdict::Unknown, vec![]),
    ] {
        let address = Some(ip("10.0.0.1"));
        let endpoints = vec![endpoint(0, &host(0), address, first), endpoint(0, &host(1), address, second)];
        let state = Snapshot { definition: two.clone(), endpoints, blind: false };
        let ready: Vec<bool> = of(&state)[0].endpoints.iter().map(|(_, ready)| *ready).collect();
        assert_eq!(ready, expected, "{first} {second}");
    }
}

#[test]
fn what_does_not_resolve_is_nowhere() {
    let named = definition("{hosts: [a.example], ports: [{port: 80}]}");
    let Host::Name(_) = &named.ports[0].hosts[0] else { panic!("a name") };
    let endpoints = vec![endpoint(0, &named.ports[0].hosts[0], None, Verdict::Unknown)];
    assert_eq!(of(&Snapshot { definition: named, endpoints, blind: false }), []);
}

#[test]
fn a_slice_remembers_what_names_stand_for() {
    let two = definition("{hosts: [10.0.0.9, a.example, b.example], ports: [{port: 80, tcpSocket: {}}]}");
    let host = |n: usize| &two.ports[0].hosts[n];
    let endpoints = vec![
        endpoint(0, host(0), Some(ip("10.0.0.9")), Verdict::Healthy),
        endpoint(0, host(1), Some(ip("10.0.0.1")), Verdict::Healthy),
        endpoint(0, host(1), Some(ip("10.0.0.2")), Verdict::Unknown),
        endpoint(0, host(2), Some(ip("10.0.0.1")), Verdict::Unhealthy),
        endpoint(0, host(2), Some(ip("fd00::1")), Verdict::Unhealthy),
    ];
    let slices = of(&Snapshot { definition: two.clone(), endpoints, blind: false });
    let names = |slice: &Slice| serde_json::to_string(&slice.names).unwrap();
    assert_eq!(names(&slices[0]), r#"{"a.example":["10.0.0.1"],"b.example":["10.0.0.1"]}"#);
    assert_eq!(names(&slices[1]), r#"{"b.example":["fd00::1"]}"#);

    let mut object = EndpointSlice::default();
    object.metadata.name = Some(slices[0].name.clone());
    object.metadata.annotations = Some(BTreeMap::from([("mine".to_owned(), "kept".to_owned())]));
    slices[0].write(&mut object);
    assert_eq!(Slice::read(&object).unwrap().names, slices[0].names);
    let plain = Slice { names: BTreeMap::new(), ..slices[0].clone() };
    plain.write(&mut object);
    let annotations = object.metadata.annotations.clone().unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["mine"]);
    object.metadata.annotations.as_mut().unwrap().insert(NAMES_ANNOTATION.to_owned(), "nonsense".to_owned());
    assert_eq!(Slice::read(&object), Some(plain), "somebody's nonsense is no names, and is written over");
}

#[test]
fn what_a_slice_remembers_is_bounded() {
    let hosts: Vec<String> = (0..1000).map(|n| format!("{}{n}.example", "long-label.".repeat(20))).collect();
    let many = definition(&format!("{{hosts: [{}], ports: [{{port: 80}}]}}", hosts.join(", ")));
    let address = |n: usize| Some(IpAddr::from([10, 0, (n / 250) as u8, (n % 250) as u8 + 1]));
    let endpoints = many.ports[0].hosts.iter().enumerate();
    let endpoints = endpoints.map(|(n, host)| endpoint(0, host, address(n), Verdict::Healthy)).collect();
    let slices = of(&Snapshot { definition: many.clone(), endpoints, blind: false });
    let mut object = EndpointSlice::default();
    slices[0].write(&mut object);
    let size: usize = object.metadata.annotations.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
    assert!((100_000..200_000).contains(&size), "{size}");
    assert_eq!(slices[0].endpoints.len(), 1000);
}

#[test]
fn ports_that_agree_share_a_subset() {
    let shop = definition(
        "{hosts: [10.0.0.1, 10.0.0.2, fd00::1], ports: [{name: a, port: 1}, {name: b, port: 2},
          {name: c, port: 3}]}",
    );
    let slices = of(&snapshot(&shop, "HHHHHHHUH"));
    let subsets_of = |family| subsets(&slices, family).unwrap();
    let v4: Vec<(usize, usize, usize)> =
        subsets_of(Family::V4).iter().map(|s| (s.ports.len(), s.ready.len(), s.not_ready.len())).collect();
    assert_eq!(v4, [(2, 2, 0), (1, 1, 1)]);
    let v6: Vec<usize> = subsets_of(Family::V6).iter().map(|s| s.ports.len()).collect();
    assert_eq!(v6, [3]);
    assert_eq!(subsets(&of(&snapshot(&shop, "?")), Family::V4), Some(vec![]), "nothing listed, no subset");
    assert!(subsets(&of(&many(1000)), Family::V4).is_some());
    assert_eq!(subsets(&of(&many(1001)), Family::V4), None);
}

#[test]
fn slices_of_another_shape_are_not_taken_for_ours() {
    let mut good = EndpointSlice::default();
    good.metadata.name = Some("db.80-ipv4-0".to_owned());
    of(&many(2))[0].write(&mut good);
    assert!(Slice::read(&good).is_some());
    let break_it: [fn(&mut EndpointSlice); 7] = [
        |s| s.ports = None,
        |s| s.ports.as_mut().unwrap().push(EndpointPort::default()),
        |s| s.address_type = "FQDN".to_owned(),
        |s| s.endpoints.as_mut().unwrap()[0].addresses.push("10.0.0.9".to_owned()),
        |s| s.endpoints.as_mut().unwrap()[0].conditions = None,
        |s| s.endpoints.as_mut().unwrap()[0].conditions.as_mut().unwrap().serving = Some(false),
        |s| s.endpoints.as_mut().unwrap()[0].conditions.as_mut().unwrap().terminating = Some(true),
    ];
    for (n, break_it) in break_it.iter().enumerate() {
        let mut bad = good.clone();
        break_it(&mut bad);
        assert_eq!(Slice::read(&bad), None, "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slices_hold_each_address_once_in_its_family(state in snapshots()) {
        for slice in of(&state) {
            prop_assert!(slice.endpoints.len() <= MAX_ADDRESSES);
            let mut addresses: Vec<IpAddr> = slice.endpoints.iter().map(|(address, _)| *address).collect();
            prop_assert!(addresses.iter().all(|address| Family::of(*address) == slice.family));
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), slice.endpoints.len());
        }
    }

    #[test]
    fn what_is_written_is_read_back(state in snapshots()) {
        let slices = of(&state);
        for slice in &slices {
            let mut object = EndpointSlice::default();
            object.metadata.name = Some(slice.name.clone());
            slice.write(&mut object);
            prop_assert_eq!(Slice::read(&object), Some(slice.clone()));
        }
        for family in [Family::V4, Family::V6] {
            let subsets = subsets(&slices, family).unwrap();
            let object = Endpoints { subsets: Some(subsets.iter().map(Subset::write).collect()), ..Default::default() };
            prop_assert_eq!(Subset::read(&object), Some(subsets));
        }
    }
}
