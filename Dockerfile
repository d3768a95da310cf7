# An ordinary build, for those who have a container engine:
#   docker build --target ferrolb-controller -t ferrolb/ferrolb-controller:v0.1.0 .
#   docker build --target ferrolb-speaker -t ferrolb/ferrolb-speaker:v0.1.0 .
# `cargo xtask image` makes such images without one, the same bytes everywhere.
FROM rust:1-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libcap2-bin musl-tools
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /ferrolb
COPY . .
RUN cargo build --locked --release --target "$(uname -m)-unknown-linux-musl" -p ferrolb-controller -p ferrolb-speaker \
 && mkdir /out && cp "target/$(uname -m)-unknown-linux-musl/release/"ferrolb-controller /out/ \
 && cp "target/$(uname -m)-unknown-linux-musl/release/"ferrolb-speaker /out/ \
 && setcap cap_net_raw+ep /out/ferrolb-speaker

FROM scratch AS ferrolb-controller
COPY --from=build /out/ferrolb-controller /ferrolb-controller
USER 65534:65534
ENTRYPOINT ["/ferrolb-controller"]

FROM scratch AS ferrolb-speaker
COPY --from=build /out/ferrolb-speaker /ferrolb-speaker
USER 65534:65534
ENTRYPOINT ["/ferrolb-speaker"]
