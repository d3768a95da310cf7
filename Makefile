# The two commands of the README, and what they stand on. Everything else is `cargo xtask`.
.PHONY: demo test build prepare

demo: prepare
	cargo build --locked -p xtask -p ferrolb-lab
	cargo run --locked -q -p xtask -- demo

test:
	scripts/test

build: prepare
	cargo build --locked --release -p ferrolb-controller -p ferrolb-speaker -p ferrolb-cli
	cargo build --locked -p xtask -p ferrolb-lab

prepare:
	scripts/prepare
