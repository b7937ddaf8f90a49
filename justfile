# Exactly what a change must pass.
check:
    .ci/run

# One seed of the simulation, with all that happened.
simulate SEED:
    PIGGIN_SEED={{SEED}} PIGGIN_TRACE=1 cargo test --test simulation -- --exact determinism::one_seed_alone --nocapture

# Licences and advisories of every dependency, by deny.toml (needs cargo-deny and the advisory list).
deny:
    cargo deny check
