//! Clients that take or send more than they should.

use quinn::{ReadError, SendStream, WriteError};

use super::*;

/// What a reader that stopped reading lets through: its budget, and what flow control had granted.
const HELD: usize = (64 + 96) * 1024;

/// Writes until nobody takes more; how much that was.
async fn pour(stream: &mut SendStream) -> usize {
    let bytes = [0x21; 4_096];
    let mut poured = 0;
    // Flow control holds it for good: a second tells.
    while let Ok(Ok(written)) = tokio::time::timeout(Duration::from_secs(1), stream.write(&bytes)).await {
        poured += written;
        assert!(poured < 10_000_000, "it takes everything");
    }
    poured
}

/// The head of a frame that is not known, and never ends.
fn endless(kind: u64) -> Vec<u8> {
    [varint::Encoded::new(kind).as_bytes(), varint::Encoded::new(varint::MAX).as_bytes()].concat()
}

#[test]
fn a_request_with_an_endless_head_is_held_by_flow_control() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let (http3, accepting) = server.meet(&endpoint, Duration::from_secs(2)).await;
        let (mut send, _recv) = http3.quinn.open_bi().await.unwrap();
        send.write_all(&endless(0x01)).await.unwrap();
        let poured = pour(&mut send).await;
        assert!(poured <= HELD, "{poured}");
        let error = accepting.await.unwrap().err().unwrap();
        assert!(matches!(error, AcceptError::TimedOut), "{error}");
    });
}

#[test]
fn endless_frames_on_the_stream_for_control_are_held_and_do_not_disturb_the_session() {
    endless_frames(|control, _| control);
}

#[test]
fn endless_frames_on_the_stream_of_the_request_are_held_and_do_not_disturb_the_session() {
    endless_frames(|_, request| request);
}

fn endless_frames(on: for<'s> fn(&'s mut SendStream, &'s mut SendStream) -> &'s mut SendStream) {
    local(async {
        let mut server = Server::start();
        let (endpoint, hashes) = (client::endpoint(), server.hashes.clone());
        let address = server.address;
        let (quinn, accepting) =
            tokio::join!(client::quic(&endpoint, address, &hashes, b"h3"), server.accepting(PATIENCE));
        let quinn = quinn.unwrap();
        let mut control = quinn.open_uni().await.unwrap();
        control.write_all(b"\x00\x04\x00").await.unwrap();
        let (mut request, _answer) = quinn.open_bi().await.unwrap();
        request.write_all(&raw_request("webtransport")).await.unwrap();
        let (session, driver) = accepting.await.unwrap().unwrap().accept().await.unwrap();
        let driver = tokio::task::spawn_local(driver);

        // Frames that are whole are skipped; the last one never is.
        let stream = on(&mut control, &mut request);
        for _ in 0..100 {
            stream.write_all(b"\x21\x04skip").await.unwrap();
        }
        stream.write_all(&endless(0x21)).await.unwrap();
        let poured = pour(stream).await;
        assert!(poured <= HELD, "{poured}");

        let (mut send, _recv) = quinn.open_bi().await.unwrap();
        send.write_all(b"\x40\x41\x00still here").await.unwrap();
        session.stream().await.unwrap();
        assert_eq!(read_exact(&session, 10).await, b"still here");
        assert!(!driver.is_finished());
    });
}

#[test]
fn an_endless_capsule_is_read_and_not_kept() {
    local(async {
        let mut pair = pair().await;
        pair.client.say(endless(0x78ae)).await.unwrap();
        for _ in 0..200 {
            pair.client.say(vec![0x28; 10_000]).await.unwrap();
        }
        let (mut send, _recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        send.write_all(b"still here").await.unwrap();
        assert_eq!(read_exact(&pair.session, 10).await, b"still here");
    });
}

#[test]
fn what_nobody_reads_is_held_by_flow_control() {
    local(async {
        let pair = pair().await;
        let (mut send, _recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        let poured = pour(&mut send).await;
        assert!((80 * 1024..=HELD).contains(&poured), "{poured}");
        // What came is there, and reading it makes room again.
        read_exact(&pair.session, poured).await;
        send.write_all(b"more").await.unwrap();
        assert_eq!(read_exact(&pair.session, 4).await, b"more");
    });
}

#[test]
fn more_streams_than_one_are_reset() {
    local(async {
        let pair = pair().await;
        let (mut first, _first_recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        for session in [0, 4, 400] {
            let (_send, mut recv) = pair.client.open_for(session).await;
            let error = recv.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error, ReadError::Reset(quinn::VarInt::from_u32(code::STREAM_REJECTED)));
        }
        // A request after the session's own.
        let (mut send, mut recv) = pair.client.quinn.open_bi().await.unwrap();
        send.write_all(b"\x01\x00").await.unwrap();
        let error = recv.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error, ReadError::Reset(quinn::VarInt::from_u32(code::REQUEST_REJECTED)));
        first.write_all(b"still here").await.unwrap();
        assert_eq!(read_exact(&pair.session, 10).await, b"still here");
    });
}

#[test]
fn a_stream_that_does_not_say_what_it_is_holds_up_no_other() {
    local(async {
        let pair = pair().await;
        let (mut silent, _recv) = pair.client.quinn.open_bi().await.unwrap();
        silent.write_all(b"\x40").await.unwrap();
        let (mut send, _recv) = pair.client.open().await;
        send.write_all(b"hello").await.unwrap();
        pair.session.stream().await.unwrap();
        assert_eq!(read_exact(&pair.session, 5).await, b"hello");
    });
}

#[test]
fn unidirectional_streams_of_the_session_are_stopped() {
    local(async {
        let pair = pair().await;
        for _ in 0..20 {
            let mut send = pair.client.quinn.open_uni().await.unwrap();
            send.write_all(b"\x40\x54\x00hello").await.unwrap();
            let stopped = loop {
                match send.write(&[0; 100]).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => break error,
                }
            };
            assert_eq!(stopped, WriteError::Stopped(quinn::VarInt::from_u32(code::STREAM_REJECTED)));
        }
    });
}

#[test]
fn no_more_streams_can_be_open_than_are_granted() {
    local(async {
        let pair = pair().await;
        let mut open = Vec::new();
        // One is the request's.
        for _ in 0..3 {
            open.push(pair.client.quinn.open_bi().await.unwrap());
        }
        let more = tokio::time::timeout(Duration::from_millis(300), pair.client.quinn.open_bi()).await;
        assert!(more.is_err(), "a fifth stream is open");
    });
}
