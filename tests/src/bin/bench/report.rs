//! The table at the end, and the file.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::figures::{FIGURES, Results};
use crate::{machine, statistics};

impl Results {
    /// Prints the table.
    pub(crate) fn print(&self) {
        println!();
        println!("{:<20} {:>9} {:>8}  {:<6}  {:<21}  what", "key", "value", "reach", "ok", "min .. max");
        for figure in FIGURES {
            if let Some(error) = self.failures.get(figure.key) {
                println!(
                    "{:<20} {:>9} {:>8}  {:<6}  {error}",
                    figure.key,
                    "-",
                    figure.reach.to_string(),
                    "FAILED"
                );
            }
            let Some(measured) = self.measured.get(figure.key) else { continue };
            let (low, high) = statistics::range(&measured.samples);
            let ok = if figure.reach.holds(measured.value) { "yes" } else { "MISSED" };
            let range = match measured.samples.len() {
                1 => String::new(),
                n => format!("{} .. {} of {n}", short(low), short(high)),
            };
            let unit = if figure.unit.is_empty() { String::new() } else { format!(" [{}]", figure.unit) };
            println!(
                "{:<20} {:>9} {:>8}  {ok:<6}  {range:<21}  {}{unit}",
                figure.key,
                short(measured.value),
                figure.reach.to_string(),
                figure.what
            );
        }
        println!();
    }

    /// Writes the JSON file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut values = Map::new();
        let mut figures = Map::new();
        for figure in FIGURES {
            let Some(measured) = self.measured.get(figure.key) else { continue };
            values.insert(figure.key.to_owned(), json!(measured.value));
            let (min, max) = statistics::range(&measured.samples);
            let told = json!({
                "value": measured.value,
                "unit": figure.unit,
                "reach": figure.reach.to_string(),
                "ok": figure.reach.holds(measured.value),
                "what": figure.what,
                "min": min,
                "max": max,
                "samples": measured.samples,
                "details": measured.details,
            });
            figures.insert(figure.key.to_owned(), told);
        }
        let file = json!({
            "date": jiff::Timestamp::now().to_string(),
            "quick": self.quick,
            "machine": machine::facts(),
            "versions": machine::versions(),
            "values": values,
            "figures": figures,
            "failures": self.failures.iter().map(|(k, e)| ((*k).to_owned(), json!(e))).collect::<Map<_, Value>>(),
        });
        let text = serde_json::to_string_pretty(&file)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Three digits are all that measuring is good for.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
