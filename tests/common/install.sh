# To be sourced by scripts that install their dependencies.

# ensure_command COMMAND PACKAGE: installs the Debian package if the command is missing
ensure_command() {
    command -v "$1" >/dev/null || install_packages "$2"
}

# install_packages NAME...: installs Debian packages
install_packages() {
    apt_get install "$@" || { apt_get update && apt_get install "$@"; }
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get "$1" --yes --quiet --no-install-recommends "${@:2}"
}

# install_pip VENV REQUIREMENTS: a virtual environment with these Python packages
install_pip() {
    cmp -s "$2" "$1/requirements.txt" && return
    ensure_command python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    python3 -m venv --clear "$1"
    "$1/bin/pip" install --quiet --requirement "$2"
    cp "$2" "$1"
}
