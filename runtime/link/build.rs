//! How both programs are linked with musl, as their images have them: small, on disk and in memory.

use std::env;
use std::path::Path;

/// No index of the tables that `small.ld` leaves out; and what a program that may lie anywhere has to add to itself when it
/// starts as bits instead of 24 bytes for each place: it reads all of that, so it would stay in memory besides. A linker that
/// does not know how says so and goes on.
const SMALL: [&str; 2] = ["--no-eh-frame-hdr", "-zpack-relative-relocs"];

fn main() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/link/small.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        // What is for the linker has to be marked where a compiler calls it.
        let direct = env::var("RUSTC_LINKER").is_ok_and(|linker| linker.contains("lld"));
        let pass = |argument: &str| match direct {
            true => println!("cargo::rustc-link-arg-bins={argument}"),
            false => println!("cargo::rustc-link-arg-bins=-Wl,{argument}"),
        };
        SMALL.iter().for_each(|argument| pass(argument));
        pass(&format!("-T{}", script.display()));
    }
}
