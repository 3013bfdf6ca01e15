//! Both codecs against the same tables, and the page that describes them.

mod decode;
mod encode;
mod page;

use crate::domain::{ChannelName, Offset};

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn offset(text: &str) -> Offset {
    text.parse().unwrap()
}
