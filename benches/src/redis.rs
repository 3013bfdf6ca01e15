//! A backend: one plain connection that pipelines commands to Redis or to the node's own listener.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::herd::now_ns;
use crate::host;

/// Bytes of payload in every message.
pub const PAYLOAD: usize = 256;

/// A connection that speaks RESP2.
pub struct Redis {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
    waiting: usize,
}

impl Redis {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no backend port at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream: BufReader::new(stream), out: Vec::new(), waiting: 0 })
    }

    /// Adds a command to the pipeline.
    pub fn push(&mut self, parts: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            self.out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            self.out.extend_from_slice(part);
            self.out.extend_from_slice(b"\r\n");
        }
        self.waiting += 1;
    }

    /// Adds one message, with the time of sending in it, to the pipeline.
    pub fn push_message(&mut self, key: &str) {
        let mut data = [b'x'; PAYLOAD];
        data[..20].copy_from_slice(format!("{:020}", now_ns()).as_bytes());
        self.push(&[b"XADD", key.as_bytes(), b"*", b"data", &data]);
    }

    /// Sends the pipeline and reads the replies; the last one is the answer.
    pub fn flush(&mut self) -> Result<String> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        let mut last = String::new();
        for _ in 0..std::mem::take(&mut self.waiting) {
            last = self.reply()?;
        }
        Ok(last)
    }

    /// One command and its reply.
    pub fn call(&mut self, parts: &[&[u8]]) -> Result<String> {
        self.push(parts);
        self.flush()
    }

    /// How often each command was called, and the microseconds they took.
    pub fn commands(&mut self) -> Result<BTreeMap<String, u64>> {
        let info = self.call(&[b"INFO", b"commandstats"])?;
        let parse = |line: &str| -> Option<(String, u64)> {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(info.lines().filter_map(parse).collect())
    }

    fn reply(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let (kind, rest) = line.trim_end().split_at_checked(1).context("the backend hung up")?;
        match kind {
            "$" => {
                let mut body = vec![0; rest.parse::<usize>()? + 2];
                self.stream.read_exact(&mut body)?;
                Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
            }
            "-" => bail!("the backend answers {rest}"),
            _ => Ok(rest.to_owned()),
        }
    }
}

/// Sends messages at a steady rate for some time; `key` names the stream of each. How many were sent,
/// and how long it took.
pub fn publish_at(
    redis: &mut Redis,
    rate: u64,
    time: Duration,
    mut key: impl FnMut(u64) -> String,
) -> Result<(u64, Duration)> {
    // A pipeline no longer than this: a publisher that fell behind must not send one huge burst.
    const MOST: u64 = 256;
    let (start, mut sent) = (Instant::now(), 0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok((sent, elapsed));
        }
        let due = (elapsed.as_secs_f64() * rate as f64) as u64;
        let until = due.min(sent + MOST);
        if until == sent {
            host::pause(Duration::from_millis(1));
            continue;
        }
        while sent < until {
            redis.push_message(&key(sent));
            sent += 1;
        }
        redis.flush()?;
    }
}
