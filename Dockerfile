# Build: docker build -t esper .      or, without a compiler or Docker on the machine that runs it, scripts/package oci
# Run:   docker run --rm -p 127.0.0.1:3000:3000 -v esper:/var/lib/esper --security-opt seccomp=scripts/seccomp.json \
#            --ulimit nofile=1048576:1048576 esper
# Without the seccomp profile Docker forbids io_uring, and esper says so and ends.

FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
# The caches are mounted, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --profile dist --locked --package esper \
    && install -D target/dist/esper /out/esper

FROM debian:bookworm-slim
COPY --from=build /out/esper /usr/local/bin/esper
# What signs the certificates of brokers at amqps://.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# Events are kept here: docs/journal.md. A volume that is made from the image gets the owner it has here.
RUN install -d -o 65532 -g 65532 -m 700 /var/lib/esper
VOLUME /var/lib/esper
# What is otherwise in this image: a file, which every other file, variable and flag stands over. The container's network
# decides who reaches it; -p 127.0.0.1:3000:3000 keeps it to this machine.
COPY deploy/container.yml /usr/lib/esper/config.yml
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root. It needs no home and no files but those.
USER 65532:65532
EXPOSE 3000
STOPSIGNAL SIGTERM
# It asks the port of the process's own flags, variables and files.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["esper", "health"]
ENTRYPOINT ["esper"]
