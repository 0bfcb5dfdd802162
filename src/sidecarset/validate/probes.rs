//! Probes and lifecycle handlers of a container that keeps running (PODV-5).
//!
//! A handler that our types do not know counts as one. The longest sleep is that of a pod with the default grace period,
//! as in the reference, even if the pods that are meant have a longer one.

use super::ports;
use super::report::{Gravity, Place, Report, quote};
use crate::api::IntOrString;
use crate::api::container::{
    ExecAction, GrpcAction, HttpGetAction, LifecycleHandler, Probe, SidecarContainer, SleepAction, TcpSocketAction,
};
use crate::api::syntax;

/// Grace period of the pod that the rules are about (PODV-1).
const GRACE_PERIOD: i64 = 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Liveness,
    Readiness,
    Startup,
}

/// What a probe or a hook does; one of these.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HttpGetAction>,
    tcp_socket: Option<&'a TcpSocketAction>,
    grpc: Option<&'a GrpcAction>,
    sleep: Option<&'a SleepAction>,
}

pub(super) fn check(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    for (member, kind, probe) in [
        ("livenessProbe", Kind::Liveness, &container.liveness_probe),
        ("readinessProbe", Kind::Readiness, &container.readiness_probe),
        ("startupProbe", Kind::Startup, &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            check_probe(report, &at.member(member), kind, probe);
        }
    }
    let Some(lifecycle) = &container.lifecycle else { return };
    for (member, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            check_handler(report, &at.member("lifecycle").member(member), &Handler::from(hook));
        }
    }
}

fn check_probe(report: &mut Report<'_>, at: &Place, kind: Kind, probe: &Probe) {
    check_handler(report, at, &Handler::from(probe));
    for (member, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if number < 0 {
            report.error(&at.member(member), format!("{number} must be 0 or more"));
        }
    }
    if kind != Kind::Readiness && probe.success_threshold >= 0 && probe.success_threshold != 1 {
        report.error(&at.member("successThreshold"), format!("{} must be 1", probe.success_threshold));
    }
    let grace = at.member("terminationGracePeriodSeconds");
    match probe.termination_grace_period_seconds {
        Some(_) if kind == Kind::Readiness => report.error(&grace, "must be left out of a readinessProbe"),
        Some(seconds) if seconds <= 0 => report.error(&grace, format!("{seconds} must be 1 or more")),
        _ => {}
    }
}

fn check_handler(report: &mut Report<'_>, at: &Place, handler: &Handler<'_>) {
    if let Some(exec) = handler.exec
        && exec.command.is_empty()
    {
        report.error(&at.member("exec").member("command"), "is required");
    }
    if let Some(http) = handler.http_get {
        check_http(report, &at.member("httpGet"), http);
    }
    if let Some(tcp) = handler.tcp_socket {
        check_port(report, &at.member("tcpSocket").member("port"), &tcp.port);
    }
    if let Some(grpc) = handler.grpc {
        ports::check_number(report, &at.member("grpc").member("port"), grpc.port);
    }
    if let Some(sleep) = handler.sleep {
        report.range(&at.member("sleep").member("seconds"), sleep.seconds, 1..=GRACE_PERIOD);
    }
    match handler.count() {
        0 if !report.has_newer(at) => report.error(at, "needs a handler, such as exec, httpGet or tcpSocket"),
        0 | 1 => {}
        _ => report.error(at, "has more than one handler; keep one"),
    }
}

fn check_http(report: &mut Report<'_>, at: &Place, http: &HttpGetAction) {
    report.required(&at.member("path"), &http.path);
    check_port(report, &at.member("port"), &http.port);
    report.one_of(Gravity::Error, &at.member("scheme"), &http.scheme, &["HTTP", "HTTPS"]);
    for (index, header) in http.http_headers.iter().enumerate() {
        report.syntax(&at.member("httpHeaders").item(index).member("name"), &header.name, syntax::http_header);
    }
}

fn check_port(report: &mut Report<'_>, at: &Place, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => ports::check_number(report, at, *number),
        IntOrString::String(name) => {
            if syntax::port(name).is_err() {
                report.error(at, format!("{} must be a number from 1 to 65535, or the name of a port", quote(name)));
            }
        }
    }
}

// === impl Handler ===

impl<'a> From<&'a Probe> for Handler<'a> {
    fn from(probe: &'a Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        }
    }
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(hook: &'a LifecycleHandler) -> Self {
        Self {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        }
    }
}

impl Handler<'_> {
    fn count(&self) -> usize {
        usize::from(self.exec.is_some())
            + usize::from(self.http_get.is_some())
            + usize::from(self.tcp_socket.is_some())
            + usize::from(self.grpc.is_some())
            + usize::from(self.sleep.is_some())
    }
}
