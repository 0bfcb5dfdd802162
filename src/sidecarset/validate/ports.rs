//! Ports of containers, and the ports of the node that they take (PODV-6).
//!
//! Names are unique within a container. Port numbers inside the pod are not compared, but two containers that run at
//! once must not take one port of the node.

use std::collections::BTreeSet;

use super::report::{Gravity, Place, Report, quote};
use crate::api::container::{ContainerPort, SidecarContainer};
use crate::api::sidecarset::SidecarSet;
use crate::api::syntax;

const NUMBERS: std::ops::RangeInclusive<i64> = 1..=65535;

pub(super) fn check(report: &mut Report<'_>, at: &Place, ports: &[ContainerPort]) {
    for (index, port) in ports.iter().enumerate() {
        let at = at.item(index);
        check_number(report, &at.member("containerPort"), port.container_port);
        if port.host_port != 0 {
            check_number(report, &at.member("hostPort"), port.host_port);
        }
        report.one_of(Gravity::Error, &at.member("protocol"), &port.protocol, &["TCP", "UDP", "SCTP"]);
        if port.name.is_empty() {
            continue;
        }
        if report.syntax(&at.member("name"), &port.name, syntax::port)
            && ports[..index].iter().any(|earlier| earlier.name == port.name)
        {
            report
                .error(&at.member("name"), format!("{} is the name of an earlier port; rename one", quote(&port.name)));
        }
    }
}

pub(super) fn check_number(report: &mut Report<'_>, at: &Place, number: i32) {
    report.range(at, number.into(), NUMBERS);
}

/// Containers run side by side and must not take one host port twice; init containers are looked at one by one.
pub(super) fn check_host_ports(report: &mut Report<'_>, spec: &Place, set: &SidecarSet) {
    for (index, container) in set.init_containers().iter().enumerate() {
        check_taken(report, &spec.member("initContainers").item(index), container, &mut BTreeSet::new());
    }
    let mut taken = BTreeSet::new();
    for (index, container) in set.containers().iter().enumerate() {
        check_taken(report, &spec.member("containers").item(index), container, &mut taken);
    }
}

fn check_taken<'a>(
    report: &mut Report<'_>,
    at: &Place,
    container: &'a SidecarContainer,
    taken: &mut BTreeSet<(&'a str, &'a str, i32)>,
) {
    for (index, port) in container.ports.iter().enumerate().filter(|(_, port)| port.host_port != 0) {
        if !taken.insert((&port.protocol, &port.host_ip, port.host_port)) {
            let message = format!("{}/{} is taken by an earlier port; use another", port.host_port, port.protocol);
            report.error(&at.member("ports").item(index).member("hostPort"), message);
        }
    }
}
