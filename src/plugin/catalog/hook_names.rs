//! A set of hooks as a list of their names.

use serde::{Deserialize, Deserializer, Serializer, de};

use crate::plugin::hooks::{Hook, Hooks};

pub(super) fn serialize<S: Serializer>(hooks: &Hooks, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(hooks.iter().map(Hook::interface))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hooks, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    names.iter().try_fold(Hooks::default(), |hooks, name| {
        let hook = Hook::of_interface(name);
        hook.map(|hook| hooks.with(hook)).ok_or_else(|| de::Error::custom(format_args!("no hook {name:?}")))
    })
}
