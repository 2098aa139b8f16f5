"""What the packages share: the man pages, the completions, and the documents."""

from build import ROOT, output, run

# Where each shell looks for the completions of a program, below share, and where Debian's zsh does.
COMPLETIONS = {
    "bash": "bash-completion/completions/esper",
    "zsh": "zsh/site-functions/_esper",
    "fish": "fish/vendor_completions.d/esper.fish",
}
COMPLETIONS_OF_DEBIAN = {**COMPLETIONS, "zsh": "zsh/vendor-completions/_esper"}


def man_pages(build):
    """Returns the pages by their names, such as esper-token.1."""
    folder = build.folder("man")
    run(build.man, folder)
    return {page.name: page.read_bytes() for page in sorted(folder.iterdir())}


def completions(build, places=None):
    """Returns the completions by their names below share."""
    places = places or COMPLETIONS
    return {name: output(build.binary, "completions", shell).encode() for shell, name in places.items()}


def documents():
    """Returns the documents for administrators by their names, which their links use."""
    docs = [ROOT / name for name in ("README.md", "SECURITY.md", "docs/config.yml")]
    docs += sorted((ROOT / "docs").glob("*.md"))
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in docs}


def examples():
    """Returns configurations of other programs, and of ways to run esper, by their names."""
    deploy = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]
    files = {str(path.relative_to(ROOT / "deploy")): path.read_bytes() for path in deploy}
    # These are installed.
    for name in ("config.yml", "container.yml", "esper.service", "esper.socket", "esper.sysusers"):
        del files[name]
    for name in ("seccomp.json", "seccomp.LICENSE"):
        files[name] = (ROOT / "scripts" / name).read_bytes()
    return files
