#!/usr/bin/env bash
# Installs from Debian's or Ubuntu's packages what tests, demo and benchmarks need, and nothing that is
# there already. Run it again at any time.
#
#   setup.sh [base] [demo] [bench]      base alone unless told otherwise
#   setup.sh toolchains                 installs nothing: says what is wrong with Rust and Go, needs no root
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:$HOME/.cargo/bin

say() { printf 'setup: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# Whether the second version is at least the first.
at_least() { [ "$(printf '%s\n%s\n' "$1" "${2:-0}" | sort -V | head -n 1)" = "$1" ]; }

toolchains() {
  local wanted found bad=
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
  if ! command -v cargo >/dev/null; then
    say "cargo is missing: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    bad=1
  else
    found=$(cd "$here" && cargo --version | cut -d ' ' -f 2) || found=
    if ! at_least "$wanted" "$found"; then
      say "Rust $wanted or newer is needed, found: ${found:-none}; try \`rustup update stable\`, or https://rustup.rs" >&2
      bad=1
    fi
  fi
  # tests/cluster/build.sh looks at Go's version, and has nothing to do when CLUSTER_BIN is set.
  if [ -z "${CLUSTER_BIN:-}" ] && ! command -v go >/dev/null; then
    say "Go is missing: install it from https://go.dev/dl/, the distribution's is too old" >&2
    bad=1
  fi
  [ -z "$bad" ]
}

if [ "$*" = toolchains ]; then
  toolchains
  exit
fi
if [ "$(id -u)" != 0 ]; then
  fail "network namespaces need root: run this, and the tests, as root (sudo)"
fi

# command:package, the package is installed if the command is missing
base=(ip:iproute2 nft:nftables conntrack:conntrack sysctl:procps ps:procps curl:curl openssl:openssl
  cc:build-essential)
demo=(nginx:nginx-light)
bench=(nginx:nginx-light haproxy:haproxy)

wanted=()
[ $# -gt 0 ] || set -- base
for feature in "$@"; do
  case $feature in
    base) wanted+=("${base[@]}") ;;
    demo) wanted+=("${base[@]}" "${demo[@]}") ;;
    bench) wanted+=("${base[@]}" "${bench[@]}") ;;
    *) fail "no such feature: $feature (base, demo, bench; toolchains alone)" ;;
  esac
done

packages=()
for pair in "${wanted[@]}"; do
  command -v "${pair%%:*}" >/dev/null && continue
  [[ " ${packages[*]} " == *" ${pair#*:} "* ]] || packages+=("${pair#*:}")
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)

# The candidate version of a package, without epoch and revision; nothing if there is none.
candidate() {
  command -v apt-cache >/dev/null || return 0
  LC_ALL=C apt-cache policy "$1" | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}\([0-9.]*\).*/\2/p'
}
if ! { command -v go && command -v cargo; } >/dev/null && command -v apt-get >/dev/null &&
  ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
  say "updating the package lists"
  apt-get update -qq || fail "apt-get update failed"
fi
# Go before 1.21 cannot fetch the toolchain that tests/cluster asks for.
if ! command -v go >/dev/null && at_least 1.21 "$(candidate golang-go)"; then
  packages+=(golang-go)
fi
# rustup fetches the toolchain that rust-toolchain.toml asks for; the distribution's cargo is too old.
if ! command -v cargo >/dev/null && [ -n "$(candidate rustup)" ]; then
  packages+=(rustup)
fi

if [ ${#packages[@]} -gt 0 ]; then
  command -v apt-get >/dev/null ||
    fail "install these and run this again (apt-get does not exist here): ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  say "installing ${packages[*]}"
  # Packages of servers start them; nothing here wants that. A policy that exists is left as it is.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  log=$(mktemp)
  install() { apt-get install -y -qq --no-install-recommends "${packages[@]}" >"$log" 2>&1 </dev/null; }
  if ! install; then
    say "updating the package lists"
    apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get update failed"; }
    install || { cat "$log" >&2; fail "apt-get install ${packages[*]} failed"; }
  fi
  rm -f "$log"
  # A package's daemon would also start with the next boot, and hold ports 80 and 443.
  if command -v systemctl >/dev/null; then
    for service in nginx haproxy; do
      if [[ " ${packages[*]} " == *" $service"* ]]; then
        systemctl disable "$service" >/dev/null 2>&1 && say "$service is not started at boot" || :
      fi
    done
  fi
  say "installed ${packages[*]}"
fi
