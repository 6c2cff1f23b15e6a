# Shared by scripts/setup and scripts/setup-bench, which source it: finding out what this machine lacks, and installing it with apt-get.
# shellcheck shell=bash

# Programs of the private hosts live where only root's PATH leads.
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        die "must be root, or able to use sudo without a password, to run: $*"
    fi
}

packages=()
# want PACKAGE TEST...: PACKAGE is needed when the test command fails.
want() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}
have() { command -v "$1"; }

# The services' packages would start them; this is Debian's way to say no. A file that is there already has its own reasons.
policy=/usr/sbin/policy-rc.d
install_packages() {
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 0755 "$policy"
    fi
    local log
    log=$(mktemp)
    if ! { as_root apt-get update -q -o Acquire::Retries=3 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y -o Acquire::Retries=3 --no-install-recommends "$@"; } \
        >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "could not install: $*"
    fi
    rm -f "$log"
    # Nor shall they start at the next boot: the tests run these programs themselves, nobody asked for the services.
    if command -v systemctl >/dev/null; then
        for package in "$@"; do
            case $package in
            fcgiwrap) as_root systemctl disable --quiet fcgiwrap.service fcgiwrap.socket 2>/dev/null || true ;;
            haproxy) as_root systemctl disable --quiet haproxy.service 2>/dev/null || true ;;
            nginx) as_root systemctl disable --quiet nginx.service 2>/dev/null || true ;;
            openssh-server) as_root systemctl disable --quiet ssh.service 2>/dev/null || true ;;
            postgresql) as_root systemctl disable --quiet postgresql.service 2>/dev/null || true ;;
            prometheus) as_root systemctl disable --quiet prometheus.service 2>/dev/null || true ;;
            redis-server) as_root systemctl disable --quiet redis-server.service 2>/dev/null || true ;;
            rsync) as_root systemctl disable --quiet rsync.service 2>/dev/null || true ;;
            stunnel4) as_root systemctl disable --quiet stunnel4.service 2>/dev/null || true ;;
            esac
        done
    fi
}

# install_missing PROGRAM...: installs what was wanted and is missing, and sees that every PROGRAM is there afterwards.
install_missing() {
    [ ${#packages[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "apt-get is not here; install what gives you: ${packages[*]}"
    say "installing ${packages[*]}"
    install_packages "${packages[@]}"
    # A package that does not bring its program would otherwise show much later, as a failed test.
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is still missing"
    done
}
