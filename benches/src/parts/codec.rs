//! Encoding a message, which happens once a message and codec.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use tidegate::domain::{ChannelName, Offset, Publication};
use tidegate::protocol::{Codec, encode_message};

use crate::args::RunArgs;
use crate::redis::PAYLOAD;
use crate::report::Report;

pub fn run(args: &RunArgs, report: &mut Report) -> Result<()> {
    let channel = ChannelName::parse("room:1")?;
    let object = format!(r#"{{"text":"{}"}}"#, "x".repeat(PAYLOAD - 11));
    for (name, data) in [("text", "x".repeat(PAYLOAD)), ("JSON", object)] {
        let offset = Offset { ms: 1_763_769_600_000, seq: 0 };
        let message = Publication { offset, data: Bytes::from(data), ..Publication::default() };
        for codec in [Codec::Json, Codec::Cbor] {
            let best = (0..5).map(|_| round(args, codec, &channel, &message)).fold(f64::INFINITY, f64::min);
            report.note(format!("encode {PAYLOAD} bytes of {name} as {codec:?}"), best, "ns");
        }
    }
    Ok(())
}

/// Nanoseconds a message.
fn round(args: &RunArgs, codec: Codec, channel: &ChannelName, message: &Publication) -> f64 {
    let times = args.size(200_000, 20_000);
    let mut out = Vec::new();
    let start = Instant::now();
    for _ in 0..times {
        out.clear();
        encode_message(codec, black_box(channel), black_box(message), 1, &mut out);
        black_box(&out);
    }
    start.elapsed().as_nanos() as f64 / f64::from(times)
}
