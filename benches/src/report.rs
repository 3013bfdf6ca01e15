//! The figures, as a table or as JSON.

use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// How much it is.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it may be at most, or has to be at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Whether the budget is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<bool>,
}

/// A bound of the design.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// No more than this.
    Most(f64),
    /// No less than this.
    Least(f64),
}

/// Gathers figures and prints them at the end.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure without a budget.
    pub fn note(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { what: what.into(), value, unit, budget: None, kept: None });
    }

    /// Adds a figure that has a budget.
    pub fn hold(&mut self, what: impl Into<String>, value: f64, unit: &'static str, budget: Budget) {
        let kept = match budget {
            Budget::Most(most) => value <= most,
            Budget::Least(least) => value >= least,
        };
        let (what, budget, kept) = (what.into(), Some(budget), Some(kept));
        self.figures.push(Figure { what, value, unit, budget, kept });
    }

    /// The figures as JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.figures)
    }

    /// The figures as a table.
    pub fn table(&self) -> String {
        let mut out = format!("{:<66} {:>12} {:<10} {:>12}\n", "what", "measured", "", "budget");
        for figure in &self.figures {
            let budget = match figure.budget {
                None => String::new(),
                Some(Budget::Most(most)) => format!("<= {}", shown(most)),
                Some(Budget::Least(least)) => format!(">= {}", shown(least)),
            };
            let kept = match figure.kept {
                Some(false) => "  over",
                Some(true) => "  kept",
                None => "",
            };
            let (what, value, unit) = (&figure.what, shown(figure.value), figure.unit);
            out += &format!("{what:<66} {value:>12} {unit:<10} {budget:>12}{kept}\n");
        }
        out
    }
}

/// Three digits that matter.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
