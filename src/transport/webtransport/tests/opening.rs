//! From a packet to a session.

use super::*;

#[test]
fn a_request_tells_what_the_client_wants() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let wanted = connect_request(&server);
        let address = server.address;
        let asking = tokio::task::spawn_local({
            let (endpoint, hashes) = (endpoint.clone(), server.hashes.clone());
            async move { Http3::connect(&endpoint, address, &hashes).await.session(wanted).await }
        });
        let request = server.request().await.unwrap();
        let head = request.head();
        assert_eq!((head.uri.path(), head.uri.query()), ("/v1/demo/wt", Some("codec=json")));
        assert_eq!(head.uri.authority().unwrap().as_str(), address.to_string());
        assert_eq!(head.headers["origin"], "https://example.test");
        assert_eq!(request.peer_addr(), endpoint.local_addr().unwrap());
        request.refuse(StatusCode::FORBIDDEN).await;
        let refused = asking.await.unwrap().err().expect("a refusal");
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    });
}

#[test]
fn other_requests_are_answered_and_a_session_still_opens() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let wanted = connect_request(&server);
        let (address, hashes) = (server.address, server.hashes.clone());
        let asking = tokio::task::spawn_local(async move {
            let mut http3 = Http3::connect(&endpoint, address, &hashes).await;
            let mut statuses = Vec::new();
            for (method, protocol) in [
                (Method::GET, None),
                (Method::POST, None),
                (Method::CONNECT, Some(h3::ext::Protocol::CONNECT_UDP)),
            ] {
                let mut request = http::Request::builder().method(method).uri(wanted.uri()).body(()).unwrap();
                request.extensions_mut().extend(
                    protocol
                        .map(|protocol| {
                            let mut extensions = http::Extensions::new();
                            extensions.insert(protocol);
                            extensions
                        })
                        .unwrap_or_default(),
                );
                let mut stream = http3.requests.send_request(request).await.unwrap();
                stream.finish().await.unwrap();
                statuses.push(stream.recv_response().await.unwrap().status().as_u16());
                assert!(stream.recv_data().await.unwrap().is_some(), "a word of explanation");
            }
            (statuses, http3.session(wanted).await.is_ok())
        });
        let (_session, driver) = server.request().await.unwrap().accept().await.unwrap();
        tokio::task::spawn_local(driver);
        assert_eq!(asking.await.unwrap(), (vec![404, 405, 400], true));
    });
}

#[test]
fn a_client_that_never_asks_for_a_session_is_given_up() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let (address, hashes) = (server.address, server.hashes.clone());
        let asking = tokio::task::spawn_local(async move {
            let mut http3 = Http3::connect(&endpoint, address, &hashes).await;
            let mut answers = 0;
            loop {
                let request = http::Request::builder().uri("https://localhost/").body(()).unwrap();
                let Ok(mut stream) = http3.requests.send_request(request).await else { return answers };
                if stream.recv_response().await.is_err() {
                    return answers;
                }
                answers += 1;
            }
        });
        let error = server.request().await.err().unwrap();
        assert!(matches!(error, AcceptError::NoSession(4)), "{error}");
        assert!(!error.is_ours());
        assert!(asking.await.unwrap() <= 4);
    });
}

#[test]
fn another_protocol_is_refused_in_the_handshake() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let hashes = server.hashes.clone();
        let (connected, request) =
            tokio::join!(client::quic(&endpoint, server.address, &hashes, b"hq-interop"), server.request());
        connected.unwrap_err();
        let error = request.err().unwrap();
        assert!(matches!(error, AcceptError::Handshake(_)), "{error}");
        assert!(error.to_string().contains("protocol"), "{error}");
    });
}

#[test]
fn a_certificate_that_is_not_known_is_refused_by_the_client() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let (connected, request) =
            tokio::join!(client::quic(&endpoint, server.address, &[[7; 32]], b"h3"), server.request());
        assert!(matches!(connected, Err(quinn::ConnectionError::TransportError(_))), "{connected:?}");
        assert!(matches!(request.err().unwrap(), AcceptError::Handshake(_)));
    });
}

#[test]
fn a_client_that_says_nothing_is_not_waited_for() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let hashes = server.hashes.clone();
        let (connection, request) = tokio::join!(
            client::quic(&endpoint, server.address, &hashes, b"h3"),
            server.request_within(Duration::from_secs(2)),
        );
        let error = request.err().unwrap();
        assert!(matches!(error, AcceptError::TimedOut), "{error}");
        connection.unwrap().closed().await;
    });
}

#[test]
fn a_request_that_is_malformed_ends_its_stream_and_what_is_no_http_the_connection() {
    // A frame of headers whose block is cut off; DATA before any headers (RFC 9114 section 4.1).
    for (bytes, code) in [(&b"\x01\x03\x00\x00\x51"[..], 0x200), (b"\x00\x04data", 0x105)] {
        local(async {
            let mut server = Server::start();
            let endpoint = client::endpoint();
            let (http3, accepting) = server.meet(&endpoint, PATIENCE).await;
            let (mut send, _recv) = http3.quinn.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            let closed = http3.quinn.closed().await;
            let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
            assert_eq!(close.error_code.into_inner(), code);
            let error = accepting.await.unwrap().err().unwrap();
            assert!(matches!(error, AcceptError::Protocol(_)), "{error}");
        });
    }
}

#[test]
fn a_request_that_cannot_be_read_is_reset_and_a_session_still_opens() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let (http3, accepting) = server.meet(&endpoint, PATIENCE).await;
        // A protocol that is not known; a head longer than is taken, in one header of 20,000 bytes.
        let (mut send, mut recv) = http3.quinn.open_bi().await.unwrap();
        send.write_all(&raw_request("no-such-protocol")).await.unwrap();
        let error = recv.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error, quinn::ReadError::Reset(quinn::VarInt::from_u32(0x10e)));
        let (mut send, mut recv) = http3.quinn.open_bi().await.unwrap();
        let block = [b"\x00\x00\x21x\x7f\xa1\x9b\x01".to_vec(), vec![b'y'; 20_000]].concat();
        let length = varint::Encoded::new(block.len() as u64);
        send.write_all(&[b"\x01", length.as_bytes(), &block].concat()).await.unwrap();
        assert_eq!(recv.read(&mut [0; 9]).await.unwrap().map(|read| read > 0), Some(true), "an answer");
        let (client, request) = tokio::join!(http3.session(connect_request(&server)), async {
            accepting.await.unwrap().unwrap().accept().await.unwrap()
        });
        assert!(client.is_ok());
        drop(request);
    });
}

#[test]
fn a_client_without_datagrams_gets_no_session() {
    local(async {
        let mut server = Server::start();
        let endpoint = client::endpoint();
        let mut config = client::config(&server.hashes, b"h3");
        let mut transport = quinn::TransportConfig::default();
        transport.datagram_receive_buffer_size(None);
        config.transport_config(std::sync::Arc::new(transport));
        let connecting = endpoint.connect_with(config, server.address, "localhost").unwrap();
        let (quinn, accepting) = tokio::join!(connecting, server.accepting(PATIENCE));
        let (mut send, _recv) = quinn.unwrap().open_bi().await.unwrap();
        send.write_all(&raw_request("webtransport")).await.unwrap();
        let error = accepting.await.unwrap().err().unwrap();
        assert!(error.to_string().contains("takes no QUIC datagrams"), "{error}");
    });
}
