//! `[tenants.<id>.namespaces.<name>]`: the rules of a namespace, and which of them contradict.

use crate::domain::{Kind, Namespace, NamespaceRules, OnSlow, PublishRight, Start, SubscribeRight};

use super::reader::Section;

/// Every tenant has these, whether configured or not.
const PERSONAL: &str = "user";
const OF_SESSIONS: &str = "session";

/// A tenant's namespaces: those it names, `user`, and `session`.
pub(super) fn namespaces(tenant: &mut Section<'_>) -> Vec<NamespaceRules> {
    let mut rules = Vec::new();
    for (name, section) in tenant.named_sections("namespaces") {
        match Namespace::parse(&name) {
            Ok(name) => rules.push(namespace(&name, section)),
            Err(error) => section.wrong_here(error.to_string()),
        }
    }
    for built_in in [NamespaceRules::personal(), NamespaceRules::of_sessions()] {
        if !rules.iter().any(|rules| rules.name == built_in.name) {
            rules.push(built_in);
        }
    }
    rules
}

fn namespace(name: &Namespace, mut section: Section<'_>) -> NamespaceRules {
    let kinds = [("log", Kind::Log), ("live", Kind::Live), ("queue", Kind::Queue)];
    let kind = section.choice("kind", &kinds).unwrap_or(Kind::Log);
    let base = match kind {
        Kind::Log if name.as_str() == PERSONAL => NamespaceRules::personal(),
        Kind::Log if name.as_str() == OF_SESSIONS => NamespaceRules::of_sessions(),
        Kind::Log => NamespaceRules::log(name.as_str()),
        Kind::Live => NamespaceRules::live(name.as_str()),
        Kind::Queue => NamespaceRules::queue(name.as_str()),
    };
    let starts = [("now", Start::Now), ("oldest", Start::Oldest)];
    let slow = [
        ("pause", OnSlow::Pause),
        ("drop_oldest", OnSlow::DropOldest),
        ("conflate", OnSlow::Conflate),
        ("disconnect", OnSlow::Disconnect),
    ];
    let publish = [
        ("nobody", PublishRight::Nobody),
        ("subscribers", PublishRight::Subscribers),
        ("anyone", PublishRight::Anyone),
    ];
    let subscribe = [("anyone", SubscribeRight::Anyone), ("listed", SubscribeRight::Listed)];
    let mut rules = NamespaceRules {
        ack_always: section.choice("ack", &[("asked", false), ("always", true)]).unwrap_or(base.ack_always),
        start: section.choice("start", &starts).unwrap_or(base.start),
        on_slow: section.choice("on_slow", &slow).unwrap_or(base.on_slow),
        dead_letters: section.flag("dead_letters", base.dead_letters),
        unreliable: section.flag("unreliable", base.unreliable),
        history: section.flag("history", base.history),
        publish: section.choice("publish", &publish).unwrap_or(base.publish),
        subscribe: section.choice("subscribe", &subscribe).unwrap_or(base.subscribe),
        ..base
    };
    let retention = &mut rules.retention;
    retention.max_len = section.number("retention_max_len", retention.max_len, 1..=10_000_000);
    const YEAR_MS: u64 = 366 * 24 * 3_600 * 1_000;
    retention.max_age_ms = section.number("retention_max_age_ms", retention.max_age_ms, 1_000..=YEAR_MS);
    contradictions(&rules, &section);
    rules
}

/// Notes settings that the kind cannot keep.
fn contradictions(rules: &NamespaceRules, section: &Section<'_>) {
    let wrong = |is: bool, key: &str, what: &str| {
        if is {
            section.wrong(key, what);
        }
    };
    if rules.name.as_str() == PERSONAL {
        wrong(rules.kind != Kind::Log, "kind", "must be \"log\": personal channels keep what a user missed");
    }
    if rules.name.as_str() == OF_SESSIONS {
        wrong(
            rules.kind != Kind::Log,
            "kind",
            "must be \"log\": a reply may come before its session listens",
        );
    }
    match rules.kind {
        Kind::Log => {
            wrong(
                rules.unreliable && rules.ack_always,
                "unreliable",
                "cannot be true together with ack = \"always\"",
            );
        }
        Kind::Live => {
            wrong(rules.ack_always, "ack", "cannot be \"always\" in a live namespace: it keeps no cursors");
            wrong(
                rules.start != Start::Now,
                "start",
                "must be \"now\" in a live namespace: it replays nothing",
            );
            wrong(
                rules.dead_letters,
                "dead_letters",
                "cannot be true in a live namespace: it redelivers nothing",
            );
        }
        Kind::Queue => {
            wrong(!rules.ack_always, "ack", "must be \"always\" in a queue");
            wrong(rules.start != Start::Oldest, "start", "must be \"oldest\" in a queue");
            wrong(
                rules.on_slow != OnSlow::Pause,
                "on_slow",
                "must be \"pause\" in a queue: no work is left out",
            );
            wrong(rules.unreliable, "unreliable", "cannot be true in a queue");
        }
    }
}
