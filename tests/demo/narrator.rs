//! What the audience reads: headings, explanations, commands with their real output, and what was checked.

use std::io::IsTerminal;

use testbed::cluster::Cluster;

const WIDTH: usize = 96;
const INDENT: &str = "    ";

/// Tells the story on standard output, in colour on a terminal.
pub(crate) struct Narrator {
    colour: bool,
    act: u32,
    last: Kind,
}

/// What was written last: an empty line goes between two kinds, and before every command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Heading,
    Text,
    Command,
    Checked,
}

impl Narrator {
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !plain, act: 0, last: Kind::Nothing }
    }

    fn paint(&self, codes: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{codes}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn begin(&mut self, kind: Kind) {
        let apart = match self.last {
            Kind::Nothing => false,
            Kind::Heading => kind == Kind::Command,
            _ => kind != self.last || kind == Kind::Command,
        };
        if apart {
            println!();
        }
        self.last = kind;
    }

    /// Opens the next act.
    pub(crate) fn heading(&mut self, text: &str) {
        self.begin(Kind::Heading);
        self.act += 1;
        println!("{}", self.paint("1;36", &format!("{}. {text}", self.act)));
    }

    /// A paragraph: what happens, and why.
    pub(crate) fn say(&mut self, text: &str) {
        self.begin(Kind::Text);
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                println!("{line}");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        println!("{line}");
    }

    /// Something that was checked and holds.
    pub(crate) fn checked(&mut self, text: &str) {
        self.begin(Kind::Checked);
        println!("{} {text}", self.paint("32", "ok:"));
    }

    /// A command that is run, as one would type it.
    pub(crate) fn command(&mut self, text: &str) {
        self.begin(Kind::Command);
        println!("{INDENT}{}", self.paint("1", &format!("$ {text}")));
    }

    /// What a command wrote.
    pub(crate) fn output(&mut self, text: &str) {
        for line in text.trim_end().lines() {
            println!("{}", format!("{INDENT}{line}").trim_end());
        }
    }

    /// Figures of our own, set apart like the output of a command.
    pub(crate) fn table(&mut self, text: &str) {
        self.begin(Kind::Command);
        self.output(text);
    }

    /// Runs kubectl, shows both the command and its output, and returns the output. The words of the command
    /// are separated by spaces; single quotes around a word are for the audience's shell.
    pub(crate) async fn kubectl(&mut self, cluster: &Cluster, line: &str) -> anyhow::Result<String> {
        self.command(&format!("kubectl {line}"));
        let args: Vec<String> = line.split_whitespace().map(|word| word.replace('\'', "")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = cluster.kubectl(&args).await?;
        self.output(&output);
        Ok(output)
    }
}
