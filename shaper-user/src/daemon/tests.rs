use super::*;
use crate::control::client::Client;
use crate::testing::{FakeKernel, client, flow};
use nix::sys::signal::{Signal, raise};
use shaper_common::key::TCP;

/// The whole daemon, over its socket and signals. One test, because signals are
/// the process's.
#[tokio::test(flavor = "multi_thread")]
async fn it_serves_reloads_on_sighup_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, "ports = [443]").unwrap();
    let options = Options {
        policy: PolicyFile {
            path: file.clone(),
            required: true,
        },
        interfaces: Vec::new(),
        observe: false,
        socket: path.clone(),
    };
    let (policy, _) = options.load().unwrap();
    let socket = Socket::bind(&path).unwrap();
    let kernel = FakeKernel::new(
        vec![flow("192.0.2.1", 4000, TCP)],
        vec![client("192.0.2.1")],
    );
    let daemon = tokio::spawn({
        let kernel = kernel.clone();
        async move {
            let on_exit = run(kernel, &socket, policy, options).await;
            drop(socket);
            on_exit
        }
    });
    // Connecting works from the bind on; the answer comes when limits hold.
    let mut control = Client::connect(&path).await.unwrap();
    let status = control.status().await.unwrap();
    assert_eq!((status.flows, status.pid), (1, std::process::id()));

    std::fs::write(&file, "ports = [8443]\non_exit = \"detach\"").unwrap();
    raise(Signal::SIGHUP).unwrap();
    let reloaded = async {
        while control.status().await.unwrap().ports != [8443] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reloaded)
        .await
        .unwrap();
    assert_eq!(kernel.state().applied.len(), 2);

    raise(Signal::SIGTERM).unwrap();
    assert_eq!(daemon.await.unwrap().unwrap(), OnExit::Detach);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_policy_that_the_kernel_refuses_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        policy: PolicyFile {
            path: dir.path().join("none.toml"),
            required: false,
        },
        interfaces: Vec::new(),
        observe: true,
        socket: dir.path().join("shaper.sock"),
    };
    let socket = Socket::bind(&options.socket).unwrap();
    let kernel = FakeKernel::default();
    kernel.state().refuse_apply = Some("no BTF".to_owned());
    let (policy, _) = options.load().unwrap();
    let error = run(kernel, &socket, policy, options).await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "cannot put the policy in force: no BTF"
    );
}
