//! Fan-out of one message at a time, beside a loop that only sends frames of the same size to as many
//! sockets. The two take turns, so that both meet the same weather.

use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result};

use super::{ROOM, expect_all, open, reset};
use crate::args::RunArgs;
use crate::herd::{Kind, Order};
use crate::host::{Cpu, own_thread};
use crate::process::{Herd, Node};
use crate::redis::Redis;
use crate::report::{Budget, Report, median};

const BUDGET_RATIO: f64 = 1.15;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    for (subscribers, messages) in args.size([(1_000, 60), (5_000, 12)], [(200, 20), (1_000, 5)]) {
        measure(args, report, subscribers, messages)?;
    }
    Ok(())
}

/// Turns that node and loop take; the middle one counts, for what a send costs depends on whether its
/// reader sleeps.
const TURNS: usize = 11;

fn measure(args: &RunArgs, report: &mut Report, subscribers: usize, messages: u64) -> Result<()> {
    let node = Node::embedded(args, Some(1))?;
    let mut redis = Redis::connect(node.resp.context("the backbone is embedded")?)?;
    let (mut herd, mut bare_herd) = (Herd::start(args)?, Herd::start(args)?);
    open(&mut herd, &node, subscribers, Kind::Room)?;
    let mut sockets = bare_sockets(&mut bare_herd, subscribers)?;
    reset(&mut herd)?;
    redis.push_message(ROOM);
    redis.flush()?;
    let bytes = expect_all(&mut herd, subscribers as u64)?.bytes / subscribers as u64;
    let frame = bare_frame(bytes as usize)?;

    let deliveries = (messages * subscribers as u64) as f64;
    let (mut shard, mut whole, mut bare, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        reset(&mut herd)?;
        let before = Cpu::of(node.pid())?;
        for message in 1..=messages {
            redis.push_message(ROOM);
            redis.flush()?;
            expect_all(&mut herd, message * subscribers as u64)?;
        }
        let node_used = Cpu::of(node.pid())?.since(before);
        reset(&mut bare_herd)?;
        let mut loop_used = 0;
        for message in 1..=messages {
            let before = own_thread();
            for socket in &mut sockets {
                send(socket, &frame)?;
            }
            loop_used += own_thread().saturating_sub(before);
            expect_all(&mut bare_herd, message * subscribers as u64)?;
        }
        // The first turn warms both up.
        if turn > 0 {
            let each = |used: u64| used as f64 / deliveries / 1000.0;
            shard.push(each(node_used.shards));
            whole.push(each(node_used.all));
            bare.push(each(loop_used));
            ratio.push(node_used.shards as f64 / loop_used as f64);
        }
    }
    let what = |text: &str| format!("calm fan-out to {subscribers}: {text}");
    report.note(what("bare send loop, CPU a delivery"), median(bare), "us");
    report.note(what("shard, CPU a delivery"), median(shard), "us");
    report.note(what("whole node, CPU a delivery"), median(whole), "us");
    report.hold(what("shard to bare loop"), median(ratio), "x", Budget::Most(BUDGET_RATIO));
    Ok(())
}

/// Sockets of this process whose other ends are a herd's.
fn bare_sockets(herd: &mut Herd, count: usize) -> Result<Vec<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    herd.begin(&Order::Open { address: listener.local_addr()?, count, kind: Kind::Bare })?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    herd.answer()?;
    Ok(sockets)
}

/// A frame of so many bytes that a client counts as a message.
fn bare_frame(bytes: usize) -> Result<Vec<u8>> {
    const HEADER: usize = 4;
    let payload = bytes.checked_sub(HEADER).context("a message's frame is longer than its header")?;
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&u16::try_from(payload)?.to_be_bytes());
    frame.extend_from_slice(br#"{"type":"message""#);
    frame.resize(bytes, b'x');
    Ok(frame)
}

/// One message is far smaller than a socket's buffer; its reader took the last one already.
fn send(socket: &mut TcpStream, frame: &[u8]) -> Result<()> {
    loop {
        match socket.write(frame) {
            Ok(written) if written == frame.len() => return Ok(()),
            Ok(_) => anyhow::bail!("a socket took a part of a frame"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
