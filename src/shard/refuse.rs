//! Telling a connection that is not let in why, and when to come again: one fixed answer.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gate::{Refused, Telling};
use crate::telemetry::Refusal;
use crate::transport::wire::Wire;

/// How long the head of the request may take; then the answer goes out without it.
const HEAD: Duration = Duration::from_secs(1);
/// How long the client may take to read the answer and hang up.
const HANG_UP: Duration = Duration::from_secs(1);
/// Bytes of a request's head that are read.
const HEAD_BYTES: usize = 16 * 1024;

/// Answers the request that comes, whatever it is, and closes the connection.
///
/// A client is sure to see an answer only if it has asked (some take an early one for an error) and if
/// nothing it sent is left unread: closing then resets the connection, and the answer is lost with it.
/// So the head is awaited, and what follows is read and dropped until the client hangs up.
pub(super) async fn turn_away(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    refused: Refused,
    telling: Telling,
) {
    let Ok(Ok(mut stream)) = timeout(HEAD, Wire::accept(Arc::new(stream), tls.as_ref())).await else {
        return;
    };
    let _ = timeout(HEAD, head(&mut stream)).await;
    let answer = answer(&refused);
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        let _ = timeout(HANG_UP, hung_up(&mut stream)).await;
    }
    drop(telling);
}

/// Reads up to the end of a request's head.
async fn head(stream: &mut Wire) {
    const END: &[u8] = b"\r\n\r\n";
    let (mut buffer, mut kept, mut seen) = ([0; 512], 0, 0);
    while seen < HEAD_BYTES {
        let Ok(got @ 1..) = stream.read(&mut buffer[kept..]).await else { return };
        seen += got;
        let filled = kept + got;
        if buffer[..filled].windows(END.len()).any(|bytes| bytes == END) {
            return;
        }
        // The end may come in two parts.
        kept = filled.min(END.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

async fn hung_up(stream: &mut Wire) {
    let mut buffer = [0; 512];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

fn answer(refused: &Refused) -> String {
    let (status, why) = match refused.reason {
        Refusal::RateAddress => {
            (StatusCode::TOO_MANY_REQUESTS, "your address opens connections faster than it may")
        }
        Refusal::RateNode => {
            (StatusCode::SERVICE_UNAVAILABLE, "more connections are being opened than this node takes in")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "this node holds as many connections as it may"),
    };
    let seconds = refused.retry_after.as_secs();
    let body = format!("{{\"error\":\"{why}; come again in {seconds} s\",\"retry_after_s\":{seconds}}}\n");
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: {seconds}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{AcceptConfig, Places};
    use crate::shard::gate::Gate;

    fn telling() -> Telling {
        let accept = AcceptConfig { per_s: 0, per_s_per_address: 0, exempt: Vec::new() };
        Gate::new(Places { connections: 1, handshakes: 1, refusals: 1 }, &accept).tell().unwrap()
    }

    /// What a client reads that writes these parts, each once the one before is away.
    async fn told(parts: &[&[u8]]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let refused = Refused { reason: Refusal::RateAddress, retry_after: Duration::from_secs(3) };
        let turning = tokio::spawn(turn_away(stream, None, refused, telling()));
        for part in parts {
            client.write_all(part).await.unwrap();
            client.flush().await.unwrap();
        }
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        drop(client);
        turning.await.unwrap();
        said
    }

    #[tokio::test]
    async fn the_answer_comes_whole_whatever_was_sent() {
        let large = vec![b'x'; 100_000];
        let requests: [&[&[u8]]; 4] = [
            &[b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
            &[b"GET / HTTP/1.1\r\nhost: a\r", b"\n\r", b"\n"],
            &[b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n", &large],
            &[b"no request"],
        ];
        for request in requests {
            let said = told(request).await;
            assert!(said.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{said}");
            assert!(said.contains("\r\nretry-after: 3\r\n") && said.contains("\r\nconnection: close\r\n"));
            let body = said.split_once("\r\n\r\n").unwrap().1;
            assert!(said.contains(&format!("content-length: {}\r\n", body.len())), "{said}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["retry_after_s"], 3);
        }
    }
}
