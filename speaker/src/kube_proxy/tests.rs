//! Against sockets of this machine.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with `text`, or with silence.
async fn server(text: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(text) = text {
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await;
                stream.write_all(text.as_bytes()).await.unwrap();
            } else {
                open.push(stream);
            }
        }
    });
    address
}

#[tokio::test]
async fn kube_proxy_is_read_as_it_speaks() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                   18\r\nkubeproxy_sync_proxy_rul\r\n21\r\nes_duration_seconds_count 7\nup 1\n\r\n0\r\n\r\n";
    let ProxyAnswer::Reading { reading, .. } = ask(server(Some(chunked)).await).await else {
        panic!("a reading")
    };
    assert_eq!(reading.progress[&None].syncs, 7);
}

#[tokio::test]
async fn silence_is_not_absence() {
    assert_eq!(ask(server(None).await).await, ProxyAnswer::Silence);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (target, says) in [
        (gone, "cannot connect"),
        (
            server(Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await,
            "404",
        ),
        (server(Some("SSH-2.0-OpenSSH\r\n")).await, "does not speak HTTP"),
        (server(Some("")).await, "does not speak HTTP"),
    ] {
        let ProxyAnswer::Nobody(why) = ask(target).await else {
            panic!("{says}")
        };
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn nobody_is_asked_for_nothing() {
    let target = server(Some("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nup 1\n")).await;
    let (asks, asked) = watch::channel(None);
    let (news_in, mut news) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let asker = Asker {
        target,
        asks: asked,
        news: news_in,
    };
    let task = tokio::spawn(asker.run(stop.clone()));
    assert!(news.try_recv().is_err());
    let refuses = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let (serves, refuses) = (target, server(Some(refuses)).await);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    asks.send_replace(Some(BTreeSet::from([serves, refuses, gone])));
    for _ in 0..2 {
        let Some(News::KubeProxy(answers)) = news.recv().await else {
            panic!("answers")
        };
        assert!(matches!(answers.proxy, ProxyAnswer::Reading { .. }));
        let expected = BTreeMap::from([(serves.port(), true), (refuses.port(), false)]);
        assert_eq!(answers.checks, expected, "who is not there says nothing");
    }
    stop.cancel();
    task.await.unwrap().unwrap();
}
