//! How sessions end, from either side.

use std::io::ErrorKind;

use super::*;

fn closed(code: u32, reason: &str) -> Closed {
    Closed { code: Some(code), reason: reason.to_owned() }
}

#[test]
fn the_server_closes_with_a_code_after_all_it_wrote() {
    local(async {
        let mut pair = pair().await;
        let (_send, mut recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        write(&pair.session, &[7; 50_000]);
        let session = pair.session.clone();
        let closing = tokio::task::spawn_local(async move { session.close(4200, "drain").await });
        assert_eq!(recv.read_to_end(60_000).await.unwrap(), [7; 50_000]);
        assert_eq!(pair.client.closed().await, closed(4200, "drain"));
        let lost = pair.client.quinn.closed().await;
        assert!(matches!(lost, quinn::ConnectionError::ApplicationClosed(_)), "{lost}");
        closing.await.unwrap();
        pair.driver.await.unwrap();
        let broken = pair.session.try_write_vectored(&[std::io::IoSlice::new(b"more")]).unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
        pair.session.writable().await.unwrap_err();
    });
}

#[test]
fn a_close_without_a_stream_is_said_too() {
    local(async {
        let mut pair = pair().await;
        let ((), said) = tokio::join!(pair.session.close(4001, ""), pair.client.closed());
        assert_eq!(said, closed(4001, ""));
        pair.driver.await.unwrap();
        assert!(pair.session.stream().await.is_err());
    });
}

#[test]
fn a_client_that_does_not_answer_a_close_is_hung_up_on() {
    local(async {
        let pair = pair().await;
        // It neither reads nor agrees.
        let (_send, _recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        pair.session.close(4100, "busy").await;
        pair.driver.await.unwrap();
        pair.client.quinn.closed().await;
    });
}

#[test]
fn the_client_closes_with_a_code_and_what_it_sent_before_is_read() {
    local(async {
        let mut pair = pair().await;
        let (mut send, _recv) = pair.client.open().await;
        send.write_all(b"last words").await.unwrap();
        pair.session.stream().await.unwrap();
        pair.session.readable().await.unwrap();
        pair.client.close(1000, "goodbye").await;
        assert_eq!(pair.session.closed().await, closed(1000, "goodbye"));
        assert_eq!(read_exact(&pair.session, 10).await, b"last words");
        // The server ends its side without a capsule, and hangs up.
        assert_eq!(pair.client.closed().await, closed(0, ""));
        pair.driver.await.unwrap();
        pair.session.readable().await.unwrap_err();
        assert_eq!(pair.session.closed().await, closed(1000, "goodbye"));
    });
}

#[test]
fn an_end_without_a_capsule_is_code_0() {
    local(async {
        let mut pair = pair().await;
        // A capsule that is not known, which Chromium sends, and half a closing one.
        pair.client.say(b"\x21\x03abc\x68\x43\x06\x00".to_vec()).await.unwrap();
        pair.client.finish().await;
        assert_eq!(pair.session.closed().await, closed(0, ""));
    });
}

#[test]
fn a_lost_connection_has_no_code() {
    local(async {
        let pair = pair().await;
        pair.client.vanish();
        let lost = pair.session.closed().await;
        assert_eq!(lost.code, None);
        assert!(lost.reason.contains("gone") || lost.reason.contains("H3_REQUEST_CANCELLED"), "{lost:?}");
        pair.driver.await.unwrap();
        assert_eq!(pair.session.stream().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(!pair.session.send_datagram(&Datagram::new(b"x")));
        pair.session.ping();
    });
}

#[test]
fn a_driver_that_is_dropped_takes_everything_with_it() {
    local(async {
        let pair = pair().await;
        let (_send, _recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        pair.driver.abort();
        pair.client.quinn.closed().await;
        pair.session.readable().await.unwrap_err();
    });
}

#[test]
fn a_broken_capsule_ends_the_session() {
    local(async {
        let mut pair = pair().await;
        pair.client.say(b"\x68\x43\x03abc".to_vec()).await.unwrap();
        let lost = pair.session.closed().await;
        assert_eq!(lost.code, None);
        assert!(lost.reason.contains("closing capsule of 3 bytes"), "{lost:?}");
        pair.client.quinn.closed().await;
    });
}
