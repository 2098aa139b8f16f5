"""The crate: what `cargo package` would upload."""

from support import expect, run, step

NEEDED = {"Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "CHANGELOG.md", "src/main.rs", "src/lib.rs"}
# Of the crate alone; Cargo adds the original and the commit.
FOLDERS = {"src", "examples", "benches"}
FILES = {"Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json", "README.md", "LICENSE", "CHANGELOG.md"}


def check(packages, tools):
    step("cargo package")
    listed = set(run("cargo", "package", "--list", "--allow-dirty", "--locked", stderr=None).split("\n")) - {""}
    expect(NEEDED <= listed, f"the crate lacks {sorted(NEEDED - listed)}")
    surplus = {name for name in listed if name not in FILES and name.split("/")[0] not in FOLDERS}
    expect(not surplus, f"the crate has more than it needs: {sorted(surplus)}")
    print(f"{len(listed)} files")
