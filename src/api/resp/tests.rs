use std::net::Ipv4Addr;

use tidegate_support::resp::{Client, Value};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

use super::*;

struct Server {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(options: Options) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(serve(listener, Embedded::new(Arc::default()), options, cancel.clone()));
        Self { address, cancel, task }
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn status(text: &str) -> Value {
    Value::SimpleString(text.to_owned())
}

fn error_code(value: &Value) -> &str {
    match value {
        Value::ServerError(error) => error.code(),
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test]
async fn other_machines_need_a_password() {
    for (password, exposed) in [(None, true), (Some(String::new()), true), (Some("secret".to_owned()), false)]
    {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let options = Options { password, ..Options::default() };
        let cancel = CancellationToken::new();
        cancel.cancel();
        let served = serve(listener, Embedded::new(Arc::default()), options, cancel).await;
        assert_eq!(matches!(served, Err(ServeError::Exposed(_))), exposed);
    }
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_to_be_guessed() {
    let server = Server::start(Options { password: Some("secret".to_owned()), ..Options::default() }).await;
    let mut client = server.connect().await;
    for command in ["PING", "XADD s * a b", "MULTI", "HELLO 3"] {
        assert_eq!(error_code(&client.ask(command).await), "NOAUTH", "{command}");
    }
    assert_eq!(client.ask("AUTH secret").await, Value::Okay);
    assert!(matches!(client.ask("XADD s * a b").await, Value::BulkString(_)));
    assert_eq!(client.ask("RESET").await, status("RESET"));
    assert_eq!(error_code(&client.ask("PING").await), "NOAUTH");
    assert!(matches!(client.ask("HELLO 3 AUTH default secret").await, Value::Map(_)));

    let mut guesser = server.connect().await;
    for _ in 0..8 {
        assert_eq!(error_code(&guesser.ask("AUTH wrong").await), "WRONGPASS");
    }
    assert_eq!(guesser.receive().await, None);

    let mut greedy = server.connect().await;
    greedy.socket.write_all(b"*1\r\n$1000000\r\n").await.unwrap();
    assert_eq!(error_code(&greedy.receive().await.unwrap()), "ERR");
    assert_eq!(greedy.receive().await, None);
    server.stop().await;
}

#[tokio::test]
async fn what_a_browser_can_send_ends_the_connection() {
    let server = Server::start(Options::default()).await;
    for attack in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n*1\r\n$4\r\nPING\r\n",
        "Host: x\r\n",
        "PING\r\n",
        "*1\r\n$4\r\npost\r\n*1\r\n$4\r\nPING\r\n",
        "*1\r\n$5\r\nHost:\r\n",
    ] {
        let mut client = server.connect().await;
        client.socket.write_all(attack.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        // A reset is an end as well.
        let _ = client.socket.read_to_end(&mut heard).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(!heard.contains("PONG"), "{attack:?}: {heard}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::start(Options { max_connections: 1, ..Options::default() }).await;
    let mut first = server.connect().await;
    first.ask("PING").await;
    let mut second = server.connect().await;
    assert!(second.receive().await.is_some());
    assert_eq!(second.receive().await, None);
    assert_eq!(second.heard, b"-ERR max number of clients reached\r\n");
    drop(first);
    // The first one's place is free once its task has seen the end.
    loop {
        let mut third = server.connect().await;
        third.send("PING").await;
        if third.receive().await == Some(status("PONG")) {
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_blocked_read_hears_of_an_addition_and_of_the_end() {
    let server = Server::start(Options::default()).await;
    let (mut reader, mut writer) = (server.connect().await, server.connect().await);
    reader.send("XREAD BLOCK 0 STREAMS a b $ $").await;
    reader.send("PING").await;
    // Whichever comes first, the reader's `$` stands before or after this; `1-1` and on settle it.
    let reply = loop {
        writer.ask("XADD b * k v").await;
        let wait = Duration::from_millis(20);
        if let Ok(reply) = tokio::time::timeout(wait, reader.receive()).await {
            break reply;
        }
    };
    assert!(matches!(&reply, Some(Value::Array(streams)) if streams.len() == 1), "{reply:?}");
    assert_eq!(reader.receive().await, Some(status("PONG")));
    reader.ask("XREAD BLOCK 5 STREAMS a $").await;
    assert_eq!(reader.heard, b"*-1\r\n");

    writer.ask("XGROUP CREATE b g $").await;
    reader.send("XREADGROUP GROUP g me BLOCK 0 STREAMS b >").await;
    while writer.ask("XINFO CONSUMERS b g").await == Value::Array(vec![]) {}
    writer.ask("XGROUP DESTROY b g").await;
    assert_eq!(error_code(&reader.receive().await.unwrap()), "NOGROUP");

    reader.send("XREAD BLOCK 0 STREAMS a $").await;
    server.stop().await;
    assert_eq!(reader.receive().await, None);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let server = Server::start(Options::default()).await;
    let mut client = server.connect().await;
    client.ask("MULTI").await;
    assert_eq!(client.ask("XADD s 1-1 a b").await, status("QUEUED"));
    assert_eq!(client.ask("XREAD BLOCK 0 STREAMS s 1-1").await, status("QUEUED"));
    assert_eq!(client.ask("INFO keyspace").await, status("QUEUED"));
    let Value::Array(replies) = client.ask("EXEC").await else { panic!("no list") };
    assert_eq!(replies[..2], [Value::BulkString(b"1-1".to_vec()), Value::Nil]);
    assert!(client.heard.starts_with(b"*3\r\n$3\r\n1-1\r\n*-1\r\n"), "{}", client.heard.escape_ascii());
    client.ask("MULTI").await;
    client.ask("XADD s 1-2 a b").await;
    assert_eq!(error_code(&client.ask("NO such").await), "ERR");
    assert_eq!(error_code(&client.ask("EXEC").await), "EXECABORT");
    assert_eq!(client.ask("XLEN s").await, Value::Int(1));
    server.stop().await;
}

#[tokio::test]
async fn long_replies_arrive_whole() {
    let server = Server::start(Options::default()).await;
    let mut client = server.connect().await;
    let text = "x".repeat(1_000);
    for _ in 0..500 {
        client.send(&format!("XADD s * data {text}")).await;
    }
    for _ in 0..500 {
        client.receive().await.unwrap();
    }
    for version in ["HELLO 2", "HELLO 3"] {
        client.ask(version).await;
        let Value::Array(entries) = client.ask("XRANGE s - +").await else { panic!("no list") };
        assert_eq!(entries.len(), 500);
    }
    server.stop().await;
}
