//! What can be wrong with `udpSocket`, `grpc` and `probe` before any module is loaded.

use crate::api::v1beta1::{ModuleProbe, Protocol, ServicePort, UdpSocket};

use super::parse::Errors;
use super::references::reference;

pub(super) fn check(port: &ServicePort, field: &str, errors: &mut Errors) {
    if let Some(udp) = &port.udp_socket {
        udp_socket(udp, port.protocol, &format!("{field}.udpSocket"), errors);
    }
    if let Some(probe) = &port.probe {
        module_probe(probe, &format!("{field}.probe"), errors);
    }
}

fn udp_socket(udp: &UdpSocket, protocol: Protocol, field: &str, errors: &mut Errors) {
    if protocol != Protocol::Udp {
        errors.invalid(field, format!("needs protocol: UDP on the same port, not {protocol}"));
    }
    if udp.data.is_some() && udp.text.is_some() {
        errors.invalid(format!("{field}.data"), "and text exclude each other");
    }
    if let Some(byte) = udp.data.iter().flatten().find(|byte| !(-128..=255).contains(*byte)) {
        errors.invalid(format!("{field}.data"), format!("{byte} is not a byte, from -128 to 255"));
    }
}

fn module_probe(probe: &ModuleProbe, field: &str, errors: &mut Errors) {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match (set(&probe.module), set(&probe.image)) {
        (true, true) => errors.invalid(field, "has both module and image; set exactly one of them"),
        (false, false) => errors.invalid(field, "has neither module nor image; set exactly one of them"),
        _ => {}
    }
    if !set(&probe.image) && probe.pull_policy.is_some() {
        errors.invalid(format!("{field}.pullPolicy"), "needs image");
    }
    if !set(&probe.image) && probe.pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()) {
        errors.invalid(format!("{field}.pullSecrets"), "needs image");
    }
    for (i, from) in probe.config_from.iter().flatten().enumerate() {
        if reference(&from.value_from).is_none() {
            errors.invalid(
                format!("{field}.configFrom[{i}].valueFrom"),
                "set exactly one of secretKeyRef and configMapKeyRef",
            );
        }
    }
}
