"""Generates the man page from the program's help: `man.py COMMAND... > hearth.1`. COMMAND is the binary, or
an emulator with the binary."""

import re
import subprocess
import sys
import textwrap

FILES = {
    "/etc/hearth/hearth.toml": "Settings of the service. After installation they are all commented out.",
    "/etc/hearth/credentials/": "Secrets of the service, one file per setting.",
    "/var/lib/hearth/": "Data of the service.",
    "/usr/share/doc/hearth/examples/hearth.toml": "Explanation of every setting.",
}


class Help:
    """The parsed output of `COMMAND NAME... --help`. argh prints a line of usage, a description, and lists
    under `Options:`, `Commands:` and the like, whose entries may have several lines."""

    def __init__(self, command, names):
        printed = subprocess.run([*command, *names, "--help"], check=True, capture_output=True, text=True).stdout
        parts = re.split(r"^(\w[\w ]*):\n", printed, flags=re.MULTILINE)
        usage, self.about = (part.strip() for part in parts[0].split("\n\n", 1))
        self.usage = re.sub(r"^Usage: \S+", "hearth", usage)
        self.lists = {title: entries(text) for title, text in zip(parts[1::2], parts[2::2])}
        self.names = names
        self.commands = [Help(command, [*names, name]) for name in self.lists.pop("Commands", {})]

    def leaves(self):
        return [leaf for command in self.commands for leaf in command.leaves()] if self.commands else [self]


def entries(text):
    """Name -> description of a list. Names are in the left column."""
    found = {}
    for name, line in re.findall(r"^  (\S.*?|)(?:\s{2,}|$)(.*)$", text, flags=re.MULTILINE):
        if name:
            found[name] = line
        elif found:
            found[next(reversed(found))] += " " + line
    return found


def escaped(text):
    """Escapes text for roff: a line that begins with a dot or a quote would be a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def page(help, version):
    yield f'.TH HEARTH 1 "" "{version}"'
    yield ".SH NAME"
    yield "hearth \\- " + escaped(help.about.split("\n")[0].rstrip("."))
    yield ".SH SYNOPSIS"
    leaves = help.leaves()
    yield "\n.br\n".join(escaped(leaf.usage) for leaf in leaves)
    yield ".SH COMMANDS"
    for leaf in leaves:
        yield ".SS " + escaped(" ".join(leaf.names))
        yield escaped(textwrap.fill(leaf.about, 100))
        for entry in leaf.lists.values():
            yield from tagged(entry)
    yield ".SH FILES"
    yield from tagged(FILES)
    yield ".SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1)"


def tagged(entry):
    for tag, text in entry.items():
        yield f".TP\n.B {escaped(tag)}\n{escaped(text)}"


if __name__ == "__main__":
    command = sys.argv[1:]
    version = subprocess.run([*command, "version"], check=True, capture_output=True, text=True).stdout.strip()
    print("\n".join(page(Help(command, []), version)))
