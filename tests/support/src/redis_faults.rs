//! What tests do to a Redis and read from it, given its URL.

use anyhow::{Context as _, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};

use crate::DEADLINE;
use crate::offset::Offset;

/// Sends a signal to a process of ours.
pub fn signal(pid: i32, signal: i32) -> Result<()> {
    // `kill` by the shell's tool, because unsafe code is forbidden here.
    let status =
        std::process::Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status()?;
    anyhow::ensure!(status.success(), "signal {signal} to {pid} failed");
    Ok(())
}

/// A backend's connection.
#[derive(Clone)]
pub struct Backend {
    connection: MultiplexedConnection,
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub offset: Offset,
    /// Its fields.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// A field as text; empty where it is absent.
    pub fn text(&self, name: &str) -> String {
        let value = self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

impl Backend {
    /// Connects.
    pub async fn connect(url: &str) -> Result<Self> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let client = redis::Client::open(url)?;
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .with_context(|| format!("connecting to {url}"))?;
        Ok(Self { connection })
    }

    /// Any command.
    pub async fn run(&mut self, words: &[&[u8]]) -> Result<Value> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        Ok(command.query_async(&mut self.connection).await?)
    }

    /// Any command, in words of text.
    pub async fn command(&mut self, line: &str) -> Result<Value> {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        self.run(&words).await
    }

    /// `XADD` to a channel of a tenant, with just a payload.
    pub async fn push(&mut self, tenant: &str, channel: &str, data: impl AsRef<[u8]>) -> Result<Offset> {
        self.push_fields(tenant, channel, &[("data", data.as_ref())]).await
    }

    /// `XADD` to a channel of a tenant.
    pub async fn push_fields(
        &mut self,
        tenant: &str,
        channel: &str,
        fields: &[(&str, &[u8])],
    ) -> Result<Offset> {
        let mut command = cmd("XADD");
        command.arg(format!("tg:{tenant}:ch:{channel}")).arg("*");
        for (name, value) in fields {
            command.arg(*name).arg(*value);
        }
        let id: String = command.query_async(&mut self.connection).await?;
        id.parse()
    }

    /// Pushes many payloads in one pipeline.
    pub async fn push_all(&mut self, tenant: &str, channel: &str, data: &[String]) -> Result<Vec<Offset>> {
        let mut pipeline = redis::pipe();
        for data in data {
            pipeline.cmd("XADD").arg(format!("tg:{tenant}:ch:{channel}")).arg("*").arg("data").arg(data);
        }
        let ids: Vec<String> = pipeline.query_async(&mut self.connection).await?;
        ids.iter().map(|id| id.parse()).collect()
    }

    /// `XADD` to a tenant's ingress, with targets and a payload.
    pub async fn push_in(&mut self, tenant: &str, to: &str, data: impl AsRef<[u8]>) -> Result<Offset> {
        let mut command = cmd("XADD");
        command.arg(format!("tg:{tenant}:in")).arg("*").arg("to").arg(to).arg("data").arg(data.as_ref());
        let id: String = command.query_async(&mut self.connection).await?;
        id.parse()
    }

    /// Pushes many entries, targets and payload, to a tenant's ingress in one pipeline.
    pub async fn push_in_all(&mut self, tenant: &str, entries: &[(String, String)]) -> Result<()> {
        let mut pipeline = redis::pipe();
        for (to, data) in entries {
            let words = pipeline.cmd("XADD").arg(format!("tg:{tenant}:in")).arg("*");
            words.arg("to").arg(to).arg("data").arg(data).ignore();
        }
        Ok(pipeline.query_async(&mut self.connection).await?)
    }

    /// The newest entries of a channel, the newest first.
    pub async fn newest(&mut self, tenant: &str, channel: &str, count: usize) -> Result<Vec<Entry>> {
        let key = format!("tg:{tenant}:ch:{channel}");
        let mut command = cmd("XREVRANGE");
        command.arg(key).arg("+").arg("-").arg("COUNT").arg(count);
        self.entries(command).await
    }

    /// How many entries a stream has.
    pub async fn length(&mut self, key: &str) -> Result<usize> {
        Ok(cmd("XLEN").arg(key).query_async(&mut self.connection).await?)
    }

    /// How many fields a hash has.
    pub async fn fields(&mut self, key: &str) -> Result<usize> {
        Ok(cmd("HLEN").arg(key).query_async(&mut self.connection).await?)
    }

    /// A whole stream.
    pub async fn stream(&mut self, key: &str) -> Result<Vec<Entry>> {
        let mut command = cmd("XRANGE");
        command.arg(key).arg("-").arg("+");
        self.entries(command).await
    }

    async fn entries(&mut self, command: redis::Cmd) -> Result<Vec<Entry>> {
        type Raw = Vec<(String, Vec<(String, Vec<u8>)>)>;
        let raw: Raw = command.query_async(&mut self.connection).await?;
        raw.into_iter().map(|(id, fields)| Ok(Entry { offset: id.parse()?, fields })).collect()
    }

    /// The log of a channel.
    pub async fn log(&mut self, tenant: &str, channel: &str) -> Result<Vec<Entry>> {
        self.stream(&format!("tg:{tenant}:ch:{channel}")).await
    }

    /// Waits until a device's cursor of a channel is stored at this offset: acks reach the backbone in
    /// batches, and what was not flushed when a session goes elsewhere is delivered again there.
    pub async fn await_cursor(&self, key: &str, channel: &str, offset: Offset) -> Result<()> {
        let wanted = format!("{offset} ");
        crate::eventually("the cursor is flushed", || {
            let mut connection = self.connection.clone();
            let (key, channel, wanted) = (key.to_owned(), channel.to_owned(), wanted.clone());
            async move {
                let stored: Option<String> =
                    cmd("HGET").arg(key).arg(channel).query_async(&mut connection).await.ok()?;
                stored?.starts_with(&wanted).then_some(())
            }
        })
        .await
    }

    /// Waits until a stream holds an entry like this.
    pub async fn await_entry(&mut self, key: &str, like: impl Fn(&Entry) -> bool) -> Result<Entry> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let entries = self.stream(key).await?;
            if let Some(entry) = entries.iter().find(|entry| like(entry)) {
                return Ok(entry.clone());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "no such entry in {key}: {entries:?}");
            tokio::time::sleep(crate::POLL).await;
        }
    }

    /// Kills the nodes' wake-up connections; returns how many.
    pub async fn kill_pubsub(&mut self) -> Result<i64> {
        Ok(cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut self.connection).await?)
    }

    /// Ends all data.
    pub async fn flush_all(&mut self) -> Result<()> {
        Ok(cmd("FLUSHALL").query_async(&mut self.connection).await?)
    }
}
