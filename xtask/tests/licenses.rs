//! Every package that is linked in has a licence that `deny.toml` allows.

use std::process::Command;

#[test]
fn licences_are_allowed() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["licenses", "--offline"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
