//! Streams, datagrams, heartbeats, changes of address.

use std::io::{ErrorKind, IoSlice};

use super::*;
use crate::transport::outbox::{Flush, Frame, Outbox};

#[test]
fn frames_go_both_ways_on_the_one_stream() {
    local(async {
        let pair = pair().await;
        let blocked = |error: std::io::Error| error.kind() == ErrorKind::WouldBlock;
        assert!(blocked(pair.session.try_read(&mut [0; 9]).unwrap_err()));
        assert!(blocked(pair.session.try_write_vectored(&[IoSlice::new(b"x")]).unwrap_err()));
        let (mut send, mut recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        assert!(blocked(pair.session.try_read(&mut [0; 9]).unwrap_err()));

        send.write_all(b"hello").await.unwrap();
        // Waiting twice loses nothing, and neither does reading by pieces.
        pair.session.readable().await.unwrap();
        pair.session.readable().await.unwrap();
        assert_eq!(read_exact(&pair.session, 2).await, b"he");
        assert_eq!(read_exact(&pair.session, 3).await, b"llo");

        write(&pair.session, b"one");
        let two_and_three = [IoSlice::new(b"two"), IoSlice::new(b""), IoSlice::new(b"three")];
        assert_eq!(pair.session.try_write_vectored(&two_and_three).unwrap(), 8);
        let mut read = [0; 11];
        recv.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"onetwothree");

        send.finish().unwrap();
        pair.session.readable().await.unwrap();
        assert_eq!(pair.session.try_read(&mut [0; 9]).unwrap(), 0);
        pair.session.readable().await.unwrap();
        assert_eq!(pair.session.try_read(&mut [0; 9]).unwrap(), 0);
    });
}

#[test]
fn a_client_that_does_not_read_blocks_the_outbox_and_gets_all_in_the_end() {
    local(async {
        let pair = pair().await;
        let (_send, mut recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        let frames: Vec<Frame> =
            (0..600_u32).map(|n| Frame::new(&vec![n as u8; 8_000 + n as usize])).collect();
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.as_bytes().iter().copied()).collect();
        let mut outbox = Outbox::default();
        frames.into_iter().for_each(|frame| outbox.push(frame));
        let writing = tokio::task::spawn_local({
            let session = pair.session.clone();
            async move {
                let mut blocked = 0;
                loop {
                    match outbox.flush_with(|slices| session.try_write_vectored(slices)) {
                        Flush::Empty => return blocked,
                        Flush::Blocked => blocked += 1,
                        Flush::Broken(error) => panic!("{error}"),
                    }
                    session.writable().await.unwrap();
                }
            }
        });
        let mut read = vec![0; expected.len()];
        recv.read_exact(&mut read).await.unwrap();
        assert!(read == expected);
        assert!(writing.await.unwrap() > 0, "5 MB do not fit at once");
    });
}

/// quinn keeps one waker a stream. Writing from elsewhere must not take the place of who waits.
#[test]
fn who_waits_to_write_is_woken_though_others_write_meanwhile() {
    local(async {
        let pair = pair().await;
        let (_send, _recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        let fill = |session: &Session| {
            let bytes = vec![7; 100_000];
            while session.try_write_vectored(&[IoSlice::new(&bytes)]).is_ok() {}
        };
        fill(&pair.session);
        let waiting = tokio::task::spawn_local({
            let session = pair.session.clone();
            async move { session.writable().await.unwrap() }
        });
        tokio::task::yield_now().await;
        let many = [IoSlice::new(b"not"), IoSlice::new(b"now")];
        assert_eq!(pair.session.try_write_vectored(&many).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(pair.session.try_write_vectored(&many[..1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!waiting.is_finished());
        waiting.await.unwrap();
    });
}

#[test]
fn datagrams_come_whole_and_beside_the_stream() {
    local(async {
        let pair = pair().await;
        let room = pair.session.max_datagram();
        assert!(room > 1_000, "{room}");
        for length in [1, 500, room] {
            assert!(pair.session.send_datagram(&Datagram::new(&vec![9; length])));
            assert_eq!(pair.client.datagram().await, vec![9; length]);
        }
        assert!(!pair.session.send_datagram(&Datagram::new(&vec![9; room + 1])));
        assert_eq!(Datagram::new(b"frame").frame(), b"frame");
    });
}

#[test]
fn a_session_that_is_not_the_first_request_has_its_own_number() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let wanted = connect_request(&server);
        let (address, hashes) = (server.address, server.hashes.clone());
        let asking = tokio::task::spawn_local(async move {
            let mut http3 = Http3::connect(&endpoint, address, &hashes).await;
            let request = http::Request::builder().uri(wanted.uri()).body(()).unwrap();
            let mut stream = http3.requests.send_request(request).await.unwrap();
            stream.recv_response().await.unwrap();
            (http3.session(wanted).await, endpoint)
        });
        let (session, driver) = server.request().await.unwrap().accept().await.unwrap();
        tokio::task::spawn_local(driver);
        let (client, _endpoint) = asking.await.unwrap();
        let Ok(client) = client else { panic!("a session") };
        assert!(session.send_datagram(&Datagram::new(b"for you")));
        assert_eq!(client.datagram().await, b"for you".as_slice());
        session.ping();
        assert_eq!(client.datagram().await, [HEARTBEAT].as_slice());
        client.open().await;
        session.stream().await.unwrap();
    });
}

#[test]
fn a_ping_that_is_acknowledged_tells_up_to_when_the_client_took_everything() {
    local(async {
        let pair = pair().await;
        assert_eq!(pair.session.heard(Instant::now()), None);
        let before = Instant::now();
        pair.session.ping();
        assert_eq!(pair.client.datagram().await, [HEARTBEAT].as_slice());
        let heard = loop {
            match pair.session.heard(Instant::now()) {
                Some(heard) => break heard,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(heard >= before && heard <= Instant::now());
        assert_eq!(pair.session.heard(before - Duration::from_secs(1)), None);
    });
}

#[test]
fn a_session_survives_changes_of_its_clients_address() {
    local(async {
        let pair = pair().await;
        let (mut send, mut recv) = pair.client.open().await;
        pair.session.stream().await.unwrap();
        for round in 0..3_u8 {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = socket.local_addr().unwrap();
            assert_ne!(address, pair.session.peer_addr());
            pair.endpoint.rebind(socket).unwrap();
            send.write_all(&[round; 3_000]).await.unwrap();
            assert_eq!(read_exact(&pair.session, 3_000).await, [round; 3_000]);
            assert_eq!(pair.session.peer_addr(), address);
            write(&pair.session, &[round; 3_000]);
            let mut read = [0; 3_000];
            recv.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [round; 3_000]);
            assert!(pair.session.send_datagram(&Datagram::new(&[round])));
            assert_eq!(pair.client.datagram().await, vec![round]);
        }
    });
}
