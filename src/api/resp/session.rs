//! What a connection is to the commands: who it is, what it speaks, its transaction. No I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use ring::digest::{Digest, SHA256, digest};

use super::args::{Refusal, is, unknown_command, wrong_arity};
use super::commands::{Call, Command, Run, find};
use super::reading::ReadPlan;
use super::server::check_name;
use crate::backbone::Backbone as _;
use crate::backbone::embedded::Embedded;
use crate::backbone::embedded::store::Store;
use crate::backbone::resp::{Limits, Protocol, Value};

/// Commands in one transaction at most.
const MAX_QUEUED: usize = 16_384;
/// Bytes in one transaction at most.
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// After so many wrong passwords the connection is closed.
const MAX_WRONG_PASSWORDS: u32 = 8;

/// What all connections share.
pub(super) struct Shared {
    embedded: Arc<Embedded>,
    /// Hashed, so that comparing tells nothing by its time of how much was right.
    password: Option<Digest>,
    port: u16,
    last_id: AtomicU64,
    connections: AtomicUsize,
}

impl Shared {
    pub fn new(embedded: Arc<Embedded>, password: Option<&str>, port: u16) -> Self {
        let password = password.map(|password| digest(&SHA256, password.as_bytes()));
        let (last_id, connections) = (AtomicU64::new(0), AtomicUsize::new(0));
        Self { embedded, password, port, last_id, connections }
    }
}

/// One connection's state.
pub(super) struct Session {
    shared: Arc<Shared>,
    id: u64,
    protocol: Protocol,
    authenticated: bool,
    wrong_passwords: u32,
    name: Option<Bytes>,
    transaction: Option<Transaction>,
}

#[derive(Default)]
struct Transaction {
    queued: Vec<(&'static Command, Vec<Bytes>)>,
    bytes: usize,
    /// A command was refused when it was queued: nothing is carried out.
    broken: bool,
}

/// What the connection does after a command.
pub(super) enum Step {
    /// Replies.
    Reply(Value),
    /// Waits until the read finds something, then replies.
    Wait(ReadPlan),
    /// Replies, if there is something to say, and closes.
    Close(Option<Value>),
}

impl Session {
    pub fn new(shared: Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            id: shared.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            protocol: Protocol::default(),
            authenticated: shared.password.is_none(),
            wrong_passwords: 0,
            name: None,
            transaction: None,
            shared,
        }
    }

    /// Carries a request out, or keeps it for the transaction.
    pub fn handle(&mut self, args: Vec<Bytes>) -> Step {
        // A web page that made a browser's request look like RESP still sends these lines.
        if args.first().is_some_and(|name| is(name, "POST") || is(name, "HOST:")) {
            return Step::Close(None);
        }
        let command = match self.admit(&args) {
            Ok(command) => command,
            Err(refusal) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.broken = true;
                }
                return Step::Reply(refusal.into());
            }
        };
        let step = self.carry_out(command, args);
        match step {
            Step::Reply(reply) if self.wrong_passwords >= MAX_WRONG_PASSWORDS => Step::Close(Some(reply)),
            step => step,
        }
    }

    fn admit(&self, args: &[Bytes]) -> Result<&'static Command, Refusal> {
        let command = args.first().and_then(|name| find(name)).ok_or_else(|| unknown_command(args))?;
        if !command.takes(args.len()) {
            return Err(wrong_arity(command.name));
        }
        let open = matches!(command.run, Run::Greeting(_) | Run::Quit | Run::Reset);
        if !self.authenticated && !open {
            return Err("NOAUTH Authentication required.".into());
        }
        Ok(command)
    }

    fn carry_out(&mut self, command: &'static Command, args: Vec<Bytes>) -> Step {
        match command.run {
            Run::Quit => Step::Close(Some(Value::simple("OK"))),
            Run::Reset => {
                self.reset();
                Step::Reply(Value::simple("RESET"))
            }
            Run::Multi if self.transaction.is_some() => {
                Step::Reply(Value::error("ERR MULTI calls can not be nested"))
            }
            Run::Multi => {
                self.transaction = Some(Transaction::default());
                Step::Reply(Value::simple("OK"))
            }
            Run::Discard => Step::Reply(match self.transaction.take() {
                Some(_) => Value::simple("OK"),
                None => Value::error("ERR DISCARD without MULTI"),
            }),
            Run::Exec => Step::Reply(self.exec()),
            Run::Greeting(_) if self.transaction.is_some() => {
                Step::Reply(Value::error("ERR Command not allowed inside a transaction"))
            }
            Run::Streams(_) | Run::Read(_) | Run::Connection(_) | Run::Greeting(_) => {
                match &mut self.transaction {
                    Some(transaction) => Step::Reply(transaction.queue(command, args)),
                    None => self.now(command, &args),
                }
            }
        }
    }

    fn now(&mut self, command: &Command, args: &[Bytes]) -> Step {
        let embedded = self.shared.embedded.clone();
        if let Run::Greeting(run) | Run::Connection(run) = command.run {
            return Step::Reply(run(self, args).unwrap_or_else(Value::from));
        }
        embedded.with_store(|store| match self.on_store(store, command, args) {
            Ok(Done::Reply(reply)) => Step::Reply(reply),
            Ok(Done::Nothing(plan)) if plan.block().is_some() => Step::Wait(plan),
            Ok(Done::Nothing(_)) => Step::Reply(Value::NullArray),
            Err(refusal) => Step::Reply(refusal.into()),
        })
    }

    fn on_store(&self, store: &mut Store, command: &Command, args: &[Bytes]) -> Result<Done, Refusal> {
        let now_ms = self.now_ms();
        let mut call = Call { store, args, now_ms };
        match command.run {
            Run::Streams(run) => run(&mut call).map(Done::Reply),
            Run::Read(plan) => {
                let plan = plan(&mut call)?;
                let found = plan.attempt(store, self.protocol, now_ms)?;
                Ok(found.map_or(Done::Nothing(plan), Done::Reply))
            }
            // The others never come here; an error is better than a panic should one do.
            _ => Err("ERR command not allowed here".into()),
        }
    }

    /// Carries the queued commands out under one lock: nobody sees half of them, and no read waits.
    fn exec(&mut self) -> Value {
        let Some(transaction) = self.transaction.take() else {
            return Value::error("ERR EXEC without MULTI");
        };
        if transaction.broken {
            return Value::error("EXECABORT Transaction discarded because of previous errors.");
        }
        let embedded = self.shared.embedded.clone();
        // Connection commands may look at the store themselves, so they run before the lock is taken;
        // none of them depends on a stream command of the same transaction.
        let connection: Vec<Option<Value>> = transaction
            .queued
            .iter()
            .map(|(command, args)| match command.run {
                Run::Connection(run) => Some(run(self, args).unwrap_or_else(Value::from)),
                _ => None,
            })
            .collect();
        embedded.with_store(|store| {
            let replies =
                transaction.queued.iter().zip(connection).map(|((command, args), reply)| {
                    reply.unwrap_or_else(|| self.reply_on(store, command, args))
                });
            Value::Array(replies.collect())
        })
    }

    fn reply_on(&self, store: &mut Store, command: &Command, args: &[Bytes]) -> Value {
        match self.on_store(store, command, args) {
            Ok(Done::Reply(reply)) => reply,
            Ok(Done::Nothing(_)) => Value::NullArray,
            Err(refusal) => refusal.into(),
        }
    }

    /// Tries a read again; `None` where there is still nothing.
    pub fn retry(&self, plan: &ReadPlan) -> Option<Value> {
        let now_ms = self.now_ms();
        let found = self.shared.embedded.with_store(|store| plan.attempt(store, self.protocol, now_ms));
        found.unwrap_or_else(|refusal| Some(refusal.into()))
    }

    /// Takes a password, or refuses it. There is one user.
    pub fn authenticate(&mut self, user: &[u8], password: &[u8]) -> Result<(), Refusal> {
        let Some(expected) = &self.shared.password else {
            return Err(
                "ERR AUTH <password> called without any password configured for the default user. Are you \
                sure your configuration is correct?"
                    .into(),
            );
        };
        if user == b"default" && digest(&SHA256, password).as_ref() == expected.as_ref() {
            self.authenticated = true;
            self.wrong_passwords = 0;
            return Ok(());
        }
        self.wrong_passwords += 1;
        Err("WRONGPASS invalid username-password pair or user is disabled.".into())
    }

    fn reset(&mut self) {
        self.protocol = Protocol::default();
        self.authenticated = self.shared.password.is_none();
        self.name = None;
        self.transaction = None;
    }

    /// What the decoder is to take from this client.
    pub fn limits(&self) -> Limits {
        if self.authenticated { Limits::REQUEST } else { Limits::UNAUTHENTICATED }
    }

    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn port(&self) -> u16 {
        self.shared.port
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn embedded(&self) -> &Arc<Embedded> {
        &self.shared.embedded
    }

    pub fn name(&self) -> Option<Bytes> {
        self.name.clone()
    }

    pub fn set_name(&mut self, name: &[u8]) -> Result<(), Refusal> {
        check_name(name)?;
        self.name = (!name.is_empty()).then(|| Bytes::copy_from_slice(name));
        Ok(())
    }

    /// A line about this connection, as `CLIENT INFO` gives it.
    pub fn describe(&self) -> String {
        let name = String::from_utf8_lossy(self.name.as_deref().unwrap_or_default()).into_owned();
        let version = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        format!("id={} name={name} db=0 resp={version}\n", self.id)
    }

    fn now_ms(&self) -> u64 {
        self.shared.embedded.clock().now_ms()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Done {
    Reply(Value),
    Nothing(ReadPlan),
}

impl Transaction {
    fn queue(&mut self, command: &'static Command, args: Vec<Bytes>) -> Value {
        self.bytes += args.iter().map(|arg| arg.len() + size_of::<Bytes>()).sum::<usize>();
        if self.queued.len() >= MAX_QUEUED || self.bytes > MAX_QUEUED_BYTES {
            self.broken = true;
            self.queued = Vec::new();
            return Value::error("ERR the transaction is too large");
        }
        self.queued.push((command, args));
        Value::simple("QUEUED")
    }
}
