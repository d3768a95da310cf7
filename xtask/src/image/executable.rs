//! Whether a file can be the only one of an image: a static executable, for which processor.

use anyhow::{Context, Result, bail, ensure};
use ferrolb_image::Architecture;
use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object};

/// The architecture of a static executable.
pub(super) fn architecture(bytes: &[u8]) -> Result<Architecture> {
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(bytes).context("this is no 64-bit ELF file")?;
    let architecture = match file.architecture() {
        object::Architecture::X86_64 => Architecture::Amd64,
        object::Architecture::Aarch64 => Architecture::Arm64,
        other => bail!("it is for {other:?}; images are made for x86_64 and aarch64"),
    };
    let dynamic = file
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type(file.endian()) == elf::PT_INTERP);
    ensure!(
        !dynamic,
        "it needs a dynamic loader, which an image from scratch has not; build it for {}-unknown-linux-musl",
        machine(architecture)
    );
    Ok(architecture)
}

/// As Rust names the processor.
pub(crate) fn machine(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "x86_64",
        Architecture::Arm64 => "aarch64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_static_executable_is_refused() {
        let refused = format!("{:#}", architecture(b"#!/bin/sh\n").unwrap_err());
        assert!(refused.contains("ELF"), "{refused}");
        // Tests are linked dynamically.
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let refused = architecture(&this).unwrap_err().to_string();
        assert!(refused.contains("-unknown-linux-musl"), "{refused}");
    }
}
