//! `cepctl`; see [`endpoints_operator::cepctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    endpoints_operator::cepctl::main(std::env::args_os())
}
