# For scripts that install what they need: `source` it.

# program COMMAND PACKAGE: a command, and Debian's package that has it
program() {
    command -v "$1" >/dev/null || package "$2"
}

# package NAME...: Debian's packages
package() {
    apt_get install "$@" || { apt_get update && apt_get install "$@"; }
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get "$1" --yes --quiet --no-install-recommends "${@:2}"
}

# install_pip VENV REQUIREMENTS: Python with these packages in a directory of its own
install_pip() {
    cmp -s "$2" "$1/requirements.txt" && return
    program python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || package python3-venv
    python3 -m venv --clear "$1"
    "$1/bin/pip" install --quiet --requirement "$2"
    cp "$2" "$1"
}
