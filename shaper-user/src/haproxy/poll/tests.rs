use super::*;
use crate::haproxy::fake::{Answer, Server};
use tokio::time::timeout;

fn haproxy(path: &Path, pid: u32, port: u16) -> Server {
    Server::at(path, move |command| {
        Answer::Text(if command.contains("show info") {
            format!(
                "admin\n\nVersion: 3.0\nPid: {pid}\n\n\
                 0x1: proto=tcpv4 src=192.0.2.1:{port} fe=f be=b srv=s\n\n"
            )
        } else {
            "Unknown command\n\n".to_owned()
        })
    })
}

fn policy(sockets: Option<&[&Path]>) -> Haproxy {
    Haproxy {
        sockets: sockets.map(|paths| paths.iter().map(|path| path.to_path_buf()).collect()),
        ..Haproxy::default()
    }
}

/// The ports of the sessions, once the view has these.
async fn ports(views: &mut watch::Receiver<Arc<View>>, expected: &[u16]) -> Arc<View> {
    let has = |view: &Arc<View>| {
        let mut ports: Vec<_> = view
            .sessions
            .keys()
            .map(std::net::SocketAddr::port)
            .collect();
        ports.sort_unstable();
        ports == expected
    };
    let view = timeout(Duration::from_secs(120), views.wait_for(has)).await;
    Arc::clone(&view.unwrap().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_adds_and_removes_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.sock", "b.sock"].map(|name| dir.path().join(name));
    let (first, _second) = (haproxy(&a, 7, 1), haproxy(&b, 8, 2));
    let (sender, receiver) = watch::channel(policy(Some(&[&a])));
    let mut views = start_in(receiver, Vec::new());
    ports(&mut views, &[1]).await;
    sender.send_replace(policy(Some(&[&a, &b, &a])));
    let view = ports(&mut views, &[1, 2]).await;
    assert_eq!(view.sockets.len(), 2);
    sender.send_replace(policy(Some(&[&b])));
    ports(&mut views, &[2]).await;
    // It is left alone from now on.
    let asked = first.asked().len();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(first.asked().len(), asked);
    sender.send_replace(policy(Some(&[])));
    assert!(ports(&mut views, &[]).await.sockets.is_empty());
    drop(sender);
    let end = timeout(Duration::from_secs(60), async {
        while views.changed().await.is_ok() {}
    });
    end.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_usual_places_are_looked_at_every_poll_and_silent_when_empty() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let [a, b] = ["a.sock", "b.sock"].map(|name| dir.join(name));
    let (sender, receiver) = watch::channel(policy(None));
    let mut views = start_in(receiver, vec![a.clone(), b]);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(**views.borrow(), View::default());
    let started = Instant::now();
    let server = haproxy(&a, 7, 1);
    ports(&mut views, &[1]).await;
    assert!(started.elapsed() <= Haproxy::default().poll);
    drop(server);
    std::fs::remove_file(&a).unwrap();
    let view = ports(&mut views, &[]).await;
    assert!(view.sockets.is_empty());
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn a_named_socket_that_is_missing_is_an_error_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let (_sender, receiver) = watch::channel(policy(Some(&[&path])));
    let mut views = start_in(receiver, Vec::new());
    let failed = |view: &Arc<View>| view.sockets.iter().any(|socket| socket.error.is_some());
    let view = timeout(Duration::from_secs(60), views.wait_for(failed)).await;
    let error = view.unwrap().unwrap().sockets[0].error.clone().unwrap();
    assert!(error.contains("does not exist"), "{error}");
    let _server = haproxy(&path, 7, 1);
    let view = ports(&mut views, &[1]).await;
    assert_eq!(view.sockets[0].error, None);
}
