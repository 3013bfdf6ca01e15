//! The hooks by name, and which of them a plugin has.

use std::any::Any;

use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Lift, Lower, TypedFunc};

use super::answers::{self, AnswerLimits};
use super::contract::{
    Credentials, Incoming, IngressEntry, Message, RawDeliverVerdict, RawIdentity, RawPublishVerdict,
    RawRefusal, RawRouteVerdict, RawSubscribeVerdict, Recipient, SessionNews, SubscribeRequest,
};
use super::outcome::BadAnswer;
use crate::telemetry::Label as _;
pub use crate::telemetry::PluginHook as Hook;

/// How often `on-deliver` is asked, as the plugin declares by the hook it exports; the coarsest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Once a message.
    Message,
    /// Once a message and class.
    Class,
    /// Once a message and session.
    Session,
}

impl Hook {
    /// The interface's name, which is the function's too.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::OnSubscribe => "on-subscribe",
            Self::OnPublish => "on-publish",
            Self::Route => "route",
            Self::OnDeliver => "on-deliver",
            Self::OnDeliverClass => "on-deliver-class",
            Self::OnDeliverSession => "on-deliver-session",
            Self::OnSession => "on-session",
        }
    }

    /// The hook of this interface.
    pub fn of_interface(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|hook| hook.interface() == name)
    }

    /// The scope, for the hooks that deliver.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::OnDeliver => Some(Scope::Message),
            Self::OnDeliverClass => Some(Scope::Class),
            Self::OnDeliverSession => Some(Scope::Session),
            _ => None,
        }
    }
}

/// A set of hooks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Hooks(u8);

impl Hooks {
    /// The set with one more.
    #[must_use]
    pub fn with(self, hook: Hook) -> Self {
        Self(self.0 | 1 << hook.index())
    }

    /// Whether the hook is in it.
    pub fn has(self, hook: Hook) -> bool {
        self.0 & 1 << hook.index() != 0
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Hook> {
        Hook::ALL.iter().copied().filter(move |hook| self.has(*hook))
    }

    /// How often messages on their way out are shown to the plugin, if at all.
    pub fn scope(self) -> Option<Scope> {
        self.iter().find_map(Hook::scope)
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// One hook's types: what goes in, what comes out, and how an answer is checked.
pub(super) trait HookCall: Send + 'static {
    type Args: ComponentNamedList + Lower + Send + Sync + 'static;
    type Raw: ComponentNamedList + Lift + Send + Sync + 'static;
    type Answer: Send + 'static;
    const HOOK: Hook;

    fn check(raw: Self::Raw, limits: &AnswerLimits) -> Result<Self::Answer, BadAnswer>;

    /// Whether an answer is a refusal, which metrics tell from others.
    fn is_refusal(_: &Self::Answer) -> bool {
        false
    }
}

macro_rules! hook_calls {
    ($($name:ident: $args:ty => $raw:ty, $answer:ty, $check:path, $refusal:path;)*) => {$(
        pub(super) struct $name;

        impl HookCall for $name {
            type Args = $args;
            type Raw = ($raw,);
            type Answer = $answer;
            const HOOK: Hook = Hook::$name;

            fn check((raw,): Self::Raw, limits: &AnswerLimits) -> Result<Self::Answer, BadAnswer> {
                $check(raw, limits)
            }

            fn is_refusal(answer: &Self::Answer) -> bool {
                $refusal(answer)
            }
        }
    )*};
}

hook_calls! {
    Authenticate: (Credentials,) => Result<RawIdentity, RawRefusal>,
        answers::Admission, answers::admission, answers::Admission::is_refusal;
    OnSubscribe: (SubscribeRequest,) => RawSubscribeVerdict,
        answers::SubscribeVerdict, answers::subscribe, answers::SubscribeVerdict::is_refusal;
    OnPublish: (Incoming,) => RawPublishVerdict,
        answers::PublishVerdict, answers::publish, answers::PublishVerdict::is_refusal;
    Route: (IngressEntry,) => RawRouteVerdict,
        answers::RouteVerdict, answers::route, never;
    OnDeliver: (Message,) => RawDeliverVerdict,
        answers::DeliverVerdict, answers::deliver, never;
    OnDeliverClass: (Message, std::sync::Arc<str>) => RawDeliverVerdict,
        answers::DeliverVerdict, answers::deliver, never;
    OnDeliverSession: (Message, Recipient) => RawDeliverVerdict,
        answers::DeliverVerdict, answers::deliver, never;
}

fn never<T>(_: &T) -> bool {
    false
}

pub(super) struct OnSession;

impl HookCall for OnSession {
    type Args = (SessionNews,);
    type Raw = ();
    type Answer = ();
    const HOOK: Hook = Hook::OnSession;

    fn check((): (), _: &AnswerLimits) -> Result<(), BadAnswer> {
        Ok(())
    }
}

/// Where a component has its hooks' functions; found once, used for every instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Places([Option<ComponentExportIndex>; Hook::ALL.len()]);

impl Places {
    /// Looks for the functions of all these hooks, given as the names of their interfaces with version.
    pub(super) fn find(
        component: &wasmtime::component::Component,
        exports: &[(Hook, Box<str>)],
    ) -> Result<Self, Hook> {
        let mut places = Self::default();
        for (hook, interface) in exports {
            let instance = component.get_export_index(None, &**interface);
            let function = instance.and_then(|at| component.get_export_index(Some(&at), hook.interface()));
            places.0[hook.index()] = Some(function.ok_or(*hook)?);
        }
        Ok(places)
    }

    pub(super) fn get(&self, hook: Hook) -> Option<&ComponentExportIndex> {
        self.0[hook.index()].as_ref()
    }
}

/// The typed functions of one instance, looked up when first called.
#[derive(Default)]
pub(super) struct Functions([Option<Box<dyn Any + Send + Sync>>; Hook::ALL.len()]);

impl Functions {
    /// The function, if it was looked up before.
    pub(super) fn get<H: HookCall>(&self) -> Option<&TypedFunc<H::Args, H::Raw>> {
        self.0[H::HOOK.index()].as_ref()?.downcast_ref()
    }

    pub(super) fn set<H: HookCall>(&mut self, function: TypedFunc<H::Args, H::Raw>) {
        self.0[H::HOOK.index()] = Some(Box::new(function));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_its_hooks_and_their_scope() {
        let hooks = Hooks::default().with(Hook::Route).with(Hook::OnDeliverClass);
        assert!(hooks.has(Hook::Route) && !hooks.has(Hook::OnPublish));
        assert_eq!(hooks.iter().count(), 2);
        assert_eq!(hooks.scope(), Some(Scope::Class));
        assert!(Hooks::default().is_empty());
        for hook in Hook::ALL {
            assert_eq!(Hook::of_interface(hook.interface()), Some(*hook));
        }
    }
}
