use tokio::io::{DuplexStream, duplex, split};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(3);

/// A connection and the server's end of it.
fn lane() -> (Lane, DuplexStream, Arc<Notify>) {
    let (near, far) = duplex(1 << 20);
    let (read, write) = split(near);
    let dropped = Arc::new(Notify::new());
    let lane = Lane::start(Box::new(read), Box::new(write), TIMEOUT, &TaskTracker::new(), &dropped);
    (lane, far, dropped)
}

fn question(word: &str) -> Commands {
    let mut commands = Commands::default();
    commands.push(Want::Text, &[word.as_bytes()]);
    commands
}

/// Reads so many questions of one letter.
async fn asked(server: &mut DuplexStream, count: usize) -> String {
    let mut bytes = vec![0; count * b"*1\r\n$1\r\na\r\n".len()];
    server.read_exact(&mut bytes).await.unwrap();
    bytes.into_iter().filter(u8::is_ascii_alphabetic).map(char::from).collect()
}

async fn text(lane: &Lane, word: &str) -> Result<Answer, BackboneError> {
    Ok(lane.ask(question(word)).await?.remove(0))
}

fn told(text: &str) -> Result<Answer, BackboneError> {
    Ok(Ok(Reply::Text(text.into())))
}

#[tokio::test]
async fn answers_find_who_asked_though_others_gave_up() {
    let (lane, mut server, _dropped) = lane();
    let (first, second) = (lane.clone(), lane.clone());
    let first = tokio::spawn(async move { text(&first, "a").await });
    assert_eq!(asked(&mut server, 1).await, "a");
    server.write_all(b"+on").await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn(async move { text(&second, "b").await });
    assert_eq!(asked(&mut server, 1).await, "b");
    server.write_all(b"e\r\n+two\r\n").await.unwrap();
    assert_eq!(second.await.unwrap(), told("two"));
}

#[tokio::test]
async fn questions_do_not_wait_for_the_answers_to_others() {
    let (lane, mut server, _dropped) = lane();
    let both = async { tokio::join!(text(&lane, "a"), text(&lane, "b")) };
    let serve = async {
        assert_eq!(asked(&mut server, 2).await, "ab");
        server.write_all(b"+one\r\n-ERR two\r\n").await.unwrap();
    };
    let ((one, two), ()) = tokio::join!(both, serve);
    assert_eq!(one, told("one"));
    assert_eq!(two, Ok(Err(BackboneError::Refused("ERR two".into()))), "an error is one command's alone");
}

async fn is_away(lane: &Lane, dropped: &Notify) {
    dropped.notified().await;
    assert!(matches!(text(lane, "a").await, Err(BackboneError::Away(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_away_for_everybody_who_waits() {
    let (lane, _server, dropped) = lane();
    let (one, two) = tokio::join!(text(&lane, "a"), text(&lane, "b"));
    assert!(matches!((one, two), (Err(BackboneError::Away(_)), Err(BackboneError::Away(_)))));
    is_away(&lane, &dropped).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_may_take_its_time_while_it_comes() {
    let (lane, mut server, _dropped) = lane();
    let serve = async {
        asked(&mut server, 1).await;
        for byte in b"+slow\r\n" {
            // The server's pace, not a wait for something.
            tokio::time::sleep(TIMEOUT * 2 / 3).await;
            server.write_all(&[*byte]).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(text(&lane, "a"), serve);
    assert_eq!(answer, told("slow"));
    // Silence is nothing as long as nobody asks.
    tokio::time::sleep(TIMEOUT * 3).await;
    let serve = async {
        asked(&mut server, 1).await;
        server.write_all(b"+still\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(text(&lane, "a"), serve);
    assert_eq!(answer, told("still"));
}

#[tokio::test]
async fn what_was_not_asked_ends_the_connection() {
    for bytes in [&b"+one\r\n+two\r\n"[..], b"hello\r\n", b"*1\r\n+x\r\n"] {
        let (lane, mut server, dropped) = lane();
        let serve = async {
            asked(&mut server, 1).await;
            server.write_all(bytes).await.unwrap();
        };
        // The first may have been answered before the rest came.
        let (_, ()) = tokio::join!(text(&lane, "a"), serve);
        is_away(&lane, &dropped).await;
    }
}

#[tokio::test]
async fn a_closed_connection_is_noticed_without_asking() {
    let (lane, server, dropped) = lane();
    drop(server);
    is_away(&lane, &dropped).await;
}

#[tokio::test]
async fn the_task_ends_when_nobody_can_ask() {
    let (lane, mut server, dropped) = lane();
    drop(lane);
    dropped.notified().await;
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}
