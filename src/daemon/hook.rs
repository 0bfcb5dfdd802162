//! A preStop hook: a command in the container, an HTTP GET, or a pause (CRR-56 … CRR-58).

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::http::{self, Get};
use crate::cri::Client;

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Runs a command.
    Exec(Vec<String>),
    /// Asks by HTTP.
    Http(Get),
    /// Waits. WEAK-5: the reference fails such a hook.
    Sleep(Duration),
}

// === impl Hook ===

impl Hook {
    /// Reads a `lifecycle.preStop` of a container of this pod, which tells ports and addresses (WEAK-4).
    pub fn read(hook: &Value, pod: &Value, container: &str) -> Result<Self, String> {
        if let Some(command) = hook["exec"]["command"].as_array() {
            return Ok(Self::Exec(command.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()));
        }
        if let Some(seconds) = hook["sleep"]["seconds"].as_u64() {
            return Ok(Self::Sleep(Duration::from_secs(seconds)));
        }
        let get = &hook["httpGet"];
        if !get.is_object() {
            return Err("only exec, httpGet and sleep are known".to_owned());
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let host = match text(&get["host"]) {
            host if host.is_empty() => text(&pod["status"]["podIP"]),
            host => host,
        };
        if host.is_empty() {
            return Err("httpGet names no host, and the pod has no address".to_owned());
        }
        let port = port(&get["port"], pod, container).ok_or_else(|| {
            format!("httpGet asks for port {}, which container {container} does not have", get["port"])
        })?;
        let headers = get["httpHeaders"].as_array().into_iter().flatten();
        Ok(Self::Http(Get {
            is_https: text(&get["scheme"]).eq_ignore_ascii_case("https"),
            host,
            port,
            path: text(&get["path"]),
            headers: headers.map(|header| (text(&header["name"]), text(&header["value"]))).collect(),
        }))
    }

    /// Runs it to its end, for `limit` at most.
    pub async fn run(self, client: &Client, id: &str, limit: Duration) -> Result<(), String> {
        match self {
            Self::Exec(command) => {
                let done = client.exec(id, &command, limit).await.map_err(|error| error.to_string())?;
                match (done.exit_code, done.said) {
                    (0, _) => Ok(()),
                    (code, said) if said.is_empty() => Err(format!("exit code {code}")),
                    (code, said) => Err(format!("exit code {code}: {said}")),
                }
            }
            Self::Http(get) => http::get(&get, limit).await.map(drop).map_err(|error| error.to_string()),
            Self::Sleep(pause) => {
                sleep(pause.min(limit)).await;
                Ok(())
            }
        }
    }
}

/// The number of a port that is told by number or by name.
fn port(port: &Value, pod: &Value, container: &str) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let Some(name) = port.as_str() else { return number(port) };
    if let Ok(port) = name.parse() {
        return Some(port).filter(|port| *port > 0);
    }
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    let container = lists.flatten().find(|spec| spec["name"] == container)?;
    let ports = container["ports"].as_array()?;
    ports.iter().find(|port| port["name"] == name).and_then(|port| number(&port["containerPort"]))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read(hook: &Value) -> Result<Hook, String> {
        let pod = json!({
            "spec": {"containers": [{"name": "web", "ports": [{"name": "admin", "containerPort": 9090}]}]},
            "status": {"podIP": "10.0.0.7"},
        });
        Hook::read(hook, &pod, "web")
    }

    fn get(host: &str, port: u16) -> Hook {
        Hook::Http(Get { is_https: false, host: host.to_owned(), port, path: "/x".to_owned(), headers: Vec::new() })
    }

    #[rstest]
    #[case::exec(json!({"exec": {"command": ["/bin/sh", "-c", "x"]}}), Hook::Exec(["/bin/sh", "-c", "x"].map(str::to_owned).into()))]
    #[case::sleep_weak_5(json!({"sleep": {"seconds": 7}}), Hook::Sleep(Duration::from_secs(7)))]
    #[case::the_address_of_the_pod_weak_4(json!({"httpGet": {"path": "/x", "port": 80}}), get("10.0.0.7", 80))]
    #[case::a_host(json!({"httpGet": {"path": "/x", "port": "81", "host": "h"}}), get("h", 81))]
    #[case::a_named_port(json!({"httpGet": {"path": "/x", "port": "admin"}}), get("10.0.0.7", 9090))]
    fn hooks_are_read_crr_57(#[case] hook: Value, #[case] read_as: Hook) {
        assert_eq!(read(&hook), Ok(read_as));
    }

    #[rstest]
    #[case::tcp(json!({"tcpSocket": {"port": 80}}), "only exec, httpGet and sleep are known")]
    #[case::nothing(json!(null), "only exec, httpGet and sleep are known")]
    #[case::no_such_port(json!({"httpGet": {"port": "x"}}), "httpGet asks for port \"x\", which container web does not have")]
    fn what_is_no_hook_fails_and_says_so_crr_58(#[case] hook: Value, #[case] told: &str) {
        assert_eq!(read(&hook), Err(told.to_owned()));
    }
}
