//! `tidegate plugin test`: shows samples to a component and says what it answers and takes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::samples::{Question, Sample, built_in, parse};
use super::workshop::{Plan, Workshop, WorkshopArgs, size};
use crate::cli::{CliError, run_async};
use crate::plugin::log::Line;
use crate::plugin::{Failure, Hook};
use verdict::Verdict;

mod verdict;

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate plugin test filter.wasm
  tidegate plugin test filter.wasm --samples samples.jsonl --set words=damn,heck
  echo '{\"data\": \"hello\", \"expect\": \"accept\"}' | tidegate plugin test filter.wasm --samples -

A file of samples has JSON, one a line (docs/plugins.md):
  {\"hook\": \"on-publish\", \"user\": \"ada\", \"channel\": \"room:1\", \"data\": {\"text\": \"hi\"}, \"expect\": \"accept\"}

The exit code is 1 if the plugin fails, or answers something else than a sample expects.";

/// What to try.
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// The component and what it is given.
    #[command(flatten)]
    pub workshop: WorkshopArgs,
    /// Samples, JSON, one a line; - is standard input [default: some for each hook].
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Ask each sample so often, and show the median of the time. The first answer is shown.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub repeat: u32,
}

/// Runs the command.
pub(super) fn run(args: &TestArgs) -> Result<(), CliError> {
    let plan = Plan::new(&args.workshop)?;
    let text = match &args.samples {
        None => None,
        Some(path) if path.as_os_str() == "-" => Some(std::io::read_to_string(std::io::stdin())),
        Some(path) => Some(std::fs::read_to_string(path)),
    };
    let name = args.samples.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let text = text.transpose().with_context(|| format!("{name} cannot be read"))?;
    let samples = text.map(|text| parse(&text)).transpose();
    let samples = samples.map_err(|error| CliError::Usage(format!("{name}: {error:#}")))?;
    run_async(test(args, plan, samples))
}

async fn test(args: &TestArgs, plan: Plan, samples: Option<Vec<(usize, Sample)>>) -> Result<()> {
    let shop = Workshop::open(plan).await?;
    let samples = samples.unwrap_or_else(|| built_in(shop.plugin.hooks()));
    ensure!(!samples.is_empty(), "there are no samples");
    let mut trials = Vec::with_capacity(samples.len());
    for (line, sample) in &samples {
        let place = || format!("line {line} of the samples");
        trials.push(Trial::run(&shop, *line, sample, args.repeat).await.with_context(place)?);
    }
    if args.workshop.json {
        println!("{}", Value::Array(trials.iter().map(Trial::as_json).collect()));
    } else {
        print!("{}", table(&trials));
    }
    let failed = trials.iter().filter(|trial| trial.failed()).count();
    ensure!(failed == 0, "{failed} of {} samples failed", trials.len());
    Ok(())
}

/// One sample, and what came of it.
struct Trial {
    line: usize,
    hook: Hook,
    outcome: Result<Verdict, Failure>,
    /// What was expected instead.
    unmet: Option<Value>,
    took: Duration,
    memory_bytes: usize,
    log: Vec<Line>,
}

impl Trial {
    async fn run(shop: &Workshop, line: usize, sample: &Sample, repeat: u32) -> Result<Self> {
        let hook = sample.hook(shop.plugin.hooks())?;
        let (_, said) = shop.log.read(0);
        let mut first = None;
        let mut times = Vec::new();
        for _ in 0..repeat {
            let question = sample.question(hook, line)?;
            let before = shop.busy();
            let outcome = ask(shop, question).await;
            times.push(shop.cost_since(before).await);
            // What is said again and again is shown once.
            first.get_or_insert_with(|| (outcome, shop.log.read(said).0));
        }
        let (outcome, log) = first.context("each sample is asked at least once")?;
        times.sort_unstable();
        let met = match (&sample.expect, &outcome) {
            (None, _) => true,
            (Some(expected), Ok(verdict)) => verdict.fits(expected),
            (Some(_), Err(_)) => false,
        };
        Ok(Self {
            line,
            hook,
            outcome,
            unmet: if met { None } else { sample.expect.clone() },
            took: times[times.len() / 2],
            memory_bytes: shop.plugin.memory_bytes(),
            log,
        })
    }

    fn failed(&self) -> bool {
        self.outcome.is_err() || self.unmet.is_some()
    }

    fn word(&self) -> &'static str {
        self.outcome.as_ref().map_or("failed", |verdict| verdict.word)
    }

    fn as_json(&self) -> Value {
        let mut line = json!({
            "line": self.line,
            "hook": self.hook.interface(),
            "verdict": self.word(),
            "ok": !self.failed(),
            "us": self.took.as_nanos() as f64 / 1e3,
            "memory_bytes": self.memory_bytes,
            "log": self.log.iter().map(|line| json!({
                "level": line.level.word(), "context": line.context, "message": line.message,
            })).collect::<Vec<_>>(),
        });
        match &self.outcome {
            Ok(verdict) => line["answer"] = verdict.answer.clone(),
            Err(failure) => line["failure"] = failure.to_string().into(),
        }
        if let Some(expected) = &self.unmet {
            line["expected"] = expected.clone();
        }
        line
    }
}

async fn ask(shop: &Workshop, question: Question) -> Result<Verdict, Failure> {
    let (host, plugin) = (&shop.host, &shop.plugin);
    Ok(match question {
        Question::Authenticate(shown, facts) => host.authenticate(plugin, shown, facts).await?.into(),
        Question::OnSubscribe(request, facts) => host.on_subscribe(plugin, request, facts).await?.into(),
        Question::OnPublish(message, facts) => host.on_publish(plugin, message, facts).await?.into(),
        Question::Route(offset, to, data, facts) => {
            host.route(plugin, offset, &to, data, facts).await?.into()
        }
        Question::OnDeliver(message) => {
            let answers = host.deliver(plugin, vec![message]).await;
            answers.into_iter().next().unwrap_or(Err(Failure::Unavailable))?.into()
        }
        Question::OnSession(news, facts) => {
            host.on_session(plugin, news, facts).await?;
            Verdict::told()
        }
    })
}

/// Text in one line: what a guest wrote must not reach the terminal as it is.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { plain.extend(c.escape_debug()) } else { plain.push(c) }
    }
    plain
}

fn table(trials: &[Trial]) -> String {
    let mut text = format!("{:<19} {:<9} {:>8} {:>10}  answer\n", "hook", "verdict", "µs", "memory");
    for trial in trials {
        let micros = trial.took.as_secs_f64() * 1e6;
        let micros = if micros < 100.0 { format!("{micros:.1}") } else { format!("{micros:.0}") };
        let what = match &trial.outcome {
            Ok(verdict) => verdict.brief(),
            Err(failure) => failure.to_string(),
        };
        let (hook, word, memory) = (trial.hook.interface(), trial.word(), size(trial.memory_bytes));
        let row = format!("{hook:<19} {word:<9} {micros:>8} {memory:>10}  {what}");
        text += row.trim_end();
        text += "\n";
        if let Some(expected) = &trial.unmet {
            let _ = writeln!(text, "    line {} expected {expected}", trial.line);
        }
        for line in &trial.log {
            let context = if line.context.is_empty() { String::new() } else { format!("{}: ", line.context) };
            let _ = writeln!(text, "    {} {context}{}", line.level.word(), plain(&line.message));
        }
    }
    text
}
