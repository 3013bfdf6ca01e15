//! What waits for one socket: shared frames, written with as few system calls as they allow.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use tokio::net::TcpStream;

/// An encoded frame, shared by all sockets of a shard that it goes to. A clone counts up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Rc<[u8]>);

impl Frame {
    /// A frame of these bytes, copied once into memory of exactly their length. So encode into one
    /// buffer that is used again and again, and make the frame of it.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How a flush ended.
#[derive(Debug)]
pub enum Flush {
    /// Everything was written.
    Empty,
    /// The socket takes no more now: flush again once it is writable.
    Blocked,
    /// The connection is gone; what waits will never be written.
    Broken(io::Error),
}

/// The frames that wait for one socket.
///
/// One frame waits in the outbox itself, so a calm socket's outbox never allocates. More go to a
/// queue, which stays for as long as flushes find more than one frame: a busy socket's outbox does not
/// allocate either. The first flush of a single frame (at the latest that of a heartbeat) gives the
/// queue's memory back.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The oldest frame. While there is none, `rest` is empty.
    head: Option<Frame>,
    /// The frames after it. Boxed, because most outboxes have none.
    #[expect(clippy::box_collection, reason = "a pointer an idle outbox, not four words")]
    rest: Option<Box<VecDeque<Frame>>>,
    /// Bytes that wait.
    bytes: usize,
    /// Bytes of `head` that were written already.
    written: usize,
}

impl Outbox {
    /// Adds a frame behind the others. It is the caller who asks [`Self::is_full`] before.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.0.len();
        if self.head.is_none() {
            self.head = Some(frame);
        } else {
            self.rest.get_or_insert_default().push_back(frame);
        }
    }

    /// Whether `limit` bytes or more wait. An empty outbox takes at least one frame, however long; so
    /// no more than the limit and one frame ever wait.
    pub fn is_full(&self, limit: usize) -> bool {
        self.head.is_some() && self.bytes >= limit
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames that wait, one that is partly written included.
    pub fn len(&self) -> usize {
        usize::from(self.head.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Writes what waits, up to 64 frames in one system call, until it is all written or the socket
    /// takes no more. It never waits.
    pub fn flush(&mut self, socket: &TcpStream) -> Flush {
        self.flush_with(|slices| match slices {
            // A plain send is cheaper than gathering one slice.
            [one] => socket.try_write(one),
            many => socket.try_write_vectored(many),
        })
    }

    /// The same with any non-blocking, vectored write. Each call gets at least one slice.
    pub fn flush_with(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> Flush {
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
        while let Some(head) = &self.head {
            let head = IoSlice::new(&head.0[self.written..]);
            let (written, offered) = match self.rest.as_deref().filter(|rest| !rest.is_empty()) {
                None => (write(&[head]), head.len()),
                Some(rest) => write_many(head, rest, &mut write),
            };
            match written {
                Ok(0) if offered > 0 => return Flush::Broken(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.advance(written);
                    if written < offered {
                        return Flush::Blocked;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Flush::Blocked,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Flush::Broken(error),
            }
        }
        Flush::Empty
    }

    /// Forgets what was written.
    fn advance(&mut self, written: usize) {
        self.bytes -= written;
        self.written += written;
        while let Some(head) = self.head.take_if(|head| head.0.len() <= self.written) {
            self.written -= head.0.len();
            self.head = self.rest.as_mut().and_then(|rest| rest.pop_front());
        }
    }
}

/// Most slices that one write gathers. Sixteen already make a write's fixed cost small beside the
/// kernel's copying; the array of this many lies on the stack (1 KiB).
const SLICES: usize = 64;

/// One gathered write; what it wrote and what it was offered.
fn write_many<'f>(
    head: IoSlice<'f>,
    rest: &'f VecDeque<Frame>,
    write: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> (io::Result<usize>, usize) {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut offered = head.len();
    slices[0] = head;
    let mut count = 1;
    for (slot, frame) in slices[1..].iter_mut().zip(rest) {
        *slot = IoSlice::new(&frame.0);
        offered += frame.0.len();
        count += 1;
    }
    (write(&slices[..count]), offered)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn outbox(frames: &[&[u8]]) -> Outbox {
        let mut outbox = Outbox::default();
        frames.iter().for_each(|bytes| outbox.push(Frame::new(bytes)));
        outbox
    }

    #[test]
    fn an_idle_outbox_is_small_and_owns_nothing() {
        assert!(size_of::<Outbox>() <= 40, "{}", size_of::<Outbox>());
        let mut outbox = outbox(&[b"one"]);
        assert!(outbox.rest.is_none());
        assert!(matches!(outbox.flush_with(|slices| Ok(slices[0].len())), Flush::Empty));
        assert!(outbox.is_empty() && outbox.head.is_none());
    }

    #[test]
    fn the_queue_stays_while_flushes_find_several_frames_and_goes_afterwards() {
        let mut outbox = Outbox::default();
        let all = |slices: &[IoSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum());
        let mut capacity = None;
        for _ in 0..3 {
            (0..20).for_each(|_| outbox.push(Frame::new(b"busy")));
            let now = outbox.rest.as_ref().unwrap().capacity();
            assert_eq!(*capacity.get_or_insert(now), now);
            assert!(matches!(outbox.flush_with(all), Flush::Empty));
            assert!(outbox.rest.is_some());
        }
        outbox.push(Frame::new(b"calm"));
        assert!(matches!(outbox.flush_with(all), Flush::Empty));
        assert!(outbox.rest.is_none());
    }

    #[test]
    fn one_message_is_always_taken() {
        let mut outbox = Outbox::default();
        assert!(!outbox.is_full(0));
        outbox.push(Frame::new(&[0; 100]));
        assert!(outbox.is_full(100) && !outbox.is_full(101));
        assert_eq!((outbox.bytes(), outbox.len()), (100, 1));
    }

    #[test]
    fn errors_are_told_apart() {
        let with = |kind: io::ErrorKind| outbox(&[b"x"]).flush_with(|_| Err(kind.into()));
        assert!(matches!(with(io::ErrorKind::WouldBlock), Flush::Blocked));
        assert!(matches!(with(io::ErrorKind::ConnectionReset), Flush::Broken(_)));
        assert!(matches!(outbox(&[b"x"]).flush_with(|_| Ok(0)), Flush::Broken(_)));
        let mut interrupted = false;
        let flushed = outbox(&[b"x"]).flush_with(|_| match std::mem::replace(&mut interrupted, true) {
            false => Err(io::ErrorKind::Interrupted.into()),
            true => Ok(1),
        });
        assert!(matches!(flushed, Flush::Empty));
    }

    #[test]
    fn a_flush_gathers_64_frames_a_call() {
        let mut calls = Vec::new();
        let mut outbox = outbox(&[b"ab".as_slice(); 150]);
        let flushed = outbox.flush_with(|slices| {
            calls.push(slices.len());
            Ok(slices.iter().map(|slice| slice.len()).sum())
        });
        assert!(matches!(flushed, Flush::Empty));
        assert_eq!(calls, [64, 64, 22]);
    }

    proptest! {
        /// Against the plainest model, a queue of bytes: whatever the socket takes at each call, what
        /// was pushed comes out in order, and the counts are right.
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in prop::collection::vec((prop::collection::vec(0_usize..40, 0..90), 0_usize..900), 1..20),
        ) {
            let mut outbox = Outbox::default();
            let (mut model, mut next) = (VecDeque::new(), 0_u8);
            for (frames, mut room) in steps {
                for length in frames {
                    let bytes: Vec<u8> = (0..length).map(|_| { next = next.wrapping_add(1); next }).collect();
                    model.extend(bytes.iter().copied());
                    outbox.push(Frame::new(&bytes));
                }
                let mut out = Vec::new();
                let flushed = outbox.flush_with(|slices| {
                    let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    let taken = offered.len().min(room);
                    if taken == 0 && !offered.is_empty() {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    room -= taken;
                    out.extend_from_slice(&offered[..taken]);
                    Ok(taken)
                });
                let expected: Vec<u8> = model.drain(..out.len()).collect();
                prop_assert_eq!(out, expected);
                prop_assert_eq!(outbox.bytes(), model.len());
                prop_assert_eq!(matches!(flushed, Flush::Empty), outbox.is_empty());
            }
        }
    }

    #[tokio::test]
    async fn a_real_socket_blocks_and_goes_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (server, _)) = (client.unwrap(), accepted.unwrap());
        let frames: Vec<Frame> =
            (0..400_u32).map(|n| Frame::new(&vec![n as u8; 40_000 + n as usize])).collect();
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.as_bytes().iter().copied()).collect();
        let mut outbox = Outbox::default();
        frames.into_iter().for_each(|frame| outbox.push(frame));
        assert!(matches!(outbox.flush(&server), Flush::Blocked), "16 MB do not fit into a socket");
        let reader = async {
            let mut read = vec![0; expected.len()];
            client.read_exact(&mut read).await.unwrap();
            read
        };
        let writer = async {
            let mut blocked = 0;
            while let Flush::Blocked = outbox.flush(&server) {
                blocked += 1;
                server.writable().await.unwrap();
            }
            blocked
        };
        let (read, blocked) = tokio::join!(reader, writer);
        assert!(read == expected && blocked > 0 && outbox.is_empty() && outbox.bytes() == 0);
        drop(client);
        let broken = (0..100).find_map(|_| {
            outbox.push(Frame::new(&[0; 100_000]));
            if let Flush::Broken(error) = outbox.flush(&server) { Some(error) } else { None }
        });
        assert!(broken.is_some());
    }
}
