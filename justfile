# Exactly what a change must pass.
check:
    .ci/run

# Licences and advisories of every dependency, by deny.toml (needs cargo-deny and the advisory list).
deny:
    cargo deny check
