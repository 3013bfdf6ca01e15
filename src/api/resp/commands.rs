//! The table of commands: name, arguments, and what carries it out.

use bytes::Bytes;

use super::args::Refusal;
use super::reading::{ReadPlan, plan_xread, plan_xreadgroup};
use super::session::Session;
use super::{claims, groups, keys, server, streams, xinfo};
use crate::backbone::embedded::store::Store;
use crate::backbone::resp::Value;

/// A command's reply, or why it was refused.
pub(super) type Answer = Result<Value, Refusal>;

/// What a command works on.
pub(super) struct Call<'a> {
    /// The streams, this command's alone for as long as it runs.
    pub store: &'a mut Store,
    /// The command's name and arguments; there are as many as the table asks for.
    pub args: &'a [Bytes],
    /// Now, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// A row of the table.
pub(super) struct Command {
    /// In lower case.
    pub name: &'static str,
    /// Arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Whether it changes streams.
    pub writes: bool,
    /// Where the keys stand: first, last (negative: from the end), step; all zero: none, or movable.
    pub keys: (i32, i32, i32),
    /// What carries it out.
    pub run: Run,
}

/// What carries a command out.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// On the streams.
    Streams(fn(&mut Call<'_>) -> Answer),
    /// On the streams, and may wait.
    Read(fn(&mut Call<'_>) -> Result<ReadPlan, Refusal>),
    /// On the connection.
    Connection(fn(&mut Session, &[Bytes]) -> Answer),
    /// The same, and a client that has not authenticated may.
    Greeting(fn(&mut Session, &[Bytes]) -> Answer),
    /// Begins, ends or drops a transaction.
    Multi,
    Exec,
    Discard,
    /// Ends the connection.
    Quit,
    /// As if the connection were new.
    Reset,
}

const fn row(name: &'static str, arity: i32, writes: bool, keys: (i32, i32, i32), run: Run) -> Command {
    Command { name, arity, writes, keys, run }
}

const NO_KEY: (i32, i32, i32) = (0, 0, 0);
const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const SUB_KEY: (i32, i32, i32) = (2, 2, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);

/// Every command there is.
pub(super) static COMMANDS: &[Command] = &[
    row("auth", -2, false, NO_KEY, Run::Greeting(server::auth)),
    row("client", -2, false, NO_KEY, Run::Connection(server::client)),
    row("command", -1, false, NO_KEY, Run::Connection(server::command)),
    row("del", -2, true, ALL_KEYS, Run::Streams(keys::del)),
    row("discard", 1, false, NO_KEY, Run::Discard),
    row("echo", 2, false, NO_KEY, Run::Connection(server::echo)),
    row("exec", 1, false, NO_KEY, Run::Exec),
    row("exists", -2, false, ALL_KEYS, Run::Streams(keys::exists)),
    row("hello", -1, false, NO_KEY, Run::Greeting(server::hello)),
    row("info", -1, false, NO_KEY, Run::Connection(server::info)),
    row("multi", 1, false, NO_KEY, Run::Multi),
    row("ping", -1, false, NO_KEY, Run::Connection(server::ping)),
    row("quit", -1, false, NO_KEY, Run::Quit),
    row("reset", 1, false, NO_KEY, Run::Reset),
    row("select", 2, false, NO_KEY, Run::Connection(server::select)),
    row("type", 2, false, ONE_KEY, Run::Streams(keys::kind)),
    row("unlink", -2, true, ALL_KEYS, Run::Streams(keys::del)),
    row("xack", -4, true, ONE_KEY, Run::Streams(groups::xack)),
    row("xadd", -5, true, ONE_KEY, Run::Streams(streams::xadd)),
    row("xautoclaim", -6, true, ONE_KEY, Run::Streams(claims::xautoclaim)),
    row("xclaim", -6, true, ONE_KEY, Run::Streams(claims::xclaim)),
    row("xdel", -3, true, ONE_KEY, Run::Streams(streams::xdel)),
    row("xgroup", -2, true, SUB_KEY, Run::Streams(groups::xgroup)),
    row("xinfo", -2, false, SUB_KEY, Run::Streams(xinfo::xinfo)),
    row("xlen", 2, false, ONE_KEY, Run::Streams(streams::xlen)),
    row("xpending", -3, false, ONE_KEY, Run::Streams(claims::xpending)),
    row("xrange", -4, false, ONE_KEY, Run::Streams(streams::xrange)),
    row("xread", -4, false, NO_KEY, Run::Read(plan_xread)),
    row("xreadgroup", -7, true, NO_KEY, Run::Read(plan_xreadgroup)),
    row("xrevrange", -4, false, ONE_KEY, Run::Streams(streams::xrevrange)),
    row("xtrim", -4, true, ONE_KEY, Run::Streams(streams::xtrim)),
];

/// The command of this name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()))
}

impl Command {
    /// Whether it takes so many arguments, its name included.
    pub fn takes(&self, args: usize) -> bool {
        fits(self.arity, args)
    }
}

/// Whether a number of arguments is right; a negative arity is the least.
pub(super) fn fits(arity: i32, args: usize) -> bool {
    let needed = arity.unsigned_abs() as usize;
    if arity < 0 { args >= needed } else { args == needed }
}
