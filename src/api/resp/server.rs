//! Commands on the connection and on the server.

use std::fmt::Write as _;

use bytes::Bytes;

use super::args::{Args, Refusal, SYNTAX, integer, is, unknown_subcommand, wrong_arity};
use super::commands::{Answer, COMMANDS, Command};
use super::session::Session;
use crate::backbone::resp::{Protocol, Value};

/// The Redis whose stream commands these are: clients choose by it what they send.
const LIKE_REDIS: &str = "7.0.0";

const HELLO_WITHOUT_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, \
    otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
    protocol version at the same time";

pub(super) fn ping(_: &mut Session, args: &[Bytes]) -> Answer {
    match args {
        [_] => Ok(Value::simple("PONG")),
        [_, text] => Ok(Value::Bulk(text.clone())),
        _ => Err(wrong_arity("ping")),
    }
}

pub(super) fn echo(_: &mut Session, args: &[Bytes]) -> Answer {
    Ok(Value::Bulk(args[1].clone()))
}

pub(super) fn select(_: &mut Session, args: &[Bytes]) -> Answer {
    match integer(&args[1])? {
        0 => Ok(Value::simple("OK")),
        _ => Err("ERR DB index is out of range".into()),
    }
}

/// `AUTH [user] password`
pub(super) fn auth(session: &mut Session, args: &[Bytes]) -> Answer {
    match args {
        [_, password] => session.authenticate(b"default", password)?,
        [_, user, password] => session.authenticate(user, password)?,
        _ => return Err(SYNTAX),
    }
    Ok(Value::simple("OK"))
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`
pub(super) fn hello(session: &mut Session, args: &[Bytes]) -> Answer {
    let mut args = Args(&args[1..]);
    let mut protocol = session.protocol();
    if let Some(version) = args.next() {
        protocol = match integer(version) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err("NOPROTO unsupported protocol version".into()),
            Err(_) => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let mut name = None;
    while let Some(option) = args.next() {
        if is(option, "AUTH") && args.0.len() >= 2 {
            session.authenticate(args.need()?, args.need()?)?;
        } else if is(option, "SETNAME") && !args.0.is_empty() {
            name = Some(args.need()?);
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
        }
    }
    if !session.is_authenticated() {
        return Err(HELLO_WITHOUT_AUTH.into());
    }
    if let Some(name) = name {
        session.set_name(name)?;
    }
    session.set_protocol(protocol);
    Ok(Value::map([
        ("server", Value::text("redis")),
        ("version", Value::text(LIKE_REDIS)),
        ("proto", Value::Integer(if protocol == Protocol::Resp3 { 3 } else { 2 })),
        ("id", Value::count(session.id())),
        ("mode", Value::text("standalone")),
        ("role", Value::text("master")),
        ("modules", Value::Array(Vec::new())),
    ]))
}

/// What clients say about themselves; the name is kept, the rest is taken politely.
pub(super) fn client(session: &mut Session, args: &[Bytes]) -> Answer {
    let ok = Ok(Value::simple("OK"));
    let given = &args[1];
    match (given.to_ascii_lowercase().as_slice(), &args[2..]) {
        (b"setname", [name]) => session.set_name(name).map(|()| Value::simple("OK")),
        (b"getname", []) => Ok(session.name().map_or(Value::Null, Value::Bulk)),
        (b"id", []) => Ok(Value::count(session.id())),
        (b"info", []) => Ok(Value::text(session.describe())),
        (b"setinfo", [_, _]) | (b"no-evict" | b"no-touch", [_]) => ok,
        (b"setname" | b"getname" | b"id" | b"info" | b"setinfo" | b"no-evict" | b"no-touch", _) => {
            Err(wrong_arity(&format!("client|{}", String::from_utf8_lossy(given).to_lowercase())))
        }
        _ => Err(unknown_subcommand("CLIENT", given)),
    }
}

/// `COMMAND [COUNT | DOCS | LIST | INFO name …]`
pub(super) fn command(_: &mut Session, args: &[Bytes]) -> Answer {
    let Some(given) = args.get(1) else {
        return Ok(Value::Array(COMMANDS.iter().map(describe).collect()));
    };
    match given.to_ascii_lowercase().as_slice() {
        b"count" => Ok(Value::count(COMMANDS.len() as u64)),
        b"docs" => Ok(Value::Map(Vec::new())),
        b"list" => Ok(Value::Array(COMMANDS.iter().map(|command| Value::text(command.name)).collect())),
        b"info" if args.len() == 2 => Ok(Value::Array(COMMANDS.iter().map(describe).collect())),
        b"info" => {
            let find = |name: &Bytes| super::commands::find(name).map_or(Value::NullArray, describe);
            Ok(Value::Array(args[2..].iter().map(find).collect()))
        }
        _ => Err(unknown_subcommand("COMMAND", given)),
    }
}

fn describe(command: &Command) -> Value {
    let (first, last, step) = command.keys;
    let flag = Value::simple(if command.writes { "write" } else { "readonly" });
    Value::Array(vec![
        Value::text(command.name),
        Value::Integer(command.arity.into()),
        Value::Set(vec![flag]),
        Value::Integer(first.into()),
        Value::Integer(last.into()),
        Value::Integer(step.into()),
        Value::Set(Vec::new()),
        Value::Array(Vec::new()),
        Value::Array(Vec::new()),
        Value::Array(Vec::new()),
    ])
}

/// `INFO [section …]`: the sections that clients look at before they use a server.
pub(super) fn info(session: &mut Session, args: &[Bytes]) -> Answer {
    let (streams, bytes) = session.embedded().with_store(|store| (store.len(), store.bytes()));
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{LIKE_REDIS}\r\nredis_mode:standalone\r\n\
                 tidegate_version:{}\r\ntcp_port:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                session.port(),
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\n", session.connections())),
        ("Memory", format!("used_memory:{bytes}\r\n")),
        ("Persistence", "loading:0\r\n".to_owned()),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Keyspace", format!("db0:keys={streams},expires=0,avg_ttl=0\r\n")),
    ];
    let all = ["default", "all", "everything"];
    let wanted = |name: &str| {
        args.len() == 1 || args[1..].iter().any(|arg| is(arg, name) || all.iter().any(|word| is(arg, word)))
    };
    let mut text = String::new();
    for (name, body) in sections.iter().filter(|(name, _)| wanted(name)) {
        let gap = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{gap}# {name}\r\n{body}");
    }
    Ok(Value::Verbatim(text.into()))
}

/// A name as Redis takes it: printable, without spaces.
pub(super) fn check_name(name: &[u8]) -> Result<(), Refusal> {
    const MAX_NAME: usize = 256;
    if name.len() <= MAX_NAME && name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
}
